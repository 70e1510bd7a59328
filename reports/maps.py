"""Maps in HTML pages: predicted places of photos, and the packed map of a report.

Regions of UTM zones that do not touch are drawn side by side.
"""

import base64
import html
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.positions import REGION_GAP_M
from reports.pictures import encode_thumbnail, format_metres
from reports.run_files import RunArrays, RunPositions

UNIT_M = 0.1  # resolution of coordinates in a report
NO_POSITION = np.iinfo(np.int32).min
MAX_PLACES = 300_000  # distinct places drawn in a report
MAX_MAP_PLACES = 40_000  # distinct places drawn in a map of photos
_REGION_GAP_M = 20_000  # a gap of this width separates regions
_CELLS_M = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_GRID_CELLS = 65_535  # the range of 16 bits
_TEMPLATE = Path(__file__).with_name("place_map.html")


@dataclass(frozen=True)
class RegionLayout:
    """Shifts that put the UTM regions of some positions side by side, from west to east.

    The first region keeps its place, the others share its southern edge.
    """

    numbers: np.ndarray  # of the regions, in ascending order. float64 [num_regions]
    shifts_m: np.ndarray  # float64 [num_regions, 2]

    def move(self, positions_m: np.ndarray) -> np.ndarray:
        """Return shifted positions, NaN for NaN. float64 [n, 2]."""
        indices = np.searchsorted(self.numbers, number_regions(positions_m))
        return positions_m + self.shifts_m[np.minimum(indices, len(self.numbers) - 1)]


def number_regions(positions_m: np.ndarray) -> np.ndarray:
    """Return the region number of each position, NaN for NaN. float64 [n]."""
    return np.rint(positions_m[:, 0] / REGION_GAP_M)


def lay_out(positions_m: np.ndarray, gap_m: float = 0.0) -> RegionLayout:
    """Lay out the UTM regions of positions side by side.

    Args:
        positions_m: East and north; some may be NaN. float64 [n, 2].
        gap_m: Least distance between regions; at least a tenth of their widths and heights.
    """
    positions_m = positions_m[np.isfinite(positions_m).all(axis=1)]
    regions = number_regions(positions_m)
    numbers = np.unique(regions)
    parts = [positions_m[regions == number] for number in numbers]
    corners_m = np.array([part.min(axis=0) for part in parts]).reshape(-1, 2)
    sizes_m = np.array([part.max(axis=0) for part in parts]).reshape(-1, 2) - corners_m
    gap_m = max(gap_m, 0.1 * sizes_m.max(initial=0))
    shifts_m = np.zeros_like(corners_m)
    for number in range(1, len(numbers)):
        before = number - 1
        edge_m = corners_m[before, 0] + shifts_m[before, 0] + sizes_m[before, 0]
        shifts_m[number] = (edge_m + gap_m, corners_m[0, 1]) - corners_m[number]
    return RegionLayout(numbers, shifts_m)


@dataclass(frozen=True)
class MapPoint:
    """One predicted place."""

    rank: int  # from 1
    position_m: tuple[float, float]  # east, north, as those of the database
    text: str  # tooltip


@dataclass(frozen=True)
class MapPhoto:
    """One photo and its predicted places."""

    label: str
    text: str
    thumbnail: str  # data URI, see `make_thumbnail`
    points: list[MapPoint]


def draw_place_map(title: str, database_m: np.ndarray, photos: Sequence[MapPhoto]) -> str:
    """Return an HTML page: the places of a database in grey, the predictions of each photo on top.

    Regions of UTM zones that do not touch are drawn side by side, each on a grid of its own.

    Args:
        title: Heading of the page.
        database_m: East and north, as of `datasets.positions`, at least one.
            float64 [num_database, 2].
        photos: Photos to show; texts may hold any characters.
    """
    layout, numbers = lay_out(database_m), number_regions(database_m)
    drawn_m = layout.move(database_m)
    max_places = MAX_MAP_PLACES // len(layout.numbers)
    data = {
        "regions": [_thin_to_grid(drawn_m[numbers == one], max_places) for one in layout.numbers],
        "photos": [_move_photo(photo, layout) for photo in photos],
    }
    # JSON in a page ends at the first "</script>", and "<!--" opens a comment
    text = json.dumps(data).replace("<", "\\u003c")
    page = _TEMPLATE.read_text(encoding="utf-8").replace("{{title}}", html.escape(title))
    return page.replace("{{data}}", text)


def _move_photo(photo: MapPhoto, layout: RegionLayout) -> dict[str, Any]:
    """Return a photo as plain values with shifted points."""
    points_m = np.array([point.position_m for point in photo.points]).reshape(-1, 2)
    drawn_m = layout.move(points_m).tolist()
    points = [
        asdict(point) | {"position_m": position_m}
        for point, position_m in zip(photo.points, drawn_m, strict=True)
    ]
    return asdict(photo) | {"points": points}


def make_thumbnail(path: str | os.PathLike, side_px: int = 200) -> str:
    """Return an upright, small copy of an image as a data URI; raises like `open_image`."""
    return encode_thumbnail(path, (side_px, side_px), quality=75)


