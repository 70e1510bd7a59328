"""The picture in the making: which texel every pixel shows, how far away, in how much sun."""

from dataclasses import dataclass

import numpy as np

from mini_city.textures import NOTHING, Texture

SUN_ON_GROUND = 0.62  # share of the sunlight that falls on whatever faces up
_FAR_M = 1e6


@dataclass(frozen=True)
class Camera:
    """A window of a panorama, in the street frame.

    Attributes:
        x_m, y_m, height_m: Position.
        left_deg: Azimuth of the left border, clockwise from the y axis.
        top_deg: Elevation of the upper border.
        step_deg: Angle of one pixel.
        num_columns, num_rows: Size of the image.
    """

    x_m: float
    y_m: float
    height_m: float
    left_deg: float
    top_deg: float
    step_deg: float
    num_columns: int
    num_rows: int

    @property
    def position_m(self) -> np.ndarray:
        """Position on the ground (x, y)."""
        return np.array((self.x_m, self.y_m))


class Frame:
    """What is seen so far.

    Attributes:
        camera: From where.
        azimuths: Of the centre of each column, radians. [W]
        rays: Direction of each column on the ground (x, y). [2, W]
        elevations: Of the centre of each row, radians. [H]
        texels: The nearest texel of every pixel, 0 where the sky is. uint32 [H, W]
        distances_m: Its horizontal distance. float32 [H, W]
        sunlight: The share of the sunlight that falls on it, 0-1. float32 [H, W]
    """

    def __init__(self, camera: Camera) -> None:
        """Start with an empty sky."""
        shape = (camera.num_rows, camera.num_columns)
        self.camera = camera
        self._step = np.radians(camera.step_deg)
        self._left = np.radians(camera.left_deg)
        self._top = np.radians(camera.top_deg)
        self.azimuths = self._left + (np.arange(camera.num_columns) + 0.5) * self._step
        self.rays = np.stack([np.sin(self.azimuths), np.cos(self.azimuths)])
        self.elevations = self._top - (np.arange(camera.num_rows) + 0.5) * self._step
        self._slopes = np.tan(self.elevations).astype(np.float32)
        self.texels = np.zeros(shape, np.uint32)
        self.distances_m = np.full(shape, _FAR_M, np.float32)
        self.sunlight = np.zeros(shape, np.float32)
        self._hidden_slope = np.full(camera.num_columns, -np.inf)  # below it stands a solid wall,
        self._hidden_beyond_m = np.full(camera.num_columns, np.inf)  # so far away

    def column_ranges(self, azimuth: float, span: float) -> list[slice]:
        """Return the columns whose centres lie in [azimuth, azimuth + span], radians."""
        first = ((azimuth - self._left) % (2 * np.pi)) / self._step - 0.5
        ranges = []
        for start in (first, first - 2 * np.pi / self._step):
            begin = max(0, int(np.ceil(start)))
            end = min(self.camera.num_columns, int(np.floor(start + span / self._step)) + 1)
            if begin < end:
                ranges.append(slice(begin, end))
        return ranges

    def paint_ground(self, ground: Texture, corner_m: tuple[float, float]) -> None:
        """Fill all pixels below the horizon with the map of the ground."""
        first = int(np.searchsorted(-self._slopes, 0, side="right"))
        distances = (self.camera.height_m / -self._slopes[first:])[:, None].astype(np.float32)
        levels = _levels(ground, distances * self._step * 2)
        x_m = self.camera.x_m - corner_m[0] + distances * self.rays[0].astype(np.float32)
        y_m = self.camera.y_m - corner_m[1] + distances * self.rays[1].astype(np.float32)
        scale, width = ground.px_per_m[levels], ground.widths_px[levels]
        columns = np.clip((x_m * scale).astype(np.int32), 0, width - 1)
        rows = ((ground.height_m - y_m) * scale).astype(np.int32)
        rows = np.clip(rows, 0, ground.heights_px[levels] - 1)
        self.texels[first:] = ground.texels[ground.offsets[levels] + rows * width + columns]
        self.distances_m[first:] = distances
        self.sunlight[first:] = SUN_ON_GROUND

    def paint(
        self,
        columns: slice,
        distances_m: np.ndarray,
        along_m: np.ndarray,
        heights_m: tuple[float, float],
        texture: Texture,
        sunlight: float,
    ) -> None:
        """Paint an upright surface where nothing nearer is.

        Args:
            columns: The columns that it covers.
            distances_m: Its horizontal distance in each column. [num_columns]
            along_m: Where each column cuts it, metres of texture from its left edge. [num_columns]
            heights_m: Of the lower and upper edge above the camera.
            texture: What it shows, stretched to those heights.
            sunlight: Share of the sunlight that falls on it, 0-1.
        """
        rows = self._row_range(distances_m, heights_m)
        if rows.start >= rows.stop:
            return
        distances_m = distances_m.astype(np.float32)
        stretch = texture.height_m / (heights_m[1] - heights_m[0])
        levels = _levels(texture, distances_m * self._step * stretch)
        scale, width = texture.px_per_m[levels], texture.widths_px[levels]
        texel_columns = np.clip((along_m * scale).astype(np.int32), 0, width - 1)
        below_top_m = heights_m[1] - self._slopes[rows, None] * distances_m
        texel_rows = np.floor(below_top_m * (scale * stretch)).astype(np.int32)
        heights_px = texture.heights_px[levels]
        near = self.distances_m[rows, columns]
        seen = (texel_rows >= 0) & (texel_rows < heights_px) & (distances_m < near)
        np.clip(texel_rows, 0, heights_px - 1, out=texel_rows)
        texels = texture.texels[texture.offsets[levels] + texel_columns + texel_rows * width]
        seen &= texels >> 24 != NOTHING
        np.copyto(self.texels[rows, columns], texels, where=seen)
        np.copyto(near, distances_m, where=seen)
        np.copyto(self.sunlight[rows, columns], sunlight, where=seen)

    def hide_behind(self, columns: slice, distances_m: np.ndarray, solid_m: float) -> None:
        """Remember a solid wall that is `solid_m` higher than the camera."""
        slopes = solid_m / distances_m
        higher = slopes > self._hidden_slope[columns]
        np.copyto(self._hidden_slope[columns], slopes, where=higher)
        np.copyto(self._hidden_beyond_m[columns], distances_m, where=higher)

    def is_hidden(self, columns: slice, distances_m: np.ndarray, top_m: float) -> bool:
        """Return whether a surface lies wholly behind the solid walls painted so far."""
        lower = top_m / distances_m <= self._hidden_slope[columns]
        return bool(np.all(lower & (distances_m > self._hidden_beyond_m[columns])))

    def _row_range(self, distances_m: np.ndarray, heights_m: tuple[float, float]) -> slice:
        nearest, furthest = distances_m.min(), distances_m.max()
        top = np.arctan2(heights_m[1], nearest if heights_m[1] > 0 else furthest)
        bottom = np.arctan2(heights_m[0], nearest if heights_m[0] < 0 else furthest)
        first = max(0, int((self._top - top) / self._step))
        last = min(self.camera.num_rows, int((self._top - bottom) / self._step) + 1)
        return slice(first, last)


def _levels(texture: Texture, pixel_m: np.ndarray) -> np.ndarray:
    """Return the level of detail whose texels are about as large as a pixel."""
    levels = np.log2(np.maximum(pixel_m * texture.px_per_m[0], 1)) + 0.5
    return np.minimum(levels.astype(np.int32), len(texture.offsets) - 1)
