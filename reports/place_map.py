"""A map of predicted places as one HTML file, which needs no network."""

import base64
import html
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from datasets.images import open_image

MAX_PLACES = 40_000  # of the database; a coarser grid is taken until it has no more
_GRID_CELLS = 65_535  # what 16 bits can number
_TEMPLATE = Path(__file__).with_name("place_map.html")


@dataclass(frozen=True)
class MapPoint:
    """One predicted place."""

    rank: int  # from 1
    utm_m: tuple[float, float]  # east, north
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

    Args:
        title: Heading of the page.
        database_m: UTM east and north. float64 [num_database, 2].
        photos: What to show; all texts may hold any characters.
    """
    cells, origin_m, step_m = _thin_out(database_m)
    data = {
        "places": base64.b64encode(cells.astype("<u2").tobytes()).decode(),
        "origin_m": origin_m,
        "step_m": step_m,
        "photos": [asdict(photo) for photo in photos],
    }
    # JSON in a page ends at the first "</script>", and "<!--" opens a comment
    text = json.dumps(data).replace("<", "\\u003c")
    page = _TEMPLATE.read_text(encoding="utf-8").replace("{{title}}", html.escape(title))
    return page.replace("{{data}}", text)


def make_thumbnail(path: str | os.PathLike, side_px: int = 200) -> str:
    """Return an upright, small copy of an image as a data URI; raises like `open_image`."""
    image = open_image(path)
    image.thumbnail((side_px, side_px))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _thin_out(positions_m: np.ndarray) -> tuple[np.ndarray, list[float], float]:
    """Round positions to a grid that has at most MAX_PLACES of them.

    Returns:
        Distinct cells, int64 [num_places, 2], the position of cell (0, 0) and the side of a cell,
        metres.
    """
    origin_m = positions_m.min(axis=0)
    extent_m = max(float((positions_m - origin_m).max()), 1.0)
    step_m = extent_m / _GRID_CELLS
    cells = np.unique(np.rint((positions_m - origin_m) / step_m).astype(np.int64), axis=0)
    while len(cells) > MAX_PLACES:  # cells of twice the side, at the middle of four
        cells, origin_m = np.unique(cells // 2, axis=0), origin_m + step_m / 2
        step_m *= 2
    return cells, origin_m.tolist(), step_m
