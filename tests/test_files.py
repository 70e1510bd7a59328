"""Files of tensors: whole or not at all."""

import pytest
import torch
from state_dict_keys import (
    network_shapes,
)

from model.files import read_checkpoint, save_atomically

SHAPES = network_shapes("ResNet18", 32)


def test_saving_replaces_the_old_file(tmp_path):
    path = tmp_path / "model.pth"
    save_atomically({"a": torch.zeros(3)}, path)
    save_atomically({"a": torch.ones(3)}, path)
    assert read_checkpoint(path)["a"].tolist() == [1, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


class FailsMidway:
    """Cannot be pickled; the tensors before it are."""

    def __reduce__(self):
        raise OSError("disk full")


def test_a_failure_while_saving_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.pth"
    save_atomically({"a": torch.arange(3)}, path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="disk full"):
        save_atomically({"a": torch.zeros(1000), "b": FailsMidway()}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    save_atomically({"a": torch.arange(3)}, path)
    before = path.read_bytes()

    def fail(_):
        temporary = [file for file in tmp_path.iterdir() if file != path]
        assert len(temporary) == 1  # half the work is done, elsewhere
        assert temporary[0].stat().st_size > 0
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_atomically({"a": torch.zeros(1000)}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]
