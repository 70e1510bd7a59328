import os
import signal
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import write_image
from made_rows import make_rows
from PIL import Image
from torch.utils.data import DataLoader

from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets.image_lists import list_images
from datasets.loading import ImageDataset, collate_by_size
from evaluation import descriptors
from evaluation.descriptors import (
    Inference,
    batch_by_size,
    collect_rows,
    extract_descriptors,
    extract_rows,
    load_windows,
    split_range,
    stack_rows,
    summarise_sizes,
)
from evaluation.views import View

CPU = torch.device("cpu")


def mean_and_size(images):
    """Return mean colours and sizes of images as descriptors."""
    height, width = images.shape[2:]
    size = torch.tensor([[height, width]]).expand(len(images), 2)
    return torch.cat((images.mean((2, 3)), size.float()), dim=1)


@pytest.fixture
def mixed_folder(tmp_path):
    """Return a folder with 23 images of three sizes, mixed."""
    for number in range(23):
        write_image(
            tmp_path / "set" / f"{number:02d}.png", [(20, 30), (30, 20), (24, 24)][number % 3]
        )
    return tmp_path / "set"


def by_hand(path):
    pixels = np.array(Image.open(path)) / 255
    colour = (pixels.mean((0, 1)) - IMAGENET_MEAN) / IMAGENET_STD
    return [*colour, *pixels.shape[:2]]


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (4, 0), (5, 2), (64, 0)])
def test_mixed_sizes_come_out_in_order(mixed_folder, batch_size, num_workers):
    paths = list_images(mixed_folder)
    inference = Inference(CPU, batch_size, num_workers)
    extraction = extract_descriptors(mean_and_size, paths, View(), inference)
    assert extraction.descriptors.dtype == np.float32
    expected = [by_hand(path) for path in paths]
    np.testing.assert_allclose(extraction.descriptors, expected, atol=1e-4)
    assert extraction.image_sizes == {"30x20": 8, "20x30": 8, "24x24": 7}


def test_batches_hold_images_of_one_size(mixed_folder):
    shapes = []

    def model(images):
        shapes.append(tuple(images.shape))
        return mean_and_size(images)

    extract_descriptors(model, list_images(mixed_folder), View(), Inference(CPU, 5))
    assert sum(shape[0] for shape in shapes) == 23
    assert [shape[0] for shape in shapes] == [5, 5, 5, 3, 3, 2], "across loaded batches"


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [("16", {"24x16": 8, "16x24": 8, "16x16": 7}), ("10x40", {"10x40": 23})],
)
def test_resize_rules(mixed_folder, rule, sizes):
    paths = list_images(mixed_folder)
    extraction = extract_descriptors(mean_and_size, paths, View(rule), Inference(CPU))
    assert extraction.image_sizes == sizes


def test_broken_descriptors_name_the_image(mixed_folder):
    write_image(mixed_folder / "black.png", (24, 24), (0, 0, 0))

    def model(images):
        descriptors = mean_and_size(images)
        descriptors[descriptors[:, 0] < -2] = torch.nan
        return descriptors

    with pytest.raises(ValueError, match="descriptor of .*black.png is not finite"):
        extract_descriptors(model, list_images(mixed_folder), View(), Inference(CPU))


def test_unreadable_image_is_an_error_that_names_it(mixed_folder):
    (mixed_folder / "11.png").write_bytes(b"broken")
    for num_workers in (0, 1):
        with pytest.raises(ValueError, match="11.png cannot be read"):
            extract_descriptors(
                mean_and_size, list_images(mixed_folder), View(), Inference(CPU, 4, num_workers)
            )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_skipped_images_are_counted_and_have_no_descriptor(mixed_folder, num_workers):
    for number in (3, 11):
        (mixed_folder / f"{number:02d}.png").write_bytes(b"broken")
    paths = list_images(mixed_folder)
    inference = Inference(CPU, 4, num_workers, skip_unreadable=True)
    extraction = extract_descriptors(mean_and_size, paths, View(), inference)
    assert extraction.unreadable == [3, 11] and extraction.rows.tolist() == [*extraction.readable]
    assert extraction.readable.tolist() == [n for n in range(23) if n not in (3, 11)]
    assert np.isnan(extraction.descriptors[[3, 11]]).all()
    for number in extraction.readable:
        np.testing.assert_allclose(
            extraction.descriptors[number], by_hand(paths[number]), atol=1e-4
        )


