import datetime
import errno
import json
import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, write_image
from made_rows import make_rows

import commons
from datasets.image_lists import list_images
from evaluation import descriptor_files
from evaluation.descriptor_files import DescriptorFiles
from evaluation.views import View

NUM_IMAGES, ALL = 10, range(10)
WINDOWS = [range(0, 4), range(4, 8), range(8, 10)]
UNREADABLE_IMAGES = (2, 8, 9)
SIZES = {"30x20": 4, "20x30": 3}


@pytest.fixture
def paths(tmp_path):
    for number in range(NUM_IMAGES):
        write_image(tmp_path / "city" / "test" / "database" / f"{number}.jpg")
    return list_images(tmp_path / "city" / "test" / "database")


def extract(done, windows=WINDOWS, unreadable=UNREADABLE_IMAGES, shape=(2,)):
    """Yield rows of windows of images that are not all done."""
    for window in windows:
        if not done[window.start : window.stop].all():
            yield make_rows(window, shape, unreadable)


def forbidden(_):
    raise AssertionError("nothing is to be extracted")


def stop_after(num_windows, error=KeyboardInterrupt):
    """Return a function that extracts some windows, then raises an error."""

    def extract_some(done):
        yield from list(extract(done))[:num_windows]
        raise error

    return extract_some


def resume(extracted):
    """Return a function that extracts and notes which images were not done."""

    def extract_rest(done):
        extracted.append(np.flatnonzero(~done).tolist())
        yield from extract(done)

    return extract_rest


def expect(extraction, dtype="float32", shape=(2,)):
    """Check that an extraction is what `extract` yields."""
    expected = np.arange(float(NUM_IMAGES))
    expected[[*UNREADABLE_IMAGES]] = np.nan
    expected = np.broadcast_to(expected.reshape(-1, *[1] * len(shape)), (NUM_IMAGES, *shape))
    assert extraction.descriptors.dtype == dtype
    np.testing.assert_array_equal(extraction.descriptors, expected)
    assert (extraction.image_sizes, extraction.unreadable) == (SIZES, [*UNREADABLE_IMAGES])
    assert list(extraction.image_sizes) == list(SIZES), "the most frequent first"
    assert (extraction.num_images, extraction.first) == (NUM_IMAGES, 0)


def save(paths, folder, view=None, model="abc"):
    expect(DescriptorFiles(model, save_folder=folder).get(paths, view or View(), extract, ALL))


def test_without_folders_descriptors_are_in_memory(paths):
    extraction = DescriptorFiles("abc").get(paths, View(), extract, ALL)
    expect(extraction)
    assert not isinstance(extraction.descriptors, np.memmap)


@pytest.mark.parametrize("role", ["save_folder", "load_folder"])
def test_saved_descriptors_are_loaded_memory_mapped(paths, tmp_path, role):
    save(paths, tmp_path / "saved")
    files = DescriptorFiles("abc", **{role: tmp_path / "saved"})
    loaded = files.get(paths, View(), forbidden, ALL)
    assert isinstance(loaded.descriptors, np.memmap)
    expect(loaded)
    [array] = (tmp_path / "saved").glob("*.npy")
    assert array.name.startswith("city_test_database_"), "people recognise it"
    assert sorted(file.suffix for file in (tmp_path / "saved").iterdir()) == [".json", ".npy"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(3,), (5, 2)])
@pytest.mark.parametrize("chunk_images", [1, 3, 100])
def test_a_joined_file_is_a_npy_like_any_other(
    paths, tmp_path, monkeypatch, dtype, shape, chunk_images
):
    monkeypatch.setattr(descriptor_files, "_CHUNK_IMAGES", chunk_images)
    files = DescriptorFiles("abc", tmp_path / "saved")
    found = files.get(paths, View(), lambda done: extract(done, shape=shape), ALL, dtype)
    expect(found, dtype, shape)
    [array] = (tmp_path / "saved").glob("*.npy")
    np.save(tmp_path / "plain.npy", np.array(found.descriptors))
    assert array.read_bytes() == (tmp_path / "plain.npy").read_bytes()


