import json
import os
import struct

import pytest
import utm
from conftest import write_image
from photo_tables import UNKNOWN, write_photo

from datasets.image_lists import list_images
from datasets.image_names import parse_image_name
from tools.convert.__main__ import main

SYDNEY = {1: "S", 2: (33.0, 51.0, 24.408), 3: "E", 4: (151.0, 12.0, 55.08)}


def convert(tmp_path, *flags):
    main(["exif", str(tmp_path / "photos"), f"--out={tmp_path / 'out'}", *flags])
    fields = [parse_image_name(path) for path in list_images(tmp_path / "out")]
    return sorted(fields, key=lambda one: one.pano_id)


def read_gps_of_jpeg(path):
    """Read latitude, longitude and altitude out of the bytes of a JPEG, without Pillow."""
    data = path.read_bytes()
    tiff = data.index(b"Exif\0\0") + 6
    order = {b"II": "<", b"MM": ">"}[data[tiff : tiff + 2]]

    def unpack(form, offset):
        return struct.unpack_from(order + form, data, tiff + offset)

    def read_directory(offset):
        (count,) = unpack("H", offset)
        places = [offset + 2 + 12 * number for number in range(count)]
        return {unpack("H", place)[0]: place + 8 for place in places}

    def rationals(place, count):
        (offset,) = unpack("I", place)
        numbers = unpack(f"{2 * count}I", offset)
        return [top / bottom for top, bottom in zip(numbers[::2], numbers[1::2], strict=True)]

    gps = read_directory(unpack("I", read_directory(unpack("I", 4)[0])[0x8825])[0])
    values = []
    for reference, tag, negative in ((1, 2, b"S"), (3, 4, b"W")):
        degrees, minutes, seconds = rationals(gps[tag], 3)
        side = -1 if data[tiff + gps[reference] :][:1] == negative else 1
        values.append(side * (degrees + minutes / 60 + seconds / 3600))
    return (*values, rationals(gps[6], 1)[0])


def test_lund_is_where_the_bytes_of_its_photos_say(shared_data, tmp_path):
    main(["exif", str(shared_data / "lund"), f"--out={tmp_path / 'out'}", "--mode=symlink"])
    paths = list_images(tmp_path / "out")
    assert len(paths) == 29
    for number, path in enumerate(paths):
        fields = parse_image_name(paths.name(number))
        photo = shared_data / "lund" / f"{fields.pano_id}.jpg"
        assert os.path.samefile(path, photo)
        latitude, longitude, altitude = read_gps_of_jpeg(photo)
        east_m, north_m, zone, letter = utm.from_latlon(latitude, longitude)
        assert (fields.utm_east_m, fields.utm_north_m) == pytest.approx(
            (east_m, north_m), abs=0.0051
        )
        assert (fields.zone_number, fields.zone_letter) == (zone, letter) == (33, "U")
        assert (fields.height_m, fields.heading_deg, fields.timestamp) == (altitude, None, "")
    near_lund = (fields.latitude_deg, fields.longitude_deg)
    assert near_lund == pytest.approx((55.7, 13.19), abs=0.01)


def test_direction_altitude_and_time_are_taken_along(tmp_path):
    below_sea = {5: b"\x01", 6: 3.5, 16: "T", 17: 271.25}
    write_photo(tmp_path / "photos/sub/a.JPG", SYDNEY | below_sea, {0x9003: "2024:05:01 12:30:00"})
    (fields,) = convert(tmp_path)
    east_m, north_m, *_ = utm.from_latlon(-33.85678, 151.2153)
    assert (fields.utm_east_m, fields.utm_north_m) == pytest.approx((east_m, north_m), abs=0.01)
    assert (fields.zone_number, fields.zone_letter) == (56, "H")
    assert (fields.heading_deg, fields.height_m) == (271.25, -3.5)
    assert (fields.timestamp, fields.pano_id, fields.extension) == ("20240501_123000", "a", ".jpg")


def test_what_a_camera_does_not_know_is_empty(tmp_path, caplog):
    never_set = {0x9003: "0000:00:00 00:00:00"}
    write_photo(tmp_path / "photos/a.jpg", SYDNEY | {17: UNKNOWN}, never_set)
    write_photo(tmp_path / "photos/b.png", SYDNEY | {2: (33.5,), 16: "M", 17: 90.0})
    first, second = convert(tmp_path)
    assert (first.heading_deg, first.height_m, first.timestamp) == (None, None, "")
    assert (second.latitude_deg, second.heading_deg) == (-33.5, 90)
    assert "headings of 1 images are relative to magnetic north" in caplog.text


def test_what_cannot_be_is_left_out(tmp_path, caplog):
    write_photo(tmp_path / "photos/a.jpg", SYDNEY | {17: 450.0})
    write_photo(tmp_path / "photos/b.jpg", SYDNEY | {2: (33.0, 51.0, 60.0)})
    write_photo(tmp_path / "photos/c.jpg", SYDNEY | {2: (33.0, 51.0, 75.0)})
    first, second = convert(tmp_path, "--skip_without_gps")
    assert (first.pano_id, first.heading_deg, second.latitude_deg) == ("a", None, -33.86667)
    assert "1 headings beyond 360 degrees" in caplog.text and "1 of 3 images" in caplog.text


