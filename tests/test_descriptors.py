import numpy as np
import pytest
import torch
from conftest import write_image
from PIL import Image

from datasets.image_paths import list_images
from datasets.images import IMAGENET_MEAN, IMAGENET_STD
from evaluation.descriptors import Inference, extract_descriptors
from evaluation.views import View

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

    extract_descriptors(model, list_images(mixed_folder), View(), Inference(CPU, 12))
    assert sum(shape[0] for shape in shapes) == 23
    assert len(shapes) == 6, "three sizes in each of two loaded batches"


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
