import dataclasses
import pickle
import shutil

import numpy as np
import pytest
import torch
from conftest import name, write_image
from golden_cases import golden
from torchvision.transforms.v2 import functional

from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets.augmentation import Augmentation, AugmentationParams
from datasets.groups import collate
from datasets.image_names import parse_image_name
from datasets.images import load_image
from datasets.positions import Positions
from datasets.tuples import (
    TupleDataset,
    TupleDraw,
    TupleSetParams,
    find_positives,
    open_tuple_set,
    resize_image,
)
from training.objective import batches_on_device

ORIGIN_M = np.array([551_000.0, 4_180_000.0])


def write_names(folder, part, names):
    """Write a list of images, of which only the first exists."""
    (folder / part).mkdir(parents=True)
    (folder / part / names[0]).touch()
    (folder / f"{part}_images_paths.txt").write_text("".join(f"{text}\n" for text in names))


def write_set(folder, database_m, queries_m, **fields):
    """Write names at positions in metres from the origin."""
    for part, positions_m in (("database", database_m), ("queries", queries_m)):
        names = [
            name(*(ORIGIN_M + position_m), timestamp=f"{number:04d}", **fields)
            for number, position_m in enumerate(positions_m)
        ]
        write_names(folder, part, names)
    return folder


def lists(neighbours):
    return [neighbours.of(query).tolist() for query in range(len(neighbours))]


def by_hand(database_m, queries_m, radius_m):
    squared = ((np.asarray(queries_m)[:, None] - np.asarray(database_m)[None]) ** 2).sum(2)
    return [np.flatnonzero(row <= radius_m**2).tolist() for row in squared]


# ------------------------------------------------------------------ positives and what is near


def test_positives_and_near_images_of_a_million_positions_equal_brute_force():
    rng = np.random.default_rng(0)
    database_m = (ORIGIN_M + rng.uniform(0, 4000, (1_000_000, 2))).round(2)
    queries_m = (ORIGIN_M + rng.uniform(-100, 4100, (5_000, 2))).round(2)
    positives, near = find_positives(Positions(database_m, queries_m), TupleSetParams())
    for neighbours, radius_m in ((positives, 10.0), (near, 25.0)):
        offsets_m = database_m[neighbours.indices] - queries_m[neighbours.queries]
        assert (offsets_m**2).sum(1).max() <= radius_m**2, "none is beyond"
        assert neighbours.indices.dtype == np.int32 and len(neighbours) == len(queries_m)
        for query in rng.choice(len(queries_m), 20, replace=False):
            [expected] = by_hand(database_m, queries_m[[query]], radius_m)
            assert neighbours.of(query).tolist() == expected, "none is missed"
    density = 1_000_000 / 4000**2
    inner = ((queries_m - ORIGIN_M > 25) & (queries_m - ORIGIN_M < 3975)).all(1)
    assert near.counts[inner].mean() == pytest.approx(np.pi * 25**2 * density, rel=0.02)
    assert positives.counts[inner].mean() == pytest.approx(np.pi * 10**2 * density, rel=0.02)


def test_both_radii_are_inclusive(tmp_path):
    database_m = [(0, 0), (6, 8), (6, 8.01), (7, 24), (7, 24.01), (500, 0)]
    tuple_set = open_tuple_set(write_set(tmp_path, database_m, [(0, 0)]), TupleSetParams())
    assert lists(tuple_set.positives) == [[0, 1]]
    assert lists(tuple_set.near) == [[0, 1, 2, 3]]


def test_pairs_and_queries_are_selected():
    rng = np.random.default_rng(0)
    positions = Positions(rng.uniform(0, 90, (50, 2)), rng.uniform(-30, 120, (20, 2)))
    _, near = find_positives(positions, TupleSetParams())
    kept = rng.random(len(near.indices)) < 0.4
    pairs = list(zip(near.queries.tolist(), near.indices.tolist(), kept.tolist(), strict=True))
    expected = [[j for i, j, is_kept in pairs if i == query and is_kept] for query in range(20)]
    assert lists(near.where(kept)) == expected
    odd = np.arange(20) % 2 == 1
    assert lists(near.subset(odd)) == [lists(near)[query] for query in range(20) if query % 2]
    assert lists(near.subset(np.zeros(20, bool))) == []
    assert near.counts.min() == 0, "also those of nothing"


