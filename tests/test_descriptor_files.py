import datetime
import json
import logging

import numpy as np
import pytest
from conftest import write_image

import commons
from datasets.image_lists import list_images
from evaluation.descriptor_files import DescriptorFiles
from evaluation.partial_file import PartialFile
from evaluation.rows import UNREADABLE, Described
from evaluation.views import View


@pytest.fixture
def paths(tmp_path):
    for number in range(3):
        write_image(tmp_path / "city" / "test" / "database" / f"{number}.jpg")
    return list_images(tmp_path / "city" / "test" / "database")


SIZES = {"24x32": 2}


def fill(rows):
    """Put descriptors; image 1 cannot be read."""
    descriptors = np.arange(2 * len(rows.images), dtype=np.float32).reshape(-1, 2)
    sizes = np.tile((24, 32), (len(rows.images), 1)).astype(np.int32)
    descriptors[1], sizes[1] = np.nan, UNREADABLE
    rows.put(Described(rows.images, descriptors, sizes))
    rows.close()


def forbidden(_):
    raise AssertionError("nothing is to be extracted")


def expect(extraction, dtype="float32"):
    """Check that an extraction is what `fill` makes of three images."""
    assert extraction.descriptors.dtype == dtype
    np.testing.assert_array_equal(extraction.descriptors, [[0, 1], [np.nan, np.nan], [4, 5]])
    assert (extraction.image_sizes, extraction.unreadable) == (SIZES, [1])
    assert extraction.num_images == 3 and extraction.shard is None


def save(paths, folder, view=None, model="abc"):
    expect(DescriptorFiles(model, save_folder=folder).get(paths, view or View(), fill))


def test_without_folders_descriptors_are_in_memory(paths, tmp_path):
    extraction = DescriptorFiles("abc").get(paths, View(), fill)
    expect(extraction)
    assert extraction.descriptors.flags.writeable and not isinstance(
        extraction.descriptors, np.memmap
    )


@pytest.mark.parametrize("role", ["save_folder", "load_folder"])
def test_what_is_saved_is_loaded_memory_mapped(paths, tmp_path, role):
    save(paths, tmp_path / "kept")
    files = DescriptorFiles("abc", **{role: tmp_path / "kept"})
    loaded = files.get(paths, View(), forbidden)
    assert isinstance(loaded.descriptors, np.memmap)
    expect(loaded)
    [array] = (tmp_path / "kept").glob("*.npy")
    assert array.name.startswith("city_test_database_"), "people recognise it"
    assert sorted(file.suffix for file in (tmp_path / "kept").iterdir()) == [".json", ".npy"]


def test_float16_has_files_of_its_own(paths, tmp_path):
    files = DescriptorFiles("abc", save_folder=tmp_path / "kept")
    expect(files.get(paths, View(), fill, dtype="float16"), "float16")
    expect(files.get(paths, View(), fill))
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 2
    expect(files.get(paths, View(), forbidden, dtype="float16"), "float16")


@pytest.mark.parametrize("role", ["save_folder", "load_folder"])
def test_an_interrupted_run_is_taken_up(paths, tmp_path, caplog, role):
    def stop_early(rows):
        rows.put(Described(range(1), np.float32([[0, 1]]), np.int32([[24, 32]])))
        rows.close()
        raise KeyboardInterrupt

    def go_on(rows):
        assert rows.sizes.tolist() == [[24, 32], [0, 0], [0, 0]]
        sizes = np.int32([[UNREADABLE, UNREADABLE], [24, 32]])
        rows.put(Described(range(1, 3), np.float32([[np.nan, np.nan], [4, 5]]), sizes))
        rows.close()

    with pytest.raises(KeyboardInterrupt):
        DescriptorFiles("abc", tmp_path / "kept").get(paths, View(), stop_early)
    [partial] = (tmp_path / "kept").glob("*.partial")
    assert {file.suffix for file in (tmp_path / "kept").iterdir()} == {".partial", ".lock"}
    other_model = DescriptorFiles("other", tmp_path / "kept")
    expect(other_model.get(paths, View(), fill))
    with caplog.at_level(logging.INFO):
        expect(DescriptorFiles("abc", **{role: tmp_path / "kept"}).get(paths, View(), go_on))
    assert f"{partial} is from an interrupted run: it is taken up" in caplog.text
    assert not partial.exists()


