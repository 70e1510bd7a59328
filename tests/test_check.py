"""The check as a user runs it; what its modules find is tested beside this file."""

import dataclasses
import logging
import os
import re
import shutil

import numpy as np
import pytest
from conftest import name, run, write_image
from gsv_files import write_gsv_cities
from layouts import write_set
from photo_tables import convert, write_photos

from datasets.catalog import TEST_SETS, TRAIN_SETS
from datasets.class_index import load_index
from datasets.eval_set import load_test_set
from datasets.partition import PartitionParams
from tools.check.__main__ import main
from tools.check.findings import ERROR, OK, WARNING
from tools.check.layout import DATABASE, QUERIES, TRAIN, find_layout


@pytest.fixture
def check(caplog):
    """Return a function from arguments to the exit code and what was printed, as one line."""

    def run_check(*argv):
        caplog.clear()
        code, verdict = 0, ""
        with caplog.at_level(logging.INFO):
            try:
                main([*map(str, argv), "--num_workers=0"])
            except ValueError as error:
                code, verdict = 1, str(error)
        text = "\n".join(record.message for record in caplog.records)
        return code, " ".join(f"{text}\n{verdict}".split())

    return run_check


def test_mini_city_by_name_and_by_folder_is_sound(datasets_folder, check):
    """Slow: 2,352 images are opened and decoded."""
    by_name = check("mini_city", "--datasets_folder", datasets_folder)
    by_folder = check(datasets_folder / "mini_city", "--decode")
    for code, text in (by_name, by_folder):
        assert code == 0 and "ERROR" not in text and "0 errors" in text
        assert "ok images 1,176 (.jpg: 1,176)" in text
        assert "zone 10 north: 1,176 images at 98 places" in text
        assert "ok classes 10 groups with M=10, alpha=30, N=5, L=2" in text
        assert "252 of 1,176 images (21.4%) are in classes of fewer than 10" in text
        assert "--groups_num 1 to 10 can be trained" in text
        assert "every query has some within 25 m, in the median 108" in text
    assert "queries_v2" not in by_name[1] and "queries_v2" in by_folder[1]
    assert "1,176 opened" in by_name[1] and "1,176 decoded" in by_folder[1]


def test_gsv_cities_is_checked_by_its_tables(tmp_path, check):
    write_gsv_cities(tmp_path / "whole")
    code, text = check(tmp_path / "whole")
    assert code == 0 and "ok places 60 images of 12 places in 3 cities" in text
    assert "London 5 places 25 images" in text and "3 places with fewer than 4 images" in text
    assert "every image that the tables list exists" in text
    assert "9 images in no place that is trained on" in text and "position" not in text
    write_gsv_cities(tmp_path / "cut", missing=(0, 3, 27))  # the last one is of a small place
    code, text = check(tmp_path / "cut")
    assert code == 1 and "2 of 60 images that the tables list do not exist:" in text
    table = tmp_path / "whole" / "Dataframes" / "PRS.csv"
    table.write_text(table.read_text().replace("northdeg", "north"))
    code, text = check(tmp_path / "whole")
    assert code == 1 and "PRS.csv has no column northdeg" in text


def test_the_preview_is_that_of_a_dry_run(datasets_folder, tmp_path, check):
    folder = datasets_folder / "mini_city" / "processed" / "train"
    params = PartitionParams(alpha=60, N=2, L=1, min_images_per_class=16)
    index = load_index(folder, params, tmp_path)
    code, text = check(folder, "--min_images_per_class=16", "--N=2", "--L=1", "--alpha=60")
    assert code == 0 and 1 < index.num_groups < 8
    assert " ".join(index.describe().split("min_images_per_class=16")[1].split()) in text
    num_kept = sum(index.num_images(group) for group in range(index.num_groups))
    assert f"dropped {1176 - num_kept:,} of 1,176 images" in text
    assert f"train with --groups_num {index.num_groups} or less" in text


