"""Photos listed in a CSV file, one a line, with the position of each."""

import csv
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from datasets.image_lists import IMAGE_EXTENSIONS
from datasets.positions import NUM_ZONES
from tools.convert.photos import Photos, format_timestamp
from tools.convert.positions import keep_utm, project

# Field -> its headers, the first present one counts; without case, "_" and blanks.
ALIASES = {
    "path": "path imagepath filepath file filename image imagename img photo sourcefile",
    "lat": "lat latitude gpslatitude",
    "lon": "lon lng long longitude gpslongitude",
    "utm_east": "utmeast easting east utme utmx",
    "utm_north": "utmnorth northing north utmn utmy",
    "zone": "zone utmzone zonenumber",
    "heading": "heading compass compassangle azimuth bearing yaw gpsimgdirection ca",
    "pitch": "pitch",
    "roll": "roll",
    "height": "altitude alt elevation gpsaltitude height",
    "timestamp": "timestamp datetime datetimeoriginal capturedat date",
    "pano_id": "panoid panoramaid key",
    "note": "note notes comment",
}
_RANGES = {
    "lat": (-80.0, 84.0),  # where UTM is defined
    "lon": (-180.0, 180.0),
    "utm_east": (100_000.0, 1_000_000.0),
    "utm_north": (0.0, 10_000_000.0),
    "heading": (-360.0, 360.0),
    "pitch": (-360.0, 360.0),
    "roll": (-360.0, 360.0),
}
_EVERYWHERE = (-np.inf, np.inf)
_ZONE = re.compile(r"0?(\d{1,2})\s*([C-HJ-NP-X]?)")
_NUM_SHOWN = 3
_UNKNOWN = {"", "-", "nan", "na", "n/a", "none", "null"}  # as pandas, R and databases write it
_ANGLE = re.compile(  # 48 deg 51' 24.00" N, 48°51.4'N, N 48.8566, 33.8688S
    r"""([NSEW])?\s*(\d+(?:\.\d+)?)\s*(?:deg|°|º|d)?\s*
    (?:(\d+(?:\.\d+)?)\s*(?:'|’|′|m(?:in)?)\s*)?
    (?:(\d+(?:\.\d+)?)\s*(?:"|”|″|''|s(?:ec)?)\s*)?([NSEW])?""",
    re.IGNORECASE | re.VERBOSE,
)

_log = logging.getLogger(__name__)


def read_table(
    file: str | os.PathLike,
    columns: Mapping[str, str],
    images_folder: str | os.PathLike | None = None,
    zone: int | None = None,
) -> Photos:
    """Read a CSV file.

    Args:
        file: Separated by tabs, semicolons or commas, whichever its first line has; UTF-8 or
            UTF-16, with or without a byte order mark.
        columns: Field (a key of ALIASES) -> header of its column, or its position counted from 0;
            "" for a field not to read. All positions: the file has no header.
        images_folder: What paths are relative to; by default the folder of the file.
        zone: UTM zone to project to, see `project`.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If columns or images are missing or values are wrong; counts the lines and shows
            three.
    """
    table = _Table(Path(file), columns)
    root = os.path.abspath(images_folder or os.path.dirname(os.path.abspath(file)))
    files = table.convert("path", lambda path: _find_image(os.path.join(root, path)))
    numbers = {
        field: table.numbers(field, *_EVERYWHERE if field == "height" else _RANGES[field])
        for field in ("heading", "pitch", "roll", "height")
    }
    timestamps = table.convert("timestamp", format_timestamp)
    coordinates = _read_coordinates(table)
    table.raise_problems()
    locate = keep_utm if "east_m" in coordinates else project
    return Photos(
        files=files,
        positions=locate(**coordinates, zone=zone),
        heading_deg=numbers["heading"],
        pitch_deg=numbers["pitch"],
        roll_deg=numbers["roll"],
        height_m=numbers["height"],
        pano_ids=table.texts("pano_id"),
        timestamps=timestamps,
        notes=table.texts("note"),
    )


