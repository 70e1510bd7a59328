"""Checkpoints that torch.save would not write: no code runs, no memory is taken."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch
from conftest import REPOSITORY
from fuzzing import BYTES, damage, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from model.checkpoint_files import DamagedFileError, read_checkpoint, save_atomically

HUGE = 10**15
LARGE = 1 << 33  # float32 values: 32 GB, which some systems promise and do not have
HEADS = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
EVIDENCE = "evidence"  # a folder that code in a file would make


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Storage:
    """Pickled as a reference to values of the file."""

    def __init__(self, key="0", num_values=3, kind=torch.FloatStorage, rest=()):
        self.reference = ("storage", kind, key, "cpu", num_values, *rest)


def tensor(size=(3,), stride=(1,), offset=0, **storage):
    """Return what is unpickled as a tensor."""
    arguments = (Storage(**storage), offset, size, stride, False, OrderedDict())
    return Call(torch._utils._rebuild_tensor_v2, *arguments)


class _Pickler(pickle._Pickler):
    def persistent_id(self, value):
        return value.reference if isinstance(value, Storage) else None


def pickled(content):
    """Pickle as torch.save does."""
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def archive(content, change=None, compression=zipfile.ZIP_STORED, **records):
    """Return an archive with a pickle of some content, and records under data/.

    Args:
        content: To pickle.
        change: Called with the open archive: it may change the list of records.
        compression: Of the records.
        records: Name -> bytes; the storage "0" has 12 bytes.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        written.writestr("archive/data.pkl", pickled(content))
        written.writestr("archive/byteorder", "little")
        for name, data in ({"0": bytes(12)} | records).items():
            written.writestr(f"archive/data/{name}", data)
        written.writestr("archive/version", "3\n")
        if change:
            change(written)
    return file.getvalue()


def legacy(content, values=None, keys=("0",)):
    """Return a file as torch.save wrote before version 1.6, with the values of one storage."""
    values = struct.pack("<q", 3) + bytes(12) if values is None else values
    return b"".join(map(pickled, (*HEADS, content, list(keys)))) + values


def change_sizes(written):
    """Let a record be gigantic."""
    written.infolist()[2].file_size = written.infolist()[2].compress_size = HUGE


def change_places(written):
    """Let all tensors have the bytes of one."""
    for record in written.infolist()[2:-1]:
        record.header_offset = written.infolist()[2].header_offset


def mark_as_folder(written):
    """Let torch make a tensor without reading its values."""
    written.infolist()[2].external_attr |= 0x10


def oldest(content):
    """Return a tar archive, as torch.save wrote once, that also begins as later files do."""
    header = tarfile.TarInfo(pickled(HEADS[0]).decode("latin1"))
    return header.tobuf(tarfile.USTAR_FORMAT, "latin1", "strict") + pickled(content) + bytes(10240)


def saved(content, **kwargs):
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


