import csv
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import utm
from conftest import WITH_TINY, name, run, write_image
from PIL import Image

import commons
from datasets.image_lists import list_images
from datasets.image_names import parse_image_name
from datasets.images import open_image
from evaluation.localization import find_coordinates
from localize import main
from model.checkpoint_files import save_atomically
from model.network import build_network


@pytest.fixture
def database(datasets_folder, tmp_path):
    """Return a folder with 40 database images of the mini city."""
    source = datasets_folder / "mini_city/processed/test/database"
    (tmp_path / "database").mkdir()
    for path in list(list_images(source))[:40]:
        shutil.copy(path, tmp_path / "database")
    return tmp_path / "database"


@pytest.fixture
def flags(model_file, tmp_path):
    places = [f"--resume={model_file}", f"--save_dir={tmp_path / 'run'}"]
    return [*places, "--device=cpu", "--num_workers=0"]


@pytest.fixture
def index(database, flags, tmp_path):
    """Return a place index of the database."""
    photo = list_images(database)[0]
    own = [f"--save_place_index={tmp_path / 'index'}", f"--save_dir={tmp_path / 'indexing'}"]
    main([photo, f"--database={database}", *flags, *own])
    return tmp_path / "index"


def rows_of(folder):
    with open(folder / "places.csv", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def map_data(folder):
    page = (folder / "map.html").read_text(encoding="utf-8")
    return json.loads(page.split('id="data">')[1].split("</script>")[0]), page


def test_a_database_image_finds_itself_without_the_images(index, database, flags, tmp_path):
    """Slow: the command line itself."""
    given = list(list_images(database))
    photos = [shutil.copy(path, tmp_path / f"{n:02d}.jpg") for n, path in enumerate(given[:30])]
    shutil.rmtree(database)
    result = run(*WITH_TINY, "localize.py", *photos, f"--place_index={index}", "--top_k=3", *flags)
    assert result.returncode == 0, result.stderr
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 30 * 3 and [row["rank"] for row in rows[:4]] == ["1", "2", "3", "1"]
    for photo, path, row in zip(photos, given, rows[::3], strict=False):
        fields = parse_image_name(path)
        assert (row["photo"], row["database_image"]) == (str(photo), path)
        assert float(row["descriptor_distance"]) < 1e-4
        assert float(row["latitude"]) == fields.latitude_deg
        assert float(row["longitude"]) == fields.longitude_deg
        assert float(row["utm_east_m"]) == fields.utm_east_m
        assert float(row["heading_deg"]) == fields.heading_deg
        assert row["zone"] == "10S"
        coordinates = f"geo:{fields.latitude_deg:.6f},{fields.longitude_deg:.6f}"
        assert f"{photo}: {coordinates}, spread " in result.stdout
    features = json.loads((tmp_path / "run" / "places.geojson").read_text())["features"]
    assert [feature["properties"]["photo"] for feature in features] == list(map(str, photos))
    first = parse_image_name(given[0])
    assert features[0]["geometry"] == {
        "type": "Point",
        "coordinates": [first.longitude_deg, first.latitude_deg],
    }


def test_an_index_gives_what_the_folder_gives(index, database, datasets_folder, flags, tmp_path):
    photos = str(datasets_folder / "mini_city/processed/test/queries_v2")
    main([photos, f"--place_index={index}", *flags])
    own = [f"--database={database}", f"--save_dir={tmp_path / 'direct'}"]
    main([photos, *flags, *own])
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "direct")
    own = [
        f"--database={database}",
        f"--save_dir={tmp_path / 'ivf'}",
        "--search=IVF2,Flat;nprobe=2",
    ]
    main([photos, *flags, *own])
    assert [r["database_image"] for r in rows_of(tmp_path / "ivf")] == [
        r["database_image"] for r in rows_of(tmp_path / "run")
    ], "all of two lists are searched"


@pytest.mark.parametrize("search", ["PQ12x4fs,RFlat", "ivf_pq", "fp16"])
def test_an_index_with_codes_gives_what_the_exact_one_gives(
    index, database, datasets_folder, flags, tmp_path, search
):
    photos = str(datasets_folder / "mini_city/processed/test/queries_v2")
    main([photos, f"--place_index={index}", *flags])
    own = [f"--search={search}", f"--save_dir={tmp_path / 'indexing'}_{search}"]
    first = list_images(database)[0]
    coded = tmp_path / "coded"
    main([first, f"--database={database}", *flags, *own, f"--save_place_index={coded}"])
    main([photos, f"--place_index={coded}", *flags, f"--save_dir={tmp_path / 'again'}"])
    found, exact = rows_of(tmp_path / "again"), rows_of(tmp_path / "run")
    assert [row["rank"] for row in found] == [row["rank"] for row in exact]
    distances = [[float(row["descriptor_distance"]) for row in rows] for rows in (found, exact)]
    np.testing.assert_allclose(*distances, atol=2e-4)
    if search != "fp16":  # all 40 are refined
        assert found == exact


