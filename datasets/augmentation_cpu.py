"""The augmentation of one image on a CPU, compiled by numba.

A row of pixels goes through all steps while it is in the processor's nearest cache; operations of
torch would read and write the whole image each. One thread: loader workers are the parallelism.
"""

import contextlib
import math
import os

import numpy as np
import torch
from filelock import FileLock
from numba import njit

from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets.image_names import compile_cached

NUM_STEPS = 4  # of the colour jitter, in random order
STEP = np.dtype([(name, np.float32) for name in ("amount", "mean_grey", "grey", "hue")])
_F = np.float32  # numba takes a plain 0.5 for float64 and all that meets it becomes float64
_FASTMATH = {"contract", "reassoc", "arcp", "nsz", "nnan", "ninf"}  # pixels are finite
_SCALE = 1 / np.array(IMAGENET_STD, np.float32)
_SHIFT = -np.array(IMAGENET_MEAN, np.float32) * _SCALE


def augment_image(
    image: torch.Tensor,
    steps: np.ndarray,
    crop: tuple[int, int, int, int],
    size: tuple[int, int],
) -> torch.Tensor:
    """Augment an image.

    Args:
        image: uint8 [3, H, W] on the CPU; quickest if the colours of a pixel are side by side in
            memory, as `load_image` leaves them.
        steps: Of the colour jitter, see `augmentation.AugmentationRecipe`. STEP [NUM_STEPS], or
            fewer.
        crop: top, left, height, width in pixels.
        size: Height and width of the result.

    Returns:
        float32 [3, *size], ImageNet-normalised.
    """
    rows = image.permute(1, 2, 0).contiguous().flatten(1).numpy()  # [H, 3 * W]
    augmented = torch.empty(3, *size)
    _augment(rows, crop, steps, _SCALE, _SHIFT, augmented.numpy())
    return augmented


def compile_kernel() -> None:
    """Compile (seconds, once for an installation) or load the machine code (milliseconds).

    Done before loader workers start: forked ones have it, others load it. Numba caches machine code
    in NUMBA_CACHE_DIR, else in __pycache__, else in the user's cache folder, in files that are
    written atomically; the lock keeps processes that start together from giving one name to code
    for two processors.
    """
    folder = _augment.stats.cache_path
    with contextlib.ExitStack() as held:
        if folder is not None:
            with contextlib.suppress(OSError):  # another user's lock: then without it
                held.enter_context(FileLock(os.path.join(folder, "augmentation.lock")))
        pixel = torch.zeros(3, 1, 1, dtype=torch.uint8)
        augment_image(pixel, np.zeros(NUM_STEPS, STEP), (0, 0, 1, 1), (1, 1))


@compile_cached
def _augment(image, crop, steps, scale, shift, augmented):
    """Jitter the colours, crop, normalise, resize.

    All that it depends on is an argument or in this file: numba compiles again if these change.

    Args:
        image: uint8 [H, 3 * W].
        crop: top, left, height, width.
        steps: STEP [num_steps].
        scale: Colours are normalised to `scale * x + shift`. float32 [3].
        shift: float32 [3].
        augmented: float32 [3, rows, columns], to be written.
    """
    top, left, height, width = crop
    num_rows, num_columns = augmented.shape[1:]
    mean = _mean_grey_before_contrast(image, steps)
    columns, column_weights = _triangle_taps(width, num_columns)
    rows, row_weights = _triangle_taps(height, num_rows)
    num_taps = row_weights.shape[1]
    pixels = np.empty((3, width), np.float32)
    resized = np.empty((num_taps, 3, num_columns), np.float32)  # the last; y is at y % num_taps
    done = 0
    for y in range(num_rows):
        for row in range(max(done, rows[y]), rows[y] + num_taps):
            _read_row(image[top + row, 3 * left : 3 * (left + width)], pixels)
            _jitter(pixels, steps, mean)
            _normalise(pixels, scale, shift)
            _resize_row(pixels, columns, column_weights, resized[row % num_taps])
        done = rows[y] + num_taps
        _mix_rows(resized, rows[y], row_weights[y], augmented, y)


@njit
def _mean_grey_before_contrast(image, steps):
    num_before = 0
    while num_before < len(steps) and steps[num_before].mean_grey == 0:
        num_before += 1
    if num_before == len(steps):
        return _F(0)
    height, width = image.shape[0], image.shape[1] // 3
    pixels = np.empty((3, width), np.float32)
    total = 0.0
    for y in range(height):
        _read_row(image[y], pixels)
        _jitter(pixels, steps[:num_before], _F(0))
        total += _sum_grey(pixels)
    return _F(total / (height * width))


@njit(fastmath=_FASTMATH)
def _read_row(image_row, pixels):
    for x in range(pixels.shape[1]):
        pixels[0, x] = image_row[3 * x] * _F(1 / 255)
        pixels[1, x] = image_row[3 * x + 1] * _F(1 / 255)
        pixels[2, x] = image_row[3 * x + 2] * _F(1 / 255)