@pytest.mark.parametrize(
    "case",
    ["mining_vgb_full", "mining_vgb_partial", "mining_vgb_partial_ties", "mining_vgb_random"],
)
def test_positives_are_those_of_the_benchmark(tmp_path, case):
    """Deep visual geo-localization benchmark: the same queries are kept, with the same images."""
    case = golden(case)
    write_names(tmp_path, "database", case["in.database_names"].tolist())
    write_names(tmp_path, "queries", case["in.query_names_all"].tolist())
    tuple_set = open_tuple_set(tmp_path, TupleSetParams())
    kept = [tuple_set.queries.name(index) for index in range(len(tuple_set.queries))]
    assert kept == case["mid.query_names_kept"].tolist()
    assert tuple_set.num_dropped == len(case["in.query_names_all"]) - len(kept) > 0
    assert lists(tuple_set.positives) == [
        sorted(row.tolist()) for row in case.ragged("mid.P10_kept")
    ]
    assert lists(tuple_set.near) == [sorted(row.tolist()) for row in case.ragged("mid.P25_kept")]


@pytest.mark.parametrize("case", ["mining_openibl_a", "mining_openibl_fullpool"])
def test_positives_of_other_panoramas_are_those_of_openibl(tmp_path, case):
    case = golden(case)
    for part, role in (("database", "gallery"), ("queries", "query")):
        names = [
            name(*position_m, pano_id=f"{number}", tile_num=f"{tile:02d}")
            for tile, (position_m, number) in enumerate(
                zip(case[f"in.{role}_utm"], case[f"in.{role}_pid"], strict=True)
            )
        ]
        write_names(tmp_path, part, names)
    tuple_set = open_tuple_set(tmp_path, TupleSetParams())
    database_panoramas = tuple_set.database_panoramas[tuple_set.positives.indices]
    own = tuple_set.query_panoramas[tuple_set.positives.queries]
    positives = tuple_set.positives.where(database_panoramas != own)
    kept = positives.counts > 0
    tiles = np.array([int(parse_image_name(path).tile_num) for path in tuple_set.queries])
    assert tiles[kept].tolist() == case["mid.select"].tolist()
    expected = [sorted(row.tolist()) for row in case.ragged("mid.pos10")]
    assert lists(positives.subset(kept)) == expected
    expected = [sorted(row.tolist()) for row in case.ragged("mid.within25")]
    assert lists(tuple_set.near.subset(kept)) == expected
    assert (database_panoramas == own).any()


# ------------------------------------------------------------------ folders


def test_queries_without_positives_are_left_out_and_counted(tmp_path):
    database_m, queries_m = [(0, 0), (30, 0), (400, 0)], [(300, 0), (5, 0), (29, 0), (60, 0)]
    tuple_set = open_tuple_set(write_set(tmp_path, database_m, queries_m), TupleSetParams())
    assert [path[-10:-6] for path in tuple_set.queries] == ["0001", "0002"]
    assert lists(tuple_set.positives) == [[0], [1]] and lists(tuple_set.near) == [[0, 1], [1]]
    text = tuple_set.describe()
    assert "3 database images in" in text and "2 queries in" in text
    assert "2 without any are left out" in text and "1.0 on average" in text
    assert tuple_set.database_panoramas is None and tuple_set.query_panoramas is None
    paths = tuple_set.tuple_paths(np.array([1, 1, 2]))
    assert paths == [tuple_set.queries[1], tuple_set.database[1], tuple_set.database[2]]


