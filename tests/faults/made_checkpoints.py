"""Checkpoints that torch.save would not write."""

import io
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch

from model.files import read_checkpoint

HEADS = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})


class Call:
    """Unpickling it calls a function, and may set attributes of what that returns."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


class Storage:
    """Pickled as a reference to numbers of the file."""

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
    """Return an archive with a pickle, or content to pickle, and records under data/.

    Args:
        content: To pickle; bytes are a pickle.
        change: Called with the open archive: it may change what the list of records will tell.
        compression: Of the records.
        records: Name -> bytes; the storage "0" has 12 bytes.
    """
    file = io.BytesIO()
    content = content if isinstance(content, bytes) else pickled(content)
    with zipfile.ZipFile(file, "w", compression) as written:
        written.writestr("archive/data.pkl", content)
        written.writestr("archive/byteorder", "little")
        for name, data in ({"0": bytes(12)} | records).items():
            written.writestr(f"archive/data/{name}", data)
        written.writestr("archive/version", "3\n")
        if change:
            change(written)
    return file.getvalue()


def legacy(content, numbers=None, keys=("0",)):
    """Return a file as torch.save wrote them once, with the numbers of one storage."""
    numbers = struct.pack("<q", 3) + bytes(12) if numbers is None else numbers
    content = content if isinstance(content, bytes) else pickled(content)
    return b"".join(map(pickled, HEADS)) + content + pickled(list(keys)) + numbers


def assert_refused(folder, data, reason):
    """Check that a file is refused in a sentence, and that nothing is made or printed.

    Args:
        folder: An empty one, the current one.
        data: Content of the file.
        reason: Expression that the sentence has to match; None for any.
    """
    path = folder / "strange.pth"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"strange\.pth is not a checkpoint") as error:
            read_checkpoint(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert error.value.__suppress_context__
    assert re.search(reason or "", str(error.value)), error.value
    assert [file.name for file in folder.iterdir()] == ["strange.pth"]


def forbid_torch(monkeypatch):
    """Let the test fail if torch is to read a file."""
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("torch reads the file"))
