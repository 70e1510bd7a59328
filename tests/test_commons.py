import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from conftest import REPOSITORY

import commons
import machine
from commons import Stopped
from eval import main as eval_main
from model.other_models import describe_model
from runs.provenance import VERSION, describe_software
from train import main as train_main


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    commons.write_json({"recalls": [1.5, 2]}, path)
    with pytest.raises(TypeError):
        commons.write_json({"recalls": torch.zeros(2)}, path)
    assert json.loads(path.read_text()) == {"recalls": [1.5, 2]}
    assert list(tmp_path.iterdir()) == [path]


def test_flags_fill_a_dataclass():
    @dataclass
    class Params:
        a: int = 1
        b: str = ""

    assert commons.from_flags(Params, {"a": 5, "b": "x", "c": None}) == Params(5, "x")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("The file a is bad"), 1, "Error: The file a is bad"),
        (FileNotFoundError("There is no b"), 1, "Error: There is no b"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_user_errors_end_with_a_sentence_and_a_trace_in_the_log(tmp_path, capfd, error, code, text):
    def fail():
        commons.setup_logging(tmp_path)
        raise error

    with pytest.raises(SystemExit) as exit_code:
        commons.run_command(fail)
    assert exit_code.value.code == code
    printed = capfd.readouterr()
    assert printed.err.strip() == text and "Traceback" not in printed.out
    assert text in (tmp_path / "info.log").read_text()
    if code == 1:
        assert "Traceback" in (tmp_path / "debug.log").read_text()
        assert "Traceback" not in (tmp_path / "info.log").read_text()


def test_other_errors_are_said_in_a_line_and_keep_their_traceback(tmp_path, capfd):
    def fail():
        commons.setup_logging(tmp_path)
        raise KeyError("a bug")

    with pytest.raises(SystemExit) as exit_code:
        commons.run_command(fail)
    assert exit_code.value.code == 1
    printed = capfd.readouterr().err
    *trace, last = printed.splitlines()
    assert trace[0].startswith("Traceback") and "KeyError: 'a bug'" in trace
    assert last.startswith("Unexpected error: KeyError: 'a bug' (test_commons.py, line ")
    assert last.endswith(f"in fail); the whole log is in {tmp_path / 'debug.log'}")
    assert "Traceback" in (tmp_path / "debug.log").read_text()
    info = (tmp_path / "info.log").read_text()
    assert "Unexpected error: KeyError: 'a bug'" in info and "Traceback" not in info


@pytest.mark.parametrize(
    ("stopped", "code", "text"),
    [
        (Stopped(signal.SIGTERM, "Continue with X"), 0, "Continue with X"),
        (Stopped(signal.SIGTERM, "Start again", can_resume=False), 1, "Start again"),
        (Stopped(signal.SIGINT), 130, "Stopped by SIGINT"),
    ],
)
def test_a_stopped_run_says_how_to_resume(capfd, stopped, code, text):
    def stop():
        try:
            raise stopped
        except Exception:  # as libraries do
            pytest.fail("a stop is no error")

    with pytest.raises(SystemExit) as exit_code:
        commons.run_command(stop)
    assert exit_code.value.code == code
    printed = capfd.readouterr()
    assert printed.out.strip() == text and printed.err == ""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "The memory is full: lower --batch_size"),
        (RuntimeError("shapes differ"), "Unexpected error: RuntimeError: shapes differ"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "The memory of the GPU is full"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "The memory is full"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "A loader process was killed, most likely as the memory was full",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possi"),
            "too little shared memory: enlarge /dev/shm",
        ),
        (
            RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"),
            "too little shared memory: enlarge /dev/shm",
        ),
        (
            RuntimeError("upsample_bicubic2d does not have a deterministic implementation, but"),
            "leave out --deterministic",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "The memory is full"),
        (OSError(errno.ENOSPC, "No space left", "f"), "Error: f: No space left; free some"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/torch_1/f"), "Error: /torch_1/f: No su"),
    ],
)
def test_a_full_machine_is_explained(capfd, error, text):
    def fail():
        raise error

    with pytest.raises(SystemExit) as exit_code:
        commons.run_command(fail)
    printed = capfd.readouterr().err
    assert exit_code.value.code == 1
    assert text in printed and (("Traceback" in printed) == ("Unexpected" in text))


def test_an_error_of_a_loader_process_is_its_message_alone(capfd):
    def fail():
        raise ValueError("Caught ValueError in worker 0.\nOriginal Traceback\nValueError: a is bad")

    with pytest.raises(SystemExit):
        commons.run_command(fail)
    assert capfd.readouterr().err == "Error: a is bad\n"


def test_a_run_survives_its_log(tmp_path, capfd, monkeypatch):
    commons.setup_logging(tmp_path)
    [file] = [one for one in logging.getLogger().handlers if getattr(one, "level", 0) == 10]

    class Full(io.StringIO):
        name = "debug.log"

        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file, "stream", Full())
    logging.info("first")
    logging.info("second")
    printed = capfd.readouterr()
    assert printed.out == "first\nsecond\n", "the other handlers continue"
    assert printed.err == "debug.log cannot be written, continuing: No space left on device\n"


def test_a_mistake_in_a_log_line_is_still_shown(capfd):
    commons.setup_logging()
    logging.info("%d", "no number")
    assert "Logging error" in capfd.readouterr().err


def test_a_reader_that_has_enough_does_not_end_the_command(tmp_path):
    lines = "for number in range(9999): logging.info(number)"
    end = f"open({str(tmp_path / 'end')!r}, 'w')"
    code = f"import commons, logging, stops\ndef main():\n  {lines}\n  {end}\n"
    code += "stops.begin()\ncommons.run_command(main)"
    command = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout.readline() == "0\n"
    command.stdout.close()
    assert command.stderr.read() == "" and command.wait() == 0
    assert (tmp_path / "end").exists()