class _Table:
    """The columns of a CSV file as texts, and the problems of its lines."""

    def __init__(self, file: Path, columns: Mapping[str, str]) -> None:
        self.file = file
        self.problems: dict[int, str] = {}  # line -> problem
        try:
            with _open_text(file) as text:
                self.delimiter = _find_delimiter(text)
                rows = _read_rows(text, self.delimiter, file)
                first = next(rows, None)
                if first is None:
                    raise ValueError(f"{file} is empty")
                self.columns, has_header = _find_columns(first[1], columns, file)
                self._read(rows if has_header else itertools.chain([first], rows))
        except UnicodeError as error:
            raise ValueError(
                f"{file} starts with a UTF-16 mark but is not UTF-16: {error}"
            ) from None
        if not self.lines:
            raise ValueError(f"{file} has no line below its header")

    def _read(self, rows: Iterable[tuple[int, list[str]]]) -> None:
        """Read the lines and the requested columns."""
        self.lines: list[int] = []
        self._texts: dict[str, list[str]] = {field: [] for field in self.columns}
        targets = [(self._texts[field].append, at) for field, at in self.columns.items()]
        width = 1 + max(self.columns.values())
        for line, row in rows:
            self.lines.append(line)
            if len(row) < width:
                self.problems[line] = f"has {len(row)} columns, of the {width} that are needed"
                row += [""] * (width - len(row))
            for append, column in targets:
                append(row[column].strip())

    def texts(self, field: str) -> list[str]:
        """Return a column, all empty if there is none."""
        return self._texts.get(field) or [""] * len(self.lines)

    def convert(self, field: str, function: Callable[[str], str]) -> list[str]:
        """Apply a function to a column; its ValueErrors are problems of the line."""
        converted = []
        for number, text in enumerate(self.texts(field)):
            try:
                converted.append(function(text))
            except ValueError as error:
                self._add(number, f"{field}: {error}")
                converted.append(text)
        return converted

    def numbers(self, field: str, low: float, high: float, required: bool = False) -> np.ndarray:
        """Return a column as numbers of a range, NaN where it is empty. float64 [num_lines]."""
        texts = self.texts(field)
        try:
            numbers = np.array([text or "nan" for text in texts], dtype=np.float64)
        except ValueError:
            numbers = np.array([_parse(text) for text in texts])
        wanted = np.array([required or text.lower() not in _UNKNOWN for text in texts])
        with np.errstate(invalid="ignore"):
            good = np.isfinite(numbers) & (numbers >= low) & (numbers <= high)
        limits = "" if np.isinf(high) else f" from {low:g} to {high:g}"
        for number in np.flatnonzero(wanted & ~good):
            self._add(number, f"{field} is '{texts[number]}', not a number{limits}")
        return numbers

    def refuse(self, are_wrong: np.ndarray, text: str) -> None:
        """Note the same problem for several lines."""
        for number in np.flatnonzero(are_wrong):
            self._add(number, text)

    def raise_problems(self) -> None:
        """Raise a ValueError if any line is wrong."""
        if not self.problems:
            return
        shown = [f"\n  line {line}: {self.problems[line]}" for line in sorted(self.problems)]
        raise ValueError(
            f"{len(shown):,} of {len(self.lines):,} lines of {self.file} are wrong, nothing was "
            "written:" + "".join(shown[:_NUM_SHOWN]) + "\n  ..." * (len(shown) > _NUM_SHOWN)
        )

    def _add(self, number: int, text: str) -> None:
        self.problems.setdefault(self.lines[number], text)


def _open_text(file: Path) -> TextIO:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}")
    with open(file, "rb") as binary:
        is_utf16 = binary.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    return open(file, newline="", encoding=encoding, errors="surrogateescape")


def _find_delimiter(text: TextIO) -> str:
    """Return the separator of the cells, and go to the first line that has some.

    Spreadsheets may say it in a line of its own, `sep=;`; else it is that of the first line.
    """
    first = next((line for line in iter(text.readline, "") if line.strip()), "")
    if match := re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE):
        return match[1]
    text.seek(0)
    return next((mark for mark in "\t;" if mark in first), ",")


