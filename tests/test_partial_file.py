import errno
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from described_windows import described

from evaluation import partial_file
from evaluation.partial_file import PartialFile
from evaluation.rows import Facts, facts_of, find_missing

WINDOWS = [range(0, 4), range(4, 8), range(8, 10)]


def open_file(path, images=range(10), dtype="float32"):
    return PartialFile(path, 10, images, dtype)


def put_all(rows, windows=WINDOWS, **keywords):
    for window in windows:
        rows.put(described(window, **keywords))
    rows.close()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(3,), (5, 2)])
def test_what_is_complete_is_a_npy_like_any_other(tmp_path, dtype, shape):
    rows = open_file(tmp_path / "a.partial", dtype=dtype)
    put_all(rows, shape=shape, unreadable=(2, 8, 9))
    facts = facts_of(rows)
    assert facts == ({"30x20": 4, "20x30": 3}, [2, 8, 9], shape)
    rows.fill_gaps(facts)
    rows.become_whole(tmp_path / "a.npy")
    assert [file.name for file in tmp_path.iterdir()] == ["a.npy"]
    expected = np.arange(10.0)
    expected[[2, 8, 9]] = np.nan
    expected = np.broadcast_to(expected.reshape(-1, *[1] * len(shape)), (10, *shape))
    np.save(tmp_path / "b.npy", expected.astype(dtype))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert (tmp_path / "a.npy").stat().st_size == (tmp_path / "b.npy").stat().st_size


def test_a_later_run_takes_up_what_is_there(tmp_path):
    put_all(open_file(tmp_path / "a.partial"), WINDOWS[1:2])
    rows = open_file(tmp_path / "a.partial")
    assert rows.shape == (2,)
    assert find_missing(rows, WINDOWS) == [WINDOWS[0], WINDOWS[2]]
    assert rows.sizes[4:8].tolist() == described(WINDOWS[1]).sizes.tolist()
    put_all(rows, [WINDOWS[0], WINDOWS[2]])
    rows.fill_gaps(facts_of(rows))
    rows.become_whole(tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy")[:, 1], np.arange(10))


def test_a_killed_process_leaves_what_was_flushed_and_nothing_wrong(tmp_path):
    """A row that was written but not flushed does not count, whatever is in the file."""
    script = f"""
import os, signal
from pathlib import Path
from evaluation import partial_file
from tests.described_windows import described
rows = partial_file.PartialFile(Path({str(tmp_path / "a.partial")!r}), 10, range(10), "float32")
partial_file._FLUSH_EVERY_S = -1
rows.put(described(range(0, 4)))
partial_file._FLUSH_EVERY_S = 1e9
rows.put(described(range(4, 8)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=100)
    assert result.returncode == -signal.SIGKILL
    rows = open_file(tmp_path / "a.partial")
    assert find_missing(rows, WINDOWS) == WINDOWS[1:]
    put_all(rows, WINDOWS[1:])
    rows.fill_gaps(facts_of(rows))
    np.testing.assert_array_equal(np.load(tmp_path / "a.partial")[:, 0], np.arange(10))


def test_sizes_follow_their_descriptors(tmp_path, monkeypatch):
    """When a size is in the file, its descriptor was synced before."""
    synced = []

    def look(_):
        descriptors = np.load(tmp_path / "a.partial")[:, 0]
        sizes = np.fromfile(tmp_path / "a.partial", "<i4")[-20::2]
        synced.append((descriptors.tolist(), sizes.tolist()))

    monkeypatch.setattr(partial_file.os, "fsync", look)
    monkeypatch.setattr(partial_file, "_FLUSH_EVERY_S", -1)
    put_all(open_file(tmp_path / "a.partial"), WINDOWS[:2])
    assert synced[0] == ([*range(4), *[0] * 6], [0] * 10)
    assert synced[1] == ([*range(8), *[0] * 2], [20, 30, 30, 20, *[0] * 6])


def test_processes_write_their_own_images_into_one_file(tmp_path):
    first, second = (
        open_file(tmp_path / "a.partial", images) for images in (range(8), range(8, 10))
    )
    second.put(described(WINDOWS[2]))
    first.put(described(WINDOWS[0]))
    second.close()
    facts = Facts({}, [], (2,))
    with pytest.raises(ValueError, match="a.partial lacks .* a disk that all processes share"):
        first.fill_gaps(facts)
    put_all(first, WINDOWS[1:2])
    first.fill_gaps(facts)
    np.testing.assert_array_equal(np.load(tmp_path / "a.partial")[:, 0], np.arange(10))


@pytest.mark.parametrize("change", ["no header", "half", "longer", "dtype", "number"])
def test_a_file_that_is_not_as_it_should_be_is_begun_anew(tmp_path, change):
    path = tmp_path / "a.partial"
    put_all(open_file(path))
    content = path.read_bytes()
    if change == "dtype":
        rows = PartialFile(path, 10, range(10), "float16")
    elif change == "number":
        rows = PartialFile(path, 11, range(11), "float32")
    else:
        changed = {"no header": b"abc", "half": content[: len(content) // 2]}
        path.write_bytes(changed.get(change, content + b"0"))
        rows = open_file(path)
    assert not path.exists() and rows.shape is None and not rows.sizes.any()


def test_unreadable_images_before_the_first_descriptor_are_kept_in_mind(tmp_path, monkeypatch):
    monkeypatch.setattr(partial_file, "_FLUSH_EVERY_S", -1)
    rows = open_file(tmp_path / "a.partial")
    rows.put(described(WINDOWS[0], unreadable=WINDOWS[0]))
    assert not (tmp_path / "a.partial").exists() and rows.shape is None
    put_all(rows, WINDOWS[1:])
    rows.fill_gaps(facts_of(rows))
    descriptors = np.load(tmp_path / "a.partial")
    assert np.isnan(descriptors[:4]).all() and descriptors[4:, 0].tolist() == [*range(4, 10)]


def test_a_size_that_was_half_written_does_not_count(tmp_path):
    """A process may be killed within a write: height is there, width is not yet."""
    path = tmp_path / "a.partial"
    put_all(open_file(path))
    with open(path, "r+b") as file:
        file.seek(-4, 2)
        file.write(bytes(4))
    rows = open_file(path)
    assert rows.sizes[8:].tolist() == [described(WINDOWS[2]).sizes[0].tolist(), [0, 0]]
    assert find_missing(rows, WINDOWS) == WINDOWS[2:]


def test_rows_that_the_disk_has_lost_do_not_count(tmp_path, monkeypatch):
    """After an fsync that failed, the next one succeeds, though nothing was written."""
    failures = iter([OSError(errno.EIO, "Input/output error")])

    def fail_once(_):
        for error in failures:
            raise error

    path = tmp_path / "a.partial"
    rows = open_file(path)
    rows.put(described(WINDOWS[0]))
    monkeypatch.setattr(partial_file.os, "fsync", fail_once)
    monkeypatch.setattr(partial_file, "_FLUSH_EVERY_S", -1)
    with pytest.raises(OSError) as error:
        rows.put(described(WINDOWS[1]))
    assert error.value.filename == path
    rows.close()
    assert find_missing(open_file(path), WINDOWS) == WINDOWS
