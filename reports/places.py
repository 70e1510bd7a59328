"""Localizations as text, `places.csv`, `places.geojson` and markers of `map.html`."""

import itertools
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import commons
from datasets.geotags import read_geotag
from datasets.positions import REGION_GAP_M
from datasets.tables import write_rows, write_table
from evaluation.localization import Localization, Place
from reports.maps import MapPhoto, MapPoint, make_thumbnail
from reports.pictures import format_metres
from reports.planes import Plane

_FARTHEST_OWN_M = 100_000  # from the top-1; farther EXIF positions are not drawn

PLACES_COLUMNS = (
    "photo",
    "rank",
    "latitude",
    "longitude",
    "utm_east_m",
    "utm_north_m",
    "zone",
    "heading_deg",
    "descriptor_distance",
    "database_image",
    "spread_m",
    "confidence",
    "confidence_kind",
    "in_database",
)


def format_localization(localization: Localization) -> str:
    """Return the places of one photo as a table."""
    if not localization.places:
        return f"{localization.photo}: {describe_agreement(localization)}"
    rows = [
        ["rank", "latitude", "longitude", "UTM east", "UTM north", "zone", "heading", "distance"]
    ]
    rows += [_cells(place) for place in localization.places]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    names = ["database image", *(_basename(place) for place in localization.places)]
    table = [
        "  ".join([*map(str.rjust, row, widths), name])
        for row, name in zip(rows, names, strict=True)
    ]
    return "\n".join([f"{localization.photo}: {describe_agreement(localization)}", *table])


def format_place(place: Place) -> str:
    """Return the known facts about one place, in lines."""
    latitude, longitude, east, north, zone, heading, distance = _cells(place)[1:]
    lines = [
        f"latitude {latitude}, longitude {longitude}" if latitude else "",
        f"UTM {east} {north} {zone}".rstrip(),
        f"heading {heading} degrees" if heading else "",
        f"descriptor distance {distance}",
        _basename(place),
    ]
    return "\n".join(filter(None, lines))


def describe_agreement(localization: Localization) -> str:
    """Return in one line where a photo was taken, and how far its places agree."""
    if not localization.places:
        return "no place found"
    place = localization.places[0]
    if place.coordinates_deg:
        where = "geo:{:.6f},{:.6f}".format(*place.coordinates_deg)
    else:
        where = f"UTM {place.utm_m[0]:.2f} {place.utm_m[1]:.2f} {place.zone}".rstrip()
    if localization.spread_m is None:
        return where
    where += f", spread {localization.spread_m:.1f} m"
    confidence = f"{_kind(localization)} confidence {localization.confidence:.2f}"
    if localization.is_in_database is False:
        threshold = f"{localization.min_confidence:.2f}"
        return f"not in the database ({confidence}, below {threshold}); nearest: {where}"
    return f"{where}, {confidence}"


def map_photo(localization: Localization, planes: Mapping[float, Plane]) -> MapPhoto:
    """Return a photo with its places for the map, and with the position that its EXIF holds.

    Args:
        localization: Of a readable photo.
        planes: Of the database, see `find_planes`; without one, EXIF is not compared.
    """
    points = [
        MapPoint(place.rank, place.position_m, format_place(place), place.coordinates_deg)
        for place in localization.places
    ]
    own, text = None, describe_agreement(localization)
    text = text.replace(", spread", "\nspread").replace("; nearest", "\nnearest")
    if points and (plane := planes.get(round(points[0].position_m[0] / REGION_GAP_M))):
        own, sentence = _find_own(localization.photo, points[0].position_m, plane)
        text += f"\n{sentence}" if sentence else ""
    label = os.path.basename(localization.photo)
    is_in_database = localization.is_in_database is not False
    thumbnail = make_thumbnail(localization.photo)
    return MapPhoto(label, text, thumbnail, points, own, is_in_database)