def test_the_digest_is_of_names_and_radii(tmp_path):
    database_m, queries_m = [(0, 0), (300, 0)], [(5, 0), (200, 0)]
    folder = write_set(tmp_path / "a", database_m, queries_m)
    digest = open_tuple_set(folder, TupleSetParams()).digest
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert open_tuple_set(moved, TupleSetParams(tuple_panoramas=7)).digest == digest
    others = [
        open_tuple_set(folder, TupleSetParams(positive_radius_m=9)),
        open_tuple_set(folder, TupleSetParams(negative_radius_m=26)),
        open_tuple_set(
            write_set(tmp_path / "b", [*database_m, (9, 9)], queries_m), TupleSetParams()
        ),
        open_tuple_set(write_set(tmp_path / "c", database_m, queries_m[:1]), TupleSetParams()),
        open_tuple_set(write_set(tmp_path / "d", database_m[:1], queries_m), TupleSetParams()),
    ]
    assert len({digest, *(other.digest for other in others)}) == 6


def test_gallery_is_a_database(tmp_path):
    folder = write_set(tmp_path / "set", [(0, 0)], [(0, 0)])
    (folder / "database").rename(folder / "gallery")
    (folder / "database_images_paths.txt").rename(folder / "gallery_images_paths.txt")
    tuple_set = open_tuple_set(folder, TupleSetParams())
    assert tuple_set.database.folder.name == "gallery" and len(tuple_set.queries) == 1


def test_cities_with_equal_coordinates_in_other_zones_are_far_apart(tmp_path):
    for part in ("database", "queries"):
        names = [name(*ORIGIN_M, zone_number=zone, zone_letter="S") for zone in (10, 33, 54)]
        write_names(tmp_path, part, names)
    tuple_set = open_tuple_set(tmp_path, TupleSetParams())
    assert lists(tuple_set.positives) == lists(tuple_set.near) == [[0], [1], [2]]
    assert "regions of UTM zones 10 and 33 and 54 are apart" in tuple_set.describe()


def test_panoramas_join_database_and_queries(tmp_path):
    at, names = ORIGIN_M, [{"pano_id": "a"}, {"pano_id": "b"}, {}, {}]
    for part in ("database", "queries"):
        write_names(tmp_path, part, [name(*at, **fields) for fields in names])
    tuple_set = open_tuple_set(tmp_path, TupleSetParams())
    database, queries = tuple_set.database_panoramas, tuple_set.query_panoramas
    assert (database[:2] == queries[:2]).all()
    assert len({*database, *queries}) == 6, "an image without an id is a panorama of its own"


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    far = write_set(tmp_path / "far", [(0, 0)], [(10.01, 0), (99, 0)])
    with pytest.raises(ValueError, match="None of the 2 queries of .*far has a positive.* 10 m"):
        open_tuple_set(far, TupleSetParams())
    no_queries = write_set(tmp_path / "no_queries", [(0, 0)], [(0, 0)])
    shutil.rmtree(no_queries / "queries")
    with pytest.raises(
        FileNotFoundError, match="no_queries has no folder queries: .* database/ and"
    ):
        open_tuple_set(no_queries, TupleSetParams())
    no_database = write_set(tmp_path / "no_database", [(0, 0)], [(0, 0)])
    shutil.rmtree(no_database / "database")
    with pytest.raises(FileNotFoundError, match="no_database has no folder database: "):
        open_tuple_set(no_database, TupleSetParams())
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_tuple_set(tmp_path / "nowhere", TupleSetParams())
    write_image(tmp_path / "holiday" / "photo.jpg")
    with pytest.raises(ValueError, match="UTM east .* is missing .* 1 of 1 images, .*photo.jpg"):
        open_tuple_set(tmp_path / "holiday", TupleSetParams())
    write_names(tmp_path, "alone", [name(*(ORIGIN_M + 50 * i), pano_id=f"{i}") for i in range(9)])
    with pytest.raises(ValueError, match="alone has neither queries/ nor places of 10 m with two"):
        open_tuple_set(tmp_path / "alone", TupleSetParams())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"positive_radius_m": 26}, "Positives are within 26 m .* not beyond the 25 m"),
        ({"positive_radius_m": 0}, "Positives are within 0 m"),
        ({"tuple_panoramas": 1}, "--tuple_panoramas 1: .* at least 2"),
    ],
)
def test_params_out_of_range_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        TupleSetParams(**params)