def test_exit_codes_of_the_command(tmp_path, refused):
    write_image(tmp_path / "set" / "photo.jpg")
    message = refused(main, ["set", "--num_workers=0"], 1)
    assert message.startswith("Error: 1 error, 1 warning in set: training or evaluation")
    assert "neither a folder nor the name" in refused(main, ["paris"], 1)
    assert "photo.jpg is not a folder" in refused(main, ["set/photo.jpg"], 1)
    assert "--bad_list goes with --decode" in refused(main, ["set", "--bad_list", "x"], 2)
    assert "--M must be at least 1" in refused(main, ["set", "--M=0"], 2)
    assert "must not be negative" in refused(main, ["set", "--num_workers=-1"], 2)
    unwritable = ["set", "--decode", "--bad_list", "nowhere/bad.txt"]
    assert "--bad_list nowhere/bad.txt cannot be written" in refused(main, unwritable, 1)


def test_runs_as_a_module_and_needs_no_terminal(tmp_path):
    os.makedirs(tmp_path / "set" / "database")
    with open(os.fsencode(tmp_path) + b"/set/database/@1@2@\xff\x1b[31m\xe6\x97\xa5@.jpg", "wb"):
        pass
    write_image(tmp_path / "set" / "queries" / name(1, 2))
    result = run("-m", "tools.check", tmp_path / "set", "--decode")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("Error: 1 error, 2 warnings in ")
    assert r"@1@2@\xff\x1b[31m" in result.stdout and "\x1b" not in result.stdout


def test_bad_images_are_listed_and_written(make_eval_folder, tmp_path, check):
    folder = make_eval_folder([(10 * i, 0) for i in range(30)], [(0, 0)])
    files = sorted((folder / "database").iterdir())
    for file in files[:23]:
        file.write_bytes(file.read_bytes()[:-20])
    files[23].write_bytes(b"")
    code, text = check(folder, "--decode", "--bad_list", tmp_path / "bad.txt")
    assert code == 1 and "24 of 30 cannot be decoded" in text and "empty: 1" in text
    assert "and 4 more" in text and "24 paths written to" in text
    assert (tmp_path / "bad.txt").read_text() == "".join(f"{file}\n" for file in files[:24])
    code, text = check(folder)
    assert code == 1 and "1 of 30 cannot be opened (empty: 1)" in text, "headers alone are whole"
    for file in files[:24]:
        write_image(file)
    code, text = check(folder, "--decode", "--bad_list", tmp_path / "bad.txt")
    assert code == 0 and (tmp_path / "bad.txt").read_text() == ""


def test_pairs_share_a_database(make_eval_folder, check):
    folder = make_eval_folder([(0, 0), (0, 0), (30, 0)], [(0, 25), (0, 25.1)], sizes=[(32, 24)])
    write_image(folder / "queries_night" / name(30, 1), (40, 24))
    code, text = check(folder)
    assert code == 0 and text.count("3 images at 2 places") == 1
    assert "1 of 2 queries have none within 25 m: no R@N exceeds 50.0" in text
    assert "have in the median 2 " in text and "every query has some within 25 m" in text
    assert "1 size in the database, 1 size among the queries, not the same" in text
    code, text = check(folder, "--positive_dist_threshold=0.5")
    assert code == 1 and "2 of 2 queries have none within 0.5 m" in text


@pytest.mark.parametrize("set_name", [*(TEST_SETS | TRAIN_SETS)])
def test_missing_named_sets_show_where_they_are_looked_for(tmp_path, check, set_name):
    code, text = check(set_name, "--datasets_folder", tmp_path)
    place = (TRAIN_SETS | TEST_SETS)[set_name].folders[0]
    assert code == 1 and str(tmp_path / place) in text and "It is evaluated on" in text


def layout_of(folder):
    found = find_layout(str(folder), "unused")
    pairs = [f"{one.queries.label} in {one.database.label}" for one in found.query_sets]
    return [(images.label, images.role) for images in found.folders], pairs, found.findings