def _find_own(
    photo: str, first_m: tuple[float, float], plane: Plane
) -> tuple[MapPoint | None, str]:
    """Return the position in the EXIF of a photo, if it is near, and its distance in words."""
    try:
        geotag = read_geotag(photo)
    except ValueError:  # a format whose EXIF Pillow does not read
        return None, ""
    if not geotag.has_position:
        return None, ""
    degrees = geotag.latitude_deg, geotag.longitude_deg
    (own_m,) = plane.project(*np.array([degrees]).T).tolist()
    distance_m = math.dist(own_m, first_m)
    if not distance_m <= _FARTHEST_OWN_M:
        return None, "EXIF position in another region"
    where = "geo:{:.6f},{:.6f}".format(*degrees)
    sentence = f"EXIF position {format_metres(distance_m)} from the top-1"
    return MapPoint(0, tuple(own_m), f"{where}\n{sentence}", degrees), sentence


def printable(text: str) -> str:
    """Replace bytes of a file name that are not UTF-8, which consoles refuse."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def write_places(localizations: Sequence[Localization], path: Path) -> None:
    """Write one row per photo and rank; unknown values are empty."""
    write_table(path, PLACES_COLUMNS, itertools.chain(*map(_csv_rows, localizations)))


def print_places(localizations: Sequence[Localization]) -> None:
    """Write the table of `write_places` to stdout, as far as somebody reads it."""
    sys.stdout.reconfigure(errors="surrogateescape")  # names may be any bytes
    rows = itertools.chain(*map(_csv_rows, localizations))
    try:
        write_rows(sys.stdout, PLACES_COLUMNS, rows, line_end="\n")
        sys.stdout.flush()
    except BrokenPipeError:  # as `head` leaves when it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush


def write_geojson(localizations: Sequence[Localization], path: Path) -> int:
    """Write the first place of each photo as a GeoJSON point (RFC 7946).

    Returns:
        The number of photos with coordinates; the others are left out.
    """
    features = [
        _feature(localization)
        for localization in localizations
        if localization.places and localization.places[0].coordinates_deg
    ]
    commons.write_json({"type": "FeatureCollection", "features": features}, path)
    return len(features)


def _feature(localization: Localization) -> dict[str, Any]:
    place = localization.places[0]
    latitude_deg, longitude_deg = place.coordinates_deg
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [longitude_deg, latitude_deg]},
        "properties": {
            "photo": localization.photo,
            "database_image": place.database_image,
            "descriptor_distance": place.descriptor_distance,
            "heading_deg": place.name.heading_deg,
            "spread_m": localization.spread_m,
            "confidence": localization.confidence,
            "confidence_kind": _kind(localization),
            "in_database": localization.is_in_database,
        },
    }


def _csv_rows(localization: Localization) -> Iterator[tuple[Any, ...]]:
    for place in localization.places:
        latitude, longitude, east, north, zone, heading, distance = _cells(place)[1:]
        yield (
            localization.photo,
            place.rank,
            *(latitude, longitude, east, north, zone, heading, distance),
            place.database_image,
            _number(localization.spread_m, "{:.1f}"),
            _number(localization.confidence, "{:.3f}"),
            _kind(localization),
            "" if localization.is_in_database is None else int(localization.is_in_database),
        )


def _kind(localization: Localization) -> str:
    """Return what a confidence is; empty if there is none."""
    if localization.confidence is None:
        return ""
    return "calibrated" if localization.is_calibrated else "heuristic"


def _number(value: float | None, template: str) -> str:
    return "" if value is None else template.format(value)


def _cells(place: Place) -> list[str]:
    """Return all columns but the name, as text."""
    latitude_deg, longitude_deg = place.coordinates_deg or (None, None)
    return [
        str(place.rank),
        _number(latitude_deg, "{:.6f}"),
        _number(longitude_deg, "{:.6f}"),
        f"{place.utm_m[0]:.2f}",
        f"{place.utm_m[1]:.2f}",
        place.zone,
        _number(place.name.heading_deg, "{:g}"),
        f"{place.descriptor_distance:.4f}",
    ]


def _basename(place: Place) -> str:
    return os.path.basename(place.database_image)
