import os

import numpy as np
import pytest
import utm
from conftest import write_image
from photo_tables import (
    ROWS,
    convert,
    expected_names,
    lines,
    names_of,
    write_csv,
    write_photos,
)
from PIL import ExifTags, Image

import eval as evaluation_command
import train
from datasets.class_index import load_index
from datasets.eval_set import load_own_set
from datasets.image_lists import list_images
from datasets.image_names import parse_image_name, read_numbers
from datasets.partition import PartitionParams
from tools.convert.__main__ import describe_extent, main
from tools.convert.photos import MODES


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path)


# ---- what is written ----


@pytest.mark.parametrize("mode", ["copy", "symlink", "hardlink"])
def test_images_get_names_that_say_what_the_table_says(photos, tmp_path, mode):
    out = convert(tmp_path, f"--mode={mode}")
    assert names_of(out) == sorted(expected_names())
    for (path, *_), file in zip(ROWS, expected_names(), strict=True):
        assert (out / file).read_bytes() == (photos / path).read_bytes()
        assert (out / file).is_symlink() == (mode == "symlink")
        assert os.path.samefile(out / file, photos / path) == (mode != "copy")
    one = parse_image_name(expected_names()[0])
    assert one.timestamp == "20240501_123000" and one.heading_deg == 270


def test_summary_counts_and_says_what_comes_next(photos, tmp_path, caplog):
    caplog.set_level("INFO")
    out = convert(tmp_path, "--mode=symlink")
    positions = [utm.from_latlon(*row[1:3])[:2] for row in ROWS]
    order = np.argsort(expected_names())
    np.testing.assert_allclose(
        read_numbers(list_images(out)).T, np.array(positions)[order], atol=0.005
    )
    assert "3 images: 3 in UTM zone 33\nPlaces: 55.71 to 55.71 N, 13.19 to 13.19 E\n" in caplog.text
    assert "2 of 3 have a heading: evaluate and localize with them; training" in caplog.text
    assert f"Next: python -m tools.check {out} --for evaluation" in caplog.text
    write_csv(tmp_path, "path,lat,lon,heading\nthree.png,-33.9,-18.4,5\n")
    out = convert(tmp_path, out="other")
    assert "1 image: 1 in UTM zone 27\nPlaces: 33.90 to 33.90 S, 18.40 to 18.40 W" in caplog.text
    assert f"1 of 1 have a heading. 0 have a time\nThey are in {out}" in caplog.text
    assert f"{out} --for training" in caplog.text


@pytest.mark.parametrize(
    ("latitude_deg", "longitude_deg", "expected"),
    [
        ([-1.234, 2.0], [-0.5, 0.25], "1.23 S to 2.00 N, 0.50 W to 0.25 E"),
        ([-2.0, np.nan, -1.0], [10.0, np.nan, 9.0], "1.00 to 2.00 S, 9.00 to 10.00 E"),
        ([np.nan], [np.nan], "latitudes and longitudes are unknown"),
    ],
)
def test_the_range_of_places_is_said(latitude_deg, longitude_deg, expected):
    assert describe_extent(np.array(latitude_deg), np.array(longitude_deg)) == expected


@pytest.fixture
def tagged_photos(photos):
    """Return the photos, two of them with their positions in EXIF."""
    for path, latitude, longitude, *_ in ROWS[:2]:
        exif = Image.Exif()
        gps = {1: "N", 2: (latitude, 0.0, 0.0), 3: "E", 4: (longitude, 0.0, 0.0)}
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
        Image.new("RGB", (8, 8)).save(photos / path, exif=exif)
    return photos


def test_swapped_columns_are_found_by_the_photos_exif(tagged_photos, tmp_path, refused):
    swapped = [(path, longitude, latitude) for path, latitude, longitude, *_ in ROWS]
    file = write_csv(tmp_path, "path,lat,lon\n" + lines(swapped))
    message = refused(main, ["csv", file, f"--out={tmp_path / 'out'}"], 1)
    assert "Latitudes and longitudes are swapped: by the EXIF of 2 photos" in message
    assert not (tmp_path / "out").exists()
    convert(tmp_path, "--columns=lat=lon,lon=lat")


def test_positions_far_from_those_of_the_exif_are_warned_of(tagged_photos, tmp_path, caplog):
    elsewhere = [(path, latitude + 1, longitude) for path, latitude, longitude, *_ in ROWS]
    write_csv(tmp_path, "path,lat,lon\n" + lines(elsewhere))
    convert(tmp_path, out="elsewhere")
    assert "positions are 111.2 km off (median)" in caplog.text  # a degree of a great circle


# ---- no image is lost ----


