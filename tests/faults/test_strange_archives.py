"""Files from strangers, and files that chance has made: a sentence, and nothing large."""

import io
import os
import subprocess
import sys
import tarfile
import warnings
import zipfile

import pytest
import torch
from conftest import REPOSITORY
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_checkpoints import HEADS, archive, assert_refused, forbid_torch, legacy, pickled, tensor

from model.files import read_checkpoint, save_atomically

HUGE = 10**15
GOOD = {"a": tensor()}
LEGACY = {"a": tensor(rest=(None,))}
THREE = {str(number): bytes(12) for number in range(1, 4)}


def change_sizes(written):
    """Let a record be gigantic."""
    written.infolist()[2].file_size = written.infolist()[2].compress_size = HUGE


def change_last_size(written):
    written.infolist()[-1].file_size = written.infolist()[-1].compress_size = HUGE


def change_places(written):
    """Let all tensors have the bytes of one."""
    for record in written.infolist()[2:-1]:
        record.header_offset = written.infolist()[2].header_offset


def change_packed_size(written):
    written.infolist()[2].compress_size -= 1


def encrypt(written):
    written.infolist()[2].flag_bits |= 1


def rename(old, new):
    """Return what gives a record another name in the list of records."""

    def change(written):
        records = {record.filename: record for record in written.infolist()}
        records[f"archive/{old}"].filename = os.path.normpath(f"archive/{new}")

    return change


def two_ends():
    """Return an archive behind another one's end: some readers see the first, some the second."""
    good = archive(GOOD)
    return good[:-2] + len(good).to_bytes(2, "little") + good


def moved_end():
    """Return an archive whose end some readers look for at a place, others before the next part."""
    whole = saved({"a": torch.ones(3)})
    return whole[:-42] + bytes(4) + whole[-42:]


def many_records():
    """Return an archive with a list of 400,000 records."""
    good = archive(GOOD)
    start = good.index(b"PK\x01\x02")
    entries = (good[start : start + 46][:28] + bytes(18)) * 400_000
    end = good[-22:-10] + len(entries).to_bytes(4, "little") + good[-6:]
    return good[:start] + entries + end


def no_records():
    return b"PK\x03\x04" + b"PK\x05\x06" + bytes(12) + b"\x04\0\0\0" + bytes(2)


def sparse():
    return torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (HUGE,))


def quantized():
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def oldest():
    """Return a file that is a tar archive and also begins as later files do."""
    start = b"".join(map(pickled, HEADS))[:15].decode("latin1")
    header = tarfile.TarInfo(start).tobuf(tarfile.USTAR_FORMAT, "latin1", "strict")
    return header + bytes(10240)


def saved(content, **kwargs):
    file = io.BytesIO()
    torch.save(content, file, **kwargs)
    return file.getvalue()


def script():
    """Return a TorchScript archive."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


# Name -> what makes a file, and what is said of it.
FILES = {
    "sparse": (lambda: saved({"a": sparse()}), "_rebuild_sparse_tensor"),
    "quantized": (lambda: saved({"a": quantized()}), "_rebuild_qtensor"),
    "meta": (lambda: saved({"a": torch.empty(HUGE, device="meta")}), "_rebuild_meta_tensor"),
    "expanded": (lambda: saved({"a": torch.zeros(1).expand(HUGE)}), "larger than its numbers"),
    "module": (lambda: saved(torch.nn.Linear(2, 2)), "torch.nn.modules.linear.Linear"),
    "script": (script, "TorchScript"),
    "zip bomb": (
        lambda: archive(GOOD, None, zipfile.ZIP_DEFLATED, big=bytes(50 << 20)),
        "compressed",
    ),
    "gigantic record": (lambda: archive(GOOD, change_sizes), "overlap|larger than the file"),
    "gigantic last": (lambda: archive(GOOD, change_last_size), "larger than the file"),
    "overlapping": (lambda: archive(GOOD, change_places, **THREE), "overlap"),
    "packed size": (lambda: archive(GOOD, change_packed_size), "overlap"),
    "encrypted": (lambda: archive(GOOD, encrypt), "encrypted"),
    "same name": (lambda: archive(GOOD, rename("version", "data/0")), "one name"),
    "same letters": (lambda: archive(GOOD, rename("version", "DATA/0")), "one name"),
    "two folders": (lambda: archive(GOOD, rename("version", "../other")), "not write"),
    "no pickle": (lambda: archive(GOOD, rename("data.pkl", "data")), "not write"),
    "another comment": (lambda: archive(GOOD)[:-2] + b"\x03\0abc", "comment"),
    "lost comment": (lambda: archive(GOOD)[:-2] + b"\x05\0", "comment"),
    "second disk": (lambda: archive(GOOD)[:-18] + b"\1\0" + archive(GOOD)[-16:], "comment"),
    "moved end": (moved_end, "end of its list of records"),
    "two ends": (two_ends, "list of records is damaged"),
    "behind another": (lambda: b"PK\x03\x04" + archive(GOOD), "list of records"),
    "many records": (many_records, "gigantic"),
    "no records": (no_records, "no records"),
    "oldest": (oldest, "oldest format"),
    "legacy gigantic": (
        lambda: legacy({"a": tensor(num_values=HUGE, rest=(None,))}),
        "declares more than it has",
    ),
    "legacy cut": (lambda: legacy(LEGACY)[:-1], "cut short"),
    "legacy other keys": (lambda: legacy(LEGACY, keys=["0", "1"]), "list of tensors is damaged"),
    "legacy no keys": (lambda: legacy(LEGACY, keys=[]), "list of tensors is damaged"),
}


def test_made_files_are_read_as_long_as_they_are_good(tmp_path):
    # Or else the tests below prove nothing.
    for data in (archive(GOOD), legacy(LEGACY)):
        (tmp_path / "good.pth").write_bytes(data)
        assert read_checkpoint(tmp_path / "good.pth")["a"].tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("ignore")  # torch warns of what it no longer recommends
@pytest.mark.parametrize("name", FILES)
def test_strange_files(tmp_path, monkeypatch, name):
    forbid_torch(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make, reason = FILES[name]
    assert_refused(tmp_path, make(), reason)


def test_a_size_that_only_torch_compares(tmp_path):
    assert_refused(tmp_path, legacy(LEGACY, b"\x02" + bytes(19)), "damaged, or holds")


@pytest.mark.parametrize("name", ["many records", "two ends"])
def test_lists_of_records_are_measured_before_they_are_read(tmp_path, monkeypatch, name):
    data = FILES[name][0]()
    monkeypatch.setattr("zipfile.ZipFile", lambda *_: pytest.fail("the list is read"))
    assert_refused(tmp_path, data, None)


LIMITED = """
import resource, sys
from pathlib import Path
from model.files import read_checkpoint

