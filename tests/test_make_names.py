from collections import Counter, defaultdict

import numpy as np
import pytest
import utm

from benchmarks import make_names, name_figures
from benchmarks.make_names import main, write_names
from datasets.class_index import load_index
from datasets.image_lists import list_images
from datasets.image_names import format_image_name, parse_image_name
from datasets.partition import PartitionParams


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Return the lines of a list of 60,000 names."""
    list_file = write_names(tmp_path_factory.mktemp("names") / "train", 60_000)
    return list_file.read_text().splitlines()


def test_every_field_is_as_sf_xl_writes_it(names):
    for line in names[::37]:
        folder, slash, file = line.partition("/")
        one = parse_image_name(line)
        latitude_deg, longitude_deg = utm.to_latlon(one.utm_east_m, one.utm_north_m, 10, "S")
        assert slash and len(file.split("@")) == 16 and format_image_name(one) == file
        assert (one.zone_number, one.zone_letter, one.extension) == (10, "S", ".jpg")
        assert abs(one.latitude_deg - latitude_deg) < 1.1e-5
        assert abs(one.longitude_deg - longitude_deg) < 1.1e-5
        assert folder == f"{one.latitude_deg:.5f}"[:5] and len(one.pano_id) == 22
        assert set(one.pano_id) <= set(make_names._ID_LETTERS.tobytes().decode())
        assert one.heading_deg == int(one.heading_deg) and 0 <= one.heading_deg < 360
        assert 2009 <= int(one.timestamp[:4]) <= 2021 and 1 <= int(one.timestamp[4:]) <= 12
        empty = (one.tile_num, one.note, one.pitch_deg, one.roll_deg, one.height_m)
        assert empty == ("", "", None, None, None)


def test_lines_are_sorted_and_all_different(names):
    assert len(names) == 60_000
    assert all(first < second for first, second in zip(names, names[1:], strict=False))


def test_panoramas_have_twelve_crops_30_degrees_apart(names):
    crops = defaultdict(list)
    for line in names:
        crops[parse_image_name(line).pano_id].append(parse_image_name(line))
    assert len(crops) == 5000
    for ones in crops.values():
        headings_deg = sorted(one.heading_deg for one in ones)
        assert np.diff(headings_deg).tolist() == [30] * 11 and headings_deg[0] < 30
        places = {(one.utm_east_m, one.utm_north_m, one.timestamp) for one in ones}
        assert len(places) == 1
    assert {int(ones[0].timestamp[:4]) for ones in crops.values()} == set(range(2009, 2022))


def test_cells_have_a_long_tail(names):
    places = {one.pano_id: one for one in map(parse_image_name, names[::12])}.values()
    cells = defaultdict(set)
    for one in places:
        cells[one.utm_east_m // 10, one.utm_north_m // 10].add(one.timestamp[:4])
    per_cell = Counter((one.utm_east_m // 10, one.utm_north_m // 10) for one in places)
    how_often = Counter(per_cell.values())
    assert how_often.most_common(1)[0][0] == 1, "one panorama is the most common, as in the paper"
    share = sum(n for n in per_cell.values() if n < 10) / len(places)
    assert 0.1 < share < 0.2, "the paper discards about 15%"
    assert max(per_cell.values()) > 40 and max(map(len, cells.values())) > 8, "visited again"


def test_streets_are_not_aligned_with_utm(names):
    places = list({one.pano_id: one for one in map(parse_image_name, names[::12])}.values())
    position_m = np.array([(one.utm_east_m, one.utm_north_m) for one in places])
    spreads = {}
    for angle_deg in (0, make_names._STREET_ANGLE_DEG):
        turned = np.exp(1j * np.radians(angle_deg)) * (position_m @ [1, 1j])
        x_m, y_m = turned.real, turned.imag
        street_m = np.exp(2j * np.pi * np.stack([x_m, y_m]) / 100)
        spreads[angle_deg] = abs(street_m.mean(axis=1)).min()
    assert spreads[0] < 0.2 and spreads[make_names._STREET_ANGLE_DEG] > 0.4


@pytest.mark.parametrize("num_images", [1, 11, 12, 13, 1000])
def test_any_number_of_names(tmp_path, monkeypatch, num_images):
    monkeypatch.setattr(make_names, "_PANORAMAS_PER_BLOCK", 5)
    main(["--num_images", str(num_images), "--folder", str(tmp_path / "new" / "train")])
    paths = list_images(tmp_path / "new" / "train")
    assert len(paths) == num_images == len(set(paths))
    assert all(len(parse_image_name(path).pano_id) == 22 for path in paths)


def test_the_seed_decides(tmp_path):
    first, again, other = (
        write_names(tmp_path / str(run) / "train", 500, seed).read_bytes()
        for run, seed in enumerate((0, 0, 1))
    )
    assert first == again != other


def test_training_can_split_them_without_images(tmp_path):
    write_names(tmp_path / "train", 60_000)
    index = load_index(tmp_path / "train", PartitionParams(), tmp_path / "cache")
    assert index.num_listed_images == 60_000 and index.num_groups == 50


def test_what_is_there_stays(tmp_path, refused):
    flags = ["--num_images", "24", "--folder", str(tmp_path / "train")]
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "photo.jpg").touch()
    assert "give another --folder" in refused(main, flags, 1)
    (tmp_path / "train" / "photo.jpg").unlink()
    main(flags)
    content = (tmp_path / "train_images_paths.txt").read_bytes()
    assert "train_images_paths.txt" in refused(main, flags, 1)
    assert (tmp_path / "train_images_paths.txt").read_bytes() == content
    assert "--num_images must be at least 1" in refused(main, [*flags, "--num_images", "0"], 2)


def test_both_ways_of_the_benchmark_count_alike(tmp_path):
    write_names(tmp_path / "train", 12_000)
    cells, years = name_figures.count_by_loop(tmp_path / "train")
    assert name_figures.count_by_columns(tmp_path / "train") == (cells, years)
    assert sum(count * number for count, number in cells.items()) == sum(years.values()) == 1000
