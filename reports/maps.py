"""Maps in HTML pages: predicted places of photos, and the packed map of a report.

Regions of UTM zones that do not touch are drawn side by side.
"""

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.positions import REGION_GAP_M
from reports.pictures import encode_thumbnail, format_metres, name_image
from reports.planes import Plane, find_planes, fit_streets
from reports.run_files import RunArrays, RunPositions

UNIT_M = 0.1  # resolution of coordinates in a report
NO_POSITION = np.iinfo(np.int32).min
MAX_PLACES = 300_000  # distinct places drawn in a report
MAX_MAP_PLACES = 40_000  # distinct places drawn in a map of photos
_REGION_GAP_M = 20_000  # a gap of this width separates regions
_CELLS_M = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_GRID_CELLS = 65_535  # the range of 16 bits
_STREETS_MARGIN_M = 2_000  # streets go on around a map, at least so far
_FOLDER = Path(__file__).with_name("page")


def fill_template(template: str, scripts: Sequence[str], streets: Sequence[Any], **values) -> str:
    """Return a page from a template in reports/page/; everything from outside is escaped.

    The browser itself refuses whatever is not on the page, but tiles of streets if there are any.

    Args:
        template: Its file.
        scripts: Files of its script, after the one that both maps share.
        streets: Where the map of the page has streets, see `fit_streets`.
        **values: Of the template.

    Raises:
        ImportError: If jinja2 is missing, which nothing else needs.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files = ("streets.js", *scripts)
    script = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in files)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    images = "data: https://tile.openstreetmap.org" if streets else "data:"
    policy = (
        f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(
        policy=Markup(policy),
        style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        **values,
    )


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
    """One predicted place, or the photo's own position."""

    rank: int  # from 1; 0 for the photo's own position
    position_m: tuple[float, float]  # east, north, as those of the database
    text: str  # tooltip
    coordinates_deg: tuple[float, float] | None = None  # latitude, longitude, for links


@dataclass(frozen=True)
class MapPhoto:
    """One photo and its predicted places."""

    label: str
    text: str
    thumbnail: str  # data URI, see `make_thumbnail`
    points: list[MapPoint]
    own: MapPoint | None = None  # where it was taken, as far as the photo itself knows
    is_in_database: bool = True  # else its number gets a question mark


def draw_place_map(
    title: str,
    database_m: np.ndarray,
    photos: Sequence[MapPhoto],
    planes: Mapping[float, Plane] | None = None,
) -> str:
    """Return an HTML page: the places of a database in grey, the predictions of each photo on top.

    Regions of UTM zones that do not touch are drawn side by side, each on a grid of its own.

    Args:
        title: Heading of the page.
        database_m: East and north, as of `datasets.positions`, at least one.
            float64 [num_database, 2].
        photos: Photos to show; texts may hold any characters.
        planes: Of the regions, see `find_planes`: where streets can be drawn underneath.
    """
    layout, numbers = lay_out(database_m), number_regions(database_m)
    drawn_m = layout.move(database_m)
    max_places = MAX_MAP_PLACES // len(layout.numbers)
    streets = []
    for number, shift_m in zip(layout.numbers.tolist(), layout.shifts_m, strict=True):
        region_m = drawn_m[numbers == number]
        box_m = np.concatenate([region_m.min(axis=0), region_m.max(axis=0)])
        margin_m = max(_STREETS_MARGIN_M, np.ptp(region_m, axis=0).max() / 2)
        if len(layout.numbers) > 1:  # half of the gap between regions
            margin_m = 0.05 * np.ptp(region_m, axis=0).max()
        if number in (planes or {}):
            streets.append(fit_streets(planes[number], shift_m, box_m, margin_m))
    data = {
        "regions": [_thin_to_grid(drawn_m[numbers == one], max_places) for one in layout.numbers],
        "photos": [_move_photo(photo, layout) for photo in photos],
        "streets": list(filter(None, streets)),
    }
    return fill_template(
        "place_map.html",
        ["place_map.js"],
        data["streets"],
        title=title,
        data=data,
        num_regions=len(layout.numbers),
        has_own=any(photo.own for photo in photos),
    )


