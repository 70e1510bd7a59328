import json
import os
import resource

import faiss
import numpy as np
import pytest
from conftest import name, write_image

from datasets.image_lists import list_images
from evaluation.place_index import PlaceIndex, load_place_index, save_place_index
from evaluation.search import EXACT, FP16, IVF_PQ, build_index, choose_search, find_neighbors

METADATA = {"model": "a.pth", "model_sha256": "abc", "resize": "480", "backbone": "VGG16"}
NUM_IMAGES = 30


@pytest.fixture
def paths(tmp_path):
    for number in range(NUM_IMAGES):
        write_image(tmp_path / "database" / f"{number // 9}" / name(number, 7.5, note=str(number)))
    return list_images(tmp_path / "database")


@pytest.fixture
def descriptors():
    return np.random.default_rng(0).normal(size=(NUM_IMAGES, 8)).astype(np.float32)


def make_index(paths, descriptors, search=EXACT, metadata=METADATA):
    search = choose_search(search, *descriptors.shape)
    return PlaceIndex(build_index(descriptors, search), search, paths, metadata)


@pytest.fixture
def saved(tmp_path, paths, descriptors):
    """Return a place index with descriptors.npy."""
    save_place_index(tmp_path / "index", make_index(paths, descriptors))
    return tmp_path / "index"


@pytest.mark.parametrize(
    ("search", "file"),
    [
        (EXACT, "descriptors.npy"),
        (FP16, "descriptors.npy"),
        (IVF_PQ, "index.faiss"),
        ("IVF4,Flat;nprobe=3", "index.faiss"),
        ("IVF4,PQ2x4fs,RFlat;nprobe=2,k_factor_rf=3", "index.faiss"),
        ("HNSW16;efSearch=5", "index.faiss"),
        ("SQ8", "index.faiss"),
    ],
)
def test_a_loaded_index_is_the_one_that_was_saved(tmp_path, paths, descriptors, search, file):
    made = make_index(paths, descriptors, search)
    save_place_index(tmp_path / "index", made)
    assert sorted(os.listdir(tmp_path / "index")) == sorted(
        ["images_paths.txt", "index.json", file]
    )
    loaded = load_place_index(tmp_path / "index")
    assert (loaded.search, loaded.metadata) == (made.search, METADATA)
    assert list(loaded.paths) == list(paths)
    np.testing.assert_array_equal(
        loaded.positions_m, [[number, 7.5] for number in range(NUM_IMAGES)]
    )
    for now, before in zip(
        find_neighbors(loaded.index, descriptors, 5),
        find_neighbors(made.index, descriptors, 5),
        strict=True,
    ):
        np.testing.assert_array_equal(now, before)
    if file == "descriptors.npy":
        assert isinstance(loaded.index, np.memmap)
        assert loaded.index.dtype == (np.float16 if search == FP16 else np.float32)


@pytest.mark.skipif(not hasattr(faiss, "IO_FLAG_MMAP_IFC"), reason="an older faiss")
def test_an_index_of_faiss_stays_on_disk(tmp_path, paths, descriptors):
    save_place_index(tmp_path / "index", make_index(paths, descriptors, "SQ8"))
    codes = load_place_index(tmp_path / "index").index.codes
    assert not codes.is_owned and codes.byte_size() == descriptors.size


def test_names_of_any_bytes_survive(tmp_path, descriptors):
    odd = os.fsdecode(b"@1@2@caf\xe9 \xff@.jpg")
    write_image(tmp_path / "odd" / "a.jpg").rename(tmp_path / "odd" / odd)
    paths = list_images(tmp_path / "odd")
    save_place_index(tmp_path / "index", make_index(paths, descriptors[:1]))
    assert os.path.basename(load_place_index(tmp_path / "index").paths[0]) == odd


def test_a_place_index_replaces_another_and_nothing_else(saved, tmp_path, paths, descriptors):
    made = make_index(paths, descriptors, FP16)
    save_place_index(saved, made)
    assert load_place_index(saved).search == FP16
    (tmp_path / "empty").mkdir()
    save_place_index(tmp_path / "empty", made)
    assert len(load_place_index(tmp_path / "empty").paths) == NUM_IMAGES
    for taken in (tmp_path / "database", tmp_path / "database" / "0" / os.path.basename(paths[0])):
        with pytest.raises(FileExistsError, match="is not a place index: give another folder"):
            save_place_index(taken, made)
    assert all(os.path.isfile(path) for path in paths)
    assert sorted(os.listdir(tmp_path)) == ["database", "empty", "index"]


