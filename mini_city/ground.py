"""Draw the map of the ground: roads with their markings, sidewalks, yards."""

import numpy as np

from mini_city.streets import Grid, Street
from mini_city.textures import Canvas, Texture

_MAX_PX_PER_M = 8.0
_YARD_COLOURS = ((150, 144, 132), (112, 126, 86), (134, 128, 118), (98, 120, 76))
_PAINT = (214, 212, 204)


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
