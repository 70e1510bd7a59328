import os
import re
import unicodedata

import numpy as np
import pytest
import utm
from conftest import write_image
from photo_tables import (
    HEADER,
    ROWS,
    convert,
    expected_names,
    lines,
    names_of,
    write_csv,
    write_photos,
)

from datasets.image_lists import list_images
from datasets.image_names import parse_image_name, read_numbers
from tools.convert.__main__ import main

UTM_HEADER = "path,utm_east,utm_north,zone\n"


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path)


# ---- which tables are understood ----


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (HEADER + lines(ROWS), "utf-8-sig"),
        ((HEADER + lines(ROWS)).replace("\n", "\r\n"), "utf-8"),
        ("\n" + HEADER + "\n,,,,\n" + lines(ROWS).strip(), "utf-8"),
        (HEADER.replace(",", ";") + lines(ROWS, ";"), "utf-8"),
        (HEADER.replace(",", ";") + lines(ROWS, ";").replace("55.", "55,"), "utf-8"),
        (HEADER.replace(",", "\t") + lines(ROWS, "\t"), "utf-16"),
        (HEADER.replace("path,lat,lon", "Source File, GPS_Latitude,Lng") + lines(ROWS), "utf-8"),
        ('"path","lat","lon","heading","timestamp"\n' + lines(ROWS), "utf-8"),
        ('path, "lat", lon, heading, timestamp\n' + lines(ROWS, ", "), "utf-8"),
    ],
)
def test_tables_of_all_kinds_are_read_alike(photos, tmp_path, text, encoding):
    write_csv(tmp_path, text, encoding)
    assert names_of(convert(tmp_path)) == sorted(expected_names())


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,latitude_deg,longitude_deg,heading_deg,date\n" + lines(ROWS), "utf-8"),
        ("PATH,Latitude (deg),Longitude [°],Heading (°),Time\n" + lines(ROWS), "latin-1"),
        ("# walks, 2024\n#\n" + HEADER + "# morning\n" + lines(ROWS), "utf-8"),
        ("# walks\n#" + HEADER.replace(",", ";") + lines(ROWS, ";"), "utf-8"),
        (HEADER.replace(",", "|") + lines(ROWS, "|"), "utf-8"),
        ("easting,northing," + HEADER + lines([(5, 6, *row) for row in ROWS]), "utf-8"),
    ],
)
def test_units_comments_and_other_grids_change_nothing(photos, tmp_path, text, encoding):
    write_csv(tmp_path, text.replace("# walks, 2024", "# walks"), encoding)
    assert names_of(convert(tmp_path)) == sorted(expected_names())


def test_metres_and_feet_are_no_degrees(photos, tmp_path, refused):
    write_csv(tmp_path, "path,x_m,y_m\nthree.png,5,6\n")
    assert "must have the columns" in refused(main, ["csv", "photos/photos.csv", "--out=out"], 1)
    write_csv(tmp_path, "path,lat,lon,altitude (ft)\nthree.png,5,6,7\n")
    (fields,) = [parse_image_name(path) for path in list_images(convert(tmp_path))]
    assert fields.height_m is None


def test_decimal_commas_without_quotes_are_refused(photos, tmp_path, refused):
    write_csv(tmp_path, "path,lat,lon\nthree.png,55,7,13,2\n")
    error = refused(main, ["csv", "photos/photos.csv", "--out=out"], 1)
    assert "line 2: has 5 columns, the first line has 3: quote" in error
    write_csv(tmp_path, "sep=,\npath,lat,lon\n,55.7,13.2\n")
    assert "line 3: path: it is empty" in refused(
        main, ["csv", "photos/photos.csv", "--out=out"], 1
    )


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_a_quote_that_is_not_closed_loses_no_line(photos, tmp_path, refused, end):
    text = 'path,lat,lon,note\nthree.png,55.7,13.2,"x\ny"\na/one.jpg,55.7,13.2,'
    write_csv(tmp_path, f'{text}"the end\na/two.JPG,55.7,13.2,{end}')
    error = refused(main, ["csv", "photos/photos.csv", "--out=out"], 1)
    assert "photos.csv, line 4: a quote is opened and never closed" in error
    write_csv(tmp_path, f'{text}"the end\n"{end}')
    assert len(names_of(convert(tmp_path))) == 2


