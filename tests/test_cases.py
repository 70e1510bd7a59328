"""Inputs of users that once failed, of `shared/data/cases` where that is beside the project."""

import json
import runpy
import shutil
import sys

import pytest
from conftest import write_image
from PIL import Image

from datasets.images import load_image
from eval import main as eval_main
from localize import list_photos
from tools.convert.exif import read_exif


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


@pytest.mark.parametrize("ending", ["webp", "bmp", "tif"])
def test_other_formats_are_read(tmp_path, ending):
    colour = write_image(tmp_path / "a.png", colour=(200, 90, 30))
    with Image.open(colour) as image:
        image.save(tmp_path / f"a.{ending}")
    loaded = load_image(tmp_path / f"a.{ending}")
    assert loaded.shape == (3, 24, 32)
    assert (loaded.float().mean((1, 2)) - loaded.new_tensor([200, 90, 30]).float()).abs().max() < 4