def test_empty_letters_are_no_hemisphere(tmp_path, caplog):
    write_photo(tmp_path / "photos/a.jpg", SYDNEY | {1: "", 3: "\0"})
    with pytest.raises(ValueError, match="say --hemisphere NE"):
        convert(tmp_path)
    (fields,) = convert(tmp_path, "--hemisphere=SE")
    assert fields.latitude_deg == -33.85678 and "SE is assumed" in caplog.text


WITHOUT = {
    "none": {},
    "no_side": {key: value for key, value in SYDNEY.items() if key != 1},
    "zero": SYDNEY | {2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)},
    "too_far_north": SYDNEY | {1: "N", 2: (89.0, 0.0, 0.0)},
    "not_known": SYDNEY | {2: (UNKNOWN, 0.0, 0.0)},
}


def test_photos_without_position_are_listed_and_refused_or_left_out(tmp_path, refused, caplog):
    for stem, gps in WITHOUT.items():
        write_photo(tmp_path / "photos" / f"{stem}.jpg", gps)
    write_photo(tmp_path / "photos" / "good.jpg", SYDNEY)
    error = refused(main, ["exif", "photos", "--out=out"], 1)
    assert "5 of 6 images" in error and "--skip_without_gps" in error
    assert all(f"{stem}.jpg" in error for stem in WITHOUT) and "good.jpg" not in error
    assert os.listdir(tmp_path) == ["photos"]
    (fields,) = convert(tmp_path, "--skip_without_gps")
    assert fields.pano_id == "good"


def test_a_folder_without_any_position_or_with_a_broken_image_is_refused(tmp_path, refused):
    for number in range(25):
        write_image(tmp_path / "photos" / f"{number:02d}.jpg")
    error = refused(main, ["exif", "photos", "--out=out", "--skip_without_gps"], 1)
    assert "25 of 25 images" in error and "19.jpg\n  and 5 more" in error
    (tmp_path / "photos" / "00.jpg").write_bytes(b"no image")
    error = refused(main, ["exif", "photos", "--out=out", "--skip_without_gps"], 1)
    assert "00.jpg cannot be read" in error
    assert os.listdir(tmp_path) == ["photos"]


# ---- Google Takeout ----

PLACE = {"latitude": 55.70584, "longitude": -13.19321, "altitude": 12.5, "latitudeSpan": 0.0}
NOWHERE = {"latitude": 0.0, "longitude": 0.0, "altitude": 0.0}
TAKEN = {"timestamp": "1525358823", "formatted": "3 May 2018, 14:47:03 UTC"}


def write_side_file(path, **content):
    path.write_text(json.dumps({"title": "any", "description": "", **content}))


@pytest.mark.parametrize(
    ("photo", "side_file"),
    [
        ("a.jpg", "a.jpg.json"),
        ("a.jpg", "a.jpg.supplemental-metadata.json"),
        ("a(2).jpg", "a.jpg(2).json"),
        ("a(2).jpg", "a.jpg.supplemental-metadata(2).json"),
        ("a(2).jpg", "a(2).jpg.json"),
        ("a-edited.jpg", "a.jpg.supplemental-metadata.json"),
        ("PXL_20230501_123456789.NIGHT.jpg", "PXL_20230501_123456789.NIGHT.jpg.supplemental-.json"),
        (f"{'x' * 60}.jpg", f"{'x' * 46}.json"),
    ],
)
def test_positions_of_google_takeout_complete_exif(tmp_path, caplog, photo, side_file):
    caplog.set_level("INFO")
    write_photo(tmp_path / "photos" / photo, {17: 90.0})
    write_photo(tmp_path / "photos" / "z.jpg", SYDNEY, {0x9003: "2024:05:01 12:30:00"})
    write_side_file(tmp_path / "photos" / "z.jpg.json", geoData=PLACE, photoTakenTime=TAKEN)
    (tmp_path / "photos" / "notes.txt").touch()
    write_side_file(tmp_path / "photos" / side_file, geoData=PLACE, photoTakenTime=TAKEN)
    fields, sydney = convert(tmp_path)
    assert (fields.latitude_deg, fields.longitude_deg) == (55.70584, -13.19321)
    assert (fields.height_m, fields.heading_deg) == (12.5, 90)
    assert fields.timestamp == "20180503_144703"
    assert (sydney.latitude_deg, sydney.timestamp) == (-33.85678, "20240501_123000")
    assert "1 positions and 1 times are those of Google Takeout" in caplog.text
    assert "photos: 1 .json, 1 .txt not read" in caplog.text


def test_side_files_without_a_position_add_none(tmp_path, refused):
    write_photo(tmp_path / "photos/a.jpg")
    write_photo(tmp_path / "photos/b.jpg")
    write_side_file(tmp_path / "photos/a.jpg.json", geoData=NOWHERE, geoDataExif=PLACE)
    write_side_file(tmp_path / "photos/b.jpg.json", geoData=NOWHERE, photoTakenTime=3)
    (fields,) = convert(tmp_path, "--skip_without_gps")
    assert (fields.pano_id, fields.height_m, fields.timestamp) == ("a", 12.5, "")
    (tmp_path / "photos/b.jpg.json").write_text("{")
    error = refused(main, ["exif", "photos", "--out=again"], 1)
    assert "b.jpg.json is no JSON" in error
