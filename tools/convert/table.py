"""Photos listed in a table, one a line, with the position of each."""

import functools
import itertools
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.image_lists import IMAGE_EXTENSIONS
from datasets.positions import NUM_ZONES
from tools.convert.photos import Photos
from tools.convert.positions import keep_utm, parse_angle, parse_number, project
from tools.convert.records import READERS, UNITS
from tools.convert.times import find_day_first, format_timestamp

# Field -> its headers, the first present one counts; without case, "_" and blanks.
ALIASES = {
    "path": "path imagepath filepath sourcefile photo file filename image imagename img",
    "lat": "lat latitude gpslatitude maplatitude y",
    "lon": "lon lng long longitude gpslongitude maplongitude x",
    "lat_side": "gpslatituderef latituderef latref",
    "lon_side": "gpslongituderef longituderef lonref",
    "point": "wkt wktgeom geometry geom thegeom gpsposition",
    "utm_east": "utmeast easting east utme utmx",
    "utm_north": "utmnorth northing north utmn utmy",
    "zone": "zone utmzone zonenumber",
    "zone_letter": "zoneletter utmzoneletter utmletter band latitudeband",
    "hemisphere": "hemisphere",
    "heading": "heading compass compassangle azimuth bearing yaw gpsimgdirection direction "
    "mapcompassheading ca",
    "pitch": "pitch",
    "roll": "roll",
    "height": "altitude alt elevation gpsaltitude mapaltitude height",
    "timestamp": "timestamp datetime datetimeoriginal subsecdatetimeoriginal capturedat "
    "mapcapturetime createdate gpsdatetime date time",
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
_UNITS = dict.fromkeys(("utm_east", "utm_north", "height"), "m|met(?:er|re)s?")  # in headers
_UNITS |= dict.fromkeys(
    ("lat", "lon", "heading", "pitch", "roll"),
    r"[°º\udcb0]|dd|(?:decimal\s*)?deg(?:rees?)?|decimal",
)
_EVERYWHERE = (-np.inf, np.inf)
_ZONE = re.compile(r"(?:UTM\s*)?(?:ZONE\s*)?0?(\d{1,2})(?:\.0+)?\s*([C-HJ-NP-X]|NORTH|SOUTH)?")
_EPSG = re.compile(r"(?:EPSG:)?32([67])(\d\d)")  # of UTM zones north and south of the equator
_NUM_SHOWN = 3
_UNKNOWN = {  # as pandas, R, databases, exiftool and spreadsheets write it
    *("", "-", "nan", "na", "n/a", "<na>", "none", "null", "undef", "unknown"),
    *("#n/a", "#nv", "#value!", "#ref!", "#div/0!"),
}
_POINT = re.compile(  # WKT: longitude first
    r"(?:SRID=4326;)?\s*POINT\s*(?:ZM|Z|M)?\s*\(\s*([^\s()]+)\s+([^\s()]+)[^()]*\)", re.IGNORECASE
)
_HEIGHT = re.compile(  # as exiftool writes it
    r"(.*?)\s*m(?:etres|eters)?(?:\s+(?:above|(below)) sea level)?", re.IGNORECASE
)
_METRES = 1000  # coordinates that are larger are no degrees
_SIDES = {"lat": "NS", "lon": "EW"}
_SEXAGESIMAL = re.compile(r"\d+(?:\s*(?:deg|d|[°º:])\s*|\s+)\d[^NSEW]*", re.IGNORECASE)

_log = logging.getLogger(__name__)


def _parse_height(text: str) -> float:
    match = _HEIGHT.fullmatch(text)
    return parse_number(text) if match is None else parse_number(match[1]) * (-1 if match[2] else 1)


_PARSERS = {"heading": parse_number, "pitch": parse_number, "roll": parse_number}
_PARSERS["height"] = _parse_height


def read_table(
    file: str | os.PathLike,
    columns: Mapping[str, str],
    images_folder: str | os.PathLike | None = None,
    zone: int | None = None,
    kind: str = "csv",
    skip_without_gps: bool = False,
    zone_letters: str = "",
) -> Photos:
    """Read a table of photos.

    Args:
        file: CSV, separated by tabs, semicolons or commas, whichever its first line has; or JSON.
            UTF-8 or UTF-16, with or without a byte order mark.
        columns: Field (a key of ALIASES) -> header of its column, or its position counted from 0;
            "" for a field not to read. All positions: the file has no header.
        images_folder: What paths are relative to; by default the folder of the file.
        zone: UTM zone to project to, see `project`.
        kind: Key of READERS.
        skip_without_gps: Leave out lines without a position, instead of refusing them.
        zone_letters: "hemisphere" if the letters N and S of UTM zones are sides of the equator.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If columns or images are missing or values are wrong; counts the lines and shows
            three.
    """
    table = _Table(Path(file), columns, kind)
    has_utm = {"utm_east", "utm_north"} <= table.columns.keys()
    if not has_utm:
        _complete_degrees(table)
    table.check_positions(
        *("utm_east", "utm_north") if has_utm else ("lat", "lon"), skip_without_gps
    )
    root = os.path.abspath(images_folder or os.path.dirname(os.path.abspath(file)))
    files = table.convert("path", lambda path: _find_image(root, path))
    if num_repeats := len(files) - len(set(files)):
        _log.warning(
            f"{num_repeats:,} of {len(files):,} {table.units} of {file} name an image that an "
            "earlier one names: it is converted as often"
        )
    numbers = {
        field: table.numbers(field, *_RANGES.get(field, _EVERYWHERE), parse)
        for field, parse in _PARSERS.items()
    }
    timestamps = _read_times(table)
    coordinates = _read_utm(table, zone_letters) if has_utm else _read_degrees(table)
    table.raise_problems()
    locate = keep_utm if has_utm else project
    return Photos(
        files=files,
        positions=locate(**coordinates, zone=zone),
        heading_deg=numbers["heading"],
        pitch_deg=numbers["pitch"],
        roll_deg=numbers["roll"],
        height_m=numbers["height"],
        pano_ids=["" if _is_unknown(text) else text for text in table.texts("pano_id")],
        timestamps=timestamps,
        notes=table.texts("note"),
    )


class _Table:
    """The columns of a table as texts, and the problems of its lines."""

    def __init__(self, file: Path, columns: Mapping[str, str], kind: str) -> None:
        self.file = file
        self.unit, self.units = UNITS[kind]
        self.problems: dict[int, str] = {}  # line -> problem
        rows = READERS[kind](file)
        first = next(rows, None)
        if first is None:
            raise ValueError(f"{file} is empty")
        self.columns, has_header = _find_columns(first[1], columns, file)
        self._width = len(first[1])
        self._read(rows if has_header else itertools.chain([first], rows))
        if not self.lines:
            below = "below its header" if kind == "csv" else "with an image"
            raise ValueError(f"{file} has no {self.unit} {below}")

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
            elif "".join(row[self._width :]).strip():
                self.problems[line] = (
                    f"has {len(row)} columns, the first line has {self._width}: quote cells with "
                    "the separator, as decimal commas"
                )
            for append, column in targets:
                append(row[column].strip())

    def check_positions(self, first: str, second: str, skip: bool) -> None:
        """Note the lines without a position as problems, or leave them out and count them."""
        pairs = list(zip(self.texts(first), self.texts(second), strict=True))
        is_zero = [first == "lat" and _is_zero(a) and _is_zero(b) for a, b in pairs]
        is_empty = [_is_unknown(a) and _is_unknown(b) for a, b in pairs]
        if not skip:
            advice = "no position; --skip_without_gps leaves it out"
            self.refuse(np.array(is_zero), f"{first} and {second} are 0: {advice}")
            self.refuse(np.array(is_empty), f"{first} and {second} are empty: {advice}")
            return
        kept = [i for i, pair in enumerate(zip(is_zero, is_empty, strict=True)) if not any(pair)]
        num_left_out = len(pairs) - len(kept)
        if num_left_out:
            message = (
                f"{num_left_out:,} of {len(pairs):,} {self.units} of {self.file} have no position"
            )
            if not kept:
                raise ValueError(message)
            _log.warning(f"{message} and are left out")
        self.lines = [self.lines[number] for number in kept]
        for field, texts in self._texts.items():
            self._texts[field] = [texts[number] for number in kept]

    def set_texts(self, field: str, texts: Sequence[str]) -> None:
        """Replace or add a column."""
        self._texts[field] = list(texts)

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

    def numbers(
        self,
        field: str,
        low: float,
        high: float,
        parse: Callable[[str], float],
        required: bool = False,
    ) -> np.ndarray:
        """Return a column as numbers of a range, NaN where it is empty. float64 [num_lines]."""
        texts = self.texts(field)
        try:
            numbers = np.array([text or "nan" for text in texts], dtype=np.float64)
        except ValueError:
            numbers = np.array([parse(text) for text in texts])
        wanted = np.array([required or not _is_unknown(text) for text in texts])
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
        lines = sorted(self.problems)
        shown = [f"\n  {self.unit} {line}: {self.problems[line]}" for line in lines]
        raise ValueError(
            f"{len(shown):,} of {len(self.lines):,} {self.units} of {self.file} are wrong, nothing "
            "was written:" + "".join(shown[:_NUM_SHOWN]) + "\n  ..." * (len(shown) > _NUM_SHOWN)
        )

    def _add(self, number: int, text: str) -> None:
        self.problems.setdefault(self.lines[number], text)


def _find_columns(
    first_row: Sequence[str], columns: Mapping[str, str], file: Path
) -> tuple[dict[str, int], bool]:
    """Return the index of each present field, and whether the first row is a header."""
    given = [name for name in columns.values() if name]
    has_header = not given or not all(name.isdecimal() for name in given)
    header = [_plain(name) for name in first_row] if has_header else [""] * len(first_row)
    ungrouped = [_plain(name.rpartition(":")[2]) for name in first_row]  # exiftool -G: EXIF:ISO
    found = {}
    for field, aliases in ALIASES.items():
        if field in columns:
            names = [columns[field]] if columns[field] else []
        else:
            names = aliases.split()
        positions = [header.index(_plain(name)) for name in names if _plain(name) in header]
        if columns.get(field) and not positions:
            positions = [_position(columns[field], field, first_row, file)]
        if not positions and has_header:  # exiftool's composite tags have sign or letter
            tries = [(header, f"composite{name}") for name in names]
            tries += [(ungrouped, name) for name in names]
            bare = [_plain(_without_unit(name, field)) for name in first_row]
            tries += [(bare, name) for name in names]
            positions = [places.index(name) for places, name in tries if name in places]
        if positions:
            found[field] = positions[0]
    _check_required(found, first_row, file)
    is_utm = {"zone", "utm_east"} & {*columns} or "zone" in found
    is_utm = is_utm or "utm" in header[found.get("utm_east", 0)]
    if {"lat", "lon"} <= found.keys() and not is_utm:  # east and north of any grid
        found = {field: at for field, at in found.items() if not field.startswith("utm_")}
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
    positions = ({"lat", "lon"}, {"utm_east", "utm_north"}, {"point"})
    if "path" in found and any(fields <= found.keys() for fields in positions):
        return
    raise ValueError(
        f"{file} must have the columns path, lat and lon (or path, utm_east, utm_north and zone), "
        f"and its first line is {', '.join(first_row)}. Name them by --columns "
        "path=file,lat=y,lon=x; or by their indices if there is no header: "
        "--columns path=0,lat=1,lon=2"
    )


def _complete_degrees(table: _Table) -> None:
    """Make the columns lat and lon out of those that say the same, each with its side."""
    if not {"lat", "lon"} <= table.columns.keys():
        pairs = [_split_point(text) for text in table.texts("point")]
        for number, field in enumerate(("lat", "lon")):
            table.set_texts(field, [pair[number] for pair in pairs])
    for field, sides in _SIDES.items():
        if f"{field}_side" in table.columns:
            pairs = zip(table.texts(field), table.texts(f"{field}_side"), strict=True)
            table.set_texts(field, [_add_side(*pair, sides) for pair in pairs])


def _split_point(text: str) -> tuple[str, str]:
    """Return latitude and longitude of WKT or of exiftool's GPSPosition; text twice if neither."""
    if match := _POINT.fullmatch(text):
        return match[2], match[1]
    first, *others = text.split(",") if "," in text else text.split()
    return (first, others[0]) if len(others) == 1 and "(" not in text else (text, text)


def _add_side(text: str, side: str, sides: str) -> str:
    letter = "" if _is_unknown(text) else side[:1].upper()
    has_side = text[-1:].upper() in tuple(sides) or text[:1].upper() in tuple(sides)
    return text if has_side or not letter or letter not in sides else f"{text} {letter}"


def _read_degrees(table: _Table) -> dict[str, np.ndarray]:
    """Return the arguments of `project`."""
    latitude_deg, longitude_deg = (
        table.numbers(field, *_RANGES[field], functools.partial(parse_angle, sides=sides), True)
        for field, sides in _SIDES.items()
    )
    if ((np.abs(latitude_deg) > _METRES) & (np.abs(longitude_deg) > _METRES)).any():
        raise ValueError(
            f"The coordinates of {table.file} are no degrees ({table.texts('lat')[0]}, "
            f"{table.texts('lon')[0]}): export them in EPSG:4326 (WGS 84); or, if they are metres "
            "of UTM, name their columns: --columns utm_east=X,utm_north=Y and --zone"
        )
    for field, sides in _SIDES.items():
        unsigned = [text for text in table.texts(field) if _SEXAGESIMAL.fullmatch(text)]
        if unsigned:
            _log.warning(
                f"{field} of {len(unsigned):,} {table.units} of {table.file} has minutes and no "
                f"letter ({unsigned[0]}): {sides[0]} is assumed"
            )
    return {"latitude_deg": latitude_deg, "longitude_deg": longitude_deg}


def _read_utm(table: _Table, zone_letters: str) -> dict[str, np.ndarray]:
    """Return the arguments of `keep_utm`."""
    has_zone = "zone" in table.columns
    east_m, north_m = (
        table.numbers(field, *_RANGES[field] if has_zone else _EVERYWHERE, parse_number, True)
        for field in ("utm_east", "utm_north")
    )
    if has_zone:
        columns = map(table.texts, ("zone", "zone_letter", "hemisphere"))
        table.set_texts("zone", list(map(_join_zone, *columns)))
    texts = table.convert("zone", _check_zone) if has_zone else table.texts("zone")
    matches = [_ZONE.fullmatch(text) for text in texts]
    zones = np.array([int(match[1]) if match else 0 for match in matches])
    letters = np.array([(match[2] or "")[:1] if match else "" for match in matches])
    are_sides = np.array([bool(match and len(match[2] or "") > 1) for match in matches])
    if zone_letters == "hemisphere":
        are_sides |= np.isin(letters, ("N", "S"))
    return {
        "east_m": east_m,
        "north_m": north_m,
        "zones": zones,
        "letters": letters,
        "are_sides": are_sides,
    }


def _join_zone(zone: str, letter: str, hemisphere: str) -> str:
    """Return a zone with the letter or hemisphere of another column, unless it has its own."""
    if zone[-1:].isalpha() or len(zone) > 4:
        return zone
    side = {"N": "NORTH", "S": "SOUTH"}.get(hemisphere[:1].upper(), "")
    return zone + (letter if not _is_unknown(letter) else side)


def _check_zone(text: str) -> str:
    """Return the zone and its letter; NORTH and SOUTH in full."""
    if match := _EPSG.fullmatch(text.upper()):
        text = f"{match[2]}{'NORTH' if match[1] == '6' else 'SOUTH'}"
    match = _ZONE.fullmatch(text.upper())
    if match is None or not 1 <= int(match[1]) <= NUM_ZONES:
        raise ValueError(f"'{text}' is not a UTM zone as in 32 or 32U")
    return match[1] + (match[2] or "")


def _read_times(table: _Table) -> list[str]:
    """Return timestamps as SF-XL writes them; those that cannot be read are empty and counted."""
    texts = ["" if _is_unknown(text) else text for text in table.texts("timestamp")]
    day_first, problems = find_day_first(texts), []
    for number, text in enumerate(texts):
        try:
            texts[number] = format_timestamp(text, day_first)
        except ValueError as error:
            texts[number] = ""
            problems.append(f"{table.unit} {table.lines[number]}: {error}")
    if problems:
        _log.warning(
            f"{len(problems):,} of {len(texts):,} times of {table.file} cannot be read and are "
            f"left empty, for example {problems[0]}"
        )
    return texts


def _find_image(root: str, path: str) -> str:
    """Return the absolute path of an image; its ending may be missing, slashes may be Windows'."""
    if not path:
        raise ValueError("it is empty")
    full = os.path.join(root, path)
    is_image = full.lower().endswith(IMAGE_EXTENSIONS)
    if is_image and os.path.isfile(full):
        return full
    stems = [os.path.join(root, spelling) for spelling in _spell(path)]
    endings = ("",) if is_image else (*IMAGE_EXTENSIONS, *map(str.upper, IMAGE_EXTENSIONS))
    for file in (stem + ending for stem in stems for ending in endings):
        if os.path.isfile(file):
            return file
    if not is_image:
        raise ValueError(f"{full} is not {' or '.join(IMAGE_EXTENSIONS)}: convert it first")
    raise ValueError(f"there is no image {full}")


def _spell(path: str) -> Iterator[str]:
    """Yield a path with slashes, with the letters of Windows, and with accents of either kind."""
    path = path.replace("\\", "/")
    yield path
    if not path.isascii():
        if any("\udc80" <= letter <= "\udcff" for letter in path):
            path = path.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
        yield from (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))


def _is_zero(text: str) -> bool:
    """Whether an angle is 0, also as 0° 0' 0.00" N."""
    return "0" in text and parse_angle(text) == 0


def _is_unknown(text: str) -> bool:
    return text.lower() in _UNKNOWN


def _without_unit(name: str, field: str) -> str:
    """Return a header without its unit: latitude_deg, Latitude (deg), heading [°], altitude_m."""
    if field not in _UNITS:
        return name
    unit = _UNITS[field]
    return re.sub(rf"(?:[\s_]+(?:{unit})|\s*[\[(](?:{unit})[\])])\s*$", "", name, flags=re.I)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())
