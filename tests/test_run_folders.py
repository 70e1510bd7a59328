"""Folders of runs within one process; tests/faults has those that several processes want."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import threading

import pytest
from conftest import REPOSITORY

import commons
from runs import folders
from runs.folders import is_unused, locked, run_folder


def finish(save_dir, flags=None, *results):
    """Do a run that writes some files."""
    with run_folder(str(save_dir), "eval", flags or {}) as folder:
        for name in results:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("old")


def fail(save_dir, flags=None, *results):
    with pytest.raises(KeyboardInterrupt), run_folder(str(save_dir), "eval", flags or {}) as folder:
        for name in results:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("old")
        raise KeyboardInterrupt


def test_a_run_that_is_started_over_leaves_those_below_it_alone(tmp_path):
    fail(tmp_path / "out", {}, "one_set/results.json")
    finish(tmp_path / "out" / "mine", {}, "results.json")
    with run_folder(str(tmp_path / "out"), "eval", {}) as folder:
        assert (folder / "mine" / "results.json").read_text() == "old"
        assert not (folder / "one_set" / "results.json").exists()


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_a_finished_run_keeps_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finish("logs/mine", {"M": 10}, "results.json", "table.md")
    assert json.loads((tmp_path / "logs/mine/args.json").read_text()) == {"M": 10}
    with pytest.raises(FileExistsError, match="^logs/mine already holds a run: give another --s"):
        finish("logs/mine", {"M": 15})
    assert json.loads((tmp_path / "logs/mine/args.json").read_text()) == {"M": 10}
    assert (tmp_path / "logs/mine/results.json").read_text() == "old"
    names = set()
    for _ in range(5):
        with run_folder(None, "eval", {}) as folder:
            names.add(str(folder))
    assert len(names) == 5 and all(name.startswith("logs/eval_20") for name in names)


def test_a_folder_is_named_by_what_runs_and_goes_with_an_early_failure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with run_folder(None, "eval_hub:o/n:Model(x=1)", {}) as folder:
        assert folder.name.startswith("eval_hub_o_n_Model_x_1_2")
    for error, left, is_kept in (
        (ValueError, "info.log", False),
        (FileNotFoundError, "debug.log", False),
        (ValueError, "results.json", True),
        (ValueError, "bad_batch_epoch0_iteration1.txt", True),
        (RuntimeError, "info.log", True),  # a fault of ours: its traceback is in debug.log
        (KeyboardInterrupt, "info.log", True),
    ):
        with pytest.raises(error), run_folder(None, "eval", {}) as folder:
            (folder / left).touch()
            raise error
        assert folder.exists() is is_kept, (error, left)
    with pytest.raises(ValueError), run_folder("logs/mine", "eval", {}) as folder:
        raise ValueError
    assert (tmp_path / "logs" / "mine" / "args.json").exists()
    monkeypatch.setattr("runs.folders._EARLY_S", -1)
    with pytest.raises(ValueError), run_folder(None, "eval", {}) as folder:
        raise ValueError
    assert folder.exists()


@pytest.mark.parametrize("name", ["last_checkpoint.pth", "previous_checkpoint.pth"])
def test_an_interrupted_training_is_to_be_continued(tmp_path, name):
    fail(tmp_path / "a", {}, name)
    match = "already holds a training.*, or resume it with --save_dir .*a --resume_train auto"
    with pytest.raises(FileExistsError, match=match):
        finish(tmp_path / "a")
    assert (tmp_path / "a" / name).read_text() == "old"


def test_a_run_that_was_killed_before_any_result_is_started_over(tmp_path):
    fail(tmp_path / "a", {"M": 1})
    (tmp_path / "a" / "info.log").write_text("before")
    with run_folder(str(tmp_path / "a"), "train", {"M": 2}) as folder:
        assert json.loads((folder / "args.json").read_text()) == {"M": 2}
        assert (folder / "info.log").read_text() == "before", "logs continue"


def test_results_of_an_interrupted_run_go_and_nothing_else(tmp_path):
    ours = ["one_set/results.json", "one_set/predictions.csv", "results.json", "preds/0.jpg"]
    others = ["kept/a.npy", "environment.json", "notes.txt", "pictures/table.md"]
    fail(tmp_path / "a", {}, *ours, *others)
    with run_folder(str(tmp_path / "a"), "eval", {}) as folder:
        found = names_in(folder)
    assert set(found) - {".lock"} == {*others, "args.json", ".unfinished"}
    assert set(names_in(folder)) - {".lock"} == {*others, "args.json"}


def test_a_folder_of_something_else_is_not_emptied(tmp_path):
    (tmp_path / "preds").mkdir()
    (tmp_path / "preds" / "mine.jpg").touch()
    with pytest.raises(FileExistsError, match="already holds a run"):
        finish(tmp_path)
    assert (tmp_path / "preds" / "mine.jpg").exists()


def test_only_folders_without_network_and_results_are_unused(tmp_path):
    assert is_unused(tmp_path / "gone")
    fail(tmp_path / "a", {}, "info.log")
    assert is_unused(tmp_path / "a")
    for number, name in enumerate(["last_checkpoint.pth", "x/results.json", "table.md"]):
        fail(tmp_path / str(number), {}, name)
        assert not is_unused(tmp_path / str(number))


def test_a_resumed_run_that_fails_leaves_the_mark_and_one_that_ends_does_not(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    assert (tmp_path / ".unfinished").exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / ".unfinished").read_text())["process"] == os.getpid()
    assert set(names_in(tmp_path)) <= {".lock"}


def test_a_folder_in_use_is_refused_and_free_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_WAIT_S", 0.2)
    with run_folder(str(tmp_path / "a"), "eval", {}) as folder:
        match = f"a is in use by process {os.getpid()} on host {platform.node()}: wait until it"
        with pytest.raises(FileExistsError, match=match), locked(folder):
            pytest.fail("two runs have one folder")
        with pytest.raises(FileExistsError, match=match):
            finish(folder)
        assert json.loads((folder / ".unfinished").read_text())["process"] == os.getpid()
    with locked(folder):
        pass


@pytest.mark.parametrize("mark", [None, "{", "[]", '{"process": 1}'])
def test_a_holder_that_left_no_mark_is_another_process(tmp_path, monkeypatch, mark):
    monkeypatch.setattr(folders, "_WAIT_S", 0)
    if mark is not None:
        (tmp_path / ".unfinished").write_text(mark)
    match = "in use by another process"
    with commons.file_lock(tmp_path / ".lock"), pytest.raises(FileExistsError, match=match):
        finish(tmp_path)


def test_a_lock_that_loader_processes_of_a_killed_run_still_hold_is_waited_for(tmp_path):
    code = "import commons, pathlib\nwith commons.file_lock(pathlib.Path({!r})): print(); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code.format(str(tmp_path / ".lock"))],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    other.stdout.readline()
    threading.Timer(0.3, other.kill).start()
    finish(tmp_path, {"M": 1})
    assert other.wait() == -signal.SIGKILL


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_without_locks_is_warned_of(tmp_path, monkeypatch, caplog, error):
    def no_locks(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", no_locks)
    finish(tmp_path / "a", {}, "table.md")
    assert "has no locks: let one run at a time use it" in caplog.text
    assert not list((tmp_path / "a").glob(".unfinished"))


@pytest.mark.parametrize(
    ("save_dir", "text"),
    [
        ("file", "file cannot be used for a run: File exists .*; give another --save_dir$"),
        ("file/below", "file/below cannot be used for a run: Not a directory"),
        ("x" * 300, "cannot be used for a run: File name too long"),
    ],
)
def test_a_folder_that_cannot_be_is_a_sentence(tmp_path, save_dir, text):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=text) as error:
        finish(tmp_path / save_dir)
    assert "Errno" not in str(error.value)


def test_a_full_disk_at_the_start_is_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(commons, "write_json", full)
    with pytest.raises(OSError, match="a cannot be used for a run: No space left on device"):
        finish(tmp_path / "a")


def test_a_folder_that_vanishes_is_named(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="^The folder .*a vanished during the run$"),
        run_folder(str(tmp_path / "a"), "eval", {}) as folder,
    ):
        (folder / "args.json").unlink()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        (folder / "results.json").write_text("")


def test_of_several_processes_the_main_one_makes_the_folder(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import commons\n"
        "from runs.folders import run_folder\n"
        "def main():\n"
        f"    folder = {str(tmp_path / 'a')!r}\n"
        "    with run_folder(folder, 'eval', {'M': commons.rank()}) as folder:\n"
        "        (folder / f'{commons.rank()}').touch()\n"
        "commons.run_command(main)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*command, "--nproc_per_node=2", script],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert set(os.listdir(tmp_path / "a")) - {".lock"} == {"0", "1", "args.json"}
    assert json.loads((tmp_path / "a" / "args.json").read_text()) == {"M": 0}


@pytest.mark.parametrize("is_continued", [False, True])
def test_partly_written_files_of_killed_runs_are_removed(tmp_path, is_continued):
    others = [".best_model.pth_7x", ".notes_7", "best_model.pth_7", "notes.txt"]
    left = [".last_checkpoint.pth_7", ".metrics.jsonl_123456", ".previous_checkpoint.pth_7"]
    left.append("..unfinished_7")
    left.append(f".args.json_{os.getpid()}")  # of an earlier boot, with the same number
    left += [".best_model.safetensors_7", "pitts30k/.predictions.csv_7"]
    others += ["pitts30k", "another_run"]
    for name in ("pitts30k", "another_run"):
        (tmp_path / name).mkdir()
    (tmp_path / "another_run" / "args.json").touch()
    (tmp_path / "another_run" / ".results.json_7").touch()
    for name in [*(name for name in others if "_run" not in name and "30k" not in name), *left]:
        (tmp_path / name).write_bytes(b"")
    run = locked(tmp_path) if is_continued else run_folder(str(tmp_path), "train", {})
    with run:
        found = {path.name for path in tmp_path.iterdir()}
    assert found - {".lock", ".unfinished", "args.json"} == set(others)
    assert os.listdir(tmp_path / "pitts30k") == []
    assert len(os.listdir(tmp_path / "another_run")) == 2
