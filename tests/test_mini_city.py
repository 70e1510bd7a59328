"""The mini city: its files, its names, its geometry, and that it is the same every time."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import utm
from PIL import Image

from datasets.image_paths import parse_image_name
from datasets.mini_city import PRESETS, CityParams, DistrictParams, generate
from datasets.mini_city.__main__ import main
from datasets.mini_city.conditions import draw_daylight
from datasets.mini_city.frame import Camera
from datasets.mini_city.queries import Photo, axes, photograph, quaternion
from datasets.mini_city.render import Scene, render
from datasets.mini_city.shots import cut_crops, panorama_camera
from datasets.mini_city.surfaces import Billboard, Extras, Wall, Walls
from datasets.mini_city.textures import Canvas
from datasets.mini_city.world import ROTATION_DEG, district

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

    monkeypatch.setattr("datasets.mini_city.shots._save", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        generate(tmp_path / "city", small_params, workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes", [{"image_size_px": 16}, {"num_queries_v1": -1}, {"years": (2020, 2021)}]
)
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(ValueError, match="must|few"):
        replace(PRESETS["tiny"], **changes)


# ---- geometry ----


@pytest.fixture(scope="module")
def tiny_district():
    return district("test", PRESETS["tiny"], 0)


def red_texture(width_m, height_m):
    canvas = Canvas(width_m, height_m, 8)
    canvas.rectangle(0, 0, width_m, height_m, RED)
    return canvas.to_texture()


def scene_with(tiny_district, walls=(), billboards=()):
    """An open field in flat light, with walls or billboards."""
    light = draw_daylight(np.random.default_rng(0), 2015)
    light = replace(light, sun_rgb=(0, 0, 0), ambient_rgb=(1, 1, 1), haze_m=1e9)
    scene = tiny_district.scene(light, Extras())
    texture = red_texture(2, 5)
    return replace(
        scene, walls=[Walls.gather(walls, lambda _: texture)], billboards=list(billboards)
    )


def is_red(pixels):
    return (pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)


def street_frame(tiny_district, east_m, north_m):
    """Undo District.to_utm, from three of its points."""
    origin, unit_x, unit_y = (
        np.array(tiny_district.to_utm(*point)) for point in ((0, 0), (1, 0), (0, 1))
    )
    return np.linalg.solve(
        np.stack([unit_x - origin, unit_y - origin], axis=1), np.array((east_m, north_m)) - origin
    )


@pytest.mark.parametrize(
    ("east_m", "north_m", "heading_deg"), [(20, 0, 90), (0, 20, 0), (0, -20, 180), (-20, 20, 315)]
)
def test_headings_run_clockwise_from_north_and_start_at_the_left_column(
    tiny_district, east_m, north_m, heading_deg
):
    camera_utm = np.array(tiny_district.to_utm(40, 0))
    x_m, y_m = street_frame(tiny_district, *(camera_utm + (east_m, north_m)))
    scene = scene_with(tiny_district, billboards=[Billboard(x_m, y_m, red_texture(0.8, 5))])
    first_deg = 17
    camera = panorama_camera((40, 0), 2.5, first_deg + ROTATION_DEG, 128)
    crops = cut_crops(render(scene, camera))
    for index, crop in enumerate(crops):
        crop_heading = first_deg + 30 * index
        expected = ((heading_deg - crop_heading) % 360) / CROP_FOV_DEG * 128
        columns = np.flatnonzero(is_red(crop).any(axis=0))
        if 4 < expected < 124:
            assert columns.mean() + 0.5 == pytest.approx(expected, abs=1.1)
        elif 132 < expected < 360 / CROP_FOV_DEG * 128 - 4:
            assert len(columns) == 0


def test_a_wall_covers_the_rows_and_columns_that_trigonometry_predicts(tiny_district):
    wall = Wall((-3, 10), (5, 10), 0, 6)  # its front faces the camera, towards -y
    scene = scene_with(tiny_district, walls=[wall])
    camera = Camera(0, 0, 2, -90, 40, 0.25, 720, 320)
    red = is_red(render(scene, camera))
    columns, rows = np.flatnonzero(red.any(axis=0)), np.flatnonzero(red[:, 360])
    edges = np.degrees(np.arctan([-3 / 10, 5 / 10]))
    assert columns[[0, -1]] + (0, 1) == pytest.approx((edges + 90) / 0.25, abs=1)
    top, bottom = np.degrees(np.arctan2([6 - 2, -2], 10))
    assert rows[[0, -1]] + (0, 1) == pytest.approx([(40 - top) / 0.25, (40 - bottom) / 0.25], abs=1)


def test_a_wall_is_seen_from_its_front_only_and_hides_what_is_behind(tiny_district):
    camera = Camera(0, 0, 2, -90, 40, 0.5, 360, 160)
    behind = Billboard(0, 20, red_texture(1, 4))
    blue = Canvas(2, 5, 8)
    blue.rectangle(0, 0, 2, 5, (0, 0, 250))
    texture = blue.to_texture()
    scene = scene_with(tiny_district, billboards=[behind])
    for front, is_hidden in (((-3, 10), (3, 10)), True), (((3, 10), (-3, 10)), False):
        walls = Walls.gather([Wall(*front, 0, 8, 8)], lambda _: texture)
        red = is_red(render(replace(scene, walls=[walls]), camera))
        assert red.any() != is_hidden


def test_a_level_photo_agrees_with_the_panorama(tiny_district):
    light = draw_daylight(np.random.default_rng(3), 2015)
    scene: Scene = tiny_district.scene(light, Extras())
    photo = Photo(40, 1, 1.7, 33, pitch_deg=0, roll_deg=0, fov_deg=60, width_px=300, height_px=200)
    pixels = photograph(scene, photo).astype(float)
    step_deg = float(np.degrees(1 / photo.focal_px))
    window = Camera(40, 1, 1.7, 33 - 5 * step_deg, 40, step_deg, 10, round(80 / step_deg))
    panorama = render(scene, window).astype(float)
    rows = np.arange(200)
    elevations = np.degrees(np.arctan((100 - rows - 0.5) / photo.focal_px))
    expected = panorama[((40 - elevations) / step_deg).astype(int), 4:6].mean(axis=1)
    difference = np.abs(pixels[:, 149:151].mean(axis=1) - expected).max(axis=1)
    assert np.median(difference) < 4
    assert np.mean(difference > 30) < 0.1  # edges


@pytest.mark.parametrize(("pitch_deg", "roll_deg"), [(10, 0), (0, 15), (8, -12)])
def test_a_tilted_photo_shows_a_mast_where_projection_predicts(tiny_district, pitch_deg, roll_deg):
    scene = scene_with(tiny_district, billboards=[Billboard(2, 20, red_texture(0.5, 8))])
    photo = Photo(0, 0, 1.6, 0, pitch_deg, roll_deg, 60, 240, 180)
    red = np.argwhere(is_red(photograph(scene, photo)))
    top = red[red[:, 0] == red[:, 0].min()].mean(axis=0)
    rotation = axes(0, pitch_deg, roll_deg)
    right, down, forward = rotation.T @ np.array((2, 20, 8 - 1.6))
    column = 120 + photo.focal_px * right / forward
    row = 90 + photo.focal_px * down / forward
    assert top[1] + 0.5 == pytest.approx(column, abs=3)
    assert top[0] == pytest.approx(row, abs=3)


def test_axes_tilt_the_right_way():
    assert axes(90, 0, 0)[:, 2] == pytest.approx((1, 0, 0))  # heading 90 looks east
    assert axes(90, 0, 0)[:, 0] == pytest.approx((0, -1, 0))  # its right is south
    assert axes(0, 30, 0)[2, 2] == pytest.approx(0.5)  # a positive pitch looks up
    assert axes(0, 0, 30)[2, 0] == pytest.approx(-0.5)  # a positive roll lowers the right side


@pytest.mark.parametrize("angles", [(0, 0, 0), (123, 5, -3), (270, -20, 40), (359, 1, 1)])
def test_quaternion_is_that_of_the_rotation(angles):
    rotation = axes(*angles)
    assert np.linalg.det(rotation) == pytest.approx(1)
    w, *vector = quaternion(rotation)
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    assert np.eye(3) + 2 * w * cross + 2 * cross @ cross == pytest.approx(rotation)
