"""Arrays from strangers: none is larger than its file, runs code or ends unexplained."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.ground_truth import read_positives
from datasets.image_lists import split_lines
from evaluation.descriptor_files import _load, _read_chunks, map_array
from evaluation.place_index import _read_index

FUZZ = settings(deadline=None, derandomize=True, max_examples=300, database=None)
HEADERS = {
    "gigantic": ("'<f4'", "(1000000000000000,)"),
    "wraps around": ("'<f8'", "(4294967296, 4294967296)"),
    "negative": ("'<f4'", "(-1,)"),
    "negative product": ("'<f4'", "(-1, -4)"),
    "many of no bytes": ("'<V0'", "(1000000000000000,)"),
    "bool": ("'<f4'", "(True, 4)"),
    "objects": ("'|O'", "(1,)"),
    "no type": ("'nothing'", "(1,)"),
    "no shape": ("'<f4'", "5"),
    "code": ("'<f4'", "__import__('os').mkdir('evidence')"),
    "deep": ("'<f4'", "-" * 9000 + "1"),
    "open": ("'<f4'", "("),
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
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.npy"
    file.write_bytes(npy(*HEADERS[name]))
    if name == "many of no bytes":  # takes no memory; what uses it refuses its type
        assert map_array(file).nbytes == 0
    else:
        with pytest.raises(ValueError, match=r"it is no \.npy array"):
            map_array(file)
    with pytest.raises(ValueError, match=r"a\.npy is damaged: it (cannot be read|holds no matrix)"):
        _read_index(file, file.stat().st_size)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.npy holds no descriptors that can be used: "):
        _load(tmp_path / "a", images(1), range(1), "float32")
    with pytest.raises(ValueError, match=r"a\.npy (cannot be read|holds a)"):
        read_positives(file, images(1), images(1))
    (tmp_path / "0-1.sizes.npy").write_bytes(file.read_bytes())
    assert not list(_read_chunks(tmp_path, range(1), "float32"))
    assert not (tmp_path / "evidence").exists()


def images(num_images):
    names = b"".join(b"%d.jpg\n" % number for number in range(num_images))
    return split_lines("folder", np.frombuffer(names, np.uint8))


@FUZZ
@given(st.binary(max_size=100), st.booleans())
def test_random_headers(tmp_path_factory, data, has_magic):
    file = tmp_path_factory.getbasetemp() / "header.npy"
    file.write_bytes(b"\x93NUMPY\1\0\x40\0" * has_magic + data)
    try:
        assert type(map_array(file).shape) is tuple
    except ValueError as error:
        assert str(error)
