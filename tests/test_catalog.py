import pytest
from conftest import name, write_image

import train
from datasets.catalog import (
    TEST_SETS,
    TRAIN_SETS,
    describe_counts,
    find_database,
    find_test_set,
    find_train_folder,
    look_up_test_set,
)
from datasets.eval_set import load_test_set
from parser import parse_train_arguments

TUPLES = ("pitts30k", "pitts250k", "msls")


@pytest.mark.parametrize("set_name", TEST_SETS)
def test_sets_are_found_in_each_of_their_layouts(tmp_path, set_name):
    test_set = TEST_SETS[set_name]
    for number, folder in enumerate(test_set.folders):
        for database in test_set.database:
            root = tmp_path / f"{number}{database}"
            for part in (database, test_set.queries):
                (root / folder / part).mkdir(parents=True)
            expected = root / folder / database, root / folder / test_set.queries
            assert find_test_set(set_name, root) == expected


@pytest.mark.parametrize("set_name", TRAIN_SETS)
def test_training_sets_are_found_in_each_of_their_layouts(tmp_path, set_name):
    for folder in reversed(TRAIN_SETS[set_name].folders):
        (tmp_path / folder).mkdir(parents=True)
        assert find_train_folder(set_name, tmp_path) == tmp_path / folder, "the first that exists"


def test_sets_of_tuples_are_validated_and_tested_on_their_own_cities():
    others = {name: (TRAIN_SETS[name].val, TRAIN_SETS[name].test) for name in TUPLES}
    assert others == {
        "pitts30k": ("pitts30k_val", "pitts30k"),
        "pitts250k": ("pitts250k_val", "pitts250k"),
        "msls": ("msls_val", "msls_val"),
    }


@pytest.mark.parametrize("set_name", TUPLES)
def test_missing_sets_of_tuples_say_how_to_get_them(tmp_path, set_name):
    with pytest.raises(FileNotFoundError) as error:
        find_train_folder(set_name, tmp_path)
    message = str(error.value)
    assert f"{tmp_path}/{set_name}/images/train or {tmp_path}/{set_name}/train\n" in message
    assert "holds database/ and queries/" in message and "VPR-datasets-downloader" in message


def test_classes_cannot_be_made_of_images_without_headings(tmp_path, refused):
    for part in ("database", "queries"):
        write_image(tmp_path / "pitts30k/images/train" / part / name(1, 2, pano_id="a"))
    said = refused(train.main, ["--dataset=pitts30k", f"--datasets_folder={tmp_path}"], 1)
    assert "heading (field 9 of the '@' name) is missing or not a number in 2 of 2 images" in said


def test_what_the_issue_of_published_recalls_needs():
    """Every set of the paper's tables is there, by its layout, and with the known counts."""
    columns = {s.paper_column: s for s in TEST_SETS.values() if s.paper_column}
    assert set(columns) == {
        *("Pitts250k", "Pitts30k", "Tokyo 24/7", "MSLS", "St Lucia"),
        *("SF-XL test v1", "SF-XL test v2"),
    }
    counts = {column: (s.num_database, s.num_queries) for column, s in columns.items()}
    assert counts["SF-XL test v1"] == (2_805_840, 1_000)
    assert counts["Pitts30k"] == (10_000, 6_816) and counts["Tokyo 24/7"] == (75_984, 315)
    assert counts["St Lucia"] == (1_549, 1_464) and counts["MSLS"] == (18_871, 11_084)
    assert {s.threshold_m for s in columns.values()} == {25.0}
    assert {s.resize for s in columns.values()} == {"none"}
    assert TEST_SETS["sf_xl_test_night"].folders == TEST_SETS["sf_xl_test_v1"].folders
    assert TEST_SETS["pitts30k"].folders[0] == "pitts30k/images/test"
    assert "msls/val" in TEST_SETS["msls_val"].folders, "its formatter leaves images/ out"


def test_sf_xl_is_where_its_readme_puts_it():
    assert TRAIN_SETS["sf_xl"].folders == ("sf_xl/processed/train",)
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
    assert f"python -m mini_city --preset demo --folder {tmp_path}/mini_city" in message
    command = message.split("python train.py ")[1].replace("\\\n", " ").split()
    args = parse_train_arguments(command)
    assert (args.dataset, args.datasets_folder) == ("mini_city", str(tmp_path))


@pytest.mark.parametrize("set_name", TEST_SETS)
def test_missing_folders_show_the_expected_tree(tmp_path, set_name):
    test_set = TEST_SETS[set_name]
    expected = tmp_path / test_set.folders[0]
    for made, missing in (
        (None, f"is not at {expected}"),
        (expected, f"has no {test_set.database[0]}/ in {expected}"),
        (expected / test_set.database[0], f"has no {test_set.queries}/ in {expected}"),
    ):
        if made:
            made.mkdir(parents=True)
        with pytest.raises(FileNotFoundError) as error:
            find_test_set(set_name, tmp_path)
        assert f"The data set {set_name} {missing}" in str(error.value)
        assert f"{expected}/{test_set.queries}/" in str(error.value)
        assert "{" not in str(error.value), "everything is filled in"


def test_unknown_names_list_the_near_ones(tmp_path):
    with pytest.raises(ValueError, match="Unknown training set 'paris': choose from sf_xl"):
        find_train_folder("paris", tmp_path)
    with pytest.raises(ValueError, match="Unknown test set 'pits30k': did you mean pitts30k, "):
        look_up_test_set("pits30k")
    with pytest.raises(ValueError, match="did you mean .*tokyo247.* All are: sf_xl_val, "):
        load_test_set("tokyo_247", tmp_path)


def test_counts_that_differ_are_said():
    v1 = TEST_SETS["sf_xl_test_v1"]
    assert describe_counts(v1, 2_805_840, 1_000) == []
    assert describe_counts(v1, 2_588_640, 1_000) == [
        "2,588,640 database images, expected 2,805,840: recalls may not compare with published ones"
    ]
    assert describe_counts(TEST_SETS["mini_city_val"], 1, 1) == []


def test_gallery_is_a_database(tmp_path):
    assert find_database(tmp_path) is None
    write_image(tmp_path / "gallery" / name(1, 2))
    assert find_database(tmp_path) == tmp_path / "gallery"
