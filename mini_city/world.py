"""A district: its streets, buildings, trees, poles and parked cars, and where it lies in UTM.

The street frame is turned against UTM by atan(1/2), and all distances between street axes are
multiples of 22.36 m, so that every street runs through few of the 5 x 5 residues
(UTM // 10 m) % 5. Otherwise a city as small as this would spread its classes thinly over all 50
groups of CosPlace.
"""

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import utm

from mini_city import furniture
from mini_city.buildings import Facades, build_block
from mini_city.conditions import Conditions
from mini_city.params import CityParams, DistrictParams
from mini_city.render import Scene
from mini_city.streets import draw_grid, draw_ground
from mini_city.surfaces import Billboard, Extras, Walls

SPLITS = ("train", "val", "test")
ROTATION_DEG = float(np.degrees(np.arctan2(1, 2)))  # of the streets, counter-clockwise
UTM_ZONE = (10, "S")
_FIRST_ORIGIN_M = (550200.0, 4178780.0)  # in San Francisco
_GAP_M = 500.0  # between the outermost streets of two districts, at least
_CAR_SPACING_M, _CAR_CHANCE, _VAN_CHANCE = 6.0, 0.45, 0.12
_TREE_SPACING_M, _POLE_SPACING_M = 9.0, 21.0


class District:
    """One split's part of the city."""

    def __init__(
        self,
        seed: tuple[int, ...],
        params: DistrictParams,
        origin_m: tuple[float, float],
        px_per_m: float,
    ) -> None:
        """Lay out everything permanent.

        Args:
            seed: Seed of the city and index of the split.
            params: Size of the district.
            origin_m: UTM position of the origin of the street frame.
            px_per_m: Resolution of the facades.
        """
        rng = np.random.default_rng(seed)
        self.origin_m = origin_m
        self.px_per_m = px_per_m
        self.grid = draw_grid(rng, params)
        self.spots = self.grid.spots()[: params.num_spots]
        buildings = [
            building for block in self.grid.blocks() for building in build_block(rng, block)
        ]
        self.facades = Facades(buildings, px_per_m)
        self._walls = Walls.gather(self.facades.walls, partial(self.facades.texture, 0))
        self._trees = self._plant(rng)
        self._poles = self._put_up_poles(rng)
        self._skyline_deg = _draw_skyline(rng)
        self._ground = draw_ground(rng, self.grid, px_per_m)

    def to_utm(self, x_m: float, y_m: float) -> tuple[float, float]:
        """Return (east, north) of a point of the street frame."""
        cosine, sine = np.cos(np.radians(ROTATION_DEG)), np.sin(np.radians(ROTATION_DEG))
        east_m = self.origin_m[0] + cosine * x_m - sine * y_m
        north_m = self.origin_m[1] + sine * x_m + cosine * y_m
        return float(east_m), float(north_m)

    def scene(self, conditions: Conditions, extras: Extras) -> Scene:
        """Return the scene at one time; extras are movable things."""
        is_leafy = conditions.is_leafy
        trees = [
            Billboard(x_m, y_m, furniture.tree(variant, is_leafy, self.px_per_m), scale)
            for x_m, y_m, variant, scale in self._trees
        ]
        return Scene(
            walls=[
                replace(self._walls, texture_of=partial(self.facades.texture, conditions.year)),
                *extras.walls,
            ],
            billboards=[*trees, *self._poles, *extras.billboards],
            ground=self._ground,
            ground_corner_m=self.grid.bounds_m[:2],
            conditions=conditions,
            sun_deg=conditions.sun_azimuth_deg + ROTATION_DEG,
            skyline_deg=self._skyline_deg,
        )

    def park_cars(self, rng: np.random.Generator) -> Walls:
        """Park cars along all streets, as they stand at one time."""
        cars = []
        for street in self.grid.streets:
            for side in (-1, 1):
                places_m = np.arange(street.first_m + 12, street.last_m - 12, _CAR_SPACING_M)
                for place_m in places_m[rng.random(len(places_m)) < _CAR_CHANCE]:
                    along_m = place_m + rng.uniform(0, 1)
                    point = street.point(along_m, side * (street.road_m - 1.1))
                    is_van = bool(rng.random() < _VAN_CHANCE)
                    colour = int(rng.integers(len(furniture.CAR_COLOURS)))
                    cars += furniture.car(point, street.is_along_x, colour, is_van, self.px_per_m)
        return furniture.gather(cars)

    def _plant(self, rng: np.random.Generator) -> list[tuple[float, float, int, float]]:
        """Return (x, y, variant, scale) of the trees."""
        trees = []
        for street in self.grid.streets:
            for side in (-1, 1) if street.is_green else ():
                for place_m in np.arange(street.first_m + 10, street.last_m - 9, _TREE_SPACING_M):
                    if rng.random() < 0.55:
                        along_m = place_m + rng.uniform(-3, 3)
                        point = street.point(along_m, side * (street.road_m + 0.7))
                        variant = int(rng.integers(furniture.NUM_TREES))
                        trees.append((*point, variant, rng.uniform(0.7, 1.1)))
        return trees

    def _put_up_poles(self, rng: np.random.Generator) -> list[Billboard]:
        poles = []
        for street in self.grid.streets:
            for place_m in np.arange(street.first_m + 8, street.last_m - 6, _POLE_SPACING_M):
                side = rng.choice((-1, 1))
                along_m = place_m + rng.uniform(-5, 5)
                point = street.point(along_m, side * (street.road_m + 0.4))
                variant = int(rng.integers(furniture.NUM_POLES))
                poles.append(Billboard(*point, furniture.pole(variant, self.px_per_m)))
        return poles


def _draw_skyline(rng: np.random.Generator) -> np.ndarray:
    """Return the elevation of the hills around a district, degrees. [360]."""
    azimuths = np.radians(np.arange(360))
    hills = sum(
        rng.uniform(0.3, 1.0) * np.sin(waves * azimuths + rng.uniform(0, 2 * np.pi))
        for waves in (1, 2, 3, 5)
    )
    return 2.0 + hills


@lru_cache(maxsize=8)
def district(split: str, params: CityParams, seed: int) -> District:
    """Return the district of a split, laid out once per process."""
    index = SPLITS.index(split)
    east_m, north_m = _FIRST_ORIGIN_M
    for earlier, later in zip(SPLITS[:index], SPLITS[1 : index + 1], strict=True):
        for name in (earlier, later):  # turned by any angle, a grid stays within its diagonal
            size: DistrictParams = getattr(params, name)
            bounds = draw_grid(np.random.default_rng(0), size).bounds_m
            east_m += float(np.hypot(bounds[2] - bounds[0], bounds[3] - bounds[1]))
        east_m += _GAP_M
    origin_m = (10 * round(east_m / 10), north_m)
    return District((seed, index), getattr(params, split), origin_m, params.texture_px_per_m)


def lat_lon(east_m: float, north_m: float) -> tuple[float, float]:
    """Return latitude and longitude of a UTM position in the city's zone, degrees."""
    latitude_deg, longitude_deg = utm.to_latlon(east_m, north_m, *UTM_ZONE)
    return float(latitude_deg), float(longitude_deg)
