"""Fill the blocks with buildings, and draw their walls when they are first seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mini_city.facades import draw_bay, draw_facade, draw_flank
from mini_city.streets import Rectangle
from mini_city.styles import Style, draw_style, repaint
from mini_city.surfaces import Wall, box_corners
from mini_city.textures import Texture

SOUTH, EAST, NORTH, WEST = range(4)
_LOT_WIDTHS_M = (8.0, 20.0)
_ALLEY_CHANCE, _VACANT_CHANCE, _LANDMARK_CHANCE = 0.14, 0.05, 0.05
_MAX_KEPT_TEXELS = 1.5e8  # 600 MB in each process
_LAST_YEAR = 2030  # changes come in any year before it, some of them after the last picture


@dataclass(frozen=True)
class Building:
    """One building.

    Attributes:
        footprint_m: Its box in the street frame.
        facing: The side of its front: SOUTH, EAST, NORTH or WEST.
        corner: A second side that faces a street; None inside a row.
        style: Its original look.
        repainted: The year from which it has another colour.
        retenanted: Years from which its shop belongs to someone else.
    """

    footprint_m: Rectangle
    facing: int
    corner: int | None
    style: Style
    repainted: int
    retenanted: tuple[int, ...]


def build_block(rng: np.random.Generator, block_m: Rectangle) -> list[Building]:
    """Line the four sides of a block with buildings."""
    x0, y0, x1, y1 = block_m
    depth_m = min(rng.uniform(11, 14), (y1 - y0) / 2 - 1)
    buildings = []
    for facing in (SOUTH, NORTH, EAST, WEST):
        is_row = facing in (SOUTH, NORTH)
        inset_m = 0 if is_row else depth_m + 1
        length_m = (x1 - x0 if is_row else y1 - y0) - 2 * inset_m
        for start_m, width_m in _lots(rng, length_m):
            setback_m = rng.choice((0, 0, 0.4, 1.0, 2.5))
            footprint = _footprint(
                block_m, facing, inset_m + start_m, width_m, (setback_m, depth_m)
            )
            corner = None
            if is_row and start_m == 0:
                corner = WEST if facing == SOUTH else EAST
            elif is_row and start_m + width_m > length_m - 0.5:
                corner = EAST if facing == SOUTH else WEST
            buildings.append(_draw_building(rng, footprint, facing, corner))
    return buildings


def _lots(rng: np.random.Generator, length_m: float) -> Iterator[tuple[float, float]]:
    """Yield (start, width) of the buildings along one side; some lots stay empty."""
    start_m, (narrowest_m, widest_m) = 0.0, _LOT_WIDTHS_M
    while length_m - start_m >= narrowest_m:
        width_m = rng.uniform(narrowest_m, min(widest_m, length_m - start_m))
        if length_m - start_m - width_m < narrowest_m:
            width_m = min(length_m - start_m, widest_m)
        if start_m == 0 or rng.random() > _VACANT_CHANCE:
            yield start_m, width_m
        start_m += width_m
        if rng.random() < _ALLEY_CHANCE:
            start_m += rng.uniform(1.2, 3.5)


def _footprint(
    block_m: Rectangle, facing: int, start_m: float, width_m: float, depths_m: tuple[float, float]
) -> Rectangle:
    """Place a lot on one side of a block; `start_m` counts from its left, seen from the street."""
    x0, y0, x1, y1 = block_m
    near_m, far_m = depths_m
    end_m = start_m + width_m
    return {
        SOUTH: (x0 + start_m, y0 + near_m, x0 + end_m, y0 + far_m),
        EAST: (x1 - far_m, y0 + start_m, x1 - near_m, y0 + end_m),
        NORTH: (x1 - end_m, y1 - far_m, x1 - start_m, y1 - near_m),
        WEST: (x0 + near_m, y1 - end_m, x0 + far_m, y1 - start_m),
    }[facing]


def _draw_building(
    rng: np.random.Generator, footprint_m: Rectangle, facing: int, corner: int | None
) -> Building:
    style = draw_style(rng, is_landmark=bool(rng.random() < _LANDMARK_CHANCE))
    repainted = int(rng.integers(2010, 2020)) if rng.random() < 0.2 else _LAST_YEAR
    num_tenants = int(rng.choice((0, 0, 1, 2)))
    retenanted = tuple(int(year) for year in rng.integers(2010, 2021, num_tenants))
    return Building(footprint_m, facing, corner, style, repainted, retenanted)


class Facades:
    """All walls of the buildings of a district, each with its texture of any year."""

    def __init__(self, buildings: Sequence[Building], px_per_m: float) -> None:
        """Build the walls; textures are drawn on demand, and cached."""
        self.walls: list[Wall] = []
        self._owners: list[tuple[int, str]] = []  # of each wall: building, content
        self._buildings = buildings
        self._px_per_m = px_per_m
        self._drawn: dict[tuple, Texture] = {}
        for index, building in enumerate(buildings):
            for wall, kind in _walls(building):
                self.walls.append(wall)
                self._owners.append((index, kind))

    def texture(self, year: int, wall: int) -> Texture:
        """Return the texture of a wall in a year."""
        index, kind = self._owners[wall]
        building = self._buildings[index]
        is_repainted = year >= building.repainted
        num_tenants = sum(year >= since for since in building.retenanted)
        width_m = self.walls[wall].width_m
        key = (index, kind, round(width_m, 3), is_repainted, num_tenants * (kind == "front"))
        if key not in self._drawn:
            if sum(texture.texels.size for texture in self._drawn.values()) > _MAX_KEPT_TEXELS:
                self._drawn.clear()
            style = repaint(building.style) if is_repainted else building.style
            self._drawn[key] = self._draw(style, kind, width_m, num_tenants)
        return self._drawn[key]

    def _draw(self, style: Style, kind: str, width_m: float, num_tenants: int) -> Texture:
        if kind == "flank":
            return draw_flank(style, width_m, self._px_per_m)
        if kind == "bay":
            return draw_bay(style, width_m, self._px_per_m)
        if kind == "corner":  # the shop is at the front, windows are on both sides
            ground_floor = "flat" if style.ground_floor != "shop" else "arcade"
            style = replace(style, ground_floor=ground_floor)
        return draw_facade(style, width_m, self._px_per_m, num_tenants)


def _walls(building: Building) -> Iterator[tuple[Wall, str]]:
    """Yield the walls of a building and their content; the back is never visible."""
    style = building.style
    sides = box_corners(*building.footprint_m)
    front = sides[building.facing]
    yield Wall(*front, 0, style.height_m, style.eaves_m), "front"
    for side in ((building.facing + 1) % 4, (building.facing + 3) % 4):
        if side == building.corner:
            yield Wall(*sides[side], 0, style.height_m, style.eaves_m), "corner"
        else:
            yield Wall(*sides[side], 0, style.eaves_m, style.eaves_m), "flank"
    yield from _bays(style, front)


def _bays(style: Style, front: tuple[tuple[float, float], tuple[float, float]]) -> Iterator:
    """Yield the walls of the bay windows, boxes in front of the upper floors."""
    start, end = np.array(front[0]), np.array(front[1])
    width_m = float(np.hypot(*(end - start)))
    along = (end - start) / width_m
    outwards = np.array((along[1], -along[0]))
    for share in style.bays:
        left = start + along * (share * (width_m - style.bay_width_m))
        right = left + along * style.bay_width_m
        foot = [left, left + outwards * 0.8, right + outwards * 0.8, right]
        for corner in range(3):
            feet = tuple(map(float, foot[corner])), tuple(map(float, foot[corner + 1]))
            yield Wall(*feet, style.ground_m, style.eaves_m), "bay"
