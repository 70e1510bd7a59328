import pytest
from conftest import name, write_image

from datasets.catalog import TEST_SETS, TRAIN_SETS, find_train_folder, load_test_set
from parser import parse_arguments


def make(folder, database, queries):
    write_image(folder / database / name(1, 2))
    write_image(folder / queries / name(3, 4))
    return folder


@pytest.mark.parametrize("set_name", TEST_SETS)
def test_named_sets_are_found_below_the_datasets_folder(tmp_path, set_name):
    test_set = TEST_SETS[set_name]
    make(tmp_path / test_set.folder, test_set.database, test_set.queries)
    eval_set = load_test_set(set_name, tmp_path)
    assert (eval_set.name, len(eval_set.database), len(eval_set.queries)) == (set_name, 1, 1)
    assert eval_set.database_utms.tolist() == [[1, 2]]
    assert eval_set.queries_utms.tolist() == [[3, 4]]


def test_sf_xl_is_where_its_readme_puts_it():
    assert TRAIN_SETS["sf_xl"].folder == "sf_xl/processed/train"
    assert TRAIN_SETS["sf_xl"].val == "sf_xl_val" and TRAIN_SETS["sf_xl"].test == "sf_xl_test_v1"
    assert TEST_SETS["sf_xl_test_v1"].queries == "queries_v1"
    for train_set in TRAIN_SETS.values():
        assert {train_set.val, train_set.test} <= set(TEST_SETS)


@pytest.mark.parametrize(
    "find",
    [
        lambda root: find_train_folder("sf_xl", root),
        lambda root: load_test_set("sf_xl_test_v1", root),
    ],
)
def test_missing_sf_xl_says_where_it_was_looked_for_and_how_to_get_it(tmp_path, find):
    with pytest.raises(FileNotFoundError) as error:
        find(tmp_path)
    message = str(error.value)
    assert str(tmp_path / "sf_xl" / "processed") in message
    assert "forms.gle" in message and "queries_v1" in message
    assert f"python -m datasets.mini_city --preset demo --folder {tmp_path}/mini_city" in message
    command = message.split("python train.py ")[1].replace("\\\n", " ").split()
    args = parse_arguments(command)
    assert (args.dataset, args.datasets_folder) == ("mini_city", str(tmp_path))


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Unknown training set 'paris': choose from sf_xl"):
        find_train_folder("paris", tmp_path)
    with pytest.raises(ValueError, match="Unknown test set 'paris': choose from sf_xl_val"):
        load_test_set("paris", tmp_path)


def test_own_folders(tmp_path):
    folder = make(tmp_path / "mine", "database", "queries")
    assert load_test_set(None, "unused", folder).name.endswith("mine/queries")
    write_image(folder / "queries_v1" / name(5, 6))
    assert load_test_set(None, "unused", folder).queries_utms.tolist() == [[5, 6]]
    assert load_test_set(None, "unused", folder, "queries").queries_utms.tolist() == [[3, 4]]
    write_image(tmp_path / "photos" / name(7, 8))
    elsewhere = load_test_set(None, "unused", folder, str(tmp_path / "photos"))
    assert elsewhere.queries_utms.tolist() == [[7, 8]]
    with pytest.raises(FileNotFoundError, match="night does not exist"):
        load_test_set(None, "unused", folder, "night")


def test_names_without_position_are_refused(tmp_path):
    folder = make(tmp_path / "mine", "database", "queries")
    write_image(folder / "queries" / "photo.jpg")
    with pytest.raises(ValueError, match="UTM east .* in 1 of 2 images, for example photo.jpg"):
        load_test_set(None, "unused", folder)
