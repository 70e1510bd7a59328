import numpy as np
import pytest
import torch
from conftest import write_image
from PIL import Image

from datasets.image_paths import list_images
from datasets.images import IMAGENET_MEAN, IMAGENET_STD
from evaluation.descriptors import Inference, extract_descriptors, parse_resize

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
    descriptors, image_sizes = extract_descriptors(mean_and_size, paths, "none", inference)
    assert descriptors.dtype == np.float32
    np.testing.assert_allclose(descriptors, [by_hand(path) for path in paths], atol=1e-4)
    assert image_sizes == {"30x20": 8, "20x30": 8, "24x24": 7}


def test_batches_hold_images_of_one_size(mixed_folder):
    shapes = []

    def model(images):
        shapes.append(tuple(images.shape))
        return mean_and_size(images)

    extract_descriptors(model, list_images(mixed_folder), "none", Inference(CPU, 12))
    assert sum(shape[0] for shape in shapes) == 23
    assert len(shapes) == 6, "three sizes in each of two loaded batches"


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [("16", {"24x16": 8, "16x24": 8, "16x16": 7}), ("10x40", {"10x40": 23})],
)
def test_resize_rules(mixed_folder, rule, sizes):
    paths = list_images(mixed_folder)
    _, image_sizes = extract_descriptors(mean_and_size, paths, rule, Inference(CPU))
    assert image_sizes == sizes


@pytest.mark.parametrize(
    ("rule", "expected"), [("none", []), ("480", [480]), ("480x640", [480, 640]), ("8X9", [8, 9])]
)
def test_parse_resize(rule, expected):
    assert parse_resize(rule) == expected


@pytest.mark.parametrize("rule", ["", "big", "0", "480x", "1x2x3", "-4", "4.5"])
def test_bad_resize_rules_are_refused(rule):
    with pytest.raises(ValueError, match="A resize rule is"):
        parse_resize(rule)


def test_broken_descriptors_name_the_image(mixed_folder):
    write_image(mixed_folder / "black.png", (24, 24), (0, 0, 0))

    def model(images):
        descriptors = mean_and_size(images)
        descriptors[descriptors[:, 0] < -2] = torch.nan
        return descriptors

    with pytest.raises(ValueError, match="descriptor of .*black.png is not finite"):
        extract_descriptors(model, list_images(mixed_folder), "none", Inference(CPU))


def test_unreadable_image_is_an_error_that_names_it(mixed_folder):
    (mixed_folder / "11.png").write_bytes(b"broken")
    for num_workers in (0, 1):
        with pytest.raises(ValueError, match="11.png cannot be read"):
            extract_descriptors(
                mean_and_size, list_images(mixed_folder), "none", Inference(CPU, 4, num_workers)
            )
