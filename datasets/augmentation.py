"""Augmentation of training images, the same in workers and on a device.

All that is random follows from the seed of an image; torchvision draws it. In workers,
`augmentation_cpu` does one image at a time. On a device, each operation of torch serves many
images: all that differs between them (factors, crops, the order of the steps) is a tensor, made on
the host and copied once, so that neither host nor device waits for the other.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms import ColorJitter, RandomResizedCrop

from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets.augmentation_cpu import NUM_STEPS, STEP, augment_image, compile_kernel

_HUE = STEP.names.index("hue")
_UNCHANGED = (1.0, 0.0, 0.0, 0.0)
_RATIOS = (3 / 4, 4 / 3)  # of width to height of the crop
_PIXELS_AT_ONCE = 1 << 23  # 32 images of 512 x 512; they take 0.5 GB on the way


@dataclass(frozen=True)
class AugmentationParams:
    """Strength of the augmentation; the defaults are the paper's."""

    image_size: int = 512  # side of the square output, pixels
    brightness: float = 0.7  # factor from [1 - b, 1 + b]
    contrast: float = 0.7
    saturation: float = 0.7
    hue: float = 0.5  # shift from [-h, h] turns, at most 0.5
    random_resized_crop: float = 0.5  # the crop covers at least 1 - r of the image's area

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.image_size < 1:
            raise ValueError(f"--image_size must be at least 1 pixel, it is {self.image_size}")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, it is {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"--hue must be in 0 to 0.5, it is {self.hue}")
        if not 0 <= self.random_resized_crop < 1:
            raise ValueError(
                f"--random_resized_crop must be in 0 to 1, 1 excluded, "
                f"it is {self.random_resized_crop}"
            )


