import json
import logging

import numpy as np
import pytest
from conftest import write_image

from datasets.image_paths import list_images
from evaluation.descriptor_files import DescriptorFiles
from evaluation.descriptors import Extraction
from evaluation.views import View


@pytest.fixture
def paths(tmp_path):
    for number in range(3):
        write_image(tmp_path / "city" / "test" / "database" / f"{number}.jpg")
    return list_images(tmp_path / "city" / "test" / "database")


EXTRACTION = Extraction(np.arange(6, dtype=np.float32).reshape(3, 2), {"24x32": 3}, 3, [1])


def forbidden():
    raise AssertionError("nothing is to be extracted")


def save(paths, folder, view=None, model="abc"):
    view = view or View()
    files = DescriptorFiles(model, save_folder=folder)
    assert files.get(paths, view, lambda: EXTRACTION) is EXTRACTION


def test_what_is_saved_is_loaded_memory_mapped(paths, tmp_path):
    save(paths, tmp_path / "kept")
    loaded = DescriptorFiles("abc", load_folder=tmp_path / "kept").get(paths, View(), forbidden)
    assert isinstance(loaded.descriptors, np.memmap) and loaded.descriptors.dtype == np.float32
    np.testing.assert_array_equal(loaded.descriptors, EXTRACTION.descriptors)
    assert (loaded.image_sizes, loaded.unreadable) == (EXTRACTION.image_sizes, [1])
    [array] = (tmp_path / "kept").glob("*.npy")
    assert array.name.startswith("city_test_database_"), "people recognise it"


@pytest.mark.parametrize("changed", ["model", "view", "images", "folder"])
def test_descriptors_of_something_else_are_not_taken(paths, tmp_path, caplog, changed):
    save(paths, tmp_path / "kept")
    model, view = "abc", View()
    if changed == "model":
        model = "other"
    elif changed == "view":
        view = View("480")
    elif changed == "images":
        write_image(paths.folder / "9.jpg")
        paths = list_images(paths.folder)
    else:
        paths.folder.rename(tmp_path / "moved")
        paths = list_images(tmp_path / "moved")
    other = Extraction(np.zeros((len(paths), 2), np.float32), {}, len(paths))
    files = DescriptorFiles(model, load_folder=tmp_path / "kept")
    with caplog.at_level(logging.WARNING):
        assert files.get(paths, view, lambda: other) is other
    assert "has no descriptors of" in caplog.text and "It holds city_test_database_" in caplog.text


def test_damaged_files_are_refused(paths, tmp_path):
    save(paths, tmp_path / "kept")
    files = DescriptorFiles("abc", load_folder=tmp_path / "kept")
    [array] = (tmp_path / "kept").glob("*.npy")
    whole = array.read_bytes()
    array.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="holds no descriptors that can be used"):
        files.get(paths, View(), forbidden)
    np.save(array, np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"of shape \(2, 2\)"):
        files.get(paths, View(), forbidden)
    array.write_bytes(whole)
    array.with_suffix(".json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="holds no descriptors that can be used"):
        files.get(paths, View(), forbidden)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of descriptors .*gone"):
        DescriptorFiles("abc", load_folder=tmp_path / "gone")
