"""Inputs of users that once failed, of `shared/data/cases` where that is beside the project."""

import json
import os
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, write_image
from PIL import Image

from datasets.image_lists import list_photos
from datasets.images import load_image
from eval import main as eval_main
from tools.convert.exif import read_exif
from tools.convert.positions import parse_angle, project
from tools.convert.table import read_table
from train import main as train_main


@pytest.fixture
def case(shared_data, tmp_path):
    """Return a function that copies the files of a case into tmp_path."""

    def copy(name):
        return shutil.copytree(shared_data / "cases" / name, tmp_path / name)

    return copy


def evaluate(folder, eval_flags, tmp_path, *more):
    eval_main([*eval_flags, f"--test_set_folder={folder}", "--resize_test_imgs=64x64", *more])
    return json.loads((tmp_path / "run" / "results.json").read_text())


def test_queries_in_webp_are_evaluated(case, datasets_folder, eval_flags, tmp_path, monkeypatch):
    folder = case("01_webp_queries_dropped")
    monkeypatch.setattr(sys, "argv", ["make.py", str(datasets_folder / "mini_city"), "S"])
    monkeypatch.chdir(folder)
    runpy.run_path(str(folder / "make.py"), run_name="__main__")
    result = evaluate(folder / "S", eval_flags, tmp_path, "--no_report")
    assert (result["num_queries"], result["notes"]) == (10, [])


def test_companions_of_macos_are_no_queries(case, datasets_folder, eval_flags, tmp_path):
    folder = case("03_appledouble")
    shutil.copytree(datasets_folder / "mini_city/processed/test/database", folder / "database")
    result = evaluate(folder, eval_flags, tmp_path, "--no_report")
    assert result["num_queries"] == 10
    (note,) = result["notes"]
    assert note.endswith("queries: 3 of ._*, @eaDir and the like left out")
    assert len(read_exif(folder / "photos", None).files) == 1


def test_photos_that_are_not_read_are_named(case, caplog):
    photos = list_photos([str(case("02_heic_silently_skipped") / "photos")])
    assert len(photos) in (1, 2)  # 2 with pillow-heif
    assert len(photos) == 2 or "1 .heic not read (pip install pillow-heif" in caplog.text


def test_quoted_decimal_commas(case):
    photos = read_table(case("07_csv_decimal_comma_quoted") / "qcomma.csv", {})
    assert len(photos.files) == 2
    assert photos.positions.east_m[0] == pytest.approx(452482.53, abs=0.01)
    assert photos.positions.north_m[0] == pytest.approx(5411717.18, abs=0.01)


def test_angles_of_exiftool_and_letters_of_hemispheres(case):
    folder = case("09_csv_exiftool_dms")
    for file in ("exiftool.csv", "dms.csv"):
        photos = read_table(folder / file, {})
        expected = project(np.array([48.856667]), np.array([2.352194]), None)
        assert photos.positions.east_m[0] == pytest.approx(expected.east_m[0], abs=0.5)
        assert photos.positions.north_m[0] == pytest.approx(expected.north_m[0], abs=0.5)
    assert [*read_table(folder / "hemi.csv", {}).positions.letters] == ["U", "H"]


def test_exif_without_hemisphere(case):
    folder = case("12_exif_no_ref")
    with pytest.raises(ValueError, match="1 have degrees without GPSLatitudeRef.*--hemisphere NE"):
        read_exif(folder)
    positions = read_exif(folder, hemisphere="NE").positions
    expected = project(np.array([59.9139]), np.array([10.7522]))
    assert positions.east_m[0] == pytest.approx(expected.east_m[0], abs=1)
    assert read_exif(folder, hemisphere="SW").positions.letters[0] < "N"