class Augmentation:
    """Colour jitter, random resized crop, normalisation (paper supplementary, section 2.2).

    Each image has a seed of its own: the result does not depend on which worker or which batch it
    is in, and on the device by rounding only.
    """

    def __init__(self, params: AugmentationParams) -> None:
        """Make ready; the first time on a machine, this compiles for some seconds."""
        self.image_size = params.image_size
        jitter = ColorJitter(params.brightness, params.contrast, params.saturation, params.hue)
        self._ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        self._areas = (1 - params.random_resized_crop, 1.0)
        compile_kernel()

    def __call__(self, image: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment one image.

        Args:
            image: uint8 [3, H, W], any size, on any device.
            seed: Decides all random choices.

        Returns:
            float32 [3, image_size, image_size], ImageNet-normalised, on the image's device.
        """
        if image.device.type != "cpu":
            return self.batch([image], [seed])[0]
        size = self.image_size, self.image_size
        return augment_image(image, *self.draw(image, seed), size)

    def batch(self, images: Iterable[torch.Tensor], seeds: Iterable[int]) -> torch.Tensor:
        """Augment images of any sizes into one batch.

        Args:
            images: uint8 [B, 3, H, W], or B of uint8 [3, H, W] of any sizes; on one device.
            seeds: One for each image.

        Returns:
            float32 [B, 3, image_size, image_size], ImageNet-normalised, on the images' device.
        """
        images, seeds = list(images), [int(seed) for seed in seeds]
        if images[0].device.type == "cpu":
            return torch.stack([self(*pair) for pair in zip(images, seeds, strict=True)])
        recipes = [self.draw(*pair) for pair in zip(images, seeds, strict=True)]
        return augment_batch(images, recipes, self.image_size)

    def draw(self, image: torch.Tensor, seed: int) -> "AugmentationRecipe":
        """Draw a recipe for an image [3, H, W]; only its size counts.

        Torchvision itself draws, so that a seed means what it would mean for its transforms. It
        draws from the global generator of the CPU, whose state is restored.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            order, *factors = ColorJitter.get_params(*self._ranges)
            crop = RandomResizedCrop.get_params(image, self._areas, _RATIOS)
        steps = [_make_step(kind, factors[kind]) for kind in order.tolist()]
        return AugmentationRecipe(np.array(steps, STEP), crop)


class AugmentationRecipe(NamedTuple):
    """The steps of the colour jitter of one image, and its crop.

    A step of the colour jitter turns the hue or, if its hue is 0, makes each colour x of a pixel
    `amount * x + mean_grey * (mean grey of the image) + grey * (grey of the pixel)`, clamped to
    0 to 1: for brightness, both greys are 0; contrast mixes with the mean, saturation with the
    pixel's own. A step left out has amount 1 and zeros.
    """

    steps: np.ndarray  # STEP [NUM_STEPS]; hue in turns
    crop: tuple[int, int, int, int]  # top, left, height, width in pixels


def _make_step(kind: int, factor: float | None) -> tuple[float, float, float, float]:
    """Return a STEP.

    Args:
        kind: Torchvision's index: 0 brightness, 1 contrast, 2 saturation, 3 hue.
        factor: None leaves the step out.
    """
    if factor is None:
        return _UNCHANGED
    return (
        (factor, 0.0, 0.0, 0.0),
        (factor, 1 - factor, 0.0, 0.0),
        (factor, 0.0, 1 - factor, 0.0),
        (1.0, 0.0, 0.0, factor),
    )[kind]


def augment_batch(
    images: Sequence[torch.Tensor], recipes: Sequence[AugmentationRecipe], image_size: int
) -> torch.Tensor:
    """Augment images.

    Args:
        images: uint8 [3, H, W] of any sizes, on one device.
        recipes: One for each image.
        image_size: Side of the results.

    Returns:
        float32 [B, 3, image_size, image_size], ImageNet-normalised.
    """
    augmented = [torch.empty(0)] * len(images)
    for indices in _equal_sizes(images, recipes):
        chunk = torch.stack([images[index] for index in indices])
        results = _augment_equal_sizes(chunk, [recipes[index] for index in indices], image_size)
        for index, result in zip(indices, results, strict=True):
            augmented[index] = result
    return torch.stack(augmented)


def _equal_sizes(
    images: Sequence[torch.Tensor], recipes: Sequence[AugmentationRecipe]
) -> Iterator[list[int]]:
    """Yield indices of images of equal size, not too many at once, ordered by their hue's step."""
    by_size = defaultdict(list)
    for index in sorted(range(len(images)), key=lambda index: _hue_step(recipes[index])):
        by_size[images[index].shape].append(index)
    for (_, height, width), indices in by_size.items():
        at_once = max(1, _PIXELS_AT_ONCE // (height * width))
        yield from (indices[i : i + at_once] for i in range(0, len(indices), at_once))


def _hue_step(recipe: AugmentationRecipe) -> int:
    """Return the step that turns the hue; NUM_STEPS if none does."""
    return next((i for i, turns in enumerate(recipe.steps["hue"]) if turns), NUM_STEPS)


def _augment_equal_sizes(
    images: torch.Tensor, recipes: Sequence[AugmentationRecipe], image_size: int
) -> torch.Tensor:
    """Augment images [B, 3, H, W] that are ordered by their hue's step."""
    steps, crops = _to_device(recipes, images.device)
    hue_steps = [_hue_step(recipe) for recipe in recipes]
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    for i in range(NUM_STEPS):
        _blend_(pixels, steps[:, i])
        turned = slice(bisect_left(hue_steps, i), bisect_right(hue_steps, i))
        _turn_hue_(pixels[turned], steps[turned, i, _HUE])
    top, left, height, width = crops[:, :, None, None].unbind(1)  # each [B, 1, 1]
    rows = _triangle_weights(top, height, images.shape[2], image_size)
    columns = _triangle_weights(left, width, images.shape[3], image_size)
    pixels = rows[:, None] @ pixels @ columns[:, None].mT
    for channel, mean, std in zip(pixels.unbind(1), IMAGENET_MEAN, IMAGENET_STD, strict=True):
        channel.sub_(mean).div_(std)
    return pixels


def _to_device(
    recipes: Sequence[AugmentationRecipe], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return steps, float32 [B, NUM_STEPS, 4], and crops, float32 [B, 4]."""
    packed = [(*recipe.steps.view(np.float32), *recipe.crop) for recipe in recipes]
    packed = torch.tensor(packed, dtype=torch.float32)
    if device.type == "cuda":
        packed = packed.pin_memory()  # else the host waits for the copy
    packed = packed.to(device, non_blocking=True)
    return packed[:, :-4].unflatten(1, (NUM_STEPS, 4)), packed[:, -4:]


def _blend_(pixels: torch.Tensor, step: torch.Tensor) -> None:
    """Apply a step [B, 4] to the colours of pixels [B, 3, H, W]; a step of hue changes nothing."""
    amount, mean_grey, grey, _ = step[:, :, None, None, None].unbind(1)  # each [B, 1, 1, 1]
    red, green, blue = pixels.split(1, dim=1)
    greys = (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    means = greys.mean((1, 2, 3), keepdim=True)
    added = greys.mul_(grey).add_(mean_grey * means)
    pixels.mul_(amount).add_(added).clamp_(0, 1)


def _turn_hue_(pixels: torch.Tensor, turns: torch.Tensor) -> None:
    """Turn the hue of pixels [B, 3, H, W] by turns [B]; the formulas are those of the kernel."""
    red, green, blue = pixels.unbind(1)
    low, high = torch.aminmax(pixels, dim=1)
    spread = high - low
    hue = torch.where(high == green, blue - red + 2 * spread, red - green + 4 * spread)
    hue = torch.where(high == red, green - blue, hue)
    hue = hue.div_(torch.where(spread > 0, spread, 1)).add_(6 * turns[:, None, None]).remainder_(6)
    for colour, rise in (
        (red, (hue - 3).abs_().sub_(1)),
        (green, 2 - (hue - 2).abs_()),
        (blue, 2 - (hue - 4).abs_()),
    ):
        torch.addcmul(low, spread, rise.clamp_(0, 1), out=colour)


def _triangle_weights(
    start: torch.Tensor, length: torch.Tensor, size_in: int, size_out: int
) -> torch.Tensor:
    """Return the weights of a crop's pixels in each pixel of its antialiased resize.

    They fall linearly with the distance to the output's centre: over one input pixel when
    enlarging (bilinear interpolation), over one output pixel when reducing.

    Args:
        start: First pixel of the crop. [B, 1, 1].
        length: Number of its pixels. [B, 1, 1].
        size_in: Of the image.
        size_out: Of the resized crop.

    Returns:
        float32 [B, size_out, size_in], 0 outside the crop; each row sums to 1.
    """
    scale = length / size_out
    places = torch.arange(size_in, device=start.device) - start  # [B, 1, size_in]
    centres = scale * (torch.arange(size_out, device=start.device)[:, None] + 0.5) - 0.5
    weights = (1 - (places - centres).abs() / scale.clamp(min=1)).clamp_(min=0)
    weights *= (places >= 0) & (places < length)
    return weights / weights.sum(2, keepdim=True)
