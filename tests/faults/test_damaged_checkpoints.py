"""Checkpoints on bad disks and under kill -9."""

import errno
import os
import signal
import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import REPOSITORY

from model.checkpoint_files import (
    DamagedFileError,
    _ErrorHoldingWriter,
    read_checkpoint,
    save_atomically,
    save_keeping_previous,
)


@pytest.fixture(scope="module")
def content():
    """Return some tensors and plain values."""
    return {"a": torch.arange(40.0), "b": [torch.ones(3, dtype=torch.int64), "text", 1.5]}


@pytest.fixture
def file(tmp_path, content):
    """Return a checkpoint."""
    save_atomically(content, tmp_path / "last.pth")
    return tmp_path / "last.pth"


# Damage


@pytest.mark.parametrize("bit", range(8))
def test_each_flipped_bit_that_changes_the_content_is_noticed(tmp_path, bit):
    """All bits, one after the other: the archive has many fields, which two readers interpret."""
    file = tmp_path / "last.pth"
    save_atomically({"a": torch.arange(5.0)}, file)
    good, unnoticed = file.read_bytes(), []
    for place in range(len(good)):
        with open(file, "r+b") as stream:
            stream.seek(place)
            stream.write(bytes([good[place] ^ 1 << bit]))
        try:
            content = read_checkpoint(file)
        except DamagedFileError as error:
            assert str(error).startswith(f"{file} is not a checkpoint")
        else:
            unnoticed.append(place)
            assert list(content) == ["a"] and content["a"].dtype == torch.float32
            assert content["a"].tolist() == [0, 1, 2, 3, 4]
        with open(file, "r+b") as stream:
            stream.seek(place)
            stream.write(good[place : place + 1])
    assert file.read_bytes() == good
    with zipfile.ZipFile(file) as archive:
        for record in archive.infolist():
            start = good.index(archive.read(record), record.header_offset)
            assert not set(unnoticed) & set(range(start, start + record.file_size))


def test_the_changed_record_is_named(file):
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(torch.arange(40.0).numpy().tobytes()) + 100] ^= 8
    file.write_bytes(damaged)
    assert torch.load(file, weights_only=True)["a"][25] != 25  # torch does not notice
    with pytest.raises(DamagedFileError, match=r"last\.pth is .*: its record \w+/data/0 has .*CRC"):
        read_checkpoint(file)


def test_each_truncation_is_noticed(file):
    good = file.read_bytes()
    for length in range(len(good)):
        file.write_bytes(good[:length])
        with pytest.raises(DamagedFileError, match=r"last\.pth is not a checkpoint"):
            read_checkpoint(file)


def test_the_end_of_another_file_is_noticed(file, tmp_path):
    save_atomically({"a": torch.zeros(500)}, tmp_path / "other.pth")
    file.write_bytes((tmp_path / "other.pth").read_bytes()[:-300] + file.read_bytes()[-300:])
    with pytest.raises(DamagedFileError):
        read_checkpoint(file)


