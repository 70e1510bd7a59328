"""Textures with levels of detail, and a canvas that draws them in metres.

A texel is one uint32: red, green, blue, and a byte for its material.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

NOTHING, GLOW, GLASS, SOLID = 0, 253, 254, 255  # the fourth byte of a texel
_SMALLEST_LEVEL_PX = 4

Rgb = Sequence[float]


class Texture:
    """One picture of a surface and its half-size levels, all in one flat array.

    Attributes:
        texels: uint32 [num_texels], level after level, each row-major from the top left.
        offsets, widths_px, heights_px: Start and size of each level in `texels`.
        px_per_m: Resolution of each level.
        width_m, height_m: Size of the surface.
    """

    def __init__(self, image: Image.Image, px_per_m: float) -> None:
        """Build the levels of an RGBA image.

        Args:
            image: Its alpha channel holds the material bytes.
            px_per_m: Resolution of the image.
        """
        levels = [np.asarray(image)]
        while min(levels[-1].shape[:2]) >= 2 * _SMALLEST_LEVEL_PX:
            levels.append(_halve(levels[-1]))
        self.texels = np.concatenate([level.reshape(-1, 4) for level in levels]).view(np.uint32)
        self.texels = self.texels[:, 0]
        self.heights_px = np.array([level.shape[0] for level in levels], np.int32)
        self.widths_px = np.array([level.shape[1] for level in levels], np.int32)
        sizes = self.heights_px * self.widths_px
        self.offsets = (np.cumsum(sizes) - sizes).astype(np.int32)
        self.px_per_m = (px_per_m * 0.5 ** np.arange(len(levels))).astype(np.float32)
        self.width_m = image.width / px_per_m
        self.height_m = image.height / px_per_m


def _halve(level: np.ndarray) -> np.ndarray:
    """Average 2 x 2 texels, leaving out the empty ones; the material is the most solid one."""
    height, width = level.shape[0] // 2, level.shape[1] // 2
    quads = level[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 4)
    materials = quads[..., 3:].max(axis=(1, 3))
    weights = (quads[..., 3:] != NOTHING).astype(np.float32)
    total = np.maximum(weights.sum(axis=(1, 3)), 1)
    colours = (quads[..., :3] * weights).sum(axis=(1, 3)) / total
    return np.concatenate([colours.astype(np.uint8), materials], axis=2)


class Canvas:
    """A surface to draw on: x to the right and z upwards, in metres from the lower left corner."""

    def __init__(self, width_m: float, height_m: float, px_per_m: float) -> None:
        """Start with an empty (transparent) surface."""
        self.width_m, self.height_m, self.px_per_m = width_m, height_m, px_per_m
        size = (max(2, round(width_m * px_per_m)), max(2, round(height_m * px_per_m)))
        self.image = Image.new("RGBA", size)
        self._draw = ImageDraw.Draw(self.image)

    def rectangle(
        self, x0_m: float, z0_m: float, x1_m: float, z1_m: float, rgb: Rgb, material: int = SOLID
    ) -> None:
        """Fill the rectangle between two corners; it is at least one pixel wide and high."""
        left, bottom = self._pixel(x0_m, z0_m)
        right, top = self._pixel(x1_m, z1_m)
        box = (left, top, max(left, right - 1), max(top, bottom - 1))
        self._draw.rectangle(box, fill=_fill(rgb, material))

    def ellipse(
        self, x0_m: float, z0_m: float, x1_m: float, z1_m: float, rgb: Rgb, material: int = SOLID
    ) -> None:
        """Fill the ellipse inscribed in a rectangle."""
        left, bottom = self._pixel(x0_m, z0_m)
        right, top = self._pixel(x1_m, z1_m)
        box = (left, top, max(left, right - 1), max(top, bottom - 1))
        self._draw.ellipse(box, fill=_fill(rgb, material))

    def polygon(
        self, points_m: Sequence[tuple[float, float]], rgb: Rgb, material: int = SOLID
    ) -> None:
        """Fill a polygon of (x, z) points."""
        self._draw.polygon([self._pixel(*point) for point in points_m], _fill(rgb, material))

    def line(
        self, points_m: Sequence[tuple[float, float]], rgb: Rgb, thickness_m: float = 0.06
    ) -> None:
        """Draw a line through (x, z) points, at least one pixel thick."""
        thickness_px = max(1, round(thickness_m * self.px_per_m))
        points = [self._pixel(*point) for point in points_m]
        self._draw.line(points, _fill(rgb, SOLID), thickness_px)

    def grain(self, rng: np.random.Generator, patch_m: float, strength: float) -> None:
        """Make all colours lighter and darker in random patches.

        Args:
            rng: Source of the patches.
            patch_m: Size of a patch.
            strength: Largest relative change of brightness, 0-1.
        """
        pixels = np.array(self.image)
        num_rows = max(2, round(self.height_m / patch_m))
        num_columns = max(2, round(self.width_m / patch_m))
        noise = Image.fromarray(rng.random((num_rows, num_columns), np.float32))
        noise = np.asarray(noise.resize(self.image.size, Image.Resampling.BILINEAR))
        gain = 1 + strength * (2 * noise[..., None] - 1)
        pixels[..., :3] = np.clip(pixels[..., :3] * gain, 0, 255)
        self.image = Image.fromarray(pixels)
        self._draw = ImageDraw.Draw(self.image)

    def to_texture(self) -> Texture:
        """Finish the drawing."""
        return Texture(self.image, self.px_per_m)

    def _pixel(self, x_m: float, z_m: float) -> tuple[int, int]:
        """Return (column, row) of a point."""
        return round(x_m * self.px_per_m), round((self.height_m - z_m) * self.px_per_m)


def darker(rgb: Rgb, factor: float) -> tuple[float, ...]:
    """Return a colour with another brightness."""
    return tuple(value * factor for value in rgb)


def _fill(rgb: Rgb, material: int) -> tuple[int, int, int, int]:
    red, green, blue = (int(min(255, max(0, value))) for value in rgb)
    return red, green, blue, material
