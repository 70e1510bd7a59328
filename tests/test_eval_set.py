import dataclasses

import numpy as np
import pytest
from conftest import name, write_image
from layouts import write_set

from datasets import catalog
from datasets.catalog import TEST_SETS
from datasets.eval_set import Labels, load_own_set, load_test_set
from datasets.image_names import parse_image_name

THRESHOLD_M = 25.0


def patch_counts(monkeypatch, set_name, num_database, num_queries):
    small = dataclasses.replace(
        TEST_SETS[set_name], num_database=num_database, num_queries=num_queries
    )
    monkeypatch.setitem(catalog.TEST_SETS, set_name, small)


def official_positives(set_name, database, queries):
    """Count what is right the way the protocols tell it, pair by pair, from the names alone."""
    rows = []
    for query in queries:
        q = parse_image_name(query)
        row = []
        for number, image in enumerate(database):
            d = parse_image_name(image)
            metres = (
                (q.utm_east_m - d.utm_east_m) ** 2 + (q.utm_north_m - d.utm_north_m) ** 2
            ) ** 0.5
            if set_name in ("nordland", "nordland_1f", "nordland_2f"):
                frames = {"nordland": 10, "nordland_1f": 1, "nordland_2f": 2}[set_name]
                is_right = abs(int(q.pano_id) - int(d.pano_id)) <= frames
            elif set_name == "amstertime":
                is_right = q.pano_id == d.pano_id
            else:
                is_right = q.zone_number == d.zone_number and metres <= THRESHOLD_M
            if is_right:
                row.append(number)
        rows.append(row)
    return rows


@pytest.mark.parametrize("set_name", TEST_SETS)
def test_positives_are_those_of_the_official_protocol(tmp_path, monkeypatch, set_name):
    folder = write_set(tmp_path, set_name, np.random.default_rng(1))
    eval_set = load_test_set(set_name, tmp_path)
    database, queries = list(eval_set.database), list(eval_set.queries)
    expected = official_positives(set_name, database, queries)
    found = [positives.tolist() for positives in eval_set.truth.positives_per_query]
    assert found == expected and any(expected)
    assert eval_set.name == set_name and eval_set.resize == "none"
    assert eval_set.paper_column == TEST_SETS[set_name].paper_column
    if TEST_SETS[set_name].num_queries:
        assert any("expected" in note for note in eval_set.notes)
    patch_counts(monkeypatch, set_name, len(database), len(queries))
    assert not any("expected" in note for note in load_test_set(set_name, tmp_path).notes)
    assert folder.is_dir()


def test_nordland_of_one_frame_asks_every_tenth_summer_image(tmp_path):
    write_set(tmp_path, "nordland_1f", np.random.default_rng(0))
    eval_set = load_test_set("nordland_1f", tmp_path)
    assert [parse_image_name(path).pano_id for path in eval_set.queries] == list("0") + [
        "10",
        "20",
        "30",
        "40",
    ]
    assert eval_set.database.folder.name == "queries", "winter is the database"
    assert eval_set.queries.folder.name == "database"
    assert eval_set.positions is None, "mock positions are no metres"


def test_frames_need_one_image_of_each_season(tmp_path):
    folder = write_set(tmp_path, "nordland_2f", np.random.default_rng(0))
    next((folder / "queries").iterdir()).unlink()
    with pytest.raises(ValueError, match="has 45 database images and 44 query images"):
        load_test_set("nordland_2f", tmp_path)
    with pytest.raises(
        ValueError, match="--positive_dist_threshold has no meaning for nordland_2f"
    ):
        load_test_set("nordland_2f", tmp_path, labels=Labels(threshold_m=5.0))


def test_official_queries_of_msls(tmp_path):
    """Of 8 queries a city, rows 3 and 7 are of no subtask and row 1 is a panorama."""
    write_set(tmp_path, "msls_val_740", np.random.default_rng(1))
    everything = load_test_set("msls_val", tmp_path)
    official = load_test_set("msls_val_740", tmp_path)
    has_positives = dict(
        zip(
            (parse_image_name(path).pano_id for path in everything.queries),
            everything.truth.has_positives,
            strict=True,
        )
    )
    asked = [f"{city}-queries-{row}" for city in ("cph", "sf") for row in (0, 2, 4, 5, 6)]
    expected = {key for key in asked if has_positives[key]}
    assert 0 < len(expected) < len(asked), "the case is in the data"
    assert {parse_image_name(path).pano_id for path in official.queries} == expected
    assert official.truth.has_positives.all()
    assert official.denominator == "queries that have positives"
    left_out = len(asked) - len(expected)
    assert f"{left_out:,} queries without positives are left out" in official.notes
    assert everything.denominator == "all queries"
    assert any(
        "UTM zones 10 and 33 are apart" in note.replace("33 and 10", "10 and 33")
        for note in everything.notes
    )


def test_official_queries_need_the_metadata(tmp_path):
    write_set(tmp_path, "msls_val", np.random.default_rng(0))
    with pytest.raises(FileNotFoundError, match="metadata of MSLS is not at .*msls/train_val"):
        load_test_set("msls_val_740", tmp_path)
    folder = tmp_path / "msls" / "train_val" / "cph" / "query"
    folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no .*cph/query/subtask_index.csv"):
        load_test_set("msls_val_740", tmp_path)
    (folder / "subtask_index.csv").write_text(",all\n0,True\n")
    (folder / "raw.csv").write_text(",key,pano\n0,a,False\n1,b,False\n")
    with pytest.raises(ValueError, match="subtask_index.csv has 1 rows, raw.csv 2"):
        load_test_set("msls_val_740", tmp_path)
    (folder / "raw.csv").write_text(",id,pano\n0,a,False\n")
    with pytest.raises(ValueError, match="has no column 'key'"):
        load_test_set("msls_val_740", tmp_path)