# ------------------------------------------------------------------ panoramas that are drawn


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """Write names of crops: 300 panoramas at 60 places along a street, 12 crops of each."""
    rng = np.random.default_rng(0)
    names = []
    for panorama in range(300):
        position_m = ORIGIN_M + (20 * (panorama % 60) + rng.uniform(0, 8), rng.uniform(0, 8))
        first_deg = int(rng.integers(30))
        names += [
            name(*position_m, first_deg + 30 * crop, pano_id=f"pano{panorama}")
            for crop in range(12)
        ]
    rng.shuffle(names)
    folder = tmp_path_factory.mktemp("streets")
    write_names(folder, "train", names)
    return folder / "train"


def panoramas_of(paths):
    return {parse_image_name(path).pano_id for path in paths}


def test_queries_and_database_are_of_different_panoramas(streets):
    tuple_set = open_tuple_set(streets, TupleSetParams(tuple_panoramas=40))
    database, queries = panoramas_of(tuple_set.database), panoramas_of(tuple_set.queries)
    assert not database & queries and len(database) + len(queries) == 40
    assert (len(tuple_set.database), len(tuple_set.queries)) == (12 * 24, 12 * 16), "3 and 2"
    assert tuple_set.num_dropped == 0, "places are drawn, with all their panoramas"
    assert len({int(panorama[4:]) % 60 for panorama in database | queries}) == 8, "5 at each place"
    assert (
        len(tuple_set.database.blob)
        < 0.1 * (streets.parent / "train_images_paths.txt").stat().st_size
    )
    text = tuple_set.describe()
    assert "a seeded sample of 40 of 300 panoramas (the paper's subset of SF-XL is not" in text
    assert "differ by at most 15 degrees" in text


def test_positives_of_drawn_panoramas_look_the_same_way(streets):
    tuple_set = open_tuple_set(streets, TupleSetParams(tuple_panoramas=30))
    database = [parse_image_name(path) for path in tuple_set.database]
    for query, path in enumerate(tuple_set.queries):
        asked = parse_image_name(path)
        metres = [
            np.hypot(asked.utm_east_m - one.utm_east_m, asked.utm_north_m - one.utm_north_m)
            for one in database
        ]
        turned = [abs((asked.heading_deg - one.heading_deg + 180) % 360 - 180) for one in database]
        expected = [i for i in range(len(database)) if metres[i] <= 10 and turned[i] <= 15]
        assert tuple_set.positives.of(query).tolist() == expected
        assert tuple_set.near.of(query).tolist() == [i for i, m in enumerate(metres) if m <= 25]
        others = {database[i].pano_id for i in range(len(database)) if metres[i] <= 10}
        assert {database[i].pano_id for i in expected} == others, "a crop of each panorama"


def test_the_sample_depends_on_the_seed_and_not_on_the_order_of_names(streets, tmp_path):
    params = TupleSetParams(tuple_panoramas=40)
    drawn = panoramas_of(open_tuple_set(streets, params).queries)
    lines = (streets.parent / "train_images_paths.txt").read_text().split("\n")[:-1]
    write_names(tmp_path, "train", sorted(lines))
    assert panoramas_of(open_tuple_set(tmp_path / "train", params).queries) == drawn
    other = dataclasses.replace(params, sample_seed=1)
    assert panoramas_of(open_tuple_set(streets, other).queries) != drawn
    everything = open_tuple_set(streets, TupleSetParams())
    assert len(everything.database) + len(everything.queries) + everything.num_dropped == 3600


