"""The grid of streets of a district, and the blocks between them.

All is laid out in the street frame: x and y in metres along the streets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mini_city.params import GRID_STEP_M, SPOT_SPACING_M, DistrictParams

MARGIN_M = 70.0  # of buildings around the outermost streets

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
        is_green: Whether trees stand along it.
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