def test_an_image_of_several_lines_is_said(photos, tmp_path, caplog):
    write_csv(tmp_path, "path,lat,lon\nthree.png,55.7,13.2\n" + "three.png,55.8,13.2\n" * 2)
    assert len(names_of(convert(tmp_path))) == 3
    assert "2 of 3 lines" in caplog.text and "an earlier one names" in caplog.text


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_accents_of_names_and_degrees_of_other_systems(tmp_path, encoding, on_disk):
    write_image(tmp_path / "photos" / f"{unicodedata.normalize(on_disk, 'café')}.jpg")
    text = 'path,lat,lon\ncafé.jpg,"48°51\'24"" N","2°21\'36"" E"\n'
    write_csv(tmp_path, text, encoding)
    (fields,) = [parse_image_name(path) for path in list_images(convert(tmp_path))]
    assert (fields.latitude_deg, fields.longitude_deg) == (48.85667, 2.36)


def test_columns_may_be_named_and_left_out(photos, tmp_path):
    text = "file,y,x,lat,lon,heading\n" + lines([(*row[:3], 1, 2, 5) for row in ROWS])
    write_csv(tmp_path, text)
    out = convert(tmp_path, "--columns=lat=Y, lon=2,heading=")
    assert names_of(out) == sorted(expected_names([(*row[:3], "", "") for row in ROWS]))


def test_columns_by_position_are_a_file_without_header(photos, tmp_path):
    write_csv(tmp_path, lines([(7, *row) for row in ROWS]))
    out = convert(tmp_path, "--columns=path=1,lat=2,lon=3,heading=4,timestamp=5")
    assert names_of(out) == sorted(expected_names())


def test_paths_may_be_absolute_or_of_another_folder(photos, tmp_path):
    (tmp_path / "photos" / "photos.csv").unlink()
    (tmp_path / "table").mkdir()
    rows = [(str(photos / ROWS[0][0]), *ROWS[0][1:]), *ROWS[1:]]
    (tmp_path / "table" / "t.csv").write_text(HEADER + lines(rows))
    main(["csv", str(tmp_path / "table/t.csv"), f"--out={tmp_path}/out", f"--images={photos}"])
    assert names_of(tmp_path / "out") == sorted(expected_names())


def test_all_fields_go_into_the_name(photos, tmp_path):
    write_csv(
        tmp_path,
        "image,lat,lon,compass,pitch,roll,altitude,date,pano_id,note\n"
        "three.png,-33.85678,151.21530,361e-1,-1.5,2,12.25,2019,an@id/x,day\tfront\n",
    )
    (file,) = names_of(convert(tmp_path))
    fields = parse_image_name(file)
    assert (fields.zone_number, fields.zone_letter, fields.latitude_deg) == (56, "H", -33.85678)
    assert (fields.heading_deg, fields.pitch_deg, fields.roll_deg) == (36.1, -1.5, 2.0)
    assert (fields.height_m, fields.timestamp) == (12.25, "2019")
    assert (fields.pano_id, fields.note, fields.extension) == ("an_id_x", "day_front", ".png")