@njit
def _jitter(pixels, steps, mean):
    for step in steps:
        if step.hue != 0:
            _turn_hue(pixels, step.hue)
        else:
            _blend(pixels, step.amount, step.grey, step.mean_grey * mean)


@njit(fastmath=_FASTMATH)
def _clamp(value):
    return min(max(value, _F(0)), _F(1))


@njit(fastmath=_FASTMATH)
def _grey(red, green, blue):
    return _F(0.2989) * red + _F(0.587) * green + _F(0.114) * blue


@njit(fastmath=_FASTMATH)
def _sum_grey(pixels):
    total = _F(0)
    for x in range(pixels.shape[1]):
        total += _grey(pixels[0, x], pixels[1, x], pixels[2, x])
    return total


@njit(fastmath=_FASTMATH)
def _blend(pixels, amount, grey, offset):
    for x in range(pixels.shape[1]):
        red, green, blue = pixels[0, x], pixels[1, x], pixels[2, x]
        added = grey * _grey(red, green, blue) + offset
        pixels[0, x] = _clamp(amount * red + added)
        pixels[1, x] = _clamp(amount * green + added)
        pixels[2, x] = _clamp(amount * blue + added)


@njit(fastmath=_FASTMATH)
def _turn_hue(pixels, turns):
    """Turn the hue of HSV, without the way there and back: value and saturation stay.

    The hue h runs from 0 to 6. Red falls from the highest to the lowest of the three colours
    between h = 1 and 2 and rises again between 4 and 5; green and blue do so 2 and 4 later.
    """
    for x in range(pixels.shape[1]):
        red, green, blue = pixels[0, x], pixels[1, x], pixels[2, x]
        high, low = max(red, max(green, blue)), min(red, min(green, blue))
        spread = high - low
        if high == red:
            hue = green - blue
        elif high == green:
            hue = blue - red + _F(2) * spread
        else:
            hue = red - green + _F(4) * spread
        hue = hue / (spread if spread > 0 else _F(1)) + _F(6) * turns  # in -4 to 8
        hue = hue + _F(6) if hue < 0 else hue
        hue = hue - _F(6) if hue >= 6 else hue
        pixels[0, x] = low + spread * _clamp(abs(hue - _F(3)) - _F(1))
        pixels[1, x] = low + spread * _clamp(_F(2) - abs(hue - _F(2)))
        pixels[2, x] = low + spread * _clamp(_F(2) - abs(hue - _F(4)))


@njit(fastmath=_FASTMATH)
def _normalise(pixels, scale, shift):
    """Normalise before the resize: it keeps constants, and has fewer pixels to write."""
    for channel in range(3):
        for x in range(pixels.shape[1]):
            pixels[channel, x] = pixels[channel, x] * scale[channel] + shift[channel]


@njit
def _triangle_taps(size_in, size_out):
    """Return which inputs each output is the weighted mean of, for a resize with antialias.

    The weights fall linearly with the distance to the output's centre: over one input pixel when
    enlarging (bilinear interpolation), over one output pixel when reducing.

    Returns:
        First input of each output, int64 [size_out], ascending; float32 [size_out, num_taps].
    """
    scale = size_in / size_out
    support = max(scale, 1.0)
    num_taps = min(math.ceil(2 * support), size_in)
    starts = np.empty(size_out, np.int64)
    weights = np.empty((size_out, num_taps), np.float32)
    for i in range(size_out):
        centre = scale * (i + 0.5) - 0.5
        start = min(max(math.floor(centre - support) + 1, 0), size_in - num_taps)
        total = 0.0
        for tap in range(num_taps):
            weight = max(0.0, 1 - abs(start + tap - centre) / support)
            weights[i, tap] = weight
            total += weight
        for tap in range(num_taps):
            weights[i, tap] /= total
        starts[i] = start
    return starts, weights


@njit(fastmath=_FASTMATH)
def _resize_row(pixels, starts, weights, resized):
    for x in range(resized.shape[1]):
        red, green, blue = _F(0), _F(0), _F(0)
        for tap in range(weights.shape[1]):
            weight, source = weights[x, tap], starts[x] + tap
            red += weight * pixels[0, source]
            green += weight * pixels[1, source]
            blue += weight * pixels[2, source]
        resized[0, x], resized[1, x], resized[2, x] = red, green, blue


@njit(fastmath=_FASTMATH)
def _mix_rows(resized, first, weights, augmented, y):
    for channel in range(3):
        for x in range(resized.shape[2]):
            augmented[channel, y, x] = 0
        for tap in range(len(weights)):
            slot, weight = (first + tap) % len(weights), weights[tap]
            for x in range(resized.shape[2]):
                augmented[channel, y, x] += weight * resized[slot, channel, x]