def test_names_without_panoramas_are_grouped_by_position(tmp_path):
    names = [
        name(*(ORIGIN_M + (panorama, 0)), 90 * crop) for panorama in range(4) for crop in range(4)
    ]
    write_names(tmp_path, "train", names)
    tuple_set = open_tuple_set(tmp_path / "train", TupleSetParams())
    positions = [
        {path.split("@")[1] for path in paths} for paths in (tuple_set.database, tuple_set.queries)
    ]
    assert [len(position) for position in positions] == [2, 2] and not positions[0] & positions[1]
    assert tuple_set.positives.counts.tolist() == [2] * 8, "of the same heading"


def test_names_without_headings_are_positives_by_distance(tmp_path):
    write_names(tmp_path, "train", [name(*(ORIGIN_M + (i, 0)), pano_id=f"{i}") for i in range(6)])
    tuple_set = open_tuple_set(tmp_path / "train", TupleSetParams())
    assert tuple_set.positives.counts.tolist() == [3, 3, 3]


def test_the_mini_city_is_one(datasets_folder):
    folder = datasets_folder / "mini_city" / "processed" / "train"
    tuple_set = open_tuple_set(folder, TupleSetParams(tuple_panoramas=60))
    assert not panoramas_of(tuple_set.database) & panoramas_of(tuple_set.queries)
    assert tuple_set.positives.counts.min() > 0
    assert load_image(tuple_set.queries[0]).shape == load_image(tuple_set.database[0]).shape


# ------------------------------------------------------------------ images


SIZE = (24, 32)


@pytest.fixture
def tuple_set(tmp_path):
    for part, num in (("database", 6), ("queries", 3)):
        for number in range(num):
            file = name(*ORIGIN_M, timestamp=f"{part[0]}{number}")
            write_image(tmp_path / part / file, [(70, 45), SIZE[::-1]][number % 2])
    return open_tuple_set(tmp_path, TupleSetParams())


@pytest.fixture(scope="module")
def augmentation():
    return Augmentation(AugmentationParams())


TUPLES = np.array([[0, 1, 2, 3], [1, 0, 5, 4], [2, 2, 1, 0]])


def normalised(image):
    return functional.normalize(image.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))


def test_resizing_is_that_of_the_benchmark():
    case = golden("preprocess_a")
    image = torch.from_numpy(case["in.image_uint8_hwc"]).permute(2, 0, 1)
    resized = normalised(resize_image(image, tuple(case["in.resize_hw"].tolist())))
    expected = torch.from_numpy(case["out.vgb_train_db"])
    torch.testing.assert_close(resized, expected, rtol=0, atol=1e-4)
    assert resize_image(image, (45, 70)) is image


def test_a_tuple_is_query_positive_and_negatives(tuple_set, augmentation):
    dataset = TupleDataset(tuple_set, SIZE, augmentation)
    sample = dataset[TupleDraw.of(TUPLES, 1, 7)]
    assert (sample.label, sample.seed, sample.unreadable) == (4, 7, ())
    images = [resize_image(load_image(path), SIZE) for path in tuple_set.tuple_paths(TUPLES[1])]
    expected = torch.stack([normalised(image) for image in images])
    assert sample.image.dtype == torch.float32 and sample.image.shape == (4, 3, *SIZE)
    torch.testing.assert_close(sample.image, expected, rtol=0, atol=1e-5)
    batch, labels, seeds, unreadable = collate([sample, dataset[TupleDraw.of(TUPLES, 2, 8)]])
    assert batch.shape == (2, 4, 3, *SIZE) and (seeds, unreadable) == ([7, 8], [])
    assert labels.tolist() == [4, 4] and torch.equal(batch[0], sample.image)