def test_headings_that_are_not_known(case):
    photos = read_table(case("10_csv_heading_nan") / "head.csv", {})
    assert np.isnan(photos.heading_deg).sum() >= 1 and np.isfinite(photos.heading_deg).sum() >= 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("48 deg 51' 24.00\" N", 48.856667),
        ("33.8688S", -33.8688),
        ("W 2°21'7.9\"", -2.352194),
        ("48,8566", 48.8566),
        ("-48.5", -48.5),
        ("48 N S", np.nan),
        ("N 48 N", np.nan),
        ("1,2,3", np.nan),
    ],
)
def test_numbers_of_tables(text, value):
    assert parse_angle(text) == pytest.approx(value, abs=1e-6, nan_ok=True)


def test_a_line_that_says_the_separator(tmp_path):
    write_image(tmp_path / "a.jpg")
    (tmp_path / "t.csv").write_text('sep=|\npath|lat|lon|heading\na.jpg|"48,5"|2.5|NA\n')
    photos = read_table(tmp_path / "t.csv", {})
    assert len(photos.files) == 1 and np.isnan(photos.heading_deg[0])


@pytest.mark.parametrize("ending", ["webp", "bmp", "tif"])
def test_other_formats_are_read(tmp_path, ending):
    colour = write_image(tmp_path / "a.png", colour=(200, 90, 30))
    with Image.open(colour) as image:
        image.save(tmp_path / f"a.{ending}")
    loaded = load_image(tmp_path / f"a.{ending}")
    assert loaded.shape == (3, 24, 32)
    assert (loaded.float().mean((1, 2)) - loaded.new_tensor([200, 90, 30]).float()).abs().max() < 4


def test_a_folder_whose_name_is_not_utf8(make_eval_folder, eval_flags, tmp_path):
    folder = os.fsencode(make_eval_folder([(0, 0), (50, 0)], [(1, 0)]))
    place = os.fsencode(tmp_path) + b"/caf\xe9"
    os.rename(folder, place)
    result = evaluate(os.fsdecode(place), eval_flags, tmp_path)
    assert result["recalls"]["R@1"] in (0, 100)
    files = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"results.json", "predictions.csv", "table.md", "report.html"} <= files


def test_a_folder_with_any_bytes_where_the_locale_has_no_letters(
    make_eval_folder, model_file, tmp_path
):
    """In processes of their own, since Python reads the locale when it starts."""
    folder = os.fsencode(make_eval_folder([(0, 0), (50, 0)], [(1, 0)]))
    for role in (b"database", b"queries"):
        (file, *_) = sorted(os.listdir(os.path.join(folder, role)))
        inside = os.path.join(folder, role, b"sub \xe9 \xc3\xa9")
        os.mkdir(inside)
        os.rename(os.path.join(folder, role, file), os.path.join(inside, file))
    place = os.fsencode(tmp_path) + b"/caf\xe9\n\xc3\xa9 <b>"
    os.rename(folder, place)
    ended = subprocess.run(
        [
            *(sys.executable, REPOSITORY / "tests/tiny_backbone.py", REPOSITORY / "eval.py"),
            *(f"--resume={model_file}", b"--test_set_folder=" + place, "--device=cpu"),
            *(b"--save_dir=" + place + b"/run", "--num_workers=0", "--num_preds_to_save=1"),
        ],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
    )
    assert ended.returncode == 0, ended
    assert b"Logging error" not in ended.stderr and b"Traceback" not in ended.stderr
    files = {*os.listdir(place + b"/run")}
    assert {b"results.json", b"table.md", b"report.html", b"preds", b"info.log"} <= files
    with open(place + b"/run/predictions.csv", "rb") as file:
        assert place + b"/database/sub \xe9 \xc3\xa9/" in file.read()


def test_a_run_folder_whose_name_is_not_utf8_gets_all_files_of_a_training(flags, tmp_path):
    run = os.fsencode(tmp_path) + b"/r\xe9n"
    train_main([*flags, "--save_dir", os.fsdecode(run), "--epochs_num=1"])
    (events,) = [name for name in os.listdir(run) if name.startswith(b"events")]
    with open(os.path.join(run, events), "rb") as file:
        assert b"R@1" in file.read()
    assert {b"results.json", b"best_model.pth", b"metrics.jsonl"} <= {*os.listdir(run)}
