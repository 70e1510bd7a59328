"""Arrays from strangers: none is larger than its file, runs code or ends unexplained."""

import os
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.array_files import map_array, read_header
from datasets.ground_truth import read_positives
from datasets.image_paths import split_names
from evaluation.descriptor_files import _load
from evaluation.partial_file import PartialFile
from evaluation.place_index import _map_descriptors

FUZZ = settings(deadline=None, derandomize=True, max_examples=300, database=None)
HEADERS = {
    "gigantic": ("'<f4'", "(1000000000000000,)", "tells of 4,000,000,000,000,000 bytes"),
    "wraps around": ("'<f8'", "(4294967296, 4294967296)", "tells of .* bytes"),
    "negative": ("'<f4'", "(-1,)", r"tells of the shape \(-1,\)"),
    "negative product": ("'<f4'", "(-1, -4)", r"tells of the shape \(-1, -4\)"),
    "many of no bytes": ("'<V0'", "(1000000000000000,)", "tells of 1,000,000,000,000,000 bytes"),
    "bool": ("'<f4'", "(True, 4)", "tells of the shape"),
    "objects": ("'|O'", "(1,)", "pickled objects"),
    "no type": ("'nothing'", "(1,)", "no header"),
    "no shape": ("'<f4'", "5", "no header"),
    "code": ("'<f4'", "__import__('os').mkdir('evidence')", "no header"),
    "deep": ("'<f4'", "-" * 9000 + "1", "no header"),
    "open": ("'<f4'", "(", "no header"),
}


def npy(descr, shape, data=bytes(16)):
    """Return a .npy file with a header of one's own."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode() + b"\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + data


def test_a_good_array(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy("'<f4'", "(2, 2)"))
    assert map_array(tmp_path / "a.npy").tolist() == [[0, 0], [0, 0]]
    np.save(tmp_path / "a.npy", np.asfortranarray(np.arange(6).reshape(2, 3)))
    assert map_array(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
    np.save(tmp_path / "a.npy", np.zeros((0, 3)))
    assert map_array(tmp_path / "a.npy").shape == (0, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HEADERS)
def test_strange_headers(tmp_path, monkeypatch, name):
    descr, shape, reason = HEADERS[name]
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.npy"
    file.write_bytes(npy(descr, shape))
    with pytest.raises(ValueError, match=reason):
        map_array(file)
    with pytest.raises(ValueError, match=r"a\.npy is damaged: it holds no matrix"):
        _map_descriptors(file)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(
        ValueError, match=rf"a\.npy holds no descriptors that can be used: .*{reason}"
    ):
        _load(tmp_path / "a", 1, range(1), "float32")
    with pytest.raises(ValueError, match=r"a\.npy is no array of positives"):
        read_positives(file, images(1), images(1))
    PartialFile(file, 1, range(1), "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]  # it was no partial file


def images(num_images):
    names = b"".join(b"%d.jpg\n" % number for number in range(num_images))
    return split_names("folder", np.frombuffer(names, np.uint8))


@FUZZ
@given(st.binary(max_size=100), st.booleans())
def test_random_headers(tmp_path_factory, data, has_magic):
    file = tmp_path_factory.getbasetemp() / "header.npy"
    file.write_bytes(b"\x93NUMPY\1\0\x40\0" * has_magic + data)
    with open(file, "rb") as stream:
        try:
            shape, _ = read_header(stream)
            assert type(shape) is tuple
        except ValueError as error:
            assert str(error)


# Positives, whose lists are pickled


class Call:
    """Unpickling it calls a function, and may set the state of what that returns."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def rows(*content):
    """Return an array of objects."""
    array = np.empty(len(content), object)
    for number, row in enumerate(content):
        array[number] = row
    return array


def saved(content):
    """Return a .npy file with a pickle of one row."""
    content = content if isinstance(content, bytes) else pickle.dumps(rows(content), 4)
    return npy("'|O'", "(1,)", content)


def doubled(times):
    content = [0]
    for _ in range(times):
        content = [content, content]
    return content


POSITIVES = {
    "code": (Call(os.mkdir, "evidence"), "mkdir, which is no array"),
    "an array of addresses": (Call(np.ndarray, (1,), np.dtype("O"), bytes(8)), "calls something"),
    "a scalar that is an address": (
        Call(
            np.float64(0).__reduce__()[0],
            np.dtype("O"),
            bytes(8),
        ),
        "lists of lists",
    ),
    "a gigantic array": (Call(np.ndarray, (10**12,)), "calls something"),
    "lists of one list": (doubled(40), "other things than lists of numbers"),
    "text": ("text", "other things than lists of numbers"),
    "a dict": ({0: 1}, None),
    "a called number": (b"\x80\x04K\0)R.", "calls something"),
    "attributes of a list": (b"\x80\x04]}b.", None),
    "attributes of a function": (
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(X\1\0\0\0aK\1tb.",
        "changes something",
    ),
    "a gigantic memo": (b"\x80\x04]r\xff\xff\xff\x7f.", "disagree"),
    "a gigantic text": (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x3f.", None),
    "a structured type": (np.zeros(2, [("a", "i4")]), "other things than numbers and lists"),
    "another shape": (pickle.dumps(rows(1, 2), 4), "header and its content disagree"),
    "cut short": (pickle.dumps(rows([1, 2, 3]), 4)[:-20], None),
    "nothing": (b"", None),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", POSITIVES)
def test_strange_positives(tmp_path, monkeypatch, name):
    content, reason = POSITIVES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npy").write_bytes(saved(content))
    with pytest.raises(ValueError, match=r"a\.npy is no array of positives: ") as error:
        read_positives("a.npy", images(1), images(1))
    assert re.search(reason or "", str(error.value)), error.value
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_a_list_repeated_too_often(tmp_path):
    row = [0] * 100_000
    np.save(tmp_path / "a.npy", rows(*[row] * 101), allow_pickle=True)
    with pytest.raises(ValueError, match="more than 10,000,000 numbers"):
        read_positives(tmp_path / "a.npy", images(1), images(101))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_lists_and_arrays_of_all_kinds(tmp_path, protocol):
    kinds = [[3, 1], (2,), [], 4, np.array([1, 2]), np.array([3.0], ">f4"), np.int64(2)]
    kinds += [np.array([5, 6], np.uint8), [np.int32(7), 1.0], np.asfortranarray([[1, 2], [3, 4]])]
    data = npy("'|O'", f"({len(kinds)},)", pickle.dumps(rows(*kinds), protocol))
    (tmp_path / "a.npy").write_bytes(data)
    truth = read_positives(tmp_path / "a.npy", images(9), images(len(kinds)))
    expected = [[1, 3], [2], [], [4], [1, 2], [3], [2], [5, 6], [1, 7], [1, 2, 3, 4]]
    assert [row.tolist() for row in truth.positives_per_query] == expected


@FUZZ
@given(st.floats(0, 1, exclude_max=True), st.binary(max_size=4), st.integers(0, 8))
def test_changed_positives(tmp_path_factory, place, piece, num_removed):
    file = tmp_path_factory.getbasetemp() / "positives.npy"
    whole = saved([0, np.int64(0)])[80:]
    start = int(place * len(whole))
    file.write_bytes(saved(whole[:start] + piece + whole[start + num_removed :]))
    try:
        read_positives(file, images(1), images(1))
    except ValueError as error:
        assert str(file) in str(error)