def test_float16_has_files_of_its_own(paths, tmp_path):
    files = DescriptorFiles("abc", save_folder=tmp_path / "saved")
    expect(files.get(paths, View(), extract, ALL, "float16"), "float16")
    expect(files.get(paths, View(), extract, ALL))
    assert len(list((tmp_path / "saved").glob("*.npy"))) == 2
    expect(files.get(paths, View(), forbidden, ALL, "float16"), "float16")


@pytest.mark.parametrize("role", ["save_folder", "load_folder"])
@pytest.mark.parametrize("chunk_s", [-1, 1000])
def test_an_interrupted_run_is_resumed(paths, tmp_path, monkeypatch, caplog, role, chunk_s):
    """It saved all that it had, whether its chunk was due or not; unreadable images are retried."""
    monkeypatch.setattr(descriptor_files, "_CHUNK_S", chunk_s)
    folder = tmp_path / "saved"
    with pytest.raises(KeyboardInterrupt):
        DescriptorFiles("abc", folder).get(paths, View(), stop_after(2), ALL)
    [chunks] = folder.glob("*.chunks")
    assert {file.suffix for file in folder.iterdir()} - {".lock"} == {".chunks"}
    expect(DescriptorFiles("other", folder).get(paths, View(), extract, ALL))
    extracted = []
    with caplog.at_level(logging.INFO):
        files = DescriptorFiles("abc", **{role: folder})
        expect(files.get(paths, View(), resume(extracted), ALL))
    assert extracted == [[2, 8, 9]]
    assert f"{chunks} is from an interrupted run: it is resumed" in caplog.text
    assert not chunks.exists()


def test_a_repaired_image_gets_its_descriptor_on_resuming(paths, tmp_path):
    files = DescriptorFiles("abc", tmp_path / "saved")
    with pytest.raises(KeyboardInterrupt):
        files.get(paths, View(), stop_after(3), ALL)
    found = files.get(paths, View(), lambda done: extract(done, unreadable=(9,)), ALL)
    np.testing.assert_array_equal(found.descriptors[:, 1], [*range(9), np.nan])
    assert found.unreadable == [9] and sum(found.image_sizes.values()) == 9


def test_a_resumed_run_may_have_other_windows(paths, tmp_path):
    files, others = DescriptorFiles("abc", tmp_path / "saved"), [range(0, 6), range(6, 10)]
    with pytest.raises(KeyboardInterrupt):
        files.get(paths, View(), stop_after(1), ALL)
    expect(files.get(paths, View(), lambda done: extract(done, others), ALL))


