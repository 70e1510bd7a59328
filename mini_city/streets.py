"""The grid of streets of a district, the blocks between them, and the map of the ground.

All is laid out in the street frame: x and y in metres along the streets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mini_city.params import GRID_STEP_M, SPOT_SPACING_M, DistrictParams
from mini_city.textures import Canvas, Texture

MARGIN_M = 70.0  # of buildings around the outermost streets
_MAX_PX_PER_M = 8.0
_YARD_COLOURS = ((150, 144, 132), (112, 126, 86), (134, 128, 118), (98, 120, 76))
_PAINT = (214, 212, 204)

Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True)
class Street:
    """One street.

    Attributes:
        is_along_x: Its direction.
        axis_m: Position of its axis on the other coordinate.
        first_m: Its first crossing, on its own coordinate.
        last_m: Its last crossing.
        road_m: Half the width of the road.
        sidewalk_m: Width of each sidewalk.
        is_green: Whether it has trees.
    """

    is_along_x: bool
    axis_m: float
    first_m: float
    last_m: float
    road_m: float
    sidewalk_m: float
    is_green: bool

    @property
    def half_m(self) -> float:
        """Distance from the axis to the lots."""
        return self.road_m + self.sidewalk_m

    def point(self, along_m: float, aside_m: float) -> tuple[float, float]:
        """Return the point `along_m` on its own coordinate and `aside_m` beside its axis."""
        if self.is_along_x:
            return along_m, self.axis_m + aside_m
        return self.axis_m + aside_m, along_m


@dataclass(frozen=True)
class Grid:
    """The streets of a district.

    Attributes:
        rows: Streets along x, by y.
        columns: Streets along y, by x.
    """

    rows: Sequence[Street]
    columns: Sequence[Street]

    @property
    def streets(self) -> list[Street]:
        """All streets."""
        return [*self.rows, *self.columns]

    @property
    def bounds_m(self) -> Rectangle:
        """The district with the buildings around it."""
        west, east = self.columns[0].axis_m, self.columns[-1].axis_m
        south, north = self.rows[0].axis_m, self.rows[-1].axis_m
        return west - MARGIN_M, south - MARGIN_M, east + MARGIN_M, north + MARGIN_M

    def blocks(self) -> list[Rectangle]:
        """Return the ground between the sidewalks, the blocks around the district included."""
        west, south, east, north = self.bounds_m
        spans_x = _gaps(west, self.columns, east)
        spans_y = _gaps(south, self.rows, north)
        return [(x0, y0, x1, y1) for y0, y1 in spans_y for x0, x1 in spans_x]

    def spots(self) -> list[tuple[Street, float]]:
        """Return the places of the panoramas, street after street: (street, along_m)."""
        return [
            (street, float(along_m))
            for street in self.streets
            for along_m in np.arange(street.first_m, street.last_m, SPOT_SPACING_M)
        ]


def draw_grid(rng: np.random.Generator, params: DistrictParams) -> Grid:
    """Lay out the streets of a district; their widths are random."""
    xs_m = 2 * SPOT_SPACING_M + GRID_STEP_M * np.cumsum((0, *params.block_columns))
    ys_m = GRID_STEP_M * np.cumsum((0, *params.block_rows))
    return Grid(
        rows=[_draw_street(rng, True, y_m, xs_m) for y_m in ys_m],
        columns=[_draw_street(rng, False, x_m, ys_m) for x_m in xs_m],
    )


def _draw_street(
    rng: np.random.Generator, is_along_x: bool, axis_m: float, crossings_m: np.ndarray
) -> Street:
    return Street(
        is_along_x=is_along_x,
        axis_m=float(axis_m),
        first_m=float(crossings_m[0]),
        last_m=float(crossings_m[-1]),
        road_m=rng.uniform(5.0, 7.0),
        sidewalk_m=rng.uniform(2.2, 3.6),
        is_green=bool(rng.random() < 0.6),
    )


def _gaps(first_m: float, streets: Sequence[Street], last_m: float) -> list[tuple[float, float]]:
    """Return the intervals between parallel streets."""
    starts = [first_m] + [street.axis_m + street.half_m for street in streets]
    ends = [street.axis_m - street.half_m for street in streets] + [last_m]
    return list(zip(starts, ends, strict=True))


def draw_ground(rng: np.random.Generator, grid: Grid, px_per_m: float) -> Texture:
    """Draw the ground of a district; the lower left of the map is the corner of its bounds.

    Args:
        rng: Source of colours and stains.
        grid: The streets.
        px_per_m: Resolution of the facades; the ground needs half of it.
    """
    x0, y0, x1, y1 = grid.bounds_m
    canvas = Canvas(x1 - x0, y1 - y0, min(_MAX_PX_PER_M, px_per_m / 2))
    canvas.rectangle(0, 0, x1 - x0, y1 - y0, (128, 124, 116))
    for left, low, right, high in grid.blocks():
        yard = _YARD_COLOURS[rng.integers(len(_YARD_COLOURS))]
        canvas.rectangle(left - x0, low - y0, right - x0, high - y0, yard)
    for street in grid.streets:
        _draw_strip(canvas, grid, street, street.half_m, _tint(rng, 158))
    for street in grid.streets:
        _draw_strip(canvas, grid, street, street.road_m + 0.2, _tint(rng, 186))
    for street in grid.streets:
        _draw_strip(canvas, grid, street, street.road_m, _tint(rng, 92))
    for row in grid.rows:
        for column in grid.columns:
            _draw_crossing(canvas, grid, row, column)
    for street in grid.streets:
        _draw_markings(canvas, grid, street, rng)
    return canvas.to_texture()


def _tint(rng: np.random.Generator, grey: float) -> np.ndarray:
    """Return a grey with a hint of colour."""
    return grey + rng.normal(0, 8) + rng.normal(0, 3, 3)


def _draw_box(
    canvas: Canvas,
    grid: Grid,
    corners_m: tuple[tuple[float, float], tuple[float, float]],
    rgb: tuple[float, ...] | np.ndarray,
) -> None:
    """Fill the box between two corners of the street frame."""
    (x0, y0), (x1, y1) = np.array(corners_m) - grid.bounds_m[:2]
    canvas.rectangle(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1), rgb)


def _draw_strip(canvas: Canvas, grid: Grid, street: Street, half_m: float, rgb: np.ndarray) -> None:
    """Fill a strip along a street, through the whole district."""
    west, south, east, north = grid.bounds_m
    first_m, last_m = (west, east) if street.is_along_x else (south, north)
    corners = street.point(first_m, -half_m), street.point(last_m, half_m)
    _draw_box(canvas, grid, corners, rgb)


def _draw_crossing(canvas: Canvas, grid: Grid, row: Street, column: Street) -> None:
    """Clear the crossing of two streets and paint four zebra crossings around it."""
    asphalt = (90, 90, 92)
    corners = (
        (column.axis_m - column.road_m, row.axis_m - row.road_m),
        (column.axis_m + column.road_m, row.axis_m + row.road_m),
    )
    _draw_box(canvas, grid, corners, asphalt)
    for street, other in ((row, column), (column, row)):
        for side in (-1, 1):
            near_m = other.axis_m + side * (other.road_m + 0.5)
            far_m = near_m + side * 2.6
            for aside_m in np.arange(-street.road_m + 0.3, street.road_m - 0.5, 1.2):
                stripe = street.point(near_m, aside_m), street.point(far_m, aside_m + 0.6)
                _draw_box(canvas, grid, stripe, _PAINT)


def _draw_markings(canvas: Canvas, grid: Grid, street: Street, rng: np.random.Generator) -> None:
    """Paint the dashes of the middle line, and patches and manholes at random."""
    yellow = (206, 176, 84) if rng.random() < 0.5 else _PAINT
    for along_m in np.arange(street.first_m + 14, street.last_m - 14, 5.0):
        dash = street.point(along_m, -0.08), street.point(along_m + 2.5, 0.08)
        _draw_box(canvas, grid, dash, yellow)
    for along_m in np.arange(street.first_m, street.last_m, 9.0):
        at_m, aside_m = along_m + rng.uniform(0, 8), rng.uniform(-0.8, 0.6) * street.road_m
        size_m = rng.uniform(0.4, 1.0) if rng.random() < 0.5 else rng.uniform(1.5, 4)
        patch = street.point(at_m, aside_m), street.point(at_m + size_m, aside_m + 0.8)
        _draw_box(canvas, grid, patch, _tint(rng, rng.choice((66, 78, 108))))