@pytest.mark.parametrize(
    ("zone_column", "flags", "zone", "letter"),
    [("33U", [], 33, "U"), ("33", [], 33, ""), ("", ["--zone=33"], 33, ""), ("", [], None, "")],
)
def test_utm_columns_are_taken_as_they_are(photos, tmp_path, zone_column, flags, zone, letter):
    header = "path,utm_east,utm_north,lat,lon" + (",zone" if zone_column else "")
    row = "three.png,386581.594,6173962.87,1,2" + (f",{zone_column}" if zone_column else "")
    write_csv(tmp_path, f"{header}\n{row}\n")
    (file,) = names_of(convert(tmp_path, *flags))
    fields = parse_image_name(file)
    assert (fields.utm_east_m, fields.utm_north_m) == (386581.59, 6173962.87)
    assert (fields.zone_number, fields.zone_letter) == (zone, letter)
    expected = utm.to_latlon(386581.594, 6173962.87, 33, "U") if letter else (None, None)
    assert (fields.latitude_deg, fields.longitude_deg) == pytest.approx(expected, abs=6e-6)


def test_daejeon_is_as_utm_says_row_by_row(shared_data, tmp_path):
    rows = (shared_data / "daejeon520/database.csv").read_text().splitlines()
    rows = [row.split(",") for row in rows]
    write_image(tmp_path / "photos" / "one.jpg")
    write_csv(tmp_path, lines([("one.jpg", *row) for row in rows]))
    columns = "--columns=path=0,pano_id=1,lat=2,lon=3"
    paths = list_images(convert(tmp_path, "--mode=symlink", columns))
    assert len(paths) == 32380
    by_id = {row[0]: utm.from_latlon(float(row[1]), float(row[2])) for row in rows}
    written = [parse_image_name(path) for path in paths]
    expected = [by_id[one.pano_id][:2] for one in written]
    np.testing.assert_allclose(read_numbers(paths).T, expected, rtol=0, atol=0.0051)
    assert {(one.zone_number, one.zone_letter) for one in written} == {(52, "S")}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("SourceFile,FileName,GPSLatitude,GPSLongitude", "./three.png,x.png,{exiftool}"),
        ("SourceFile,GPSPosition", "three.png,\"{exiftool}\""),
        ("SourceFile,GPSLatitude,GPSLatitudeRef,GPSLongitude,GPSLongitudeRef",
         "three.png,33.85678,South,-70.5,W"),
        ("SourceFile,EXIF:GPSLatitude,EXIF:GPSLongitude,Composite:GPSLatitude,"
         "Composite:GPSLongitude", "three.png,33.85678,70.5,-33.85678,-70.5"),
        ("photo,filename,directory,Y,X", "{folder}/three.png,three,{folder},-33.85678,-70.5"),
        ("WKT,filename", "POINT Z (-70.5 -33.85678 12),three"),
        ("filename,geom", "three.png,SRID=4326;POINT(-70.5 -33.85678)"),
        ("filename,MAPLatitude,MAPLongitude", "a\\..\\three.png,-33.85678,-70.5"),
        ("path,lat,lon", "three.png,33:51:24.408 S,W 70° 30′"),
        ("path,lat,lon", "three.png,S 33 51 24.408,\"70,5 W\""),
    ],
)  # fmt: skip
def test_the_headers_and_angles_of_other_programs(photos, tmp_path, header, row):
    exiftool = """33 deg 51' 24.41"" S, 70 deg 30' 0.00"" W"""
    if "GPSLatitude" in header:
        exiftool = exiftool.replace('""', '"').replace('"', '""').replace(", ", '","')
        exiftool = f'"{exiftool}"'
    write_csv(tmp_path, f"{header}\n{row.format(exiftool=exiftool, folder=photos)}\n")
    (file,) = names_of(convert(tmp_path))
    fields = parse_image_name(file)
    assert (fields.latitude_deg, fields.longitude_deg) == (-33.85678, -70.5)
    assert (fields.zone_number, fields.zone_letter, fields.pano_id) == (19, "H", "three")


