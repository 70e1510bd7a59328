"""Rows of tables of photos: lines of CSV, entries of Mapillary's JSON, features of GeoJSON.

Each reader yields a number and cells as texts. The first row is the header; that of a CSV file may
be missing. Numbers of JSON stay as they are written.
"""

import csv
import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

Row = tuple[int, list[str]]

_END = "# end"  # a line after the last one, which a quote that is not closed takes into its cell

_log = logging.getLogger(__name__)


def read_csv(file: Path) -> Iterator[Row]:
    """Yield the lines that are neither empty nor a comment, a single cell that begins with #.

    Each comes with its number.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If the file is not text of UTF-16 though it starts so, a cell is too large, or a
            quote is never closed, which would take all lines that follow into one cell.
    """
    with open_text(file) as text:
        try:
            delimiter, num_before = _find_delimiter(text)
            lines, begin = itertools.chain(text, [_END]), num_before + 1
            reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
            for row in reader:
                if row and row != [_END] and row[-1].endswith(_END):
                    raise ValueError(f"{file}, line {begin}: a quote is opened and never closed")
                begin = num_before + reader.line_num + 1
                is_comment = len(row) == 1 and row[0].startswith("#")
                if "".join(row).strip() and not is_comment:
                    yield begin - 1, row
        except csv.Error as error:
            raise ValueError(f"{file}, line {num_before + reader.line_num}: {error}") from None
        except UnicodeError as error:
            raise ValueError(f"{file} starts as UTF-16 but is not UTF-16: {error}") from None


def read_mapillary(file: Path) -> Iterator[Row]:
    """Yield the images of Mapillary's JSON: mapillary_tools' descriptions, or images of API v4.

    The file of an image is its `filename`, else its id. Computed positions and angles come first.
    Videos, and images that mapillary_tools could not process, are left out and counted.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is no JSON, or holds something else.
    """
    yield 0, ["path", "lat", "lon", "heading", "height", "timestamp", "pano_id"]
    num_videos, errors, num_computed = 0, [], 0
    for number, entry in enumerate(_read_entries(file, "data"), 1):
        if "error" in entry:
            errors.append(_text(_dict(entry["error"]).get("message")))
        elif entry.get("filetype", "image") not in ("image", "zip"):
            num_videos += 1
        else:
            num_computed += "computed_geometry" in entry
            yield number, _read_mapillary_image(entry)
    if num_computed:
        _log.info(f"{file}: {num_computed:,} positions are those that Mapillary computed")
    if num_videos:
        _log.warning(f"{file}: {num_videos:,} videos are left out")
    if errors:
        _log.warning(f"{file}: {len(errors):,} entries with an error are left out: {errors[0]}")


def read_geojson(file: Path) -> Iterator[Row]:
    """Yield the points of GeoJSON: a FeatureCollection, a Feature, or one feature a line.

    The columns are the properties. Lines and areas are left out and counted.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is no JSON, or holds something else, or coordinates of another system.
    """
    features = _read_entries(file, "features")
    names = dict.fromkeys(name for one in features for name in _dict(one.get("properties")))
    header = [name for name in names if name not in ("lat", "lon")]
    yield 0, ["lat", "lon", *header]
    num_others = 0
    for number, feature in enumerate(features, 1):
        geometry = _dict(feature.get("geometry"))
        if geometry.get("type", "Point") != "Point":
            num_others += 1
            continue
        properties = _dict(feature.get("properties"))
        yield number, [*_read_point(geometry), *(_text(properties.get(name)) for name in header)]
    if num_others:
        _log.warning(f"{file}: {num_others:,} lines, areas and the like are left out")


READERS = {"csv": read_csv, "mapillary": read_mapillary, "geojson": read_geojson}
UNITS = {"csv": ("line", "lines"), "mapillary": ("entry", "entries")}
UNITS["geojson"] = ("feature", "features")


def read_text(file: Path) -> str:
    """Return the content of a text file; see `open_text`.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it starts as UTF-16 and is not.
    """
    try:
        with open_text(file) as text:
            return text.read()
    except UnicodeError as error:
        raise ValueError(f"{file} starts as UTF-16 but is not UTF-16: {error}") from None