def test_msls_test_is_searched_city_by_city(tmp_path):
    folder = write_set(tmp_path, "msls_test", np.random.default_rng(0))
    eval_set = load_test_set("msls_test", tmp_path)
    for paths, cities in zip((eval_set.database, eval_set.queries), eval_set.cities, strict=True):
        expected = ["_cph@" in path for path in paths]
        assert [city == cities[expected.index(True)] for city in cities] == expected
    assert load_test_set("msls_val", _as_val(tmp_path, folder)).cities is None


def _as_val(root, folder):
    (root / "msls" / "val").symlink_to(folder)
    return root


def test_the_link_from_test_to_val_is_pointed_out(tmp_path):
    write_set(tmp_path, "msls_val", np.random.default_rng(0))
    (tmp_path / "msls" / "test").symlink_to(tmp_path / "msls" / "images" / "val")
    notes = load_test_set("msls_test", tmp_path).notes
    assert "msls/test is a link to msls/val: these are the validation cities" in notes


def test_cities_may_be_sub_folders(tmp_path):
    for part in ("database", "queries"):
        for city in ("miami", "athens"):
            write_image(tmp_path / part / city / name(1, 2))
    cities = load_own_set(tmp_path, labels=Labels(per_city=True)).cities
    assert [city.tolist() for city in cities] == [[0, 1], [0, 1]]
    write_image(tmp_path / "queries" / name(3, 4))
    with pytest.raises(ValueError, match="does not say its city"):
        load_own_set(tmp_path, labels=Labels(per_city=True))


def test_queries_of_cities_without_a_database_image_are_counted(tmp_path):
    for part, cities in (("database", ["miami"]), ("queries", ["miami", "athens"])):
        for city in cities:
            write_image(tmp_path / part / city / name(1, 2))
    notes = load_own_set(tmp_path, labels=Labels(per_city=True)).notes
    assert notes == ("1 queries are of cities without a database image",)


def make(folder, database, queries):
    write_image(folder / database / name(1, 2))
    write_image(folder / queries / name(3, 4))
    return folder


def queries_of(*arguments):
    return load_own_set(*arguments).positions.queries_m.tolist()


@pytest.mark.parametrize("database", ["database", "gallery"])
def test_own_folders(tmp_path, database):
    folder = make(tmp_path / "mine", database, "queries")
    eval_set = load_own_set(folder)
    assert eval_set.name.endswith("mine/queries")
    assert eval_set.positions.database_m.tolist() == [[1, 2]]
    write_image(folder / "queries_v1" / name(5, 6))
    assert queries_of(folder) == [[5, 6]]
    assert queries_of(folder, "queries") == [[3, 4]]
    write_image(tmp_path / "photos" / name(7, 8))
    assert queries_of(folder, str(tmp_path / "photos")) == [[7, 8]]
    with pytest.raises(FileNotFoundError, match="night does not exist"):
        load_own_set(folder, "night")


def test_names_without_position_are_refused_unless_labels_come_from_elsewhere(tmp_path):
    folder = make(tmp_path / "mine", "database", "queries")
    write_image(folder / "queries" / "photo.jpg")
    with pytest.raises(ValueError, match="UTM east .* in 1 of 2 images, for example photo.jpg"):
        load_own_set(folder)
    retrieval = load_own_set(folder, labels=Labels(none=True))
    assert retrieval.truth is None and retrieval.positions is None
    right = tmp_path / "right.csv"
    right.write_text("query,database\nphoto.jpg,0\n")
    told = load_own_set(folder, labels=Labels(positives_file=str(right)))
    assert [row.tolist() for row in told.truth.positives_per_query] == [[], [0]]
    assert told.truth.rule == f"read from {right}"


def test_a_threshold_may_be_asked_for(tmp_path):
    folder = make(tmp_path / "mine", "database", "queries")
    near = load_own_set(folder, labels=Labels(threshold_m=1.5)).truth
    assert near.threshold_m == 1.5 and not near.has_positives.any()
    assert load_own_set(folder).truth.has_positives.all()


def test_images_that_are_listed_twice_count_twice_and_are_said(tmp_path):
    folder = make(tmp_path / "mine", "database", "queries")
    (folder / "database_images_paths.txt").write_text(f"{name(1, 2)}\n" * 2)
    eval_set = load_own_set(folder)
    assert len(eval_set.database) == 2
    assert eval_set.truth.positives_per_query[0].tolist() == [0, 1]
    [note] = eval_set.notes
    assert note.startswith("1 lines of") and "database_images_paths.txt" in note


def test_lines_of_a_list_that_repeat_others_are_counted(make_eval_folder):
    folder = make_eval_folder(database=[(0, 0), (90, 0), (300, 0)], queries=[(3, 0)])
    names = sorted(path.name for path in (folder / "database").iterdir())
    list_file = folder / "database_images_paths.txt"
    list_file.write_text("\n".join([*names, names[0][:-1] + "G", names[0], names[2], names[0]]))
    [note] = load_own_set(folder).notes
    assert note.startswith(f"3 lines of {list_file} repeat an earlier line")
