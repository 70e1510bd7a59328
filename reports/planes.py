"""Where the plane of a map lies on the Earth: for streets underneath, links and GPS positions.

A map draws UTM positions; streets come as square tiles in the Web Mercator projection. Polynomials
of the third degree lead from one to the other within a city, in the page's script.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import utm

from datasets.image_names import ImageName, parse_image_name
from datasets.positions import EQUATOR_NORTH_M, REGION_GAP_M, to_degrees, to_utm
from evaluation.localization import find_coordinates

_NUM_SAMPLES = 100  # names that are read of each region
_TOLERANCE_M = 30.0  # between a position and the coordinates of its name
_FARTHEST_DEG = 10.0  # from the middle of a zone: beyond, UTM is of no use
_NUM_STEPS = 9  # of the grid that polynomials are fitted to, along each side
_MAX_ERROR_M = 5.0  # of polynomials; streets of a larger area are left out


@dataclass(frozen=True)
class Plane:
    """The projection of the positions of one UTM region.

    Attributes:
        zone: Number of the UTM zone.
        shift_m: Positions minus UTM coordinates, north counted from the equator. float64 [2].
    """

    zone: int
    shift_m: np.ndarray

    def project(self, latitudes_deg: np.ndarray, longitudes_deg: np.ndarray) -> np.ndarray:
        """Return positions, NaN where they are too far from the zone. float64 [n, 2]."""
        zones = np.full(len(latitudes_deg), self.zone)
        apart_deg = longitudes_deg - (6 * self.zone - 183)
        apart_deg = (apart_deg + 180) % 360 - 180
        near = (abs(latitudes_deg) <= 84) & (abs(apart_deg) <= _FARTHEST_DEG)
        positions_m = np.full((len(zones), 2), np.nan)
        northern = np.ones(near.sum(), bool)
        east_north_m = to_utm(latitudes_deg[near], longitudes_deg[near], zones[near], northern)
        positions_m[near] = np.stack(east_north_m, axis=1) + self.shift_m
        return positions_m

    def to_degrees(self, positions_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return latitudes and longitudes of positions [n, 2]."""
        east_m, north_m = (positions_m - self.shift_m).T
        zones, northern = np.full(len(east_m), self.zone), np.ones(len(east_m), bool)
        return to_degrees(east_m, north_m, zones, northern)


def find_planes(paths: Sequence[str], positions_m: np.ndarray) -> dict[float, Plane]:
    """Find the projections of positions by the latitudes, longitudes and zones of '@' names.

    Args:
        paths: Of images; any other name tells nothing.
        positions_m: Of the images, as of `datasets.positions`. float64 [num_images, 2].

    Returns:
        Number of a UTM region, see `reports.maps.number_regions` -> its plane; regions whose names
        do not tell one, or contradict their positions, are left out.
    """
    numbers = np.rint(positions_m[:, 0] / REGION_GAP_M)
    planes = {}
    for number in np.unique(numbers[np.isfinite(numbers)]).tolist():
        members = np.flatnonzero(numbers == number)
        spread = np.linspace(0, len(members) - 1, min(len(members), _NUM_SAMPLES))
        members = members[spread.astype(int)].tolist()
        known = [(at, found) for at in members if (found := _read_coordinates(paths[at]))]
        if plane := _fit_plane(number, known, positions_m):
            planes[number] = plane
    return planes


def _fit_plane(
    number: float, known: list[tuple[int, tuple[float, float, int]]], positions_m: np.ndarray
) -> Plane | None:
    """Return the plane of a region, given (index, (latitude, longitude, zone)) of some images."""
    if not known:
        return None
    latitudes_deg, longitudes_deg, zones = np.array([found for _, found in known]).T
    wanted_m = positions_m[[at for at, _ in known]]
    for zone, _ in Counter(zones.astype(int).tolist()).most_common():
        for north_m in (0.0, EQUATOR_NORTH_M):
            plane = Plane(zone, np.array([number * REGION_GAP_M, north_m]))
            projected_m = plane.project(latitudes_deg, longitudes_deg)
            errors_m = np.linalg.norm(projected_m - wanted_m, axis=1)
            if np.median(errors_m) <= _TOLERANCE_M:  # False for NaN
                return plane
    return None


def _read_coordinates(path: str) -> tuple[float, float, int] | None:
    """Return latitude, longitude and UTM zone of an '@' name."""
    if "@" not in os.path.basename(path):
        return None
    try:
        name: ImageName = parse_image_name(path)
    except ValueError:
        return None
    degrees = find_coordinates(name)
    if degrees is None or abs(degrees[0]) > 84:
        return None
    return (*degrees, name.zone_number or utm.latlon_to_zone_number(*degrees))


def fit_streets(
    plane: Plane, shift_m: np.ndarray, box_m: np.ndarray, margin_m: float
) -> dict[str, Any] | None:
    """Fit what the script of a map needs to draw tiles; None where the area is too large for it.

    Args:
        plane: Of the positions.
        shift_m: What the map adds to them. float64 [2].
        box_m: West, south, east and north of the drawn positions. float64 [4].
        margin_m: Streets go on for so many metres around.

    Returns:
        The box with its margin, and polynomials between drawn metres and Web Mercator, whose world
        is 1 wide and 1 high, from the north-west. Both are given as (value - middle) / half.
    """
    west, south, east, north = box_m + margin_m * np.array([-1, -1, 1, 1])
    steps = np.linspace(-1, 1, _NUM_STEPS)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    middle_m, half_m = (
        np.array([west + east, south + north]) / 2,
        max(east - west, north - south) / 2,
    )
    drawn_m = middle_m + half_m * grid
    latitudes_deg, longitudes_deg = plane.to_degrees(drawn_m - shift_m)
    world = to_mercator(latitudes_deg, longitudes_deg)
    middle, half = (world.min(axis=0) + world.max(axis=0)) / 2, np.ptp(world, axis=0).max() / 2
    unit = (world - middle) / half
    to_plane, to_world = _fit(unit, grid), _fit(grid, unit)
    errors_m = half_m * np.linalg.norm(_terms(unit) @ to_plane - grid, axis=1)
    if not errors_m.max() <= _MAX_ERROR_M:
        return None
    return {
        "box_m": [west, south, east, north],
        "plane": {"middle": middle_m.tolist(), "half": half_m, "terms": to_plane.T.tolist()},
        "world": {"middle": middle.tolist(), "half": half, "terms": to_world.T.tolist()},
    }


def to_mercator(latitudes_deg: np.ndarray, longitudes_deg: np.ndarray) -> np.ndarray:
    """Return Web Mercator coordinates, 0 to 1 from the north-west. float64 [n, 2]."""
    y = 0.5 - np.arcsinh(np.tan(np.radians(latitudes_deg))) / (2 * np.pi)
    return np.stack([(longitudes_deg + 180) / 360, y], axis=1)


def _terms(points: np.ndarray) -> np.ndarray:
    """Return the ten products up to the third degree, as the page's script counts them. [n, 10]."""
    u, v = points.T
    return np.stack([u**0, u, v, u * u, u * v, v * v, u**3, u * u * v, u * v * v, v**3], axis=1)


def _fit(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(_terms(points), values, rcond=None)[0]