def test_layouts(tmp_path):
    for folder in (
        *("vdd/images/test/gallery", "vdd/images/test/queries_night", "vdd/images/test/queries"),
        *("vdd/images/train/database", "vdd/images/train/queries", "vdd/images/val/database"),
        *("sf_xl/raw/train/panoramas", "sf_xl/raw/train/database", "sf_xl/small/train/37.70"),
        *("wrong/Validation/ref", "wrong/Validation/query", "plain/a", "plain/queries_x"),
    ):
        (tmp_path / folder).mkdir(parents=True)
    parts, pairs, findings = layout_of(tmp_path / "vdd")
    assert pairs == [
        "images/train/queries in images/train/database",
        "images/test/queries in images/test/gallery",
        "images/test/queries_night in images/test/gallery",
    ]
    assert ("images/val/database", DATABASE) in parts and len(parts) == 6
    assert [finding.level for finding in findings] == [ERROR, OK], "no queries in val; gallery"
    assert any("val/queries/" in line for line in findings[0].details)

    parts, pairs, findings = layout_of(tmp_path / "sf_xl")
    assert pairs == [] and {level.level for level in findings} == {WARNING}
    assert parts == [
        ("small/train", TRAIN),
        ("raw/train/database", TRAIN),
        ("raw/train/panoramas", TRAIN),
    ]
    assert layout_of(tmp_path / "sf_xl/raw/train")[0] == [
        ("train/database", TRAIN),
        ("train/panoramas", TRAIN),
    ]
    parts, pairs, findings = layout_of(tmp_path / "wrong")
    assert pairs == ["val/query in val/ref"]
    remedies = [finding.remedy for finding in findings if finding.level == ERROR]
    wrong = tmp_path / "wrong" / "Validation"
    assert remedies == [
        f"rename {wrong} to val",
        f"rename {wrong}/ref to database",
        f"rename {wrong}/query to queries",
    ]
    assert layout_of(tmp_path / "plain/queries_x")[0] == [("queries_x", QUERIES)]
    assert layout_of(tmp_path / "plain/a") == ([("a", TRAIN)], [], [])
    (several,) = layout_of(tmp_path)[2]
    assert several.level == ERROR and several.text.endswith("holds 2 data sets: sf_xl, vdd")


def test_a_test_folder_that_is_the_validation_folder_is_told(make_eval_folder, tmp_path):
    make_eval_folder([(0, 0)], [(0, 0)])
    (tmp_path / "msls").mkdir()
    shutil.move(tmp_path / "set", tmp_path / "msls" / "val")
    (tmp_path / "msls" / "test").symlink_to("val")
    parts, pairs, findings = layout_of(tmp_path / "msls")
    assert len(parts) == 2 and pairs == ["val/queries in val/database"]
    assert "test is the same folder as val" in findings[-1].text


def patch_set(monkeypatch, set_name, **fields):
    monkeypatch.setitem(TEST_SETS, set_name, dataclasses.replace(TEST_SETS[set_name], **fields))


def test_expected_counts(make_eval_folder, tmp_path, monkeypatch, check):
    folder = make_eval_folder([(0, 0)] * 3, [(0, 0)])
    (folder / "queries").rename(folder / "queries_v1")
    (tmp_path / "sf_xl" / "processed").mkdir(parents=True)
    folder.rename(tmp_path / "sf_xl" / "processed" / "test")
    patch_set(monkeypatch, "sf_xl_test_v1", num_queries=1, threshold_m=5.0)
    code, text = check("sf_xl_test_v1", "--datasets_folder", tmp_path)
    assert code == 0 and "warning count 3 images, expected 2,805,840" in text
    assert "ok count 1 query, as published" in text and "within 5 m" in text
    assert text.count(", expected ") == 1


@pytest.mark.parametrize("set_name", TEST_SETS)
def test_named_sets_are_checked_by_their_own_protocol(tmp_path, check, set_name):
    write_set(tmp_path, set_name, np.random.default_rng(1))
    eval_set = load_test_set(set_name, tmp_path)
    code, text = check(set_name, "--datasets_folder", tmp_path)
    assert code == 0
    num_queries, missing = len(eval_set.queries), (~eval_set.truth.has_positives).sum()
    assert f"protocol {eval_set.protocol}: {num_queries} queries" in text
    if missing:
        assert f"{missing} of {num_queries} queries have none within" in text
    else:
        assert "every query has some" in text