def _read_rows(text: TextIO, delimiter: str, file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, each with the number of its line."""
    reader = csv.reader(text, delimiter=delimiter, skipinitialspace=True)
    try:
        yield from ((reader.line_num, row) for row in reader if "".join(row).strip())
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}") from None


def _find_columns(
    first_row: Sequence[str], columns: Mapping[str, str], file: Path
) -> tuple[dict[str, int], bool]:
    """Return the index of each present field, and whether the first row is a header."""
    given = [name for name in columns.values() if name]
    has_header = not given or not all(name.isdecimal() for name in given)
    header = [_plain(name) for name in first_row] if has_header else [""] * len(first_row)
    found = {}
    for field, aliases in ALIASES.items():
        if field in columns:
            names = [columns[field]] if columns[field] else []
        else:
            names = aliases.split()
        positions = [header.index(_plain(name)) for name in names if _plain(name) in header]
        if columns.get(field) and not positions:
            positions = [_position(columns[field], field, first_row, file)]
        if positions:
            found[field] = positions[0]
    _check_required(found, first_row, file)
    if has_header:
        used = ", ".join(f"{field} = {first_row[at]}" for field, at in found.items())
        _log.info(f"Columns of {file}: {used}")
    return found, has_header


def _position(name: str, field: str, first_row: Sequence[str], file: Path) -> int:
    if name.isdecimal() and int(name) < len(first_row):
        return int(name)
    raise ValueError(
        f"--columns {field}={name}: {file} has no such column; its first line is "
        f"{', '.join(first_row)}. Indices count from 0"
    )


def _check_required(found: Mapping[str, int], first_row: Sequence[str], file: Path) -> None:
    has_position = {"lat", "lon"} <= found.keys() or {"utm_east", "utm_north"} <= found.keys()
    if "path" in found and has_position:
        return
    raise ValueError(
        f"{file} must have the columns path, lat and lon (or path, utm_east, utm_north and zone), "
        f"and its first line is {', '.join(first_row)}. Name them by --columns "
        "path=file,lat=y,lon=x; or by their indices if there is no header: "
        "--columns path=0,lat=1,lon=2"
    )


def _read_coordinates(table: _Table) -> dict[str, np.ndarray]:
    """Return the arguments of `keep_utm` if there are UTM columns, else those of `project`."""
    if not {"utm_east", "utm_north"} <= table.columns.keys():
        latitude_deg, longitude_deg = (
            table.numbers(field, *_RANGES[field], required=True) for field in ("lat", "lon")
        )
        table.refuse((latitude_deg == 0) & (longitude_deg == 0), "lat and lon are 0: no position")
        return {"latitude_deg": latitude_deg, "longitude_deg": longitude_deg}
    has_zone = "zone" in table.columns
    east_m, north_m = (
        table.numbers(field, *_RANGES[field] if has_zone else _EVERYWHERE, required=True)
        for field in ("utm_east", "utm_north")
    )
    texts = table.convert("zone", _check_zone) if has_zone else table.texts("zone")
    matches = [_ZONE.fullmatch(text) for text in texts]
    zones = np.array([int(match[1]) if match else 0 for match in matches])
    letters = np.array([match[2] if match else "" for match in matches])
    return {"east_m": east_m, "north_m": north_m, "zones": zones, "letters": letters}


def _check_zone(text: str) -> str:
    match = _ZONE.fullmatch(text.upper())
    if match is None or not 1 <= int(match[1]) <= NUM_ZONES:
        raise ValueError(f"'{text}' is not a UTM zone as in 32 or 32U")
    return match[1] + match[2]


def _find_image(path: str) -> str:
    if not path.lower().endswith(IMAGE_EXTENSIONS):
        raise ValueError(f"{path} is not {' or '.join(IMAGE_EXTENSIONS)}: convert it first")
    if not os.path.isfile(path):
        raise ValueError(f"there is no image {path}")
    return path


def _parse(text: str) -> float:
    """Read a number, with a decimal comma if it has no point, or an angle; NaN if it is neither."""
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        pass
    match = _ANGLE.fullmatch(text.strip())
    if match is None or (match[1] and match[5]):
        return np.nan
    letter = (match[1] or match[5] or "").upper()
    value = sum(float(part or 0) / 60**power for power, part in enumerate(match.group(2, 3, 4)))
    return -value if letter in ("S", "W") else value


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())
