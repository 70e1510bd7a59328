import json
import os

import faiss
import numpy as np
import pytest
from conftest import name, write_image

from datasets.image_lists import list_images
from evaluation.index_kinds import INDEXES
from evaluation.indexes import IndexSpec, build_index, choose_params, parse_index
from evaluation.place_index import load_place_index, save_place_index
from evaluation.search import search_index

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


@pytest.fixture
def saved(tmp_path, paths, descriptors):
    """Return a place index that has both codes and descriptors."""
    spec = IndexSpec("pq_fastscan")
    save_place_index(tmp_path / "index", build_index(descriptors, spec), spec, paths, METADATA)
    return tmp_path / "index"


@pytest.mark.parametrize("text", [*INDEXES, "pq_fastscan:rerank=0", "ivf_pq:rerank=0"])
def test_what_is_loaded_is_what_was_saved(tmp_path, paths, descriptors, text):
    spec = choose_params(parse_index(text), *descriptors.shape)
    index = build_index(descriptors, spec)
    save_place_index(tmp_path / "index", index, spec, paths, METADATA)
    loaded = load_place_index(tmp_path / "index")
    assert (loaded.spec, loaded.metadata) == (spec, METADATA)
    assert list(loaded.paths) == list(paths)
    np.testing.assert_array_equal(
        loaded.positions_m, [[number, 7.5] for number in range(NUM_IMAGES)]
    )
    for now, before in zip(
        search_index(loaded.index, descriptors, 5), search_index(index, descriptors, 5), strict=True
    ):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("exact", ["descriptors.npy"]),
        ("flat_fp16", ["descriptors.npy"]),
        ("ivf_pq", ["descriptors.npy", "index.faiss"]),
        ("ivf_pq:rerank=0", ["index.faiss"]),
        ("hnsw", ["index.faiss"]),
    ],
)
def test_an_index_is_files_that_stay_on_disk(tmp_path, paths, descriptors, text, files):
    spec = parse_index(text)
    save_place_index(tmp_path / "index", build_index(descriptors, spec), spec, paths, METADATA)
    others = ["images_paths.txt", "index.json"]
    assert sorted(os.listdir(tmp_path / "index")) == sorted([*files, *others])
    if "descriptors.npy" in files:
        loaded = load_place_index(tmp_path / "index").index.descriptors
        assert isinstance(loaded, np.memmap)
        assert loaded.dtype == (np.float16 if text == "flat_fp16" else np.float32)


@pytest.mark.skipif(not hasattr(faiss, "IO_FLAG_MMAP_IFC"), reason="an older faiss")
def test_codes_stay_on_disk(tmp_path, paths, descriptors):
    spec = IndexSpec("flat_int8")
    save_place_index(tmp_path / "index", build_index(descriptors, spec), spec, paths, METADATA)
    codes = load_place_index(tmp_path / "index").index.codes.codes
    assert not codes.is_owned and codes.byte_size() == descriptors.size


def test_names_of_any_bytes_survive(tmp_path, descriptors):
    odd = os.fsdecode(b"@1@2@caf\xe9 \xff@.jpg")
    write_image(tmp_path / "odd" / "a.jpg").rename(tmp_path / "odd" / odd)
    paths = list_images(tmp_path / "odd")
    index = build_index(descriptors[:1], IndexSpec("exact"))
    save_place_index(tmp_path / "index", index, IndexSpec("exact"), paths, METADATA)
    assert os.path.basename(load_place_index(tmp_path / "index").paths[0]) == odd