def _move_photo(photo: MapPhoto, layout: RegionLayout) -> dict[str, Any]:
    """Return a photo as plain values with shifted points."""
    points = [photo.own, *photo.points]
    points_m = [point.position_m if point else (np.nan, np.nan) for point in points]
    drawn_m = layout.move(np.array(points_m)).tolist()
    own, *points = (
        point and asdict(point) | {"position_m": position_m}
        for point, position_m in zip(points, drawn_m, strict=True)
    )
    return asdict(photo) | {"points": points, "own": own}


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
    positions, layout = _bring_together(run.positions)
    everything_m = np.concatenate([positions.queries_m, positions.places_m])
    origin_m = np.floor(np.nanmin(everything_m, axis=0))
    places_m, cell_m = thin_places(positions.places_m)
    names = [
        [os.path.basename(path) for path in run.queries],
        [name_image(path) for path in run.queries],
        [os.path.basename(paths[0]) if paths else "" for paths in run.predictions],
        [format_metres(metres) for metres in run.distances_m[:, 0]],
    ]
    firsts_m = np.where(
        np.isfinite(run.distances_m[:, :1]), positions.first_predictions_m, np.nan
    )  # a line to another UTM zone would have no true length or direction
    places = _to_units(places_m, origin_m)
    places = places[np.lexsort(places.T)]  # by north: small steps compress well
    steps = np.diff(places, axis=0, prepend=np.zeros((1, 2), np.int32))
    regions = find_regions(positions)
    planes = find_planes(run.queries, run.positions.queries_m)
    boxes_m = [box_m for box_m, _ in regions]
    return {
        "unit_m": UNIT_M,
        "no_position": int(NO_POSITION),
        "cell_m": cell_m,
        "has_far_zones": len(layout.numbers) > 1,
        "num_places": len(places),
        "place_steps": _pack(steps.T.tobytes()),  # norths and easts apart, see above
        "queries": _pack(_to_units(positions.queries_m, origin_m).tobytes()),
        "first_predictions": _pack(_to_units(firsts_m, origin_m).tobytes()),
        "statuses": None if run.statuses is None else _pack(run.statuses.tobytes()),
        "names": _pack(json.dumps(names).encode()),
        "regions": [
            {"box": ((box_m - np.tile(origin_m, 2)) / UNIT_M).round().tolist(), "num_queries": n}
            for box_m, n in regions
        ],
        "streets": _find_streets(run.positions, layout, planes, boxes_m, origin_m),
    }


def _find_streets(
    positions: RunPositions,
    layout: RegionLayout,
    planes: Mapping[float, Plane],
    boxes_m: Sequence[np.ndarray],
    origin_m: np.ndarray,
) -> list[dict[str, Any]]:
    """Return what `fit_streets` gives for the drawn boxes; metres from the origin."""
    everything_m = np.concatenate([positions.queries_m, positions.places_m])
    drawn_m, numbers = layout.move(everything_m), number_regions(everything_m)
    streets = []
    for number, shift_m in zip(layout.numbers.tolist(), layout.shifts_m, strict=True):
        west_m, east_m = np.quantile(drawn_m[numbers == number, 0], [0, 1])
        for box_m in boxes_m:
            if number in planes and west_m <= box_m[0] <= east_m:
                extent_m = (box_m[2:] - box_m[:2]).max()
                margin_m = np.clip(extent_m / 2, _STREETS_MARGIN_M, 0.4 * _REGION_GAP_M)
                box_m = box_m - np.tile(origin_m, 2)
                streets.append(fit_streets(planes[number], shift_m - origin_m, box_m, margin_m))
    return list(filter(None, streets))


def _bring_together(positions: RunPositions) -> tuple[RunPositions, RegionLayout]:
    """Put the regions of positions side by side; return them and how they were moved."""
    everything_m = np.concatenate([positions.queries_m, positions.places_m])
    layout = lay_out(everything_m, gap_m=1.5 * _REGION_GAP_M)  # wide enough for `find_regions`
    parts = (positions.queries_m, positions.first_predictions_m, positions.places_m)
    return RunPositions(*map(layout.move, parts)), layout


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