def test_names_that_are_no_text_can_be_logged(tmp_path):
    commons.setup_logging(tmp_path)
    logging.debug("\udcff.jpg")
    assert r"\udcff.jpg" in (tmp_path / "debug.log").read_text()


def test_log_goes_to_console_and_files(tmp_path, capfd):
    commons.setup_logging(tmp_path)
    logging.info("shown")
    logging.debug("kept")
    assert capfd.readouterr().out == "shown\n"
    assert "kept" not in (tmp_path / "info.log").read_text()
    assert "kept" in (tmp_path / "debug.log").read_text()


def test_operations_that_differ_each_time_are_refused_if_asked_for(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for is_deterministic in (True, False):
        commons.seed_everything(3, is_deterministic)
        assert torch.are_deterministic_algorithms_enabled() == is_deterministic
        assert torch.initial_seed() == 3 and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize("main", [train_main, eval_main])
def test_entry_points_are_seeded_as_flags_say(main, flags, monkeypatch):
    class EnoughError(Exception):
        pass

    def seed_everything(*seed_and_determinism):
        assert seed_and_determinism == (5, True)
        raise EnoughError

    monkeypatch.setattr(commons, "seed_everything", seed_everything)
    with pytest.raises(EnoughError):
        main(
            [
                *(flags if main is train_main else ["--dataset=mini_city_val", "--untrained"]),
                "--seed=5",
                "--deterministic",
            ]
        )


def test_devices():
    assert machine.choose_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert machine.choose_device("auto") == torch.device(expected)
        with pytest.raises(ValueError, match="--device mps: no such device"):
            machine.choose_device("mps")


@pytest.fixture
def two_gpus(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_a_gpu_by_number(two_gpus, monkeypatch):
    assert machine.choose_device("cuda:1") == torch.device("cuda", 1) and two_gpus == [1]
    with pytest.raises(ValueError, match="the last GPU of this machine is cuda:1"):
        machine.choose_device("cuda:2")
    monkeypatch.setattr(commons, "num_ranks", lambda: 2)
    with pytest.raises(ValueError, match="with torchrun give --device cuda"):
        machine.choose_device("cuda:1")


def test_models_and_software_are_described(tmp_path):
    file = tmp_path / "m.pth"
    file.write_bytes(b"abc")
    found = describe_model(file)
    assert found["model_file"] == str(file)
    assert found["model_sha256"].startswith("ba7816bf8f01cfea")
    assert describe_software()["code_version"].startswith(VERSION)


def test_interrupted_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), commons.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def write_folder(folder, content):
    with commons.atomic_folder(folder, overwrite=True) as unfinished:
        (unfinished / "a.txt").write_text(content)


def test_a_folder_is_written_atomically_and_replaces_another(tmp_path):
    folder = tmp_path / "made" / "city"
    write_folder(folder, "old")
    with pytest.raises(KeyboardInterrupt), commons.atomic_folder(folder) as unfinished:
        (unfinished / "a.txt").write_text("half")
        assert (folder / "a.txt").read_text() == "old"
        raise KeyboardInterrupt
    assert (folder / "a.txt").read_text() == "old"
    write_folder(folder, "new")
    assert (folder / "a.txt").read_text() == "new"
    with pytest.raises(FileExistsError, match="city is not empty"), commons.atomic_folder(folder):
        pass
    assert (folder / "a.txt").read_text() == "new"
    assert os.listdir(folder.parent) == ["city"] and os.listdir(folder) == ["a.txt"]


def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path, monkeypatch):
    folder = tmp_path / "city"
    write_folder(folder, "old")
    replace = os.replace

    def fail_for_the_new(source, target):
        if str(target) == str(folder) and not str(source).endswith(".old"):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_for_the_new)
    with pytest.raises(OSError, match="Input/output"):
        write_folder(folder, "new")
    assert (folder / "a.txt").read_text() == "old" and os.listdir(tmp_path) == ["city"]


KILLED_WRITER = """
import os, sys
from pathlib import Path
import commons
if sys.argv[2] == "between renames":
    replace = os.replace
    os.replace = lambda *paths: (replace(*paths), os._exit(9))
with commons.atomic_folder(Path(sys.argv[1]), overwrite=True) as unfinished:
    (unfinished / "a.txt").write_text("half")
    if sys.argv[2] == "while writing":
        os._exit(9)
"""


@pytest.mark.parametrize("moment", ["while writing", "between renames"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, moment):
    folder, other = tmp_path / "city", tmp_path / ".city.unfinished_by_hand"
    write_folder(folder, "old")
    other.mkdir()
    command = [sys.executable, "-c", KILLED_WRITER, str(folder), moment]
    assert subprocess.run(command, cwd=REPOSITORY).returncode == 9
    assert len(os.listdir(tmp_path)) > 3
    with pytest.raises(ValueError, match="stop"), commons.atomic_folder(folder) as unfinished:
        assert (folder / "a.txt").read_text() == "old"
        write_folder(folder, "of another process")  # its neighbour lives: it stays
        assert unfinished.is_dir()
        raise ValueError("stop")
    assert (folder / "a.txt").read_text() == "of another process"
    assert sorted(os.listdir(tmp_path)) == [".city.unfinished_by_hand", "city"]


def test_counts_in_words():
    counts = [commons.plural(2000, noun) for noun in ("image", "query", "class")]
    assert counts == ["2,000 images", "2,000 queries", "2,000 classes"]
    assert commons.plural(1, "query") == "1 query"
