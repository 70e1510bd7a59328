"""The map of a report: positions and names in few bytes."""

import base64
import json
import os
import zlib
from typing import Any

import numpy as np

from reports.pictures import format_metres
from reports.regions import lay_out
from reports.run_files import Positions, RunArrays

UNIT_M = 0.1  # what coordinates are rounded to
NO_POSITION = np.iinfo(np.int32).min
MAX_PLACES = 300_000  # as many distinct ones are drawn
_REGION_GAP_M = 20_000  # images with such a gap between them are of different regions
_CELLS_M = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def pack_map(run: RunArrays) -> dict[str, Any]:
    """Return what the script of the page draws; plain values without any name in clear.

    Regions of UTM zones that do not touch are drawn side by side: they are too far apart for int32.
    Arrays are little-endian, compressed by zlib and written in base64. Positions are int32 pairs
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


def _bring_together(positions: Positions) -> tuple[Positions, int]:
    """Return positions with their regions side by side, and the number of regions."""
    everything_m = np.concatenate([positions.queries_m, positions.places_m])
    layout = lay_out(everything_m, gap_m=1.5 * _REGION_GAP_M)  # so that `find_regions` sees it
    parts = (positions.queries_m, positions.first_predictions_m, positions.places_m)
    return Positions(*map(layout.move, parts)), len(layout.numbers)


def thin_places(places_m: np.ndarray) -> tuple[np.ndarray, float]:
    """Return at most MAX_PLACES places: rounded to the finest grid that does, and its cell.

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


def find_regions(positions: Positions) -> list[tuple[np.ndarray, int]]:
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
    """Split a part of the points, given by their numbers, along either axis as long as it can."""
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
