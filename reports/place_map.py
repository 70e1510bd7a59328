"""A map of predicted places as one HTML file, which needs no network."""

import base64
import html
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reports.regions import Layout, lay_out, number_regions
from reports.thumbnails import encode_thumbnail

MAX_PLACES = 40_000  # of the database; coarser grids are taken until there are no more
_GRID_CELLS = 65_535  # what 16 bits can number
_TEMPLATE = Path(__file__).with_name("place_map.html")


@dataclass(frozen=True)
class MapPoint:
    """One predicted place."""

    rank: int  # from 1
    position_m: tuple[float, float]  # east, north, as those of the database
    text: str  # shown when pointed at


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
        photos: What to show; all texts may hold any characters.
    """
    layout, numbers = lay_out(database_m), number_regions(database_m)
    drawn_m = layout.move(database_m)
    max_places = MAX_PLACES // len(layout.numbers)
    data = {
        "regions": [_thin_out(drawn_m[numbers == one], max_places) for one in layout.numbers],
        "photos": [_move_photo(photo, layout) for photo in photos],
    }
    # JSON in a page ends at the first "</script>", and "<!--" opens a comment
    text = json.dumps(data).replace("<", "\\u003c")
    page = _TEMPLATE.read_text(encoding="utf-8").replace("{{title}}", html.escape(title))
    return page.replace("{{data}}", text)


def _move_photo(photo: MapPhoto, layout: Layout) -> dict[str, Any]:
    """Return a photo as plain values, its points where they are drawn."""
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


def _thin_out(positions_m: np.ndarray, max_places: int) -> dict[str, Any]:
    """Round the positions of one region to a grid that has at most so many of them.

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
