from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import write_image
from PIL import Image

from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets.image_lists import list_images
from evaluation.batches import window_size
from evaluation.descriptors import Inference, extract_descriptors, fill_rows
from evaluation.rows import UNREADABLE, MemoryRows
from evaluation.views import View
from model.network import build_network

CPU = torch.device("cpu")


def mean_and_size(images):
    """Describe images by their mean colour and their size."""
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
    assert extraction.unreadable == [3, 11]
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
    bounds = [0, window_size(1), 2 * window_size(1), 23]
    whole = extract_descriptors(model, paths, View(), inference).descriptors
    for first, last in pairwise(bounds):
        rows = MemoryRows(range(first, last))
        fill_rows(rows, model, paths, View(), inference, "Shard")
        np.testing.assert_array_equal(rows.descriptors(rows.shape), whole[first:last])


def test_what_is_described_already_is_left_alone(mixed_folder):
    paths, seen = list_images(mixed_folder), []

    def model(images):
        seen.append(len(images))
        return mean_and_size(images)

    rows = MemoryRows(range(23))
    fill_rows(rows, model, paths, View(), Inference(CPU, 1), "First")
    rows.sizes[8:11] = 0  # of the second of three windows
    rows.sizes[22] = UNREADABLE  # of the third
    seen.clear()
    fill_rows(rows, model, paths, View(), Inference(CPU, 1), "Again")
    assert sum(seen) == 15 and (rows.sizes > 0).all()
    fill_rows(rows, None, paths, View(), Inference(CPU, 1), "Nothing is left")


def test_descriptors_may_be_kept_as_float16(mixed_folder):
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_gpu_gives_the_same_descriptors(mixed_folder, num_workers):
    paths, gpu = list_images(mixed_folder), torch.device("cuda")
    expected = extract_descriptors(mean_and_size, paths, View(), Inference(CPU, 2))
    found = extract_descriptors(mean_and_size, paths, View(), Inference(gpu, 2, num_workers))
    np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=1e-4)
    assert found.image_sizes == expected.image_sizes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_16_bits_on_a_gpu_change_descriptors_a_little(mixed_folder):
    paths, gpu = list_images(mixed_folder), torch.device("cuda")
    torch.manual_seed(0)
    network = build_network("ResNet18", 32, backbone_weights="none").eval().to(gpu)
    exact, rounded = (
        extract_descriptors(network, paths, View(), Inference(gpu, 4, use_amp16=use)).descriptors
        for use in (False, True)
    )
    assert 0 < np.abs(exact - rounded).max() < 1e-2
