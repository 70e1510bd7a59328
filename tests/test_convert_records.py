"""Photos of Mapillary's JSON and of GeoJSON."""

import json
import os

import pytest
from conftest import write_image

from datasets.image_lists import list_images
from datasets.image_names import parse_image_name
from tools.convert.__main__ import main

DESCRIPTIONS = [  # as mapillary_tools process writes them
    {
        "filename": "walk/GX01.jpg",
        "filetype": "image",
        "MAPLatitude": 55.70584,
        "MAPLongitude": -13.19321,
        "MAPAltitude": 12.5,
        "MAPCaptureTime": "2018_05_03_14_47_03_045",
        "MAPCompassHeading": {"TrueHeading": 123.25, "MagneticHeading": 120.0},
        "MAPDeviceMake": "GoPro",
    },
    {"filename": "GX02.jpg", "error": {"type": "MapillaryGeoTaggingError", "message": "No GPS"}},
    {"filename": "GX03.mp4", "filetype": "gopro", "MAPGPSTrack": [[0, 1.0, 2.0, None, None]]},
]
IMAGES_OF_API = {
    "data": [
        {
            "id": "498763468214164",
            "geometry": {"type": "Point", "coordinates": [-13.2, 55.7]},
            "computed_geometry": {"type": "Point", "coordinates": [-13.19321, 55.70584]},
            "captured_at": 1525358823045,
            "compass_angle": 1.5,
            "computed_compass_angle": 123.25,
            "altitude": 12.5,
            "is_pano": False,
        }
    ]
}
FEATURE = {
    "type": "Feature",
    "properties": {"photo": "walk/GX01.jpg", "azimuth": 123.25, "lat": 1, "captured_at": None},
    "geometry": {"type": "Point", "coordinates": [-13.19321, 55.70584, 12.5]},
}
LINE = {
    "type": "Feature",
    "properties": {"name": "the way"},
    "geometry": {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
}
COLLECTION = {"type": "FeatureCollection", "features": [LINE, FEATURE]}
WGS84 = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}


@pytest.fixture
def convert(tmp_path):
    """Return a function that converts the photos of a text, and returns the fields of each."""

    def run(kind, text, *flags, encoding="utf-8"):
        for name in ("walk/GX01.jpg", "498763468214164.JPG", "GX02.jpg"):
            write_image(tmp_path / "photos" / name)
        (tmp_path / "photos.json").write_bytes(text.encode(encoding))
        out = tmp_path / f"out{len(os.listdir(tmp_path))}"
        images = f"--images={tmp_path / 'photos'}"
        main([kind, str(tmp_path / "photos.json"), f"--out={out}", images, *flags])
        return sorted(map(parse_image_name, list_images(out)), key=lambda one: one.pano_id)

    return run


def test_descriptions_of_mapillary_tools(convert, caplog):
    (fields,) = convert("mapillary", json.dumps(DESCRIPTIONS), encoding="utf-8-sig")
    assert (fields.latitude_deg, fields.longitude_deg) == (55.70584, -13.19321)
    assert (fields.heading_deg, fields.height_m) == (123.25, 12.5)
    assert (fields.timestamp, fields.pano_id) == ("20180503_144703", "GX01")
    assert "1 videos are left out" in caplog.text
    assert "1 entries with an error are left out: No GPS" in caplog.text


@pytest.mark.parametrize("content", [IMAGES_OF_API, *IMAGES_OF_API["data"]])
def test_images_of_mapillary_s_api_are_found_by_their_ids(convert, content, caplog):
    caplog.set_level("INFO")
    (fields,) = convert("mapillary", json.dumps(content, indent=1))
    assert (fields.latitude_deg, fields.longitude_deg) == (55.70584, -13.19321)
    assert (fields.heading_deg, fields.height_m) == (123.25, 12.5)
    assert (fields.timestamp, fields.pano_id) == ("20180503_144703", "498763468214164")
    assert "1 positions are those that Mapillary computed" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(COLLECTION),
        json.dumps(COLLECTION | {"crs": WGS84}, indent=2),
        json.dumps(FEATURE),
        f"\x1e{json.dumps(LINE)}\n\x1e{json.dumps(FEATURE)}\n",
    ],
)
def test_points_of_geojson(convert, text, caplog):
    (fields,) = convert("geojson", text, encoding="utf-16")
    assert (fields.latitude_deg, fields.longitude_deg) == (55.70584, -13.19321)
    assert (fields.heading_deg, fields.pano_id, fields.timestamp) == (123.25, "GX01", "")
    assert ("1 lines, areas and the like are left out" in caplog.text) == ("Line" in text)


def test_the_property_of_the_file_may_be_named_and_positions_left_out(convert, caplog):
    nowhere = FEATURE | {"geometry": None, "properties": {"what": "GX02"}}
    named = FEATURE | {"properties": {"what": "walk/GX01"}}
    text = json.dumps(COLLECTION | {"features": [named, nowhere]})
    (fields,) = convert("geojson", text, "--columns=path=what", "--skip_without_gps")
    assert fields.pano_id == "GX01"
    assert "1 of 2 features" in caplog.text


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("geojson", "{", "is no JSON: "),
        ("geojson", "[" * 100_000, "is nested too deeply"),
        ("geojson", "[1, 2]", "must hold a list of objects, or one with the list 'features'"),
        ("mapillary", '{"data": {"id": 3}}', "must hold a list of objects"),
        ("mapillary", "[]", "lists nothing"),
        ("mapillary", json.dumps(COLLECTION), "is GeoJSON: python -m tools.convert geojson"),
        ("mapillary", json.dumps(DESCRIPTIONS[1:]), "has no entry with an image"),
        ("mapillary", '[{"filename": "GX02.jpg", "MAPLatitude": [1]}]',
         "1 of 1 entries of .* are wrong.*\n  entry 1: lat and lon are empty"),
        ("mapillary", '[{"id": "\\ud800", "MAPLatitude": 1, "MAPLongitude": 2}]', "is not .jpg or"),
        ("geojson", json.dumps(LINE), "must have the columns path"),
        ("geojson", json.dumps(FEATURE | {"properties": {"photo": "x.jpg"}}), "feature 1: path: "),
        ("geojson", json.dumps(COLLECTION | {"crs": {"properties": {"name": "EPSG:25832"}}}),
         "has coordinates of EPSG:25832: export it in EPSG:4326"),
    ],
)  # fmt: skip
def test_other_files_are_refused(convert, kind, text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert(kind, text)
    assert sorted(os.listdir(tmp_path)) == ["photos", "photos.json"]
