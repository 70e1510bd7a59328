import json
import logging
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

import commons


def test_run_folders_are_not_used_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = commons.make_run_folder("logs/mine", "train", {"M": 10})
    assert json.loads((folder / "args.json").read_text()) == {"M": 10}
    with pytest.raises(FileExistsError, match="already holds a run: give another --save_dir$"):
        commons.make_run_folder("logs/mine", "train", {"M": 15})
    (folder / "last_checkpoint.pth").touch()
    with pytest.raises(FileExistsError, match="--resume_train logs/mine/last_checkpoint.pth"):
        commons.make_run_folder("logs/mine", "train", {"M": 15})
    assert json.loads((folder / "args.json").read_text()) == {"M": 10}
    names = {str(commons.make_run_folder(None, "eval", {})) for _ in range(5)}
    assert len(names) == 5 and all(name.startswith("logs/eval_20") for name in names)


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

    assert commons.from_flags(Params, SimpleNamespace(a=5, b="x", c=None)) == Params(5, "x")


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


def test_other_errors_keep_their_traceback_also_in_the_log(tmp_path):
    def fail():
        commons.setup_logging(tmp_path)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        commons.run_command(fail)
    assert "RuntimeError: a bug" in (tmp_path / "debug.log").read_text()


def test_log_goes_to_console_and_files(tmp_path, capfd):
    commons.setup_logging(tmp_path)
    logging.info("shown")
    logging.debug("kept")
    assert capfd.readouterr().out == "shown\n"
    assert "kept" not in (tmp_path / "info.log").read_text()
    assert "kept" in (tmp_path / "debug.log").read_text()


def test_devices():
    assert commons.choose_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert commons.choose_device("auto") == torch.device(expected)
        with pytest.raises(ValueError, match="--device mps: no such device"):
            commons.choose_device("mps")


def test_models_and_software_are_described(tmp_path):
    file = tmp_path / "m.pth"
    file.write_bytes(b"abc")
    found = commons.describe_model(file)
    assert found["model_file"] == str(file)
    assert found["model_sha256"].startswith("ba7816bf8f01cfea")
    assert commons.describe_software()["code_version"].startswith(commons.VERSION)


def test_interrupted_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), commons.written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