def test_a_killed_process_leaves_whole_chunks_and_nothing_wrong(paths, tmp_path):
    script = f"""
import os, signal, sys
sys.path.insert(0, "tests")
from evaluation import descriptor_files
from made_rows import make_rows
from test_descriptor_files import *
def extract_some(done):
    descriptor_files._CHUNK_S = -1
    yield make_rows(WINDOWS[0], unreadable=UNREADABLE_IMAGES)
    yield make_rows(WINDOWS[1], unreadable=UNREADABLE_IMAGES)  # writes the first one
    descriptor_files.commons.sync_file = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    yield make_rows(WINDOWS[2], unreadable=UNREADABLE_IMAGES)
paths = list_images({str(paths.folder)!r})
DescriptorFiles("abc", {str(tmp_path / "saved")!r}).get(paths, View(), extract_some, ALL)
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=100)
    assert result.returncode == -signal.SIGKILL
    [folder] = (tmp_path / "saved").glob("*.chunks")
    assert len(list(folder.glob(".*"))) == 1, "half a chunk"
    extracted = []
    files = DescriptorFiles("abc", tmp_path / "saved")
    expect(files.get(paths, View(), resume(extracted), ALL))
    assert extracted == [[2, *range(4, 10)]]
    assert sorted(file.suffix for file in (tmp_path / "saved").iterdir()) == [".json", ".npy"]


@pytest.mark.parametrize("kind", ["descriptors", "sizes"])
@pytest.mark.parametrize("damage", ["no header", "half", "empty", "gone", "dtype", "number"])
def test_a_damaged_chunk_is_extracted_again(paths, tmp_path, kind, damage):
    files = DescriptorFiles("abc", tmp_path / "saved")
    with pytest.raises(KeyboardInterrupt):
        files.get(paths, View(), stop_after(1), ALL)
    [file] = (tmp_path / "saved").rglob(f"0-4.{kind}.npy")
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage in ("dtype", "number"):
        array = np.load(file)
        np.save(file, array.astype(np.complex64) if damage == "dtype" else array[:-1])
    else:
        file.write_bytes({"no header": b"abc", "half": content[:100], "empty": b""}[damage])
    extracted = []
    expect(files.get(paths, View(), resume(extracted), ALL))
    assert extracted == [[*ALL]]


def test_an_interruption_at_the_very_end_loses_nothing(paths, tmp_path, monkeypatch):
    """Between the writing of the .json and the renaming to .npy."""

    def stop(path):
        assert ".npy" not in path.name or "chunks" in str(path)

    monkeypatch.setattr(commons, "sync_file", stop)
    with pytest.raises(AssertionError):
        save(paths, tmp_path / "saved")
    monkeypatch.undo()
    suffixes = {file.suffix for file in (tmp_path / "saved").iterdir()}
    assert suffixes - {".lock"} == {".chunks", ".json"}
    with pytest.raises(AssertionError, match="nothing is to be extracted"):
        DescriptorFiles("other", tmp_path / "saved").get(paths, View(), forbidden, ALL)
    extracted = []
    files = DescriptorFiles("abc", tmp_path / "saved")
    expect(files.get(paths, View(), resume(extracted), ALL))
    assert extracted == [[*UNREADABLE_IMAGES]]


def test_what_killed_runs_left_is_removed_unless_another_one_extracts(paths, tmp_path):
    save(paths, tmp_path / "made")
    stem = next((tmp_path / "made").glob("*.npy")).with_suffix("")
    folder = stem.parent
    whole = set(os.listdir(folder))
    left = [f"{stem.name}.lock", f".{stem.name}.npy_123", f".{stem.name}.json_77"]
    chunk = folder / f"{stem.name}.chunks" / "0-4.sizes.npy"
    chunk.parent.mkdir()
    for file in [*left, ".other.npy_123", chunk]:
        (folder / file).write_bytes(b"")
    with commons.file_lock(folder / left[0]):
        DescriptorFiles("abc", save_folder=folder).get(paths, View(), forbidden, ALL)
        assert set(os.listdir(folder)) == whole | {*left, ".other.npy_123", chunk.parent.name}
    DescriptorFiles("abc", save_folder=folder).get(paths, View(), forbidden, ALL)
    assert set(os.listdir(folder)) == whole | {".other.npy_123"}

    (folder / f"{stem.name}.npy").unlink()
    (folder / left[1]).write_bytes(b"")
    save(paths, folder)
    assert set(os.listdir(folder)) == whole | {".other.npy_123"}


def test_a_disk_that_fails_is_named_and_what_it_has_remains(paths, tmp_path, monkeypatch):
    files = DescriptorFiles("abc", tmp_path / "saved")
    monkeypatch.setattr(descriptor_files, "_CHUNK_S", -1)
    sync_file = commons.sync_file

    def fail(path):
        if "4-8" in path.name:
            raise OSError(errno.EIO, "Input/output error", path)
        sync_file(path)

    monkeypatch.setattr(commons, "sync_file", fail)
    with pytest.raises(OSError, match="4-8.descriptors.npy cannot be written .Input/output error"):
        files.get(paths, View(), extract, ALL)
    monkeypatch.setattr(commons, "sync_file", sync_file)
    extracted = []
    expect(files.get(paths, View(), resume(extracted), ALL))
    assert extracted == [[2, *range(4, 10)]]


def test_each_process_gets_its_shard(paths, tmp_path):
    save(paths, tmp_path / "saved")
    files = DescriptorFiles("abc", load_folder=tmp_path / "saved")
    extraction = files.get(paths, View(), forbidden, range(4, 9))
    assert extraction.descriptors[:4, 0].tolist() == [4, 5, 6, 7] and extraction.first == 4
    assert extraction.readable.tolist() == [0, 1, 2, 3] == extraction.rows.tolist()
    assert (extraction.num_images, extraction.unreadable) == (10, [2, 8, 9]), "of all images"


def test_chunks_of_all_processes_must_be_in_one_folder(paths, tmp_path):
    """This process has only the second half of the images, and nobody the first."""
    files = DescriptorFiles("abc", tmp_path / "saved")
    with pytest.raises(ValueError, match="chunks lacks descriptors .* all processes share"):
        files.get(paths, View(), lambda _: extract(np.zeros(10, bool), WINDOWS[1:]), ALL[4:])
    expect(files.get(paths, View(), extract, ALL))


def test_unreadable_images_before_the_first_descriptor_are_not_forgotten(
    paths, tmp_path, monkeypatch
):
    monkeypatch.setattr(descriptor_files, "_CHUNK_S", -1)
    files = DescriptorFiles("abc", tmp_path / "saved")
    found = files.get(paths, View(), lambda done: extract(done, unreadable=range(4)), ALL)
    np.testing.assert_array_equal(found.descriptors[:, 0], [*[np.nan] * 4, *range(4, 10)])
    with pytest.raises(ValueError, match="No image of .* can be read, of 10"):
        DescriptorFiles("other", tmp_path / "saved").get(
            paths, View(), lambda done: extract(done, unreadable=ALL), ALL
        )


@pytest.mark.parametrize("changed", ["model", "view", "images", "folder"])
def test_descriptors_of_something_else_are_not_loaded(paths, tmp_path, caplog, changed):
    save(paths, tmp_path / "saved")
    model, view = "abc", View()
    if changed == "model":
        model = "other"
    elif changed == "view":
        view = View("480")
    elif changed == "images":
        (paths.folder / "9.jpg").rename(paths.folder / "99.jpg")
        paths = list_images(paths.folder)
    else:
        paths.folder.rename(tmp_path / "moved")
        paths = list_images(tmp_path / "moved")
    files = DescriptorFiles(model, load_folder=tmp_path / "saved")
    with caplog.at_level(logging.WARNING):
        expect(files.get(paths, view, extract, ALL))
    assert len(list((tmp_path / "saved").iterdir())) == 2, "nothing is saved there"
    assert "has no descriptors of" in caplog.text and "It holds city_test_database_" in caplog.text


def test_damaged_files_are_refused(paths, tmp_path):
    save(paths, tmp_path / "saved")
    files = DescriptorFiles("abc", load_folder=tmp_path / "saved")
    [array] = (tmp_path / "saved").glob("*.npy")
    whole = array.read_bytes()
    array.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="holds no descriptors that can be used"):
        files.get(paths, View(), forbidden, ALL)
    np.save(array, np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"of shape \(2, 2\)"):
        files.get(paths, View(), forbidden, ALL)
    array.write_bytes(whole)
    for facts in ("{}", "half", "[]", json.dumps({"image_sizes": 5, "unreadable": []})):
        array.with_suffix(".json").write_text(facts)
        with pytest.raises(ValueError, match="holds no descriptors that can be used"):
            files.get(paths, View(), forbidden, ALL)


def test_a_job_of_several_processes_does_not_wait_until_it_is_given_up(
    paths, tmp_path, monkeypatch
):
    files = DescriptorFiles("abc", save_folder=tmp_path / "saved")
    monkeypatch.setattr(commons, "LONGEST_WAIT", datetime.timedelta())

    def ask_again(done):
        with monkeypatch.context() as other, pytest.raises(TimeoutError, match="wait for it"):
            other.setattr(commons, "num_ranks", lambda: 2)
            other.setattr(commons, "of_main_process", lambda make: make())
            files.get(paths, View(), forbidden, ALL)
        yield from extract(done)

    expect(files.get(paths, View(), ask_again, ALL))


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of descriptors .*gone"):
        DescriptorFiles("abc", load_folder=tmp_path / "gone")