def test_a_folder_of_unreadable_images_is_an_error(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jpg").write_bytes(b"broken")
    inference = Inference(CPU, skip_unreadable=True)
    with pytest.raises(ValueError, match="No image of .*set can be read, of 1"):
        extract_descriptors(mean_and_size, list_images(tmp_path / "set"), View(), inference)


def test_views_stay_apart_or_are_averaged(mixed_folder):
    """Crops by hand, with Pillow's coordinates, of images that are not resized by it."""
    paths = list_images(mixed_folder)
    apart = extract_descriptors(
        mean_and_size, paths, View("20x20", "nearest_crop"), Inference(CPU, 5)
    )
    mean = extract_descriptors(mean_and_size, paths, View("20x20", "five_crops"), Inference(CPU, 5))
    assert apart.descriptors.shape == (23, 5, 5) and mean.descriptors.shape == (23, 5)
    np.testing.assert_allclose(mean.descriptors, apart.descriptors.mean(axis=1), atol=1e-6)
    assert apart.image_sizes == {"20x20": 23}
    pixels = np.array(Image.open(paths[1])) / 255  # 20 high, 30 wide
    for crop, left in ((0, 0), (1, 10), (2, 0), (3, 10), (4, 5)):
        colour = (pixels[:, left : left + 20].mean((0, 1)) - IMAGENET_MEAN) / IMAGENET_STD
        np.testing.assert_allclose(apart.descriptors[1, crop, :3], colour, atol=1e-4)


def test_shards_are_made_of_the_batches_of_the_whole(mixed_folder):
    """So that each number is the same to the last bit, whatever a batch does to it."""

    def model(images):
        return mean_and_size(images) + images.mean()  # also what else is in the batch

    paths, inference = list_images(mixed_folder), Inference(CPU, 1)
    bounds = [0, inference.window_size, 2 * inference.window_size, 23]
    whole = extract_descriptors(model, paths, View(), inference).descriptors
    for shard in (range(*pair) for pair in pairwise(bounds)):
        done = np.zeros(len(shard), bool)
        rows = extract_rows(model, paths, shard, done, View(), inference, "Shard")
        shard_rows = stack_rows(rows, shard, "float32")
        np.testing.assert_array_equal(shard_rows.descriptors, whole[shard.start : shard.stop])


def test_windows_of_images_that_are_done_are_left_out(mixed_folder):
    paths, seen = list_images(mixed_folder), []

    def model(images):
        seen.append(len(images))
        return mean_and_size(images)

    def extract(done):
        return list(extract_rows(model, paths, range(23), done, View(), Inference(CPU, 1), "Rest"))

    done = np.ones(23, bool)
    assert extract(done) == [] and seen == []
    done[[8, 10, 22]] = False
    assert [rows.images for rows in extract(done)] == [range(8, 16), range(16, 23)]
    assert sum(seen) == 15


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_stacked_where_their_images_are(dtype):
    parts = [
        make_rows(range(16, 20), unreadable=range(16, 20)),
        make_rows(range(8, 12), unreadable=(9,)),
        make_rows(range(10, 14), unreadable=(11,)),  # overlaps: 10 and 11 are known already
    ]
    images, array, sizes = stack_rows(parts, range(8, 20), dtype)
    assert images == range(8, 20) and array.dtype == dtype
    np.testing.assert_array_equal(array[:, 0], [8, np.nan, *range(10, 14), *[np.nan] * 6])
    assert summarise_sizes(sizes, 8) == ({(30, 20): 4, (20, 30): 1}, [9, *range(14, 20)])
    assert stack_rows(parts[:1], range(16, 20), dtype).descriptors is None


def test_a_process_without_images_has_rows_of_the_shape_of_the_others(mixed_folder, monkeypatch):
    paths = list_images(mixed_folder)
    of_other = ((5, 7), *summarise_sizes(np.full((23, 2), 9)))
    monkeypatch.setattr(descriptors, "gather", lambda own: [of_other, own])
    extraction = collect_rows([], paths, range(23, 23), "float16")
    assert extraction.descriptors.shape == (0, 5, 7) and extraction.first == 23
    assert extraction.image_sizes == {"9x9": 23} and extraction.rows is None


def test_descriptors_may_be_float16(mixed_folder):
    paths = list_images(mixed_folder)
    exact = extract_descriptors(mean_and_size, paths, View(), Inference(CPU, 4)).descriptors
    half = extract_descriptors(
        mean_and_size, paths, View(), Inference(CPU, 4, dtype="float16")
    ).descriptors
    np.testing.assert_array_equal(half, exact.astype(np.float16))
    assert half.dtype == np.float16
    with pytest.raises(ValueError, match="descriptor of .*00.png is not finite in float16"):
        extract_descriptors(
            lambda images: 1e6 * mean_and_size(images),
            paths,
            View(),
            Inference(CPU, dtype="float16"),
        )


def test_16_bits_are_refused_on_a_cpu():
    with pytest.raises(ValueError, match="--use_amp16 needs a CUDA device, this one is cpu"):
        Inference(CPU, use_amp16=True)


def load(*sizes, first=0):
    """Return a load with one image of each side length, with indices from `first`."""
    images = [torch.full((3, side, side), side, dtype=torch.uint8) for side in sizes]
    return collate_by_size([*enumerate(images, first)])


def indices_in(batches):
    return [torch.cat([indices for indices, _ in pieces]).tolist() for pieces in batches]


def batch(loads, batch_size):
    """Return the indices of the images in each batch, and check the images."""
    batches = list(batch_by_size(loads, batch_size))
    for pieces, indices in zip(batches, indices_in(batches), strict=True):
        images = torch.cat([images for _, images in pieces])
        assert len(images) == len(indices) <= batch_size
        assert (images == images.shape[3]).all(), "images of one size, each with its index"
    return indices_in(batches)


def test_images_of_one_size_wait_for_each_other_across_loads():
    loads = [load(4, 5, 4), load(5, 5, 6, first=3), load(4, 4, 5, first=6)]
    assert batch(loads, 3) == [[1, 3, 4], [0, 2, 6], [7], [8], [5]]


def test_of_one_size_each_load_is_a_batch_and_nothing_is_copied():
    loads = [load(4, 4), load(4, 4, first=2), load(4, first=4)]
    found = list(batch_by_size(loads, 2))
    assert indices_in(found) == [[0, 1], [2, 3], [4]]
    for pieces, [(_, images)] in zip(found, loads, strict=True):
        assert [piece.data_ptr() for _, piece in pieces] == [images.data_ptr()]


def test_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(descriptors, "_MAX_WAITING_BYTES", 3 * (4 * 4 + 5 * 5 + 6 * 6))
    loads = [load(4, 5, 6), load(4, first=3), load(5, first=4)]
    assert batch(loads, 3) == [[0, 3], [1], [2], [4]], "emptied when a fourth one came"


def test_windows_cover_images_once():
    assert Inference(CPU, 2).window_size == 16
    assert split_range(range(32, 75), 16) == [range(32, 48), range(48, 64), range(64, 75)]
    assert split_range(range(5, 5), 16) == []


@pytest.fixture
def paths(tmp_path):
    for number in range(45):
        size = [(8, 8), (9, 8), (8, 8), (7, 9)][number % 4]
        write_image(tmp_path / "set" / f"{number:02d}.png", size)
    return list_images(tmp_path / "set")


def indices_of(windows):
    return {images: indices_in(batches) for images, batches in windows}


WINDOWS = split_range(range(45), 16)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_a_window_depend_on_it_alone(paths, num_workers):
    of_all = indices_of(load_windows(paths, WINDOWS, Inference(CPU, 2, num_workers)))
    of_some = indices_of(load_windows(paths, WINDOWS[1:], Inference(CPU, 2, num_workers)))
    assert list(of_all) == WINDOWS and of_some == {w: of_all[w] for w in WINDOWS[1:]}
    assert sorted(sum(sum(of_all.values(), []), [])) == list(range(45))
    assert [len(found) for found in of_all.values()] == [8, 8, 8]


def test_unreadable_images_are_in_no_batch(paths):
    for number in (3, 17):
        with open(paths[number], "wb") as file:
            file.write(b"broken")
    found = indices_of(load_windows(paths, WINDOWS, Inference(CPU, 2, skip_unreadable=True)))
    expected = [number for number in range(45) if number not in (3, 17)]
    assert sorted(sum(sum(found.values(), []), [])) == expected


def test_collate_keeps_images_as_they_are(paths):
    dataset = ImageDataset(paths)
    pieces = collate_by_size([dataset[number] for number in (1, 0, 5, 3)])
    assert [numbers.tolist() for numbers, _ in pieces] == [[1, 5], [0], [3]]
    for numbers, images in pieces:
        for number, image in zip(numbers.tolist(), images, strict=True):
            np.testing.assert_array_equal(image, dataset[number][1])


def test_ctrl_c_waits_until_the_loader_has_started(paths, monkeypatch):
    def start_interrupted(loader):
        os.kill(os.getpid(), signal.SIGINT)
        started.append(start(loader))
        return started[0]

    start, started = DataLoader.__iter__, []
    monkeypatch.setattr(DataLoader, "__iter__", start_interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(load_windows(paths, WINDOWS, Inference(CPU, 2)))
    assert len(started) == 1
