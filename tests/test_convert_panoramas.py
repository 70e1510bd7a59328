import os

import numpy as np
import pytest
from conftest import name
from PIL import Image

from datasets.image_lists import list_images
from datasets.image_names import parse_image_name, read_numbers
from tools.convert.__main__ import main
from tools.convert.panoramas import CropParams, cut_crops, find_rows

UNITS_PER_DEG = 100  # of the headings that columns carry


def make_panorama(heading_deg, width=3328, height=512):
    """Return a panorama whose columns carry their true heading, and whose rows their number.

    Red and green hold the heading of the left side of each column, clockwise from north, in
    hundredths of a degree; blue holds the row.
    """
    columns_deg = (heading_deg - 180 + 360 * np.arange(width) / width) % 360
    units = np.round(columns_deg * UNITS_PER_DEG).astype(int)
    panorama = np.zeros((height, width, 3), np.uint8)
    panorama[..., 0], panorama[..., 1] = units // 256, units % 256
    panorama[..., 2] = (np.arange(height) * 255 // height)[:, None]
    return panorama


def headings_of(crop):
    return (crop[0, :, 0].astype(int) * 256 + crop[0, :, 1]) / UNITS_PER_DEG


def angle_between(first_deg, second_deg):
    return np.abs((np.asarray(first_deg) - second_deg + 180) % 360 - 180)


def save(folder, panorama, east_m=544388.51, extension=".png", **fields):
    fields = {"heading_deg": 174, "zone_number": 10, "pano_id": "kPnABhWJ1kA"} | fields
    path = folder / name(east_m, 4172758.25, extension=extension, **fields)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(panorama).save(path)
    return path


@pytest.mark.parametrize("heading_deg", [0, 174, 180, 359.6, -90])
def test_the_leftmost_column_of_a_crop_has_the_heading_that_its_name_says(tmp_path, heading_deg):
    save(tmp_path / "in", make_panorama(heading_deg), heading_deg=heading_deg, timestamp="201606")
    main(["panoramas", str(tmp_path / "in"), f"--out={tmp_path / 'out'}", "--jobs=1"])
    paths = list_images(tmp_path / "out")
    assert read_numbers(paths, ("heading",))[0].tolist() == list(range(0, 360, 30))
    for number, path in enumerate(paths):
        fields = parse_image_name(path)
        assert (fields.tile_num, fields.heading_deg) == (f"{number:02d}", 30 * number)
        assert (fields.pano_id, fields.timestamp) == ("kPnABhWJ1kA", "201606")
        assert f"@{number:02d}@{30 * number}@@@@" in path
        crop = np.asarray(Image.open(path))
        assert crop.shape == (512, 512, 3)
        expected = fields.heading_deg + 360 * np.arange(512) / 3328  # x grows clockwise
        assert angle_between(headings_of(crop), expected).max() <= 0.5 * 360 / 3328 + 0.01


def test_east_is_right_of_north():
    """A panorama that looks north has east a quarter of its width right of its centre."""
    panorama = np.zeros((512, 3328, 3), np.uint8)
    panorama[:, 3328 // 2 + 3328 // 4] = 255
    crops = cut_crops(panorama, 0, CropParams())
    assert crops[3][:, 0].min() == 255, "the crop of heading 90 begins at east"
    assert [crop.max() for crop in crops] == [0, 0, 255, 255, *[0] * 8]


def test_crops_across_the_edge_are_put_together_of_both_ends():
    panorama = make_panorama(180)  # its left end is north
    crops = cut_crops(panorama, 180, CropParams())
    np.testing.assert_array_equal(crops[0], panorama[:, :512])
    first = round(330 / 360 * 3328)
    np.testing.assert_array_equal(
        crops[11],
        np.concatenate((panorama[:, first:], panorama[:, : 512 - (3328 - first)]), axis=1),
    )


@pytest.mark.parametrize(
    ("width", "height", "share", "rows"),
    [
        (3328, 512, 512 / 3328, (0, 512)),
        (3328, 1664, 512 / 3328, (512, 512)),  # upper 512 and lower 640 rows are left out
        (13312, 6656, 512 / 3328, (2048, 2048)),
        (1664, 832, 512 / 3328, (256, 256)),
        (832, 128, 512 / 3328, (0, 128)),
        (1000, 153, 512 / 3328, (0, 153)),  # 153.8: the last row is rounding
        (3328, 1664, 0.25, (352, 832)),
        (3328, 512, 0.1, (90, 333)),
        (3328, 900, 512 / 3328, (194, 512)),
    ],
)
def test_rows_are_those_of_sf_xl_in_proportion(width, height, share, rows):
    assert find_rows(width, height, share) == rows


def test_a_whole_sphere_is_cut_and_scaled(tmp_path):
    panorama = make_panorama(174, 832, 416)
    save(tmp_path / "in", panorama)
    flags = ["--crops_per_panorama=8", "--crop_size_px=64", "--jobs=1"]
    main(["panoramas", str(tmp_path / "in"), f"--out={tmp_path / 'out'}", *flags])
    paths = list_images(tmp_path / "out")
    assert read_numbers(paths, ("heading",))[0].tolist() == [0, 45, 90, 135, 180, 225, 270, 315]
    first_column = round((0 - 174 + 180) / 360 * 832)
    expected = Image.fromarray(panorama[128:256, first_column : first_column + 128])
    crop = np.asarray(Image.open(paths[0]))
    assert crop.shape == (64, 64, 3)
    np.testing.assert_array_equal(crop, expected.resize((64, 64), Image.Resampling.LANCZOS))


def test_processes_write_the_same_into_the_same_sub_folders(tmp_path):
    for number in range(3):
        panorama = make_panorama(0, 416, 64)
        panorama[:, :, 2] = 50 * number
        save(tmp_path / "in" / f"37.7{number}", panorama, pano_id=f"p{number}", extension=".JPG")
    for jobs in (1, 2):
        out = tmp_path / f"out{jobs}"
        flags = ["--crop_size_px=64", f"--jobs={jobs}"]
        main(["panoramas", str(tmp_path / "in"), f"--out={out}", *flags])
    contents = [
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*.jpg")}
        for out in (tmp_path / "out1", tmp_path / "out2")
    ]
    assert contents[0] == contents[1] and len(contents[0]) == 36
    assert {str(path.parent) for path in contents[0]} == {"37.70", "37.71", "37.72"}


# ---- what is refused ----


def test_panoramas_without_heading_are_refused(tmp_path, refused):
    save(tmp_path / "in", make_panorama(0, 416, 64), heading_deg=None)
    error = refused(main, ["panoramas", "in", "--out=out"], 1)
    assert "heading (field 9 of the '@' name) is missing" in error
    assert os.listdir(tmp_path) == ["in"]


def test_panoramas_whose_crops_would_overwrite_each_other_are_refused(tmp_path, refused):
    for heading_deg in (10, 100):
        save(tmp_path / "in", make_panorama(0, 416, 64), heading_deg=heading_deg)
    save(tmp_path / "in", make_panorama(0, 416, 64), pano_id="other")
    error = refused(main, ["panoramas", "in", "--out=out"], 1)
    assert "2 panoramas" in error and "give each a pano_id" in error
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_panoramas_that_cannot_be_cut_stop_everything_or_are_left_out(
    tmp_path, refused, caplog, jobs
):
    good = save(tmp_path / "in", make_panorama(0, 416, 64), east_m=1)
    save(tmp_path / "in", make_panorama(0, 416, 40), east_m=2)
    save(tmp_path / "in", make_panorama(0, 416, 64), east_m=3).write_bytes(b"no image")
    command = ["panoramas", "in", f"--jobs={jobs}", "--crop_size_px=64", "--fov=360"]
    error = refused(main, [*command, "--out=out"], 1)
    assert "it is 416 x 40 pixels, but crops of 64 x 64 need rows -12 to 52" in error
    assert os.listdir(tmp_path) == ["in"]
    main([*command, "--out=out", "--skip_unreadable"])
    assert len(list_images(tmp_path / "out")) == 12
    good.unlink()
    error = refused(main, [*command, "--out=other", "--skip_unreadable"], 1)
    assert "No panorama could be cut" in error
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--crops_per_panorama=0", "--crops_per_panorama is 1 to 360"),
        ("--crop_width_share=1.5", "--crop_width_share is above 0"),
        ("--crop_size_px=0", "--crop_size_px is at least 1"),
        ("--jobs=0", "must be at least 1"),
    ],
)
def test_impossible_crops_are_refused(tmp_path, refused, flag, message):
    save(tmp_path / "in", make_panorama(0, 416, 64))
    assert message in refused(main, ["panoramas", "in", "--out=out", flag], 2)