def test_a_disk_that_fails_is_damage(file, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("zipfile.ZipFile.testzip", fail)
    with pytest.raises(DamagedFileError, match=r"last\.pth .*: it is damaged \(Input/output"):
        read_checkpoint(file)


# No space


SAVES = """
import os, resource, sys
from pathlib import Path
import torch, commons
from model.checkpoint_files import save_atomically, save_keeping_previous

file = Path(sys.argv[1])
content = {str(number): torch.rand(100_000) for number in range(5)}

def attempt(save, *arguments):
    try:
        commons.run_command(lambda: save(*arguments))
    except SystemExit as error:
        print(error.code, sorted(path.name for path in file.parent.iterdir()))

if os.path.exists("/dev/full"):
    os.symlink("/dev/full", commons.temporary_path(file))
    attempt(save_atomically, content, file)
for limit in (100, 1_000_000):  # within the first header, within a tensor
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    attempt(save_atomically, content, file)
    attempt(save_keeping_previous, content, file, file.with_name("previous.pth"))
    attempt(commons.write_json, [0] * 1_000_000, file)
"""


def test_a_full_disk_ends_in_a_sentence_and_leaves_all_as_it_was(file):
    pytest.importorskip("resource")
    before = file.read_bytes()
    result = run_script(SAVES, file)
    assert result.returncode == 0, result.stderr
    lines, errors = result.stdout.splitlines(), result.stderr.splitlines()
    assert len(lines) == len(errors) == 6 + os.path.exists("/dev/full")
    assert set(lines) == {"1 ['last.pth']"}
    start = f"Error: There is no space left to write {file} ("
    assert all(error.startswith(start) and "free some" in error for error in errors)
    assert file.read_bytes() == before


def run_script(script, *arguments):
    """Run a program that uses our modules."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_folder_that_vanished(tmp_path, content):
    for save in (save_atomically, lambda *args: save_keeping_previous(*args, tmp_path / "b.pth")):
        with pytest.raises(FileNotFoundError, match=r"The folder .*gone is not there"):
            save(content, tmp_path / "gone" / "last.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path, content):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"The folder .*file is not there"):
        save_atomically(content, tmp_path / "file" / "last.pth")


def test_a_target_that_is_a_folder(tmp_path, content):
    (tmp_path / "last.pth").mkdir()
    with pytest.raises(OSError, match=r"last\.pth cannot be written \(Is a directory\): check"):
        save_atomically(content, tmp_path / "last.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_a_read_only_folder(file, content, monkeypatch):
    before = file.read_bytes()
    file.parent.chmod(0o500)
    try:
        if os.access(file.parent, os.W_OK):  # root may write everywhere: let open refuse
            monkeypatch.setattr("builtins.open", refuse_writing(open))
        with pytest.raises(PermissionError, match=r"last\.pth cannot be written \(Permission"):
            save_atomically(content, file)
    finally:
        file.parent.chmod(0o700)
    monkeypatch.undo()
    assert file.read_bytes() == before


def refuse_writing(really_open):
    """Return an open() that raises what a read-only folder does."""

    def refuse(path, mode="r", *args, **kwargs):
        if "w" in mode:
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, mode, *args, **kwargs)

    return refuse


@pytest.mark.parametrize("number, is_refused", [(22, False), (9, False), (5, True)])
def test_only_a_folder_that_cannot_be_synced_is_excused(file, monkeypatch, number, is_refused):
    fsync = os.fsync

    def refuse_folders(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr("os.fsync", refuse_folders)
    if is_refused:
        with pytest.raises(OSError, match=r"last\.pth cannot be written \(Input/output error\)"):
            save_atomically({"a": 2}, file)
    else:
        save_atomically({"a": 2}, file)
    assert read_checkpoint(file)["a"] == 2


# kill -9


def die_before(monkeypatch, step):
    """Let this process be killed before one of the calls by which files are made and renamed."""
    num_calls = 0

    def counted(call):
        def count(*args, **kwargs):
            nonlocal num_calls
            if num_calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            num_calls += 1
            return call(*args, **kwargs)

        return count

    for name in ("open", "fsync", "replace", "link", "unlink", "close"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr("builtins.open", counted(open))
    monkeypatch.setattr(_ErrorHoldingWriter, "write", counted(_ErrorHoldingWriter.write))


def killed_before(step, save, monkeypatch, has_links):
    """Save in a process that is killed before a step; return whether it got so far."""
    child = os.fork()
    if child == 0:
        try:
            if not has_links:
                monkeypatch.setattr("os.link", refuse_links)
            die_before(monkeypatch, step)
            save()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


def refuse_links(*_):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("num_before, has_links", [(0, True), (1, False), (2, True)])
def test_whenever_a_process_is_killed_a_complete_file_exists(
    tmp_path, monkeypatch, num_before, has_links
):
    """Slow: it is killed at every step, of a file that is there or not."""
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    step, seen = 0, set()
    while True:
        for path in (last, previous):
            path.unlink(missing_ok=True)
        for number in range(num_before):
            save_keeping_previous({"a": number}, last, previous)
        save = {"a": num_before}, last, previous
        if not killed_before(step, lambda: save_keeping_previous(*save), monkeypatch, has_links):  # noqa: B023
            break
        # The same call must work over whatever is left.
        found = [read_checkpoint(path)["a"] for path in (last, previous) if path.exists()]
        seen.add(tuple(found))
        assert found or num_before == 0
        assert all(number >= num_before - 2 for number in found)
        assert max(found, default=-1) >= num_before - 1
        if has_links:
            assert last.exists() or num_before == 0
        save_keeping_previous({"a": num_before + 1}, last, previous)
        assert read_checkpoint(last)["a"] == num_before + 1
        step += 1
    assert step > 20 and len(seen) >= 2  # it was killed with the old file and with the new one
    assert read_checkpoint(last)["a"] == num_before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_whenever_a_process_is_killed_a_replaced_file_is_old_or_new(file, monkeypatch):
    """Slow: it is killed at every step."""
    good, step, seen = file.read_bytes(), 0, []
    while killed_before(step, lambda: save_atomically({"a": 2}, file), monkeypatch, True):
        is_old = file.read_bytes() == good
        seen.append(is_old)
        assert is_old or read_checkpoint(file) == {"a": 2}
        file.write_bytes(good)
        step += 1
    assert set(seen) == {True, False}