@pytest.mark.parametrize("extra", [["--csv=-"], ["--quiet"], ["--quiet", "--csv=FILE"]])
def test_quiet_and_the_table_on_stdout(index, database, flags, tmp_path, capfd, extra):
    bad = tmp_path / "photos" / "a,\udcff.jpg"
    bad.parent.mkdir()
    shutil.copy(list_images(database)[3], bad)
    (bad.parent / "b.jpg").write_bytes(b"broken")
    extra = [flag.replace("FILE", str(tmp_path / "own.csv")) for flag in extra]
    line = [str(bad.parent), f"--place_index={index}", "--skip_unreadable", *flags, *extra]
    capfd.readouterr()
    commons.run_command(lambda: main(line))
    printed, table = capfd.readouterr(), (tmp_path / "run" / "places.csv").read_bytes()
    assert printed.out.encode("utf-8", "surrogateescape") == (
        table.replace(b"\r\n", b"\n") if "--csv=-" in extra else b""
    )
    assert printed.err == f"Skipped, it cannot be read: {tmp_path / 'photos' / 'b.jpg'}\n"
    if len(extra) == 2:
        assert (tmp_path / "own.csv").read_bytes() == table
    assert "Searching for 2 photos" in (tmp_path / "run" / "info.log").read_text()


