"""The augmentation of a batch on a device: each operation of torch serves many images.

All that differs between images (factors, crops, the order of the steps) is a tensor, made on the
host and copied once: neither does the host wait for the device nor the device for the host.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from datasets.augmenting.recipes import NUM_STEPS, STEP, Recipe
from datasets.images import IMAGENET_MEAN, IMAGENET_STD

_PIXELS_AT_ONCE = 1 << 23  # 32 images of 512 x 512; they take 0.5 GB on the way
_HUE = STEP.names.index("hue")


def augment_batch(
    images: Sequence[torch.Tensor], recipes: Sequence[Recipe], image_size: int
) -> torch.Tensor:
    """Augment images.

    Args:
        images: uint8 [3, H, W] of any sizes, on one device.
        recipes: What is done to each image.
        image_size: Side of the results.

    Returns:
        float32 [B, 3, image_size, image_size], ImageNet-normalised.
    """
    augmented = [torch.empty(0)] * len(images)
    for numbers in _equal_sizes(images, recipes):
        chunk = torch.stack([images[number] for number in numbers])
        results = _augment_equal_sizes(chunk, [recipes[number] for number in numbers], image_size)
        for number, result in zip(numbers, results, strict=True):
            augmented[number] = result
    return torch.stack(augmented)


def _equal_sizes(images: Sequence[torch.Tensor], recipes: Sequence[Recipe]) -> Iterator[list[int]]:
    """Split images into those of equal size, not too many at once, ordered by their hue's step."""
    by_size = defaultdict(list)
    for number in sorted(range(len(images)), key=lambda number: _hue_step(recipes[number])):
        by_size[images[number].shape].append(number)
    for (_, height, width), numbers in by_size.items():
        at_once = max(1, _PIXELS_AT_ONCE // (height * width))
        yield from (numbers[i : i + at_once] for i in range(0, len(numbers), at_once))


def _hue_step(recipe: Recipe) -> int:
    """Return at which step the hue turns; NUM_STEPS if it does not."""
    return next((i for i, turns in enumerate(recipe.steps["hue"]) if turns), NUM_STEPS)


def _augment_equal_sizes(
    images: torch.Tensor, recipes: Sequence[Recipe], image_size: int
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
    recipes: Sequence[Recipe], device: torch.device
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