def test_an_interruption_at_the_very_end_loses_nothing(paths, tmp_path, monkeypatch):
    """Between the writing of the .json and the renaming to .npy."""
    monkeypatch.setattr(PartialFile, "become_whole", forbidden_method)
    with pytest.raises(AssertionError):
        save(paths, tmp_path / "kept")
    monkeypatch.undo()
    [json_file] = (tmp_path / "kept").glob("*.json")
    with pytest.raises(AssertionError, match="nothing is to be extracted"):
        DescriptorFiles("other", tmp_path / "kept").get(paths, View(), forbidden)

    def go_on(rows):
        assert rows.sizes[[0, 2]].tolist() == [[24, 32]] * 2

    expect(DescriptorFiles("abc", tmp_path / "kept").get(paths, View(), go_on))
    assert json_file.with_suffix(".npy").is_file()


def forbidden_method(*_):
    raise AssertionError


def test_each_process_gets_its_shard(paths, tmp_path):
    save(paths, tmp_path / "kept")
    files = DescriptorFiles("abc", load_folder=tmp_path / "kept")
    extraction = files.get(paths, View(), forbidden, range(2, 3))
    assert extraction.descriptors.tolist() == [[4, 5]] and extraction.shard == range(2, 3)
    assert extraction.readable.tolist() == [2]
    assert (extraction.num_images, extraction.unreadable) == (3, [1]), "of all images"
    extraction = files.get(paths, View(), forbidden, range(0, 2)).without_unreadable_rows()
    assert extraction.descriptors.tolist() == [[0, 1]] and extraction.readable.tolist() == [0]


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
    files = DescriptorFiles(model, load_folder=tmp_path / "kept")
    with caplog.at_level(logging.WARNING):
        extraction = files.get(paths, view, fill)
    assert len(extraction.descriptors) == len(paths)
    assert len(list((tmp_path / "kept").iterdir())) == 2, "nothing is saved there"
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_sizes": 5},
        {"image_sizes": {"24x32": "2"}},
        {"unreadable": 3},
        {"unreadable": ["a"]},
        {"unreadable": [3]},
        {"unreadable": [-1]},
        {"unreadable": [1, 1]},
    ],
)
def test_what_cannot_be_true_of_the_images_is_refused(paths, tmp_path, wrong):
    save(paths, tmp_path / "kept")
    [facts] = (tmp_path / "kept").glob("*.json")
    facts.write_text(json.dumps(json.loads(facts.read_text()) | wrong))
    with pytest.raises(ValueError, match=f"can be used: its {next(iter(wrong))} are n"):
        DescriptorFiles("abc", load_folder=tmp_path / "kept").get(paths, View(), forbidden)


def test_a_job_of_several_processes_does_not_wait_until_it_is_given_up(
    paths, tmp_path, monkeypatch
):
    files = DescriptorFiles("abc", save_folder=tmp_path / "kept")
    monkeypatch.setattr(commons, "LONGEST_WAIT", datetime.timedelta())

    def ask_again(rows):
        with monkeypatch.context() as other, pytest.raises(TimeoutError, match="wait for it"):
            other.setattr(commons, "num_ranks", lambda: 2)
            other.setattr(commons, "of_main_process", lambda make: make())
            files.get(paths, View(), forbidden)
        fill(rows)

    expect(files.get(paths, View(), ask_again))


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of descriptors .*gone"):
        DescriptorFiles("abc", load_folder=tmp_path / "gone")