def test_a_place_index_replaces_another_and_nothing_else(saved, tmp_path, paths, descriptors):
    spec = IndexSpec("flat_fp16")
    index = build_index(descriptors, spec)
    save_place_index(saved, index, spec, paths, METADATA)
    assert load_place_index(saved).spec == spec
    (tmp_path / "empty").mkdir()
    save_place_index(tmp_path / "empty", index, spec, paths, METADATA)
    assert len(load_place_index(tmp_path / "empty").paths) == NUM_IMAGES
    for taken in (tmp_path / "database", tmp_path / "database" / "0" / os.path.basename(paths[0])):
        with pytest.raises(FileExistsError, match="is no place index: give another folder"):
            save_place_index(taken, index, spec, paths, METADATA)
    assert all(os.path.isfile(path) for path in paths)
    assert sorted(os.listdir(tmp_path)) == ["database", "empty", "index"]


def test_what_does_not_fit_is_not_saved(tmp_path, paths, descriptors):
    spec = IndexSpec("exact")
    with pytest.raises(ValueError, match="29 descriptors for 30 images"):
        save_place_index(tmp_path / "i", build_index(descriptors[:29], spec), spec, paths, METADATA)
    with pytest.raises(ValueError, match="lack model_sha256, resize"):
        index = build_index(descriptors, spec)
        save_place_index(tmp_path / "i", index, spec, paths, {"model": "a.pth"})
    assert os.listdir(tmp_path) == ["database"]


def test_a_failed_save_leaves_the_older_index(saved, paths, descriptors, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("commons.write_json", fail)
    spec = IndexSpec("flat_fp16")
    with pytest.raises(OSError, match="No space left"):
        save_place_index(saved, build_index(descriptors, spec), spec, paths, METADATA)
    assert load_place_index(saved).spec.name == "pq_fastscan"
    assert sorted(os.listdir(saved.parent)) == ["database", "index"]


def shorten(file):
    file.write_bytes(file.read_bytes()[:-4])


def change(**facts):
    def write(file):
        file.write_text(json.dumps(json.loads(file.read_text()) | facts))

    return write


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("index.json", os.remove, "is no place index: it has no index.json"),
        ("index.faiss", os.remove, "has lost its index.faiss"),
        ("descriptors.npy", os.remove, "has lost its descriptors.npy"),
        ("images_paths.txt", os.remove, "has lost its images_paths.txt"),
        ("index.json", shorten, "index.json is damaged: it is not JSON"),
        ("index.json", lambda file: file.write_text("[]"), "does not describe a place index"),
        ("index.json", change(format="other"), "does not describe a place index"),
        ("index.json", change(format_version=1), "of version 1, this code reads version 2"),
        ("index.json", change(num_images=29), "30 descriptors, 30 names, 29 images"),
        ("index.json", change(descriptor_dim=9), "length 8, index.json says 9"),
        ("index.json", change(metadata=None), "damaged: metadata, model, .* is missing or"),
        ("index.json", change(search_spec={}), "damaged: search_spec is missing or wrong"),
        ("images_paths.txt", shorten, "images_paths.txt was changed since"),
        ("index.json", change(index_bytes={}), "damaged: index_bytes is missing or wrong"),
        ("index.json", change(index_bytes={"a": 1}), "damaged: index_bytes is missing or wrong"),
        ("index.faiss", shorten, "index.faiss is damaged: it has .* bytes"),
        ("descriptors.npy", shorten, "descriptors.npy is damaged: it has .* bytes"),
        (
            "descriptors.npy",
            lambda file: file.write_bytes(b"x" * len(file.read_bytes())),
            "descriptors.npy is damaged: it holds no matrix of numbers",
        ),
        (
            "descriptors.npy",
            lambda file: np.save(file, np.zeros((15, 16), np.float32)),
            r"does not hold together: codes of \(30, 8\), descriptors of \(15, 16\)",
        ),
        (
            "descriptors.npy",
            lambda file: np.save(file, np.zeros((30, 4))),
            "descriptors.npy is damaged: it holds no matrix of numbers",
        ),
        (
            "index.faiss",
            lambda file: file.write_bytes(b"x" * len(file.read_bytes())),
            "index.faiss is damaged: faiss cannot read it",
        ),
    ],
)
def test_damage_is_noticed_and_named(saved, file, damage, message):
    damage(saved / file)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_place_index(saved)
