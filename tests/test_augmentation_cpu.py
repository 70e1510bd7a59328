import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets import augmentation_cpu
from datasets.augmentation import (
    Augmentation,
    AugmentationParams,
    AugmentationRecipe,
    augment_batch,
)
from datasets.augmentation_cpu import NUM_STEPS, STEP, augment_image

UNCHANGED = (1, 0, 0, 0)


def augment_alone_in_batch(image, recipe, image_size):
    return augment_batch([image], [recipe], image_size)[0]


def augment_by_kernel(image, recipe, image_size):
    return augment_image(image, *recipe, (image_size, image_size))


both_ways = pytest.mark.parametrize("augment", [augment_by_kernel, augment_alone_in_batch])


def make_recipe(crop, *steps):
    return AugmentationRecipe(
        np.array([*steps, *[UNCHANGED] * (NUM_STEPS - len(steps))], STEP), crop
    )


def colours(augmented):
    """Undo the normalisation: colours from 0 to 1."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return augmented * std[:, None, None] + mean[:, None, None]


def random_images(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes
    ]


@both_ways
@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (1 / 3, (0, 1, 0)),
        (-1 / 3, (0, 0, 1)),
        (1 / 6, (1, 1, 0)),
        (-1 / 6, (1, 0, 1)),
        (1 / 2, (0, 1, 1)),
        (-1 / 2, (0, 1, 1)),
        (1 / 12, (1, 0.5, 0)),
    ],
)
def test_red_turns_to_other_colours(augment, turns, expected):
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    turned = colours(augment(red, make_recipe((0, 0, 2, 2), (1, 0, 0, turns)), 2))
    torch.testing.assert_close(
        turned, torch.tensor(expected)[:, None, None].expand(3, 2, 2).float(), atol=1e-5, rtol=0
    )


@both_ways
def test_contrast_mixes_with_the_mean_of_the_whole_image(augment):
    """Not with that of the crop, and after the steps before it: the white half is halved."""
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    image[:, :, 2:] = 255
    halve, flatten = (0.5, 0, 0, 0), (0, 1, 0, 0)
    black_half = make_recipe((0, 0, 4, 2), halve, flatten)
    torch.testing.assert_close(
        colours(augment(image, black_half, 3)), torch.full((3, 3, 3), 0.25 * 0.9999)
    )


@both_ways
def test_crop_is_resized_by_hand(augment):
    ramp = torch.arange(0, 240, 10, dtype=torch.uint8).view(4, 6).expand(3, 4, 6)
    means = colours(augment(ramp, make_recipe((0, 1, 4, 4)), 2)) * 255
    # Two pixels to one: weights 1, 3, 3, 1 around its centre; the edge has 3, 3, 1.
    across = [(3 * 1 + 3 * 2 + 3) / 7, (2 + 3 * 3 + 3 * 4) / 7]
    down = [(3 * 0 + 3 * 6 + 12) / 7, (6 + 3 * 12 + 3 * 18) / 7]
    expected = torch.tensor([[10 * (x + y) for x in across] for y in down])
    torch.testing.assert_close(means, expected.expand(3, 2, 2), atol=1e-3, rtol=0)


def test_batch_of_mixed_sizes_equals_the_kernel(monkeypatch):
    """Also where the images of a size are too many to be augmented at once."""
    sizes = [(20, 30), (30, 20), (20, 30), (25, 25), (20, 30), (20, 30), (30, 20), (1, 1)]
    images, augmentation = random_images(*sizes), Augmentation(AugmentationParams(24))
    for first_seed in range(0, 80, len(images)):
        draw = augmentation.draw
        recipes = [draw(image, first_seed + i) for i, image in enumerate(images)]
        expected = torch.stack(
            [augment_by_kernel(*pair, 24) for pair in zip(images, recipes, strict=True)]
        )
        for pixels in (1 << 23, 2 * 20 * 30, 1):
            monkeypatch.setattr("datasets.augmentation._PIXELS_AT_ONCE", pixels)
            actual = augment_batch(images, recipes, 24)
            torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_copies_in_other_processes_do_the_same():
    augmentation = Augmentation(AugmentationParams(16))
    (image,) = random_images((20, 20))
    copied = pickle.loads(pickle.dumps(augmentation))
    assert torch.equal(copied(image, 3), augmentation(image, 3))


AUGMENT = """
import torch
from datasets.augmentation import Augmentation, AugmentationParams
from datasets import augmentation_cpu
image = torch.arange(240).to(torch.uint8).view(3, 8, 10)
augmented = Augmentation(AugmentationParams(8))(image, 4)
loaded = sum(augmentation_cpu._augment.stats.cache_hits.values())
print(loaded, augmented.double().sum().item())
"""


def start(folder, **environment):
    """Augment in a new process; it prints how often code was loaded, and the sum of the values."""
    return subprocess.Popen(
        [sys.executable, "-c", AUGMENT],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(folder)} | environment,
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    loaded, total = output.split()
    return int(loaded), float(total)


def expected_total():
    image = torch.arange(240).to(torch.uint8).view(3, 8, 10)
    return Augmentation(AugmentationParams(8))(image, 4).double().sum().item()


def test_processes_that_start_together_compile_once(tmp_path):
    """Slow: the compiler takes seconds."""
    processes = [start(REPOSITORY, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    results = [finish(process) for process in processes]
    assert sorted(loaded for loaded, _ in results) == [0, 1], "one compiled, one loaded that"
    assert {total for _, total in results} == {expected_total()}


def test_without_a_writable_folder_it_compiles_for_itself(tmp_path):
    """As in an installation that is read only, for a user without a home.

    Slow: the compiler takes seconds.
    """
    shutil.copytree(
        REPOSITORY / "datasets", tmp_path / "datasets", ignore=shutil.ignore_patterns("__pycache__")
    )
    for file in ("commons.py", "machine.py", "packages.py", "stops.py"):
        shutil.copy(REPOSITORY / file, tmp_path)
    (tmp_path / "datasets" / "__pycache__").touch()  # no folder can be made
    nowhere = dict.fromkeys(("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"), "/dev/null/nowhere")
    assert finish(start(tmp_path, **nowhere)) == (0, expected_total())


def test_one_signature_is_compiled():
    """Two would race for the names of their files."""
    augmentation = Augmentation(AugmentationParams(8))
    for image in random_images((5, 9), (9, 5), (1, 1)):
        augmentation(image, 0)
        augmentation(image.contiguous(memory_format=torch.contiguous_format), 1)
        augmentation(image.permute(1, 2, 0).contiguous().permute(2, 0, 1), 2)
    assert len(augmentation_cpu._augment.signatures) == 1
