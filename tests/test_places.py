"""Training sets of places: GSV-Cities as published, and the classes of a folder with '@' names."""

import csv
import io
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import name, write_image
from golden_cases import golden
from gsv_files import CITIES, COLUMNS, file_name, write_gsv_cities, write_table
from torchvision.transforms import InterpolationMode, RandAugment
from torchvision.transforms.functional import resize, to_pil_image, to_tensor

from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets.class_index import load_index
from datasets.groups import collate
from datasets.gsv_cities import read_gsv_cities
from datasets.images import load_image
from datasets.partition import PartitionParams
from datasets.places import PlaceDataset, PlaceDraw, PlaceSampler, places_of_classes
from datasets.rand_augment import RandAugmentation, RandAugmentParams

GOLDEN_CITIES = ("London", "Boston", "PRS")


def plain(image, seed):
    """Stand in for an augmentation: the mean colour and the seed."""
    return torch.cat((image.float().mean((1, 2)), torch.tensor([float(seed)])))[:, None, None]


@pytest.fixture(scope="module")
def gsv(tmp_path_factory):
    return write_gsv_cities(tmp_path_factory.mktemp("gsv"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return the golden case and its tables on disk."""
    case, folder = golden("gsvcities_a"), tmp_path_factory.mktemp("published")
    for city in GOLDEN_CITIES:
        (folder / "Dataframes").mkdir(exist_ok=True)
        (folder / "Dataframes" / f"{city}.csv").write_text(str(case[f"in.csv.{city}"]))
        (folder / "Images" / city).mkdir(parents=True)
        for file in map(str, case["out.names"]):
            if file.startswith(f"{city}_"):
                (folder / "Images" / city / file).touch()
    return case, folder


def names_of(place_set, place):
    return [Path(place_set.path(image)).name for image in place_set.images(place)]


def test_places_and_names_are_those_of_the_published_code(published):
    case, folder = published
    found = read_gsv_cities(folder, GOLDEN_CITIES, min_images=4)
    by_id = {}
    for place_id, file in zip(case["out.name_place_id"].tolist(), case["out.names"], strict=True):
        by_id.setdefault(place_id, set()).add(str(file))
    assert list(by_id) == case["out.place_ids_sorted"].tolist()
    got = [set(names_of(found, place)) for place in range(found.num_places)]
    assert got == list(by_id.values())
    assert (found.num_places, found.num_images) == (case["out.len"], case["out.total_images"])
    city_of = np.repeat(np.arange(3), np.diff(found.part_starts)).tolist()
    assert city_of == [place_id // 100_000 for place_id in by_id]


def test_the_most_recent_images_of_a_place_come_first(published):
    case, folder = published
    found = read_gsv_cities(folder, GOLDEN_CITIES, min_images=4)
    place = case["out.place_ids_sorted"].tolist().index(int(case["out.most_recent.place_id"]))
    paths = [Path(found.path(image)) for image in found.images(place)][:4]
    wanted = case["out.most_recent.paths"].tolist()
    assert [str(path.relative_to(folder.resolve())) for path in paths] == wanted


def test_a_loaded_place_is_of_the_published_shape_and_label(published):
    case, folder = published
    found = read_gsv_cities(folder, GOLDEN_CITIES, min_images=4)
    for image in range(found.num_images):
        write_image(Path(found.path(image)), (8, 8), colour=[image, 0, 0])
    batch, places, images_per_place = case["out.batch_shape"].tolist()[:3], 4, 4
    dataset = PlaceDataset(found, images_per_place, lambda image, seed: image.float())
    place = case["out.place_ids_sorted"].tolist().index(int(case["out.labels"][0]))
    sample = dataset[PlaceDraw(place, 3)]
    assert list(sample.image.shape[:2]) == batch[:2] and sample.label == place
    images, labels, _, _ = collate([dataset[PlaceDraw(p, p)] for p in range(places)])
    assert list(images.shape[:3]) == [places, images_per_place, 3]
    assert labels.tolist() == list(range(places))


def test_cities_come_in_the_order_given_and_all_by_name(gsv):
    every = read_gsv_cities(gsv)
    assert every.parts == ("Boston", "London", "PRS")
    assert [len(every.places(part)) for part in range(3)] == [4, 5, 3]  # without the small ones
    two = read_gsv_cities(gsv, ("PRS", "London"))
    assert two.parts == ("PRS", "London") and two.digest != every.digest
    assert all("PRS_" in file for place in two.places(0) for file in names_of(two, place))
    assert "3 places with fewer than 4 images left out" in every.describe()
    assert "London                      5 places          25 images" in every.describe(whole=True)
    more = read_gsv_cities(gsv, min_images=3)
    assert (more.num_places, more.left_out) == (15, "")


def test_equal_ids_of_cities_are_different_places(gsv):
    """Each city has a place 7: none of them has images of another city."""
    every = read_gsv_cities(gsv)
    for place in range(every.num_places):
        files = names_of(every, place)
        assert len({file.split("_")[0] for file in files}) == 1
        assert len({file.split("_")[1] for file in files}) == 1
    sevens = [
        place for place in range(every.num_places) if "_0000007_" in names_of(every, place)[0]
    ]
    assert len(sevens) == 3


def test_the_digest_tells_other_tables_and_not_the_order_of_rows(gsv, tmp_path):
    every = read_gsv_cities(gsv)
    write_gsv_cities(tmp_path)
    assert read_gsv_cities(tmp_path).digest == every.digest
    file = tmp_path / "Dataframes" / "London.csv"
    header, *rows = list(csv.reader(io.StringIO(file.read_text())))
    columns = ["panoid", "extra", *COLUMNS[:-1]]
    write_table(file, [[row[-1], "x", *row[:-1]] for row in reversed(rows)], columns)
    assert read_gsv_cities(tmp_path).digest == every.digest
    rows[0][1] = "1999"
    write_table(file, rows, header)
    assert read_gsv_cities(tmp_path).digest != every.digest


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: [row.pop(6) for row in rows], "London.csv has no column lon: its first"),
        (lambda rows: rows[2].__setitem__(5, "north"), "row 2: lat is 'north', not a number"),
        (lambda rows: rows[2].__setitem__(6, "nan"), "row 2: lon is 'nan', not a number"),
        (lambda rows: rows[3].__setitem__(0, "100000"), "place_id is '100000', not a whole number"),
        (lambda rows: rows[3].__setitem__(2, "May"), "row 3: month is 'May', not a whole number"),
        (lambda rows: rows[3].__setitem__(1, "9" * 30), "year is '999999999999999999999999999999'"),
        (lambda rows: rows[1].__setitem__(4, ".."), "row 1: city_id is '..', not the name of a"),
        (lambda rows: rows[1].__setitem__(7, "a/b"), "panoid is 'a/b', not a part of a file's"),
        (lambda rows: rows[4].pop(), "row 4 has 7 cells, the header 8"),
        (lambda rows: rows[1].__setitem__(4, "Rome"), "Rome holds no images, but Dataframes/Lond"),
        (lambda rows: rows.clear(), "has no column place_id and no year"),
        (lambda rows: rows.__delitem__(slice(1, None)), "London.csv lists no images: leave the"),
        (
            lambda rows: rows.__setitem__(slice(None), [[";".join(row)] for row in rows]),
            "its first line is 'place_id;year;month;northdeg;city_id;lat;lon;panoid', a table",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_its_file_and_row(gsv, tmp_path, change, sentence):
    with open(gsv / "Dataframes" / "London.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    (tmp_path / "Images").symlink_to(gsv / "Images")
    change(rows)
    (tmp_path / "Dataframes").mkdir()
    with open(tmp_path / "Dataframes" / "London.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_gsv_cities(tmp_path)
    assert sentence in str(error.value)


def test_what_is_missing_is_said(gsv, tmp_path):
    with pytest.raises(ValueError, match="--cities Paris: .* has no such table; it has Boston, Lo"):
        read_gsv_cities(gsv, ("London", "Paris"))
    with pytest.raises(ValueError, match="each city can be given once"):
        read_gsv_cities(gsv, ("London", "London"))
    with pytest.raises(ValueError, match="No place of .* has 9 images: lower --min_images_per_pl"):
        read_gsv_cities(gsv, min_images=9)
    (tmp_path / "Dataframes").mkdir()
    with pytest.raises(FileNotFoundError, match="has no table, CITY.csv"):
        read_gsv_cities(tmp_path)
    write_table(tmp_path / "Dataframes" / "London.csv", [])
    with pytest.raises(ValueError, match=r"London.csv lists no images: leave the city out"):
        read_gsv_cities(tmp_path)


def test_images_with_other_names_are_found_before_training(tmp_path):
    write_gsv_cities(tmp_path, {"London": 3, "Boston": 3})
    images = sorted((tmp_path / "Images" / "Boston").iterdir())
    for path in images:
        path.rename(path.with_suffix(".JPG"))
    with pytest.raises(FileNotFoundError) as error:
        read_gsv_cities(tmp_path)
    said = str(error.value)
    assert str(images[4]) in said and images[0].stem[:6] in said and ".JPG: rename" in said
    assert read_gsv_cities(tmp_path, ("London",)).num_places == 2
    images[1].with_suffix(".JPG").rename(images[1])  # one that exists: the others are missing
    assert read_gsv_cities(tmp_path).num_places == 4


def test_images_without_a_table_and_hidden_files_are_left_out(tmp_path):
    write_gsv_cities(tmp_path, {"London": 3, "Boston": 3})
    (tmp_path / "Dataframes" / "._London.csv").write_bytes(b"\0\5\x16\7\xff")  # as macOS writes
    assert read_gsv_cities(tmp_path).parts == ("Boston", "London")
    (tmp_path / "Dataframes" / "Boston.csv").unlink()
    found = read_gsv_cities(tmp_path)
    assert found.num_places == 2
    assert found.describe().endswith("images of Boston left out, as no table lists them")
    assert "Boston" not in read_gsv_cities(tmp_path, ("London",)).describe()


def test_numbers_are_written_as_the_names_of_files_have_them(tmp_path):
    rows = [
        (f"{1 + i // 4}", "2010", "3", f"{i}", "Oslo", "48.50", "-0.00001", "p") for i in range(8)
    ]
    write_table(tmp_path / "Dataframes" / "Oslo.csv", rows)
    (tmp_path / "Images" / "Oslo").mkdir(parents=True)
    (tmp_path / "Images" / "Oslo" / "Oslo_0000002_2010_03_007_48.5_-1e-05_p.jpg").touch()
    found = read_gsv_cities(tmp_path)
    assert "Oslo_0000002_2010_03_007_48.5_-1e-05_p.jpg" in names_of(found, 1)


def epoch_of(sampler, epoch, first=0):
    sampler.epoch, sampler.first_iteration = epoch, first
    return list(sampler)


def test_an_epoch_takes_city_after_city_each_in_a_new_order(gsv):
    every = read_gsv_cities(gsv, tuple(CITIES))
    sampler = PlaceSampler(every, 3, seed=1)
    batches = epoch_of(sampler, 0)
    assert len(batches) == len(sampler) == sampler.num_iterations == 4
    places = [draw.place for batch in batches for draw in batch]
    assert sorted(places[:5]) == list(range(5)) and sorted(places[5:9]) == [5, 6, 7, 8]
    assert sorted(places) == list(range(12))
    again = [draw.place for batch in epoch_of(sampler, 1) for draw in batch]
    assert again != places and sorted(again[:5]) == list(range(5))
    assert epoch_of(sampler, 0) == batches
    assert epoch_of(sampler, 0, first=2) == batches[2:]
    assert sampler.batch(0, 3) == batches[3]
    assert len({draw.seed for batch in batches for draw in batch}) == 12


def test_fewer_batches_are_drawn_among_all(gsv):
    every = read_gsv_cities(gsv)
    whole, part = PlaceSampler(every, 2, seed=1), PlaceSampler(every, 2, seed=1, most=2)
    assert (whole.num_iterations, part.num_iterations, len(part)) == (6, 2, 2)
    found = set()
    for epoch in range(20):
        all_places = [[draw.place for draw in batch] for batch in epoch_of(whole, epoch)]
        places = [[draw.place for draw in batch] for batch in epoch_of(part, epoch)]
        assert len(places) == 2 and all(batch in all_places for batch in places)
        found |= {all_places.index(batch) for batch in places}
        assert part.batch(epoch, 1) == epoch_of(part, epoch)[1]
    assert found == set(range(6))
    assert PlaceSampler(every, 2, seed=1, most=9).num_iterations == 6


def test_processes_share_each_batch(gsv):
    every = read_gsv_cities(gsv)
    whole = epoch_of(PlaceSampler(every, 4, seed=5), 2)
    shares = [epoch_of(PlaceSampler(every, 4, seed=5, share=(rank, 2)), 2) for rank in range(2)]
    assert [one + two for one, two in zip(*shares, strict=True)] == whole


def test_places_with_more_images_come_earlier_as_images_are_shuffled(tmp_path):
    """The first place has 16 of 20 images: it is first in 4 of 5 epochs."""
    rows = [(0 if i < 16 else 1, 2010, 1, i, "A", 1.0, 2.0, f"p{i}") for i in range(20)]
    write_table(tmp_path / "Dataframes" / "A.csv", rows)
    for row in rows[:: len(rows) // 4]:
        write_image(tmp_path / "Images" / "A" / file_name(*row), (8, 8))
    sampler = PlaceSampler(read_gsv_cities(tmp_path), 2, seed=0)
    first = Counter(sampler.batch(epoch, 0)[0].place for epoch in range(500))
    assert first[0] / 500 == pytest.approx(16 / 20, abs=0.06)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Return places of a folder with '@' names: 4 x 3 cells of 10 m with 4 images each."""
    folder = tmp_path_factory.mktemp("at")
    for east in range(4):
        for north in range(3):
            for number in range(4):
                file = name(10.0 * east + 1 + number, 10.0 * north + 1, 5, pano_id=f"{number}")
                write_image(folder / "train" / file, (8, 8), colour=[50 * east, 50 * north, 9])
    params = PartitionParams(N=2, L=1, min_images_per_class=4)
    return load_index(folder / "train", params, folder / "cache")


def test_classes_are_places_and_a_batch_is_of_one_group(classes):
    places = places_of_classes(classes)
    assert (places.num_places, places.num_images, len(places.parts)) == (12, 48, 4)
    assert places.digest == classes.digest and not places.is_joined
    sampler = PlaceSampler(places, 2, seed=0)
    batches = epoch_of(sampler, 0)
    assert len(batches) == 6  # of groups of 4, 2, 4 and 2 classes
    for batch in batches:
        parts = [np.searchsorted(places.part_starts, d.place, side="right") for d in batch]
        assert len(set(parts)) == 1
    cells = np.array([classes.class_cells[[d.place for d in batch]][:, :2] for batch in batches])
    assert np.abs(cells[:, 0] - cells[:, 1]).max(axis=1).min() >= 20  # metres: they do not touch
    with pytest.raises(ValueError, match="is 5 places, .* has 4 of one group: lower it, or .* --N"):
        PlaceSampler(places, 5, seed=0)
    assert "48 images of 12 places in 4 groups" in places.describe()
    assert len(places.sample_images(5, seed=0)) == 5


def test_a_set_travels_to_spawned_workers(classes, gsv):
    for places in (places_of_classes(classes), read_gsv_cities(gsv)):
        copy = pickle.loads(pickle.dumps(places))
        last = places.num_images - 1
        assert copy.path(last) == places.path(last) and copy.digest == places.digest


def test_too_few_places_are_refused(gsv):
    with pytest.raises(ValueError, match=r"--batch_size is 13 places, .* has 12: lower it"):
        PlaceSampler(read_gsv_cities(gsv), 13, seed=0)


def test_images_of_a_place_are_drawn_without_repetition_by_its_seed(gsv):
    every = read_gsv_cities(gsv)
    dataset = PlaceDataset(every, 4, plain)
    drawn = [dataset.paths(PlaceDraw(2, seed)) for seed in range(40)]
    files = {every.path(image) for image in every.images(2)}
    assert all(len(set(paths)) == 4 and set(paths) <= files for paths in drawn)
    counts = Counter(path for paths in drawn for path in paths)
    assert len(counts) == 5 and min(counts.values()) > 20
    sample = dataset[PlaceDraw(2, 7)]
    means = [load_image(path).float().mean((1, 2)) for path in drawn[7]]
    assert torch.equal(sample.image[:, :3, 0, 0], torch.stack(means))
    assert len(set(sample.image[:, 3, 0, 0].tolist())) == 4  # a seed for each image
    assert torch.equal(dataset[PlaceDraw(2, 7)].image, sample.image)


def test_missing_images_are_replaced_by_others_of_their_place_then_by_another_place(tmp_path):
    """London's place 0 lacks image 1, of its place 1 there are only 3 left, none of Boston."""
    write_gsv_cities(tmp_path, {"London": 4, "Boston": 3}, missing=(1, 5, 6))
    places = read_gsv_cities(tmp_path, ("London", "Boston"))
    shutil.rmtree(tmp_path / "Images" / "Boston")
    dataset = PlaceDataset(places, 4, plain)
    sizes = []
    for seed in range(8):
        sample = dataset[PlaceDraw(0, seed)]
        assert sample.label == 0 and len(sample.image) == 4
        sizes.append(len(sample.unreadable))
        assert all("There is no image" in text for text in sample.unreadable)
    assert set(sizes) == {0, 1}
    sample = dataset[PlaceDraw(1, 0)]
    assert sample.label == 2 and len(sample.unreadable) == 2
    with pytest.raises(ValueError, match=r"places in a row have fewer than 4 .* There is no image"):
        dataset[PlaceDraw(3, 0)]
    assert len(dataset.paths(PlaceDraw(3, 0))) == 4
    assert len(places.sample_images(100, seed=0)) == 12  # those that exist


def augmented_by_torchvision(image, seed, size, params, interpolation):
    torch.manual_seed(seed)
    image = to_pil_image(resize(image, size, interpolation, antialias=True))
    image = RandAugment(
        params.rand_augment,
        params.rand_augment_magnitude,
        interpolation=InterpolationMode.BILINEAR,
    )(image)
    mean, std = (torch.tensor(one)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
    return (to_tensor(image) - mean) / std


@pytest.mark.parametrize(
    ("params", "interpolation"),
    [
        (RandAugmentParams(), InterpolationMode.BILINEAR),
        (RandAugmentParams(2, 15, "bicubic"), InterpolationMode.BICUBIC),
        (RandAugmentParams(0), InterpolationMode.BILINEAR),
    ],
)
def test_augmentation_is_torchvisions_with_the_images_own_seed(params, interpolation):
    image = torch.randint(256, (3, 30, 50), dtype=torch.uint8)
    augmentation = RandAugmentation(params, (24, 32))
    torch.manual_seed(11)
    state = torch.get_rng_state()
    results = [augmentation(image, seed) for seed in range(12)]
    assert torch.equal(torch.get_rng_state(), state)
    for seed, result in enumerate(results):
        wanted = augmented_by_torchvision(image, seed, [24, 32], params, interpolation)
        assert torch.allclose(result, wanted, atol=1e-6) and result.dtype == torch.float32
    differs = [not torch.equal(results[0], result) for result in results[1:]]
    assert any(differs) == (params.rand_augment > 0)


def test_strengths_out_of_range_are_refused():
    for arguments, flag in (
        ((-1,), "--rand_augment "),
        ((3, 31), "--rand_augment_magnitude"),
        ((3, 9, "nearest"), "--train_interpolation"),
    ):
        with pytest.raises(ValueError, match=flag):
            RandAugmentParams(*arguments)


def test_the_fixture_has_the_names_of_the_tables(gsv):
    rows = list(csv.reader(io.StringIO((gsv / "Dataframes" / "London.csv").read_text())))[1:]
    assert {file_name(*row) for row in rows} == {
        path.name for path in (gsv / "Images" / "London").iterdir()
    }