def open_text(file: Path) -> TextIO:
    """Open UTF-8 or UTF-16, with or without a byte order mark; other bytes are kept."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}")
    with open(file, "rb") as binary:
        first = binary.read(2)
    encoding = "utf-8-sig"
    if first in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif len(first) == 2 and first.count(0) == 1:
        encoding = "utf-16-be" if first[0] == 0 else "utf-16-le"
    return open(file, newline="", encoding=encoding, errors="surrogateescape")


def parse_json(text: str, file: Path) -> Any:  # noqa: ANN401
    """Read JSON with its numbers as texts.

    Raises:
        ValueError: If it is none; names the file.
    """
    try:
        return json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from None


def _find_delimiter(text: TextIO) -> tuple[str, int]:
    """Return the separator of the cells; go to the first line that has some, after so many others.

    Spreadsheets may say it in a line of its own, `sep=;`; else it is that of the first line that
    does not begin with #.
    """
    lines = enumerate(iter(text.readline, ""), 1)
    filled = ((at, line) for at, line in lines if line.strip() and not line.startswith("#"))
    num_before, first = next(filled, (0, ""))
    if match := re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE):
        return match[1], num_before
    text.seek(0)
    bare = re.sub(r'"[^"]*"', "", first)
    return next((mark for mark in "\t;|" if mark in bare), ","), 0


def _read_entries(file: Path, key: str) -> list[dict[str, Any]]:
    """Return the objects of a JSON file: a list, a list under a key, one, or one a line."""
    text = read_text(file)
    lines = [line for line in text.splitlines() if line.strip(" \x1e")]  # RFC 8142 begins so
    if len(lines) > 1 and all(line.strip(" \x1e").startswith("{") for line in lines):
        content = [parse_json(line.strip(" \x1e"), file) for line in lines]
    else:
        content = parse_json(text, file)
    if isinstance(content, dict):
        _check_system(content, file)
        if key != "features" and "features" in content:
            raise ValueError(f"{file} is GeoJSON: python -m tools.convert geojson reads it")
        content = content.get(key, [content])
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise ValueError(f"{file} must hold a list of objects, or one with the list '{key}'")
    if not content:
        raise ValueError(f"{file} lists nothing")
    return content


def _check_system(content: Mapping[str, Any], file: Path) -> None:
    """Refuse coordinates that are not degrees; old GeoJSON and QGIS may say so."""
    name = _text(_dict(_dict(content.get("crs")).get("properties")).get("name"))
    if name and not re.search(r"(CRS84|EPSG:+(\d+\.?\d*:)?4326|WGS ?84)$", name, re.IGNORECASE):
        raise ValueError(f"{file} has coordinates of {name}: export it in EPSG:4326 (WGS 84)")


def _read_mapillary_image(entry: Mapping[str, Any]) -> list[str]:
    """Return the cells of one image; those that are missing are empty."""

    def first(*names: str) -> str:
        return next(filter(None, (_text(entry.get(name)) for name in names)), "")

    heading = _dict(entry.get("MAPCompassHeading"))
    latitude, longitude = _read_point(
        _dict(entry.get("computed_geometry") or entry.get("geometry"))
    )
    number = first("id", "key")
    return [
        first("filename") or number,
        first("MAPLatitude") or latitude,
        first("MAPLongitude") or longitude,
        _text(heading.get("TrueHeading")) or first("computed_compass_angle", "compass_angle", "ca"),
        first("MAPAltitude", "computed_altitude", "altitude"),
        first("MAPCaptureTime", "captured_at"),
        number,
    ]


def _read_point(geometry: Mapping[str, Any]) -> tuple[str, str]:
    """Return latitude and longitude of a point, empty if it has none."""
    coordinates = geometry.get("coordinates")
    if not isinstance(coordinates, Sequence) or len(coordinates) < 2:
        return "", ""
    return _text(coordinates[1]), _text(coordinates[0])


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    """Return a value of JSON as a cell; lists and objects are none."""
    return value if isinstance(value, str) else ""