read = sorted(Path(sys.argv[1]).iterdir())
try:
    read_checkpoint(read[0])  # what is imported late
except ValueError:
    pass
num_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = num_bytes + (200 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in read:
    try:
        print(path.name, len(read_checkpoint(path)["a"]))
    except ValueError:
        print(path.name, "refused")
"""


@pytest.mark.filterwarnings("ignore")
def test_no_file_takes_more_memory_than_a_checkpoint_of_its_size(tmp_path):
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    for name, (make, _) in FILES.items():
        (tmp_path / f"{name}.pth").write_bytes(make())
    (tmp_path / "good.pth").write_bytes(archive(GOOD))
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    lines = set(result.stdout.splitlines())
    assert lines == {f"{name}.pth refused" for name in FILES} | {"good.pth 3"}, result.stderr
    assert result.stderr == ""


# What chance makes


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Return good files: with a digest, without one, of the old format."""
    path = tmp_path_factory.mktemp("originals") / "a.pth"
    content = {"a": torch.arange(5.0), "b": [1, "text", None], "c": {"d": torch.ones(2, 2)}}
    save_atomically(content, path)
    return [
        path.read_bytes(),
        saved(content),
        saved(content, _use_new_zipfile_serialization=False),
    ]


def read_or_refuse(path, data):
    """Read a file; anything but a dict and an error that is a sentence fails the test."""
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            assert type(read_checkpoint(path)) is dict
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """Return where files are written while they are changed."""
    return tmp_path_factory.mktemp("fuzzed") / "fuzzed.pth"


FUZZ = settings(deadline=None, derandomize=True, max_examples=500, database=None)
PLACES = st.floats(0, 1, exclude_max=True)
STARTS = (b"", b"PK\x03\x04", b"".join(map(pickled, HEADS[:1])), b"".join(map(pickled, HEADS)))


@FUZZ
@given(st.sampled_from(STARTS), st.binary(max_size=200))
@example(b"PK\x03\x04", archive(GOOD)[4:])
def test_random_bytes(fuzzed, start, data):
    read_or_refuse(fuzzed, start + data)


@FUZZ
@given(st.binary(max_size=60))
def test_random_pickles(fuzzed, data):
    read_or_refuse(fuzzed, archive(b"\x80\x02" + data))
    read_or_refuse(fuzzed, archive(b"\x80\x02}K\0" + data + b"s."))


@FUZZ
@given(st.integers(0, 2), st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=9))
def test_changed_bytes(fuzzed, originals, kind, changes):
    data = bytearray(originals[kind])
    for place, value in changes:
        data[int(place * len(data))] = value
    read_or_refuse(fuzzed, bytes(data))


@FUZZ
@given(st.integers(0, 2), st.integers(0, 2), PLACES, PLACES, st.binary(max_size=30))
def test_cut_and_spliced_files(fuzzed, originals, kind, other, place, other_place, between):
    head, tail = originals[kind], originals[other]
    head, tail = head[: int(place * len(head))], tail[int(other_place * len(tail)) :]
    read_or_refuse(fuzzed, head + between + tail)


@FUZZ
@given(st.binary(min_size=1, max_size=4), PLACES, st.integers(0, 8))
def test_changed_pickles_in_whole_archives(fuzzed, piece, place, num_removed):
    whole = pickled({"a": tensor(), "b": [1, (2, None)], "c": {"d": tensor(offset=1, size=(2,))}})
    start = int(place * len(whole))
    read_or_refuse(fuzzed, archive(whole[:start] + piece + whole[start + num_removed :]))