def test_images_whose_fields_agree_are_told_apart(tmp_path):
    files = ["a/x.jpg", "b/x.jpg", "c/X.JPG", "d@.jpg", "d_.jpg", "e/x_2.jpg"]
    for file in files:
        write_image(tmp_path / "photos" / file, colour=[40 * files.index(file)] * 3)
    write_csv(tmp_path, "path,lat,lon\n" + lines([(file, 55.7, 13.1) for file in files]))
    out = convert(tmp_path)
    fields = [parse_image_name(file) for file in names_of(out)]
    found = sorted(field.pano_id for field in fields)
    assert found == ["X_3", "d_", "d__2", "x", "x_2", "x_2_2"]
    colours = {Image.open(out / file).getpixel((0, 0))[0] // 35 for file in names_of(out)}
    assert len(colours) == len({file.casefold() for file in names_of(out)}) == 6


@pytest.mark.parametrize("mode", ["copy", "symlink"])
def test_names_of_any_bytes_are_kept(tmp_path, mode):
    folder = os.fsencode(tmp_path / "photos")
    os.makedirs(folder)
    for file in (b"caf\xe9.jpg", b'q"u,o.jpg'):
        with open(os.path.join(folder, file), "wb") as image:
            image.write(file)
    with open(os.path.join(folder, b"photos.csv"), "wb") as table:
        table.write(b'path,lat,lon\ncaf\xe9.jpg,55.7,13.1\n"q""u,o.jpg",55.7,13.1\n')
    paths = list_images(convert(tmp_path, f"--mode={mode}"))
    contents = []
    for path in paths:
        with open(path, "rb") as image:
            contents.append(image.read())
    assert sorted(contents) == [b"caf\xe9.jpg", b'q"u,o.jpg']
    assert sorted(os.fsencode(paths.name(number)).split(b"@")[7] for number in (0, 1)) == [
        b"caf\xe9", b"q_u,o",
    ]  # fmt: skip


# ---- what is refused, and that nothing is written then ----


def test_a_folder_that_is_in_use_is_refused(photos, tmp_path, refused):
    (tmp_path / "out").mkdir()
    assert convert(tmp_path) and len(names_of(tmp_path / "out")) == 3
    error = refused(main, ["csv", "photos/photos.csv", "--out=out"], 1)
    assert "out exists and is not empty" in error
    (tmp_path / "list_images_paths.txt").touch()
    error = refused(main, ["csv", "photos/photos.csv", "--out=list"], 1)
    assert "list_images_paths.txt exists and would be read instead" in error


@pytest.mark.parametrize("failure", [OSError(18, "Invalid cross-device link"), KeyboardInterrupt()])
def test_a_stopped_conversion_leaves_nothing(photos, tmp_path, refused, monkeypatch, failure):
    def fail_at_the_second(source, target):
        if os.listdir(os.path.dirname(target)):
            raise failure
        os.link(source, target)

    monkeypatch.setitem(MODES, "hardlink", fail_at_the_second)
    code = 1 if isinstance(failure, OSError) else 130
    error = refused(main, ["csv", "photos/photos.csv", "--out=out", "--mode=hardlink"], code)
    assert "Interrupted" in error or "two.JPG cannot be brought to" in error
    assert os.listdir(tmp_path) == ["photos"]


def test_a_name_too_long_for_a_file_is_refused(tmp_path, refused):
    write_image(tmp_path / "photos" / ("x" * 200 + ".jpg"))
    write_csv(tmp_path, f"path,lat,lon\n{'x' * 200}.jpg,55,13\n")
    error = refused(main, ["csv", "photos/photos.csv", "--out=out"], 1)
    assert "names of 1 images would be longer than 255 bytes" in error


# ---- that it can be used ----


def test_a_converted_set_is_evaluated(photos, tmp_path):
    for role in ("database", "queries"):
        convert(tmp_path, "--mode=symlink", out=f"set/{role}")
    eval_set = load_own_set(tmp_path / "set")
    np.testing.assert_array_equal(eval_set.positions.database_m, eval_set.positions.queries_m)
    evaluation_command.main(
        [
            *("--untrained", "--backbone_weights=none", "--fc_output_dim=8"),
            *(f"--test_set_folder={tmp_path}/set", "--resize_test_imgs=32", "--num_workers=0"),
            *("--device=cpu", f"--save_dir={tmp_path}/run"),
        ]
    )
    results = (tmp_path / "run" / "results.json").read_text()
    assert '"R@1": 100.0' in results and '"num_queries": 3' in results


def classes_of(index):
    """Return the files of each class."""
    return {
        tuple(cell): {os.path.realpath(index.path(image)) for image in index.images(class_num)}
        for class_num, cell in enumerate(index.class_cells.tolist())
    }


def test_a_converted_folder_is_trained_on(datasets_folder, flags, tmp_path):
    """Give images of the mini city names of their own, and bring them back."""
    originals = list(list_images(datasets_folder / "mini_city/processed/train"))
    rows = []
    (tmp_path / "photos").mkdir()
    for number, original in enumerate(originals):
        os.symlink(original, tmp_path / "photos" / f"{number}.jpg")
        fields = parse_image_name(original)
        utm_columns = (fields.utm_east_m, fields.utm_north_m, f"{fields.zone_number}S")
        rows.append((f"{number}.jpg", *utm_columns, fields.heading_deg))
    write_csv(tmp_path, "path,utm_east,utm_north,zone,heading\n" + lines(rows))
    out = convert(tmp_path, "--mode=symlink")
    params = PartitionParams(min_images_per_class=3)
    converted, original = (
        load_index(folder, params, tmp_path / "cache")
        for folder in (out, datasets_folder / "mini_city/processed/train")
    )
    assert converted.num_groups == original.num_groups > 1
    assert classes_of(converted) == classes_of(original)
    run = tmp_path / "run"
    train.main([*flags, "--epochs_num=1", f"--train_set_folder={out}", f"--save_dir={run}"])
    assert (run / "best_model.pth").exists()


def test_help_says_what_is_needed(capsys):
    for command in ("csv", "exif", "mapillary", "geojson", "gpx", "panoramas"):
        with pytest.raises(SystemExit) as exit_code:
            main([command, "--help"])
        assert exit_code.value.code == 0
        assert "--out FOLDER" in capsys.readouterr().out
