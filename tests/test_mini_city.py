"""The mini city: its files, its names, its geometry, and that it is the same every time."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import utm
from PIL import Image

from datasets.image_names import parse_image_name
from mini_city import PRESETS, CityParams, DistrictParams, generate
from mini_city.__main__ import main

CROP_FOV_DEG = 512 / 3328 * 360
RED = (250, 0, 0)


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "mini_city"
    assert generate(folder, "tiny", workers=2)
    return folder


@pytest.fixture(scope="module")
def small_params():
    one_spot = DistrictParams(block_columns=(3,), block_rows=(3,), visits=(2, 2), num_spots=1)
    return CityParams(
        train=one_spot,
        val=replace(one_spot, visits=(1, 1)),
        test=replace(one_spot, visits=(1, 1)),
        num_val_queries=1,
        num_queries_v1=2,
        num_queries_v2=2,
        image_size_px=32,
    )


def image_names(folder):
    return [parse_image_name(path) for path in sorted(folder.rglob("*.jpg"))]


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- files ----


def test_layout_and_counts_of_the_tiny_preset(city):
    counts = {
        "train": 14 * 7 * 12,
        "val/database": 6 * 12,
        "val/queries": 10,
        "test/database": 12 * 12,
        "test/queries_v1": 10,
        "test/queries_v2": 10,
    }
    for folder, count in counts.items():
        assert len(list((city / "processed" / folder).rglob("*.jpg"))) == count, folder
    assert len(list(city.rglob("*.jpg"))) == sum(counts.values())
    for path in (city / "processed/train").rglob("*.jpg"):
        assert float(path.parent.name) == pytest.approx(
            parse_image_name(path).latitude_deg, abs=0.0051
        )


def test_crops_are_square_and_hand_held_photos_are_not(city):
    sizes = {}
    for folder in ("train", "test/database", "val/queries", "test/queries_v1", "test/queries_v2"):
        paths = (city / "processed" / folder).rglob("*.jpg")
        sizes[folder] = {Image.open(path).size for path in paths}
    assert sizes["train"] == sizes["test/database"] == {(64, 64)}
    assert sizes["test/queries_v2"] == {(85, 64)}
    assert all(57 <= min(size) <= 64 < max(size) for size in sizes["test/queries_v1"])
    assert len(sizes["test/queries_v1"]) >= 5 and len(sizes["val/queries"]) >= 5


def test_names_have_16_parts_with_the_latitude_of_their_utm_position(city):
    paths = sorted(city.rglob("*.jpg"))
    assert all(len(path.name.split("@")) == 16 for path in paths)
    for path in paths[::37]:
        name = parse_image_name(path)
        assert (name.zone_number, name.zone_letter) == (10, "S")
        latitude, longitude = utm.to_latlon(name.utm_east_m, name.utm_north_m, 10, "S")
        assert name.latitude_deg == pytest.approx(latitude, abs=6e-6)
        assert name.longitude_deg == pytest.approx(longitude, abs=6e-6)


def test_pano_ids_and_timestamps_look_like_those_of_sf_xl(city):
    for name in image_names(city / "processed/train"):
        assert len(name.pano_id) == 22
        assert len(name.timestamp) == 6
        assert 2009 <= int(name.timestamp[:4]) <= 2021
        assert 1 <= int(name.timestamp[4:]) <= 12
    for name in image_names(city / "processed/test/queries_v1"):
        assert name.pano_id.isdigit()
        assert len(name.timestamp) == 8
        assert name.heading_deg is None


def test_the_12_crops_of_a_panorama_fall_into_12_bins_of_30_degrees(city):
    headings = {}
    for name in image_names(city / "processed/train"):
        headings.setdefault(name.pano_id, []).append(name.heading_deg)
    assert len(headings) == 14 * 7
    for values in headings.values():
        assert sorted(value // 30 for value in values) == list(range(12))
        assert len({value % 30 for value in values}) == 1
        assert all(value == int(value) for value in values)


def test_each_spot_is_visited_in_seven_different_years(city):
    names = image_names(city / "processed/train")
    panoramas = {name.pano_id: name for name in names}
    assert len(panoramas) == 14 * 7
    assert len({name.timestamp[:4] for name in names}) == 13
    positions = {(name.utm_east_m, name.utm_north_m) for name in panoramas.values()}
    assert len(positions) == 14 * 7  # never twice at the very same point


def test_districts_are_at_least_200_m_apart_and_queries_near_their_database(city):
    positions = {}
    for folder in ("train", "val/database", "val/queries", "test/database", "test/queries_v1"):
        names = image_names(city / "processed" / folder)
        positions[folder] = np.array([(name.utm_east_m, name.utm_north_m) for name in names])

    def distances(first, second):
        return np.linalg.norm(positions[first][:, None] - positions[second][None], axis=2)

    assert distances("train", "val/database").min() > 200
    assert distances("train", "test/database").min() > 200
    assert distances("val/database", "test/database").min() > 200
    assert distances("val/queries", "val/database").min(axis=1).max() < 25
    assert distances("test/queries_v1", "test/database").min(axis=1).max() < 25


def test_poses_of_queries_v2(city):
    with open(city / "processed/test/queries_v2_poses.csv") as file:
        rows = list(csv.DictReader(file))
    folder = city / "processed/test/queries_v2"
    assert sorted(row["image"] for row in rows) == sorted(path.name for path in folder.iterdir())
    for row in rows:
        name = parse_image_name(row["image"])
        assert float(row["utm_east_m"]) == pytest.approx(name.utm_east_m, abs=0.006)
        assert float(row["utm_north_m"]) == pytest.approx(name.utm_north_m, abs=0.006)
        assert 1.4 <= float(row["height_m"]) <= 2.5
        w, x, y, z = (float(row[key]) for key in ("qw", "qx", "qy", "qz"))
        forward = (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y))
        heading = np.degrees(np.arctan2(forward[0], forward[1])) % 360
        assert heading == pytest.approx(float(row["heading_deg"]), abs=0.01)
        assert np.degrees(np.arcsin(forward[2])) == pytest.approx(float(row["pitch_deg"]), abs=0.01)


# ---- the same city every time ----


def test_same_seed_same_bytes_with_one_and_two_workers(small_params, tmp_path):
    assert generate(tmp_path / "one", small_params, seed=5, workers=1)
    assert generate(tmp_path / "two", small_params, seed=5, workers=2)
    assert generate(tmp_path / "other", small_params, seed=6, workers=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 12 * 4 + 5 + 2
    assert contents(tmp_path / "one").keys() != contents(tmp_path / "other").keys()


def test_a_folder_is_never_overwritten_by_accident(small_params, tmp_path):
    folder = tmp_path / "city"
    assert generate(folder, small_params, workers=1)
    before = contents(folder)
    assert not generate(folder, small_params, workers=1)  # it is there already
    with pytest.raises(FileExistsError, match="another mini city"):
        generate(folder, small_params, seed=1, workers=1)
    assert contents(folder) == before
    assert generate(folder, small_params, seed=1, workers=1, overwrite=True)
    assert contents(folder) != before
    assert [path.name for path in tmp_path.iterdir()] == ["city"]


def test_command_line_refuses_a_folder_with_other_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not delete")
    command = ["--folder", str(tmp_path), "--preset", "tiny"]
    assert main(command) == 2
    assert main([*command, "--overwrite"]) == 2
    assert main(["--folder", str(tmp_path / "new"), "--image_size", "8"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_command_line_finds_the_same_city(city):
    before = contents(city)
    assert main(["--folder", str(city), "--preset", "tiny"]) == 0
    assert contents(city) == before


def test_nothing_is_left_when_generating_fails(small_params, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("disk full")

    monkeypatch.setattr("mini_city.shots._save", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        generate(tmp_path / "city", small_params, workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes", [{"image_size_px": 16}, {"num_queries_v1": -1}, {"years": (2020, 2021)}]
)
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(ValueError, match="must|few"):
        replace(PRESETS["tiny"], **changes)