def script():
    """Return a TorchScript archive."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


def test_made_files_are_read_as_long_as_they_are_good(tmp_path):
    # Or else the tests below prove nothing.
    for data in (archive({"a": tensor()}), legacy({"a": tensor(rest=(None,))})):
        (tmp_path / "good.pth").write_bytes(data)
        assert read_checkpoint(tmp_path / "good.pth")["a"].tolist() == [0, 0, 0]


def test_made_code_runs_where_a_file_is_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(archive({"a": Call(os.mkdir, EVIDENCE)}))
    torch.load("a.pth", weights_only=False)
    assert (tmp_path / EVIDENCE).is_dir()


# Code

CODE = {
    "a call": ({"a": Call(os.mkdir, EVIDENCE)}, "it holds (posix|nt).mkdir, needed are tensors"),
    "a call deep inside": ({"a": [{"b": (Call(os.mkdir, EVIDENCE),)}]}, "mkdir"),
    "a call for a tensor": (
        {"a": Call(torch._tensor._rebuild_from_type_v2, os.mkdir, torch.Tensor, (EVIDENCE,), {})},
        None,
    ),
    "a call as an argument": ({"a": tensor(size=Call(os.mkdir, EVIDENCE))}, None),
    "a call as a key": ({Call(os.mkdir, EVIDENCE): 1}, "mkdir"),
    "eval": ({"a": Call(eval, f"__import__('os').mkdir({EVIDENCE!r})")}, "eval"),
    "a module": (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
}


@pytest.mark.parametrize("form", [archive, legacy, oldest])
@pytest.mark.parametrize("name", CODE)
def test_code_in_a_checkpoint_never_runs(tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    content, reason = CODE[name]
    (tmp_path / "strange.pth").write_bytes(form(content))
    with pytest.raises(DamagedFileError, match=reason if form is archive else None) as error:
        read_checkpoint("strange.pth")
    assert str(error.value).startswith("strange.pth is not a checkpoint that can be read safely: ")
    assert "\n" not in str(error.value)
    assert os.listdir() == ["strange.pth"]


# Sizes

FILES = {  # name -> a function that makes a file, and the reason for its refusal
    "zip bomb": (
        lambda: archive({"a": tensor()}, None, zipfile.ZIP_DEFLATED, big=bytes(50 << 20)),
        "is compressed",
    ),
    "gigantic record": (lambda: archive({"a": tensor()}, change_sizes), "larger than the file"),
    "shared records": (
        lambda: archive({"a": tensor()}, change_places, **{str(n): bytes(12) for n in (1, 2, 3)}),
        "CRC-32",
    ),
    "a record without reading": (lambda: archive({"a": tensor()}, mark_as_folder), "a folder"),
    "another size than that of the record": (lambda: archive({"a": tensor(num_values=4)}), None),
    "a gigantic storage": (lambda: archive({"a": tensor(num_values=HUGE)}), None),
    "a large storage": (lambda: archive({"a": tensor(num_values=LARGE)}), None),
    "a gigantic tensor": (lambda: archive({"a": tensor(size=(HUGE,))}), None),
    "an offset too far": (lambda: archive({"a": tensor(offset=1)}), None),
    "a sparse tensor": (
        lambda: saved({"a": torch.sparse_coo_tensor([[0]], torch.ones(1), (HUGE,))}),
        None,
    ),
    "a tensor without values": (lambda: saved({"a": torch.empty(HUGE, device="meta")}), "larger"),
    "a TorchScript program": (script, "TorchScript program, for --model torchscript:FILE"),
    "many records": (lambda: archive({}, **{str(n): b"" for n in range(3000)})[:-30], None),
    "legacy, gigantic": (lambda: legacy({"a": tensor(num_values=HUGE, rest=(None,))}), None),
    "legacy, large": (lambda: legacy({"a": tensor(num_values=LARGE, rest=(None,))}), None),
    "legacy, large in both places": (
        lambda: legacy({"a": tensor(num_values=LARGE, rest=(None,))}, struct.pack("<q", LARGE)),
        None,
    ),
    "legacy, cut": (lambda: legacy({"a": tensor(rest=(None,))})[:-1], None),
}
READER = """
import sys
from pathlib import Path
from model.checkpoint_files import DamagedFileError, read_checkpoint

def resident_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])

files = sorted(Path(sys.argv[1]).iterdir())
for file in [files[0], *files]:  # once more: the first call imports
    before = resident_kb()
    try:
        read_checkpoint(file)
        print(f"{file.stem}: read")
    except DamagedFileError as error:
        print(f"{file.stem}: {error}; {resident_kb() - before < 50_000}")
"""


@pytest.mark.filterwarnings("ignore")  # torch warns of kinds that it no longer recommends
def test_a_file_that_declares_more_than_it_holds_takes_no_memory(tmp_path):
    """In a process of its own, whose peak of memory was not reached before."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs /proc")
    for name, (make, _) in FILES.items():
        (tmp_path / f"{name}.pth").write_bytes(make())
    command = [sys.executable, "-c", READER, str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    said = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert said.keys() == FILES.keys(), result.stderr
    for name, (_, reason) in FILES.items():
        assert f"{name}.pth is not a checkpoint that can be read safely: " in said[name]
        assert said[name].endswith("; True"), said[name]
        assert (reason or "") in said[name], said[name]


# Chance


@pytest.fixture(scope="module")
def originals():
    """Return good files: a zip archive, and one of torch < 1.6."""
    content = {"a": torch.arange(5.0), "b": [1, "text", None], "c": {"d": torch.ones(2, 2)}}
    return [saved(content), saved(content, _use_new_zipfile_serialization=False)]


@fuzzed
@given(which=st.integers(0, 1), how=BYTES)
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path, originals, which, how):
    path = tmp_path / "fuzzed.pth"
    path.write_bytes(damage(originals[which], *how))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            assert type(read_checkpoint(path)) is dict
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_values_that_cannot_be_read_again_are_written_but_refused(tmp_path):
    save_atomically({"a": torch.nn.Linear(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(DamagedFileError, match="it holds torch.nn.modules.linear.Linear, needed"):
        read_checkpoint(tmp_path / "a.pth")