def test_values_of_exiftool_and_mapillary_are_read(photos, tmp_path):
    write_csv(
        tmp_path,
        "SourceFile,GPSLatitude,GPSLongitude,GPSImgDirection,GPSAltitude,DateTimeOriginal\n"
        "three.png,1,2,270.5,12.5 m Below Sea Level,2023:05:01 12:34:56+02:00\n"
        "a/one.jpg,1,2,undef,123.4 m Above Sea Level,#N/A\n",
    )
    below, above = sorted(map(parse_image_name, names_of(convert(tmp_path))), key=lambda x: x.note)
    below, above = (below, above) if below.pano_id == "three" else (above, below)
    assert (below.heading_deg, below.height_m, below.timestamp) == (270.5, -12.5, "20230501_123456")
    assert (above.heading_deg, above.height_m, above.timestamp) == (None, 123.4, "")


def test_times_that_cannot_be_read_are_counted_and_left_empty(photos, tmp_path, caplog):
    times = ("03/04/2016", "2024-13-01", "04/13/2016")
    write_csv(tmp_path, HEADER + lines([(*row[:4], t) for row, t in zip(ROWS, times, strict=True)]))
    written = {parse_image_name(file).timestamp for file in names_of(convert(tmp_path))}
    assert written == {"20160304", "", "20160413"}
    assert "1 of 3 times of" in caplog.text and "example line 3: '2024-13-01'" in caplog.text


def test_minutes_without_a_letter_are_warned_of(photos, tmp_path, caplog):
    write_csv(tmp_path, "path,lat,lon\nthree.png,33 51.4,70.5\n")
    convert(tmp_path)
    assert "lat of 1 lines" in caplog.text and "(33 51.4): N is assumed" in caplog.text


def test_lines_without_a_position_are_refused_or_left_out(photos, tmp_path, refused, caplog):
    rows = [("a/one.jpg", "NA", ""), ("gone.jpg", 0, "0.0"), ("three.png", 55.7, 13.2)]
    file = write_csv(tmp_path, "path,lat,lon\n" + lines(rows))
    assert len(names_of(convert(tmp_path, "--skip_without_gps"))) == 1
    assert "2 of 3 lines" in caplog.text and "have no position and are left out" in caplog.text
    error = refused(main, ["csv", file, "--out=again"], 1)
    assert "line 2: lat and lon are empty: no position; --skip_without_gps leaves it out" in error


# ---- UTM zones ----


@pytest.mark.parametrize(
    ("header", "cell", "flags"),
    [
        ("zone", "56S", ["--zone_letters=hemisphere"]),
        ("zone", "UTM zone 56 S", ["--zone_letters=hemisphere"]),
        ("zone", "EPSG:32756", []),
        ("zone", "56 south", []),
        ("zone_number,zone_letter", "56.0,H", []),
        ("zone,hemisphere", "56,S", []),
    ],
)
def test_zones_of_the_southern_hemisphere(photos, tmp_path, header, cell, flags):
    east_m, north_m, *_ = utm.from_latlon(-33.85678, 151.2153)
    row = f"three.png,{east_m},{north_m},{cell}"
    write_csv(tmp_path, f"path,utm_east,utm_north,{header}\n{row}\n")
    (file,) = names_of(convert(tmp_path, *flags))
    fields = parse_image_name(file)
    assert (fields.zone_number, fields.zone_letter) == (56, "H")
    assert (fields.latitude_deg, fields.longitude_deg) == (-33.85678, 151.2153)


def test_letters_that_fit_both_meanings_are_bands_and_said(photos, tmp_path, caplog):
    """Seoul, in band S, and the Falkland Islands, in the south, have the same UTM north."""
    east_m, north_m, *_ = utm.from_latlon(37.5, 127.0)
    write_csv(tmp_path, f"{UTM_HEADER}three.png,{east_m},{north_m},52S\n")
    (file,) = names_of(convert(tmp_path))
    assert parse_image_name(file).latitude_deg == 37.5
    assert "read as the latitude band from 32 to 40 degrees north; if" in caplog.text
    (file,) = names_of(convert(tmp_path, "--zone_letters=hemisphere", out="south"))
    expected = utm.to_latlon(east_m, north_m, 52, northern=False)
    fields = parse_image_name(file)
    assert (fields.latitude_deg, fields.longitude_deg) == pytest.approx(expected, abs=6e-6)
    assert fields.zone_letter == "F"