def test_part_of_the_circle_is_cut_where_it_is_seen():
    """120 degrees around 90: from 30 to 150; crops are 40 degrees wide."""
    whole = make_panorama(90, 3600, 600)
    part = whole[:, 1200:2400]
    params = CropParams(crop_width_share=1 / 9, fov_deg=120)
    crops = cut_crops(part, 90, params)
    seen = [number * 30 for number, crop in enumerate(crops) if crop is not None]
    assert seen == [30, 60, 90]
    for heading_deg in seen:
        crop = crops[heading_deg // 30]
        assert crop.shape == (400, 400, 3)
        expected = heading_deg + np.arange(400) / 10
        assert angle_between(headings_of(crop), expected).max() <= 0.06
    with pytest.raises(ValueError, match="no crop of it is within 20 degrees"):
        cut_crops(whole[:, 1701:1901], 90, CropParams(crop_width_share=1 / 12, fov_deg=20))


def test_a_shape_that_is_no_full_circle_needs_a_field_of_view(tmp_path, refused):
    save(tmp_path / "in", make_panorama(0, 900, 300), heading_deg=0)
    line = ["panoramas", str(tmp_path / "in"), f"--out={tmp_path / 'out'}", "--jobs=1"]
    message = refused(main, line, 1)
    assert "900 x 300 pixels" in message and "--fov" in message
    assert not (tmp_path / "out").exists()
    assert "at most 360" in refused(main, [*line, "--fov=400"], 2)
    main([*line, "--fov=180", "--crop_size_px=64"])
    headings = read_numbers(list_images(tmp_path / "out"), ("heading",))[0].tolist()
    assert headings == [0, 30, 270, 300, 330]  # 55 degrees wide, within 270 to 90