def test_a_reader_that_has_gone_loses_no_file(index, database, flags, tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w"))
    main([str(database), f"--place_index={index}", *flags, "--csv=-"])
    assert len(rows_of(tmp_path / "run")) == 40 * 5 and (tmp_path / "run" / "map.html").exists()


def test_places_need_nothing_that_draws(index, database, flags, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    main([list_images(database)[0], f"--place_index={index}", *flags])
    assert rows_of(tmp_path / "run") and not (tmp_path / "run" / "map.html").exists()
    log = (tmp_path / "run" / "info.log").read_text()
    assert "No map is written. The package jinja2 is not installed: pip install jinja2" in log


def test_exif_orientation_is_respected(index, database, flags, tmp_path):
    upright = open_image(list_images(database)[5])
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to show"
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    main(
        [
            str(tmp_path / "upright.png"),
            str(tmp_path / "turned.png"),
            f"--place_index={index}",
            *flags,
        ]
    )
    rows = [
        {key: value for key, value in row.items() if key != "photo"}
        for row in rows_of(tmp_path / "run")
    ]
    assert rows[:5] == rows[5:] and float(rows[0]["descriptor_distance"]) < 1e-4


def test_mock_positions_have_no_coordinates(flags, tmp_path):
    for number in range(3):
        write_image(tmp_path / "mock" / f"@0@{1000 * number}@@@@@{number}@@@@@@@@.jpg")
    photo = write_image(tmp_path / "photo.png")
    main([str(photo), f"--database={tmp_path / 'mock'}", *flags])
    rows = rows_of(tmp_path / "run")
    assert sorted(row["utm_north_m"] for row in rows) == ["0.00", "1000.00", "2000.00"]
    assert {row["latitude"] + row["longitude"] + row["zone"] for row in rows} == {""}
    assert json.loads((tmp_path / "run" / "places.geojson").read_text())["features"] == []
    log = (tmp_path / "run" / "info.log").read_text()
    assert "1 photos are not in places.geojson" in log and "photo.png: UTM 0.00 " in log


def test_the_map_holds_all_places_and_no_markup_of_names(index, database, flags, tmp_path):
    bad = write_image(tmp_path / "a.png")
    bad = bad.rename(tmp_path / "<img src=x onerror=alert(1)>&<.png")
    main([str(bad), f"--place_index={index}", *flags])
    data, page = map_data(tmp_path / "run")
    assert "<img src=x" not in page and data["photos"][0]["label"] == bad.name
    assert data["photos"][0]["thumbnail"].startswith("data:image/jpeg;base64,")
    rows = rows_of(tmp_path / "run")
    points = [[float(row["utm_east_m"]), float(row["utm_north_m"])] for row in rows]
    assert [point["position_m"] for point in data["photos"][0]["points"]] == points


def test_the_map_marks_where_exif_puts_a_photo(index, database, flags, tmp_path):
    path = list_images(database)[3]
    fields = parse_image_name(path)
    photos = []
    for number, north_deg in enumerate((0.0002, 5.0, None)):  # 22.2 m and 555 km
        exif = Image.Exif()
        if north_deg:
            gps = exif.get_ifd(0x8825)
            gps[1], gps[2] = "N", (fields.latitude_deg + north_deg, 0.0, 0.0)
            gps[3], gps[4] = "W", (-fields.longitude_deg, 0.0, 0.0)
        photos.append(str(tmp_path / f"{number}.jpg"))
        open_image(path).save(photos[-1], exif=exif, quality=100, subsampling=0)
    main([*photos, f"--place_index={index}", *flags])
    data, page = map_data(tmp_path / "run")
    near, far, without = data["photos"]
    east_m, north_m = near["own"]["position_m"]
    assert east_m - fields.utm_east_m == pytest.approx(0, abs=2)  # names are rounded to 1e-5 deg
    distance_m = north_m - fields.utm_north_m
    assert distance_m == pytest.approx(22.2, abs=2)
    (metres,) = re.findall(r"\nEXIF position ([0-9.]+) m from the top-1$", near["text"])
    assert float(metres) == pytest.approx(distance_m, abs=0.1)
    assert far["own"] is None and far["text"].endswith("EXIF position in another region")
    assert without["own"] is None and "EXIF" not in without["text"]
    assert len(data["streets"]) == 1 and "img-src data: https://tile.openstreetmap.org;" in page
    first = near["points"][0]
    assert first["coordinates_deg"] == [fields.latitude_deg, fields.longitude_deg]


@pytest.mark.parametrize(
    ("extra", "code", "text"),
    [
        (["gone.jpg", "--place_index=index"], 1, "There is no image .*gone.jpg"),
        (["empty", "--place_index=index"], 1, "No image in .*empty"),
        (["text.jpg", "--place_index=index"], 1, "The image .*text.jpg cannot be read"),
        (["photo.png", "--place_index=empty"], 1, "empty is no place index: it has no index.json"),
        (["photo.png", "--place_index=cut"], 1, "descriptors.npy is damaged"),
        (
            ["photo.png", "--place_index=index", "--resume=other.pth"],
            1,
            "made with the model .*model.pth",
        ),
        (["photo.png", "--place_index=index", "--resume=gone.pth"], 1, "no checkpoint gone.pth"),
        (["photo.png", "--database=empty"], 1, "No image in .*empty"),
        (["photo.png", "--database=unnamed"], 1, "UTM east .* is missing or not a number"),
        (
            ["photo.png", "--database=database", "--save_place_index=empty/.."],
            1,
            "is not a place index",
        ),
        (["photo.png", "--database=database", "--search=tree"], 2, "Unknown search 'tree'"),
        (["photo.png", "--place_index=index", "--resize=big"], 2, "A resize rule is"),
        (["photo.png", "--place_index=index", "--search=fp16"], 2, "a place index has its own"),
        (
            ["photo.png", "--place_index=index", "--database=database"],
            2,
            "either --place_index INDEX or",
        ),
        (["photo.png"], 2, "either --place_index INDEX or --database IMAGES"),
        (["--place_index=index"], 2, "PHOTO_OR_FOLDER"),
    ],
)
def test_user_errors_are_sentences(index, flags, tmp_path, refused, extra, code, text):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("no image")
    write_image(tmp_path / "photo.png")
    write_image(tmp_path / "unnamed" / "photo.png")
    shutil.copytree(index, tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "descriptors.npy", 100)
    other = build_network("ResNet18", 8, backbone_weights="none")
    save_atomically(other.state_dict(), tmp_path / "other.pth")
    message = refused(main, [*flags, *extra], code)
    assert re.search(text, message), message
    assert not (tmp_path / "run" / "places.csv").exists()


def test_coordinates_come_from_the_name_or_from_utm():
    latitude, longitude = 37.70098, -122.49646
    east, north, number, letter = utm.from_latlon(latitude, longitude)
    position = {"zone_number": number, "zone_letter": letter}
    given = name(east, north, **position, latitude_deg=latitude, longitude_deg=longitude)
    assert find_coordinates(parse_image_name(given)) == (latitude, longitude)
    computed = find_coordinates(parse_image_name(name(east, north, **position)))
    assert computed == pytest.approx((latitude, longitude), abs=1e-6)
    south = utm.from_latlon(-27.5, 153.0)
    south_name = name(*south[:2], zone_number=south[2], zone_letter=south[3])
    assert find_coordinates(parse_image_name(south_name)) == pytest.approx((-27.5, 153), abs=1e-6)
    for unknown in (
        name(east, north),
        name(east, north, zone_number=10),
        name(0, 1000, **position),
        name(east, north, zone_number=99, zone_letter="S"),
        name(east, north, zone_number=10, zone_letter="?"),
        name(east, north, latitude_deg=137.0, longitude_deg=0.0),
    ):
        assert find_coordinates(parse_image_name(unknown)) is None, unknown


def test_unreadable_photos_are_named_and_skipped_if_asked_for(
    index, database, flags, tmp_path, refused, capfd
):
    (tmp_path / "photos").mkdir()
    shutil.copy(list_images(database)[3], tmp_path / "photos" / "good.jpg")
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"broken")
    line = [str(tmp_path / "photos"), f"--place_index={index}", *flags]
    assert "bad.jpg cannot be read" in refused(main, line, code=1)
    main([*line, "--skip_unreadable", f"--save_dir={tmp_path / 'skipping'}"])
    printed = capfd.readouterr()
    assert f"Skipped, it cannot be read: {tmp_path / 'photos' / 'bad.jpg'}" in printed.out
    assert {row["photo"] for row in rows_of(tmp_path / "skipping")} == {
        str(tmp_path / "photos" / "good.jpg")
    }
