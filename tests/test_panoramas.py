import os
from collections import Counter

import numpy as np
import pytest
from conftest import name

from datasets.image_names import parse_image_name
from paper.panoramas import (
    count_per_cell,
    iterate_names,
    read_panoramas,
    read_years,
    sample_images,
)

IDS = ["kPnABhWJ1kA61eMNPLs1vQ", "kPnABhWJ1kA61eMNPLs1vA", "rtCs5-P_9NGDzUbKyzStWA", "7", ""]


def write_list(folder, lines):
    """Write a list file beside a folder that is not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    list_file = folder.with_name(f"{folder.name}_images_paths.txt")
    list_file.write_bytes(b"\n".join(os.fsencode(line) for line in lines) + b"\n")
    return folder


def random_names(num_panoramas, rng, num_crops=12, **fields):
    """Return crops of panoramas of which some share a position, a pano id or a timestamp."""
    names = []
    for _ in range(num_panoramas):
        east_m, north_m = 544_000 + rng.integers(6, size=2) * 4.25
        known = {
            "pano_id": rng.choice(IDS),
            "timestamp": rng.choice(["201606", "201607", "2009", "20210718_1201", "", "unknown"]),
            "zone_number": 10,
        }
        first_deg = int(rng.integers(30))
        names += [
            name(east_m, north_m, first_deg + 30 * crop, **(known | fields))
            for crop in range(num_crops)
        ]
    return names


def count_by_loop(names):
    """Return {(east, north, pano id, timestamp): number of names}, in order."""
    counts = Counter()
    for one in map(parse_image_name, names):
        counts[one.utm_east_m, one.utm_north_m, one.pano_id, one.timestamp] += 1
    return counts


def as_rows(panoramas):
    columns = (panoramas.east_m, panoramas.north_m, panoramas.years, panoramas.num_images)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def expected_rows(names):
    return [
        (east_m, north_m, int(timestamp[:4]) if timestamp[:4].isdecimal() else 0, count)
        for (east_m, north_m, _, timestamp), count in count_by_loop(names).items()
    ]


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("block", [3, 1 << 17])
def test_names_become_panoramas_as_in_a_loop(tmp_path, monkeypatch, is_sorted, block):
    monkeypatch.setattr("paper.panoramas._NAMES_PER_BLOCK", block)
    rng = np.random.default_rng(0)
    names = random_names(150, rng)
    names = sorted(names) if is_sorted else rng.permutation(names).tolist()
    lines = [f"37.7{index % 9}/{one}" for index, one in enumerate(names)]
    panoramas = read_panoramas(write_list(tmp_path / "train", lines))
    assert as_rows(panoramas) == expected_rows(names)
    assert len(panoramas.years) < 150 < panoramas.num_images.sum() == 1800, "some are the same"


def test_a_walked_folder_and_its_list_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("paper.panoramas._NAMES_PER_BLOCK", 3)
    names = sorted(set(random_names(6, np.random.default_rng(1))))
    for one in names:
        (tmp_path / "walked").mkdir(exist_ok=True)
        (tmp_path / "walked" / one).touch()
    list_file = write_list(tmp_path / "listed", names).with_name("listed_images_paths.txt")
    list_file.write_bytes(b"\xef\xbb\xbf" + list_file.read_bytes().replace(b"\n", b"\r\n"))
    expected = expected_rows(names)
    for source in (tmp_path / "walked", tmp_path / "listed", list_file, str(list_file)):
        assert as_rows(read_panoramas(source)) == expected


def test_panoramas_and_their_crops_are_the_same(tmp_path):
    crops = random_names(40, np.random.default_rng(2))
    wholes = random_names(40, np.random.default_rng(2), num_crops=1)  # the same, one name each
    rows = [
        as_rows(read_panoramas(write_list(tmp_path / kind, names)))
        for kind, names in (("database", crops), ("panoramas", wholes))
    ]
    assert [row[:3] for row in rows[0]] == [row[:3] for row in rows[1]]
    assert [row[3] for row in rows[0]] == [12 * row[3] for row in rows[1]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 4),
        ({"timestamp": ""}, 2),
        ({"pano_id": ""}, 2),
        ({"timestamp": "", "pano_id": ""}, 1),
    ],
)
def test_fields_that_names_do_not_have_say_nothing(tmp_path, fields, expected):
    names = [
        name(1, 2, heading, **({"pano_id": pano_id, "timestamp": timestamp} | fields))
        for pano_id in ("a", "b")
        for timestamp in ("2014", "201406")
        for heading in (0, 30)
    ]
    panoramas = read_panoramas(write_list(tmp_path / "train", names))
    assert len(panoramas.years) == expected and panoramas.num_images.sum() == 8
    assert set(panoramas.years.tolist()) == ({0} if "timestamp" in fields else {2014})


def test_years_are_read_from_old_names_too(tmp_path):
    old = "@0549678.37@4180874.60@10@S@037.77386@-122.43590@bZ1VXzxFCSKi9wcz8H5pZA0@201311.jpg"
    ten = "@0549678.37@4180874.60@10@S@037.77386@-122.43590@pano@00@2012.jpg"
    short, bare = "@0549678.37@4180874.60@.jpg", "@0549678.37@4180874.60@10@S@1@2@pano@201409"
    names = [old, ten, short, bare, name(1, 2, timestamp="209", zone_number=10)]
    years = [int(parse_image_name(one).timestamp[:4] or 0) for one in names]
    assert years == [2013, 2012, 0, 0, 209]
    (paths,) = iterate_names(write_list(tmp_path / "queries", names))
    assert read_years(paths).tolist() == [2013, 2012, 0, 0, 0]


def test_cells_are_counted_as_in_a_loop(tmp_path):
    rng = np.random.default_rng(3)
    names = [
        name(east_m, north_m, heading, pano_id=str(number), zone_number=10)
        for number, (east_m, north_m) in enumerate(rng.uniform(-40, 40, (300, 2)).round(2))
        for heading in range(1 + number % 3)
    ]
    panoramas = read_panoramas(write_list(tmp_path / "train", names))
    per_cell, images_per_cell = count_per_cell(panoramas, 10)
    cells, images = Counter(), Counter()
    for east_m, north_m, _, count in as_rows(panoramas):
        cells[east_m // 10, north_m // 10] += 1
        images[east_m // 10, north_m // 10] += count
    assert sorted(zip(per_cell.tolist(), images_per_cell.tolist(), strict=True)) == sorted(
        (cells[cell], images[cell]) for cell in cells
    )
    assert len(per_cell) > 50 and per_cell.max() > 5


def test_names_without_positions_are_counted_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("paper.panoramas._NAMES_PER_BLOCK", 3)
    good = random_names(2, np.random.default_rng(0))
    bad = ["a/photo_1.jpg", "@1@@10@S@.jpg", "photo_2.jpg", "@nan@1@.jpg", "photo_3.jpg"]
    with pytest.raises(ValueError) as error:
        read_panoramas(write_list(tmp_path / "train", [*good, *bad]))
    assert "5 of 29 names" in str(error.value) and "tools.convert" in str(error.value)
    assert all(one in str(error.value) for one in ("photo_1.jpg", *bad[1:3]))
    assert "photo_3.jpg" not in str(error.value)


def test_several_zones_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    names = [*random_names(1, rng, 2), *random_names(1, rng, 3, zone_number=11)]
    with pytest.raises(ValueError, match=r"UTM zones \(2 in zone 10, 3 in zone 11\)"):
        read_panoramas(write_list(tmp_path / "train", names))
    assert len(read_panoramas(write_list(tmp_path / "one", names[:2])).years) == 1


def test_missing_and_empty_sources_are_sentences(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_panoramas(tmp_path / "nowhere")
    (tmp_path / "train_images_paths.txt").write_text("\n\r\n")
    with pytest.raises(
        FileNotFoundError, match=r"train_images_paths.txt is empty; expected one image path"
    ):
        read_panoramas(tmp_path / "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="No image in"):
        read_panoramas(tmp_path / "empty")


def test_samples_depend_on_the_seed_alone(tmp_path, monkeypatch):
    names = [f"{number:04d}/{name(number, 2)}" for number in range(2000)]
    source = write_list(tmp_path / "train", names)
    chosen = sample_images(source, 12, seed=0)
    assert len(set(chosen)) == 12 and sample_images(source, 12, seed=1) != chosen
    assert all(os.path.relpath(path, source) in names for path in chosen)
    monkeypatch.setattr("paper.panoramas._NAMES_PER_BLOCK", 3)
    assert sample_images(source, 12, seed=0) == chosen, "blocks do not matter"
    assert len(set(sample_images(source, 5000, seed=0))) == 2000


def test_samples_are_spread_evenly(tmp_path):
    source = write_list(tmp_path / "train", [f"{number}.jpg" for number in range(20)])
    counts = Counter(path for seed in range(400) for path in sample_images(source, 5, seed))
    assert len(counts) == 20
    assert min(counts.values()) > 60 and max(counts.values()) < 140, "100 each on average"
