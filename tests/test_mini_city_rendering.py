"""The mini city: geometry of panoramas and photos against trigonometry."""

from dataclasses import replace

import numpy as np
import pytest

from mini_city import PRESETS
from mini_city.conditions import draw_daylight
from mini_city.frame import Camera
from mini_city.queries import Photo, axes, photograph, quaternion
from mini_city.render import Scene, render
from mini_city.shots import cut_crops, panorama_camera
from mini_city.surfaces import Billboard, Extras, Wall, Walls
from mini_city.textures import Canvas
from mini_city.world import ROTATION_DEG, district

CROP_FOV_DEG = 512 / 3328 * 360
RED = (250, 0, 0)


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