def test_nordland_of_one_frame(tmp_path, monkeypatch, check):
    """45 frames, the names of both seasons alike; a query has itself and one frame either side."""
    write_set(tmp_path, "nordland_1f", np.random.default_rng(0))
    patch_set(monkeypatch, "nordland_1f", num_database=45, num_queries=5)
    code, text = check("nordland_1f", "--datasets_folder", tmp_path)
    assert code == 0 and "every query has some at most 1 frame away, in the median 3 " in text
    assert "ok count 45 images, as published" in text and "ok count 5 queries, as pub" in text
    assert "5 queries with the name of a database image" in text
    assert "Nothing has to be renamed or changed" in text
    code, text = check("nordland_1f", "--datasets_folder", tmp_path, "--positive_dist_threshold=5")
    assert code == 1 and "--positive_dist_threshold has no meaning for nordland_1f" in text
    next((tmp_path / TEST_SETS["nordland_1f"].folders[0] / "queries").iterdir()).unlink()
    code, text = check("nordland_1f", "--datasets_folder", tmp_path)
    assert code == 1 and "ERROR protocol nordland_1f is evaluated by frame number" in text
    assert "44 database images and 45 query images" in text


def test_official_queries_of_msls_need_its_metadata(tmp_path, check):
    """10 of 16 queries are official; those without positives are left out, as published."""
    write_set(tmp_path, "msls_val_740", np.random.default_rng(1))
    code, text = check("msls_val_740", "--datasets_folder", tmp_path)
    assert code == 0 and "every query has some within 25 m" in text
    kept = int(re.search(r"searched together: (\d+) queries", text)[1])
    assert 0 < kept < 10 and f"note {10 - kept} queries without positives are left out" in text
    assert f"warning count {kept} queries, expected 740" in text
    shutil.rmtree(tmp_path / "msls" / "train_val")
    code, text = check("msls_val_740", "--datasets_folder", tmp_path)
    assert code == 1 and "ERROR protocol The metadata of MSLS is not at" in text


def test_a_converted_set_of_photos_with_other_names_is_sound(tmp_path, check):
    write_photos(tmp_path)
    for role in ("database", "queries"):
        convert(tmp_path, "--mode=symlink", out=f"set/{role}")
    code, text = check(tmp_path / "set")
    assert code == 0 and "ERROR" not in text
    assert text.count("3 (.jpg: 2, .png: 1)") == 2
    assert "every query has some within 25 m" in text and "3 queries with the name of" in text


def test_images_are_judged_by_what_they_are_for(tmp_path, check):
    write_photos(tmp_path)
    folder = convert(tmp_path)  # one of three has no heading
    code, text = check(folder)
    assert code == 1 and f"training images in {folder}" in text
    assert check(folder, "--for", "training")[0] == 1
    code, text = check(folder, "--for", "evaluation")
    assert code == 0 and f"database in {folder}" in text
    assert check(folder, "--for", "localization")[0] == 0

    (tmp_path / "own" / "queries").mkdir(parents=True)
    folder.rename(tmp_path / "own" / "database")
    write_image(tmp_path / "own" / "queries" / "photo.jpg")  # whose place is unknown
    assert check(tmp_path / "own", "--for", "evaluation")[0] == 1
    code, text = check(tmp_path / "own", "--for", "localization")
    assert code == 0 and "queries" not in text
    shutil.rmtree(tmp_path / "own" / "queries")
    assert check(tmp_path / "own")[0] == 1
    assert check(tmp_path / "own", "--for", "localization")[0] == 0


def test_unknown_names_get_near_ones_first(tmp_path):
    with pytest.raises(ValueError, match="data set: did you mean tokyo247.*? All are: sf_xl, "):
        find_layout("tokyo_247", tmp_path)
    with pytest.raises(ValueError, match="'?zzz'? is neither .* data set: choose from sf_xl, "):
        find_layout("zzz", tmp_path)
