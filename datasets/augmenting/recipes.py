"""What is random in the augmentation of an image; all of it follows from the image's seed."""

from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms import ColorJitter, RandomResizedCrop

NUM_STEPS = 4  # of the colour jitter, in random order
STEP = np.dtype([(name, np.float32) for name in ("amount", "mean_grey", "grey", "hue")])
_UNCHANGED = (1.0, 0.0, 0.0, 0.0)
_RATIOS = (3 / 4, 4 / 3)  # of width to height of the crop


class Recipe(NamedTuple):
    """What is done to one image.

    A step of the colour jitter turns the hue or, if its hue is 0, makes each colour x of a pixel
    `amount * x + mean_grey * (mean grey of the image) + grey * (grey of the pixel)`, clamped to
    0 to 1: for brightness, both greys are 0; contrast mixes with the mean, saturation with the
    pixel's own. A step that is left out has amount 1 and zeros.
    """

    steps: np.ndarray  # STEP [NUM_STEPS]; hue in turns
    crop: tuple[int, int, int, int]  # top, left, height, width in pixels


class RandomRecipes:
    """The distribution of torchvision's ColorJitter and RandomResizedCrop.

    Torchvision itself draws: a seed means what it would mean for its transforms.
    """

    def __init__(self, jitter: tuple[float, float, float, float], smallest_crop: float) -> None:
        """Set the strengths.

        Args:
            jitter: Of brightness, contrast, saturation, hue, as ColorJitter takes them.
            smallest_crop: Share of the image's area that a crop covers at least.
        """
        ranges = ColorJitter(*jitter)
        self._ranges = (ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue)
        self._areas = (smallest_crop, 1.0)

    def draw(self, image: torch.Tensor, seed: int) -> Recipe:
        """Draw a recipe for an image [3, H, W], of which only the size counts.

        Torchvision draws from the global generator of the CPU, which is as before afterwards.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            order, *factors = ColorJitter.get_params(*self._ranges)
            crop = RandomResizedCrop.get_params(image, self._areas, _RATIOS)
        steps = [_make_step(kind, factors[kind]) for kind in order.tolist()]
        return Recipe(np.array(steps, STEP), crop)


def _make_step(kind: int, factor: float | None) -> tuple[float, float, float, float]:
    """Return a STEP.

    Args:
        kind: Torchvision's number: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        factor: None if the step is left out.
    """
    if factor is None:
        return _UNCHANGED
    return (
        (factor, 0.0, 0.0, 0.0),
        (factor, 1 - factor, 0.0, 0.0),
        (factor, 0.0, 1 - factor, 0.0),
        (1.0, 0.0, 0.0, factor),
    )[kind]