# ---- what is refused, and that nothing is written then ----


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            HEADER + "three.png,abc,1,,\nthree.png,55,,,\nthree.png,84.5,1,,\nthree.png,5,200,,\n",
            ["4 of 4 lines", "line 2: lat is 'abc', not a number from -80 to 84",
             "line 3: lon is ''", "line 4: lat is '84.5'", "\n  ...\n"],
        ),
        (HEADER + "three.png,55,13,east,\n", ["line 2: heading is 'east', not a number"]),
        (HEADER + "three.png,55,13,north,\n", ["line 2: heading is 'north', not a number"]),
        (HEADER + "three.png,0,0.0,,\n", ["line 2: lat and lon are 0"]),
        (HEADER + "gone.jpg,55,13,,\n", ["1 of 1 lines", "line 2: path: there is no image"]),
        (HEADER + "photos.csv,55,13,,\n", ["photos.csv is not .jpg or .jpeg or .png"]),
        (HEADER + '"three.png",55\n', ["line 2: has 2 columns, of the 5"]),
        (HEADER, ["no line below its header"]),
        (" \n", ["is empty"]),
        (HEADER + "x" * 200_000, ["photos.csv, line 2: field larger than field limit"]),
        ("file,latitude\nthree.png,5\n", ["must have the columns", "is file, latitude"]),
        ("path,lat,lon\nthree.png\0,1,2\n", ["photos.csv"]),
        (UTM_HEADER + "three.png,9,6173962,33\n", ["utm_east is '9', not a number"]),
        (UTM_HEADER + "three.png,386581,6173962,61\n", ["'61' is not a UTM zone"]),
        (UTM_HEADER + "three.png,386581,6173962,\n", ["'' is not a UTM zone"]),
        (
            UTM_HEADER + "three.png,334786,6252080,56S\n",
            ["do not fit", "latitude 56.4", "equator, say --zone_letters hemisphere"],
        ),
        (UTM_HEADER + "three.png,386581,6173962,33N\n", ["say --zone_letters hemisphere"]),
        (UTM_HEADER + "three.png,334786,6252080,56T\n", ["do not fit", "correct it, or leave"]),
        ("path,x,y\nthree.png,386581,6173962\n", ["are no degrees", "utm_east=X,utm_north=Y"]),
        ("path,wkt\nthree.png,\"LINESTRING (1 2, 3 4)\"\n", ["lat is 'LINESTRING (1 2, 3 4)'"]),
        (HEADER + "three.png,55 E,13,,\n", ["lat is '55 E', not a number"]),
        (HEADER + "three.png,55 61' N,13,,\n", ["lat is '55 61' N', not a number"]),
    ],
)  # fmt: skip
def test_wrong_tables_are_refused_with_line_column_and_value(
    photos, tmp_path, refused, text, messages
):
    file = write_csv(tmp_path, text)
    error = refused(main, ["csv", file, "--out=out"], 1)
    assert all(message in error for message in messages), error
    assert os.listdir(tmp_path) == ["photos"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--columns=path:file"], 2, "'path:file' is not field=column"),
        (["--columns=colour=2"], 2, "a field of path, lat, lon"),
        (["--columns=lat=breite"], 1, "--columns lat=breite: .* has no such column"),
        (["--columns=path=0,lat=1,lon=9"], 1, "--columns lon=9: .* has no such column"),
        (["--zone=61"], 2, "a UTM zone is 1 to 60"),
        (["--zone=10"], 1, "3 images lie in UTM zones 33, more than one away"),
    ],
)
def test_wrong_flags_are_refused(photos, tmp_path, refused, flags, code, message):
    error = refused(main, ["csv", "photos/photos.csv", "--out=out", *flags], code)
    assert re.search(message, error), error
    assert os.listdir(tmp_path) == ["photos"]
