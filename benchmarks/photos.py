"""Pictures to train on that look like photos to a JPEG decoder."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_photos(folder: Path, count: int, side: int, quality: int = 92) -> list[Path]:
    """Write square JPEGs with detail at all scales, about 0.3 bytes a pixel, as street views have.

    Returns:
        Their paths: 000.jpg, 001.jpg and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        _paint(np.random.default_rng(number), side).save(path, quality=quality)
    return paths


def _paint(rng: np.random.Generator, side: int) -> Image.Image:
    """Add noise of every scale; coarse scales are stronger."""
    pixels = np.zeros((side, side, 3))
    cells = 2
    while cells <= side:
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
        pixels += (np.asarray(layer) - 127.5) * (1.6 / cells**0.55)
        cells *= 2
    return Image.fromarray((pixels + 127.5).clip(0, 255).astype(np.uint8))