def test_tuples_may_have_different_numbers_of_images(tuple_set, augmentation):
    tuples = np.array([[0, 1, 2, -1, 5], [1, 0, -1, -1, -1], [2, 4, 3, 2, 1]])
    assert tuple_set.tuple_paths(tuples[1]) == [tuple_set.queries[1], tuple_set.database[0]]
    dataset = TupleDataset(tuple_set, SIZE, augmentation)
    samples = [dataset[TupleDraw.of(tuples, place, place)] for place in range(3)]
    [batch] = batches_on_device([collate(samples)], torch.device("cpu"), None)
    assert batch.labels.tolist() == [4, 2, 5] and batch.images.shape == (11, 3, *SIZE)
    paths = [path for images in tuples for path in tuple_set.tuple_paths(images)]
    for image, path in zip(batch.images, paths, strict=True):
        expected = normalised(resize_image(load_image(path), SIZE))
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("augment", "num_changed"), [("none", 0), ("queries", 1), ("all", 4)])
def test_colours_change_of_those_asked_for(tuple_set, augmentation, augment, num_changed):
    plain = TupleDataset(tuple_set, SIZE, augmentation)[TupleDraw.of(TUPLES, 0, 3)].image
    dataset = TupleDataset(tuple_set, SIZE, augmentation, augment)
    image = dataset[TupleDraw.of(TUPLES, 0, 3)].image
    is_changed = [not torch.equal(*pair) for pair in zip(image, plain, strict=True)]
    assert is_changed == [place < num_changed for place in range(4)]
    assert torch.equal(image, dataset[TupleDraw.of(TUPLES, 0, 3)].image), "the seed decides"
    other = dataset[TupleDraw.of(TUPLES, 0, 4)].image
    assert torch.equal(image, other) == (augment == "none")


def test_jitter_is_that_of_the_augmentation_and_differs_within_a_tuple(tuple_set):
    """On images of the size asked for, of squares without a crop, both do the same."""
    whole = Augmentation(AugmentationParams(image_size=24, random_resized_crop=0))
    dataset = TupleDataset(tuple_set, (24, 24), whole, "all")
    [query, first, second] = dataset[TupleDraw(np.array([[0, 0, 0]]), 5)].image
    database = resize_image(load_image(tuple_set.database[0]), (24, 24))
    torch.testing.assert_close(first, whole(database, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(second, whole(database, 7), rtol=0, atol=1e-5)
    assert not torch.equal(first, second)


def test_an_unreadable_image_replaces_its_tuple_by_the_next(tuple_set, augmentation):
    for path in (tuple_set.database[4], tuple_set.queries[2]):
        with open(path, "wb") as file:
            file.write(b"broken")
    dataset = TupleDataset(tuple_set, SIZE, augmentation)
    sample = dataset[TupleDraw.of(TUPLES, 1, 7)]
    assert sample.label == 4 and len(sample.unreadable) == 2
    assert (
        tuple_set.database[4] in sample.unreadable[0] and "cannot be read" in sample.unreadable[0]
    )
    assert torch.equal(sample.image, dataset[TupleDraw.of(TUPLES, 0, 7)].image)
    assert collate([sample])[3] == list(sample.unreadable)
    many = np.repeat(TUPLES[1:2], 50, axis=0)
    with pytest.raises(
        ValueError, match="20 tuples in a row have an image that cannot be read. Is"
    ):
        dataset[TupleDraw.of(many, 3, 7)]


def test_loader_processes_get_the_images_alone(tuple_set, augmentation):
    dataset = TupleDataset(tuple_set, SIZE, augmentation, "queries")
    copy = pickle.loads(pickle.dumps(dataset))
    draw = TupleDraw.of(TUPLES, 0, 3)
    assert torch.equal(copy[draw].image, dataset[draw].image)


def test_some_images_are_sampled(tuple_set):
    paths = tuple_set.sample_paths(5, seed=0)
    assert len(paths) == len(set(paths)) == 5
    assert list(paths) == list(tuple_set.sample_paths(5, seed=0))
    assert list(paths) != list(tuple_set.sample_paths(5, seed=1))
    everything = set(tuple_set.sample_paths(1000, seed=0))
    assert everything == {*tuple_set.database, *tuple_set.queries}