def _thin_to_grid(positions_m: np.ndarray, max_places: int) -> dict[str, Any]:
    """Round the positions of one region to a grid with at most `max_places` distinct cells.

    Returns:
        The distinct cells, little-endian uint16 pairs in base64, the position of cell (0, 0), and
        the side of a cell in metres.
    """
    origin_m = positions_m.min(axis=0)
    extent_m = max(float((positions_m - origin_m).max()), 1.0)
    step_m = extent_m / _GRID_CELLS
    cells = np.unique(np.rint((positions_m - origin_m) / step_m).astype(np.int64), axis=0)
    while len(cells) > max_places:  # cells of twice the side, at the middle of four
        cells, origin_m = np.unique(cells // 2, axis=0), origin_m + step_m / 2
        step_m *= 2
    places = base64.b64encode(cells.astype("<u2").tobytes()).decode()
    return {"places": places, "origin_m": origin_m.tolist(), "step_m": step_m}


def pack_map(run: RunArrays) -> dict[str, Any]:
    """Return the map of a report as plain values for the script of its page.

    Regions of UTM zones that do not touch are drawn side by side: they are too far apart for int32.
    Arrays are little-endian, compressed by zlib and written in base64. RunPositions are int32 pairs
    (east, north) in units of UNIT_M from an origin.

    Args:
        run: A run with positions.
    """
    positions, num_regions = _bring_together(run.positions)
    everything_m = np.concatenate([positions.queries_m, positions.places_m])
    origin_m = np.floor(np.nanmin(everything_m, axis=0))
    places_m, cell_m = thin_places(positions.places_m)
    names = [
        [os.path.basename(path) for path in run.queries],
        [os.path.basename(paths[0]) if paths else "" for paths in run.predictions],
        [format_metres(metres) for metres in run.distances_m[:, 0]],
    ]
    firsts_m = np.where(
        np.isfinite(run.distances_m[:, :1]), positions.first_predictions_m, np.nan
    )  # a line to another UTM zone would have no true length or direction
    places = _to_units(places_m, origin_m)
    places = places[np.lexsort(places.T)]  # by north: small steps compress well
    steps = np.diff(places, axis=0, prepend=np.zeros((1, 2), np.int32))
    return {
        "unit_m": UNIT_M,
        "no_position": int(NO_POSITION),
        "cell_m": cell_m,
        "has_far_zones": num_regions > 1,
        "num_places": len(places),
        "place_steps": _pack(steps.T.tobytes()),  # norths and easts apart, see above
        "queries": _pack(_to_units(positions.queries_m, origin_m).tobytes()),
        "first_predictions": _pack(_to_units(firsts_m, origin_m).tobytes()),
        "statuses": None if run.statuses is None else _pack(run.statuses.tobytes()),
        "names": _pack(json.dumps(names).encode()),
        "regions": [
            {"box": ((box_m - np.tile(origin_m, 2)) / UNIT_M).round().tolist(), "num_queries": n}
            for box_m, n in find_regions(positions)
        ],
    }


def _bring_together(positions: RunPositions) -> tuple[RunPositions, int]:
    """Put the regions of positions side by side; return them and the number of regions."""
    everything_m = np.concatenate([positions.queries_m, positions.places_m])
    layout = lay_out(everything_m, gap_m=1.5 * _REGION_GAP_M)  # wide enough for `find_regions`
    parts = (positions.queries_m, positions.first_predictions_m, positions.places_m)
    return RunPositions(*map(layout.move, parts)), len(layout.numbers)


def thin_places(places_m: np.ndarray) -> tuple[np.ndarray, float]:
    """Return at most MAX_PLACES places, rounded to the finest possible grid, and its cell.

    Args:
        places_m: float64 [n, 2].
    """
    if len(places_m) <= MAX_PLACES:
        return places_m, 0
    for cell_m in _CELLS_M:
        thinned = np.unique((places_m / cell_m).round(), axis=0) * cell_m
        if len(thinned) <= MAX_PLACES:
            break
    return thinned, cell_m


def find_regions(positions: RunPositions) -> list[tuple[np.ndarray, int]]:
    """Split all positions where there is a wide gap between them: MSLS has several cities.

    Returns:
        (west, south, east, north in metres [4], number of queries), most queries first; regions
        without queries are left out.
    """
    known = np.isfinite(positions.queries_m).all(axis=1)
    queries_m = positions.queries_m[known]
    points = np.concatenate([queries_m, positions.places_m])
    is_query = np.arange(len(points)) < len(queries_m)
    regions = [
        (np.concatenate([points[part].min(axis=0), points[part].max(axis=0)]), is_query[part].sum())
        for part in _split_at_gaps(points, np.arange(len(points)))
    ]
    regions.sort(key=lambda region: -region[1])
    return [(box_m, int(num_queries)) for box_m, num_queries in regions if num_queries]


def _split_at_gaps(points: np.ndarray, part: np.ndarray) -> list[np.ndarray]:
    """Split a part of the points, given by their indices, along either axis, recursively."""
    for axis in (0, 1):
        order = part[np.argsort(points[part, axis])]
        cuts = np.flatnonzero(np.diff(points[order, axis]) > _REGION_GAP_M) + 1
        if len(cuts):
            pieces = np.split(order, cuts)
            return [region for piece in pieces for region in _split_at_gaps(points, piece)]
    return [part]


def _to_units(points_m: np.ndarray, origin_m: np.ndarray) -> np.ndarray:
    """Round positions to units from the origin; NO_POSITION for NaN. int32 [n, 2]."""
    units = ((points_m - origin_m) / UNIT_M).round()
    return np.where(np.isfinite(units), units, NO_POSITION).astype("<i4")


def _pack(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()