def test_an_index_that_does_not_fit_is_not_saved(tmp_path, paths, descriptors):
    with pytest.raises(ValueError, match="29 descriptors for 30 images"):
        save_place_index(tmp_path / "i", make_index(paths, descriptors[:29]))
    with pytest.raises(ValueError, match="lack model_sha256, resize"):
        save_place_index(tmp_path / "i", make_index(paths, descriptors, EXACT, {"model": "a.pth"}))
    assert os.listdir(tmp_path) == ["database"]


def test_a_failed_save_leaves_the_older_index(saved, paths, descriptors, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    before = load_place_index(saved).search
    monkeypatch.setattr("commons.write_json", fail)
    with pytest.raises(OSError, match="No space left"):
        save_place_index(saved, make_index(paths, descriptors, FP16))
    assert load_place_index(saved).search == before
    assert sorted(os.listdir(saved.parent)) == ["database", "index"]


@pytest.mark.parametrize("search", [EXACT, "HNSW16"])
def test_a_full_disk_is_a_sentence(tmp_path, paths, descriptors, search):
    made = make_index(paths, descriptors, search)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(OSError, match="no space left to write .*index.*: free some"):
            save_place_index(tmp_path / "index", made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["database"]


def flip(file):
    """Flip a bit, which faiss would not notice, of the last code."""
    content = bytearray(file.read_bytes())
    content[-60] ^= 1
    file.write_bytes(content)


def shorten(file):
    file.write_bytes(file.read_bytes()[:-4])


def change(**facts):
    def write(file):
        file.write_text(json.dumps(json.loads(file.read_text()) | facts))

    return write


def replace_array(array):
    """Return what writes another array of as many bytes into an index of an older version."""

    def write(file):
        np.save(file, array)
        change(index_sha256=None)(file.with_name("index.json"))

    return write


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("index.json", os.remove, "is no place index: it has no index.json"),
        ("index.faiss", os.remove, "has lost its index.faiss"),
        ("descriptors.npy", os.remove, "has lost its descriptors.npy"),
        ("images_paths.txt", os.remove, "has lost its images_paths.txt"),
        ("index.json", shorten, "index.json is not JSON"),
        ("index.json", lambda file: file.write_text("[]"), "does not describe a place index"),
        ("index.json", change(format="other"), "does not describe a place index"),
        ("index.json", change(format_version=2), "of version 2, this code reads version 3"),
        ("index.json", change(num_images=29), "30 descriptors .* 30 names; .* 29 images"),
        ("index.json", change(descriptor_dim=9), "length 8, .* length 9: make"),
        ("index.json", change(metadata=None), "damaged: metadata, model, .* is missing or"),
        ("index.json", change(search={}), "damaged: search is missing or wrong"),
        ("images_paths.txt", shorten, "images_paths.txt was changed since"),
        ("index.json", change(index_bytes="5"), "damaged: index_bytes is missing or wrong"),
        ("index.json", change(index_sha256=7), "its SHA-256 is not"),
        (
            "index.json",
            lambda file: file.write_text("[" * 99_999),
            "is damaged: it is nested too deeply",
        ),
        ("index.faiss", flip, "index.faiss is damaged: its SHA-256 is not the one it was written"),
        ("descriptors.npy", flip, "descriptors.npy is damaged: its SHA-256 is not the one"),
        ("index.json", change(index_file="../a"), "damaged: index_file is missing or wrong"),
        ("index.json", change(index_file=["a"]), "damaged: index_file is missing or wrong"),
        ("index.faiss", shorten, "index.faiss is damaged: it has .* bytes"),
        ("descriptors.npy", shorten, "descriptors.npy is damaged: it has .* bytes"),
        (
            "descriptors.npy",
            lambda file: file.write_bytes(b"x" * len(file.read_bytes())),
            "descriptors.npy is damaged: its SHA-256 is not",
        ),
        (
            "descriptors.npy",
            replace_array(np.zeros((15, 16), np.float32)),
            "does not hold together: 15 descriptors of length 16, 30 names; .* 30 images",
        ),
        (
            "descriptors.npy",
            replace_array(np.zeros((30, 4))),
            "descriptors.npy is damaged: it holds no matrix of descriptors",
        ),
        (
            "index.faiss",
            lambda file: file.write_bytes(b"x" * len(file.read_bytes())),
            "index.faiss is damaged: its SHA-256 is not",
        ),
    ],
)
def test_damage_is_noticed_and_named(tmp_path, paths, descriptors, file, damage, message):
    search = IVF_PQ if file == "index.faiss" else EXACT
    save_place_index(tmp_path / "index", make_index(paths, descriptors, search))
    damage(tmp_path / "index" / file)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_place_index(tmp_path / "index")
