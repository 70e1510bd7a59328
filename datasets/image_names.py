"""Read the fields of '@' file names: of one name, and columns of millions at once.

A name is `@` separated: UTM east, UTM north, zone number, zone letter, latitude, longitude,
pano id, tile, heading, pitch, roll, height, timestamp, note, extension. Splitting a well-formed
name gives 16 parts (the first one is empty); old SF-XL test names have 8 to 10. Only the UTM
position is always needed, and the heading for training.

The loops over many names are compiled by numba: the 41.2 M names of SF-XL take seconds, where a
Python loop takes ten minutes. The machine code is cached for the next process, beside the source,
or in the user's cache folder where that cannot be written, or in NUMBA_CACHE_DIR.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.image_lists import ImagePaths

FIELDS = {  # name -> part of basename.split("@")
    "UTM east": 1,
    "UTM north": 2,
    "UTM zone": 3,
    "latitude band": 4,  # the letter of the zone
    "latitude": 5,
    "longitude": 6,
    "pano id": 7,
    "heading": 9,
    "timestamp": 13,
}
_NAMES_PER_BLOCK = 1 << 17  # bounds the memory to some MB
_NUM_EXAMPLES = 3
_AT, _SLASH, _DOT, _MINUS = (ord(character) for character in "@/.-")
_ZERO, _NINE = ord("0"), ord("9")
_TIMESTAMP = FIELDS["timestamp"]
_MAX_ATS = 20  # those that follow are not looked for
_OLD_ATS = (7, 9)  # old SF-XL test names have the timestamp in their last part
_MAX_EXACT = 2**53  # integers up to this one are exact in float64
_POWERS_OF_TEN = np.array([float(f"1e{n}") for n in range(23)])  # these as well
_WORD = 8  # bytes of a text that are hashed at a time
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, 2**64 divided by the golden ratio
_HASH_SHIFT = np.uint64(29)


@dataclass(frozen=True)
class ImageName:
    """The fields of one '@' file name; a field that a name does not have is None or empty."""

    utm_east_m: float
    utm_north_m: float
    zone_number: int | None = None
    zone_letter: str = ""
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    pano_id: str = ""
    tile_num: str = ""
    heading_deg: float | None = None  # of the leftmost column of a crop, 0 is north
    pitch_deg: float | None = None
    roll_deg: float | None = None
    height_m: float | None = None
    timestamp: str = ""  # YYYY[MM[DD[_hh[mm[ss]]]]]
    note: str = ""
    extension: str = ".jpg"


def parse_image_name(path: str | os.PathLike) -> ImageName:
    """Read the fields of one file name; folders above it are ignored.

    Raises:
        ValueError: If the name has no UTM position, or a number in it is not one.
    """
    basename = os.path.basename(os.fspath(path))
    *fields, last = basename.split("@")  # the last part carries the extension
    stem, dot, suffix = last.rpartition(".")
    if len(fields) < 15:
        timestamp = stem if 7 <= len(fields) <= 9 else ""  # the old SF-XL test names
        fields += [""] * (15 - len(fields))
        fields[13] = timestamp

    def number(field: int, name: str) -> float | None:
        if not fields[field]:
            return None
        if not math.isfinite(value := parse_float(os.fsencode(fields[field]))):
            raise ValueError(
                f"{name} (field {field}) is '{fields[field]}', not a number, in {path}"
            )
        return value

    east, north, zone = number(1, "UTM east"), number(2, "UTM north"), number(3, "UTM zone")
    if east is None or north is None:
        raise ValueError(f"No UTM position in '{path}': names begin '@UTM_east@UTM_north@'")
    return ImageName(
        utm_east_m=east,
        utm_north_m=north,
        zone_number=None if zone is None else int(zone),
        zone_letter=fields[4],
        latitude_deg=number(5, "latitude"),
        longitude_deg=number(6, "longitude"),
        pano_id=fields[7],
        tile_num=fields[8],
        heading_deg=number(9, "heading"),
        pitch_deg=number(10, "pitch"),
        roll_deg=number(11, "roll"),
        height_m=number(12, "height"),
        timestamp=fields[13],
        note=fields[14],
        extension=dot + suffix,
    )


def parse_float(text: bytes) -> float:
    """Read a number as Python writes them, NaN if it is none; signs of ASCII alone count."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def format_image_name(name: ImageName) -> str:
    """Write one file name the way SF-XL does (headings unpadded, positions to the centimetre)."""

    def text(value: float | None, template: str) -> str:
        return "" if value is None else template.format(value)

    fields = (
        "",
        text(name.utm_east_m, "{:010.2f}"),
        text(name.utm_north_m, "{:010.2f}"),
        text(name.zone_number, "{:02d}"),
        name.zone_letter,
        text(name.latitude_deg, "{:09.5f}"),
        text(name.longitude_deg, "{:010.5f}"),
        name.pano_id,
        name.tile_num,
        text(name.heading_deg, "{:g}"),
        text(name.pitch_deg, "{:g}"),
        text(name.roll_deg, "{:g}"),
        text(name.height_m, "{:g}"),
        name.timestamp,
        name.note,
        name.extension,
    )
    return "@".join(fields)


def read_numbers(
    paths: ImagePaths, fields: Sequence[str] = ("UTM east", "UTM north")
) -> np.ndarray:
    """Read number fields that every name must have, in one UTM zone.

    Args:
        paths: The images.
        fields: Which numbers, keys of FIELDS; metres for positions, degrees for headings.

    Returns:
        One row per field. float64 [len(fields), num_images].

    Raises:
        ValueError: If a field is missing or not a finite number in some names; the message counts
            them and shows three. Or if the names are of several UTM zones.
    """
    numbers = read_fields(paths, [*fields, "UTM zone"])
    check_present(paths, dict(zip(fields, numbers, strict=False)))
    zones = numbers[-1][np.isfinite(numbers[-1])]
    if len(zones) and zones.min() < zones.max():
        counted = zip(*np.unique(zones, return_counts=True), strict=True)
        found = ", ".join(f"{count:,} in zone {zone:g}" for zone, count in counted)
        raise ValueError(
            f"The images of {paths.folder} are of several UTM zones ({found}): their coordinates "
            "cannot be compared; keep to one zone, or project all of them to one"
        )
    return numbers[:-1]


def check_present(paths: ImagePaths, numbers: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError that counts the names without a number and shows three.

    Args:
        paths: The images.
        numbers: Rows of `read_fields` by field, a key of FIELDS.
    """
    problems = []
    for field, row in numbers.items():
        bad = np.flatnonzero(~np.isfinite(row))
        if len(bad):
            examples = ", ".join(paths.name(index) for index in bad[:_NUM_EXAMPLES])
            problems.append(
                f"{field} (field {FIELDS[field]} of the '@' name) is missing or not a number in "
                f"{len(bad):,} of {len(paths):,} images, for example {examples}"
            )
    if problems:
        raise ValueError(
            f"Bad image names in {paths.folder}: {'; '.join(problems)}. "
            "To make names of a table, EXIF or a track: python -m tools.convert --help. Without "
            "positions, eval.py --no_labels retrieves, without recalls; localize.py needs those of "
            "its database, not of its photos"
        )


def read_fields(paths: ImagePaths, fields: Sequence[str]) -> np.ndarray:
    """Read number fields of all names at once, each exactly as `float()` reads it.

    Args:
        paths: The images.
        fields: Which numbers, keys of FIELDS.

    Returns:
        One row per field, NaN where a name has no such number. float64 [len(fields), num_images].
    """
    numbers = np.empty((len(fields), len(paths)))
    for block, bounds in _blocks(paths, fields):
        for row, of_field in zip(numbers, bounds, strict=True):
            values = row[block]
            for index in np.flatnonzero(_parse_decimals(paths.blob, of_field, values)):
                first, past = of_field[:, index]
                values[index] = parse_float(paths.blob[first:past].tobytes())
    return numbers


def read_prefixes(paths: ImagePaths, field: str, width: int) -> np.ndarray:
    """Read the first bytes of a field (key of FIELDS), fewer where it is shorter.

    Returns:
        S<width> [num_images].
    """
    prefixes = np.zeros((len(paths), width), np.uint8)
    for block, [(first, past)] in _blocks(paths, [field]):
        for column in range(width):
            is_long = first + column < past
            prefixes[block, column][is_long] = paths.blob[first[is_long] + column]
    return prefixes.view(f"S{width}")[:, 0]


def hash_fields(paths: ImagePaths, fields: Sequence[str]) -> np.ndarray:
    """Hash the text of some fields together: names that write all of them alike have one hash.

    Other names have the same hash by chance alone: among 3.4 million different ones, once in about
    3 million times.

    Args:
        paths: The images.
        fields: Which ones, keys of FIELDS. A field that a name does not have counts as empty.

    Returns:
        uint64 [num_images].
    """
    hashes = np.empty(len(paths), np.uint64)
    for block, bounds in _blocks(paths, fields):
        _hash_texts(paths.blob, bounds, hashes[block])
    return hashes


def _blocks(paths: ImagePaths, fields: Sequence[str]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield a slice of the names, and the bounds of their fields.

    A field is given by its first and its past-the-end byte in the text. Bounds are
    int64 [len(fields), 2, num_names].
    """
    parts = np.array([FIELDS[field] for field in fields])
    for first in range(0, len(paths), _NAMES_PER_BLOCK):
        block = slice(first, first + _NAMES_PER_BLOCK)
        yield block, _locate_fields(paths.blob, paths.starts[block], paths.ends[block], parts)


def compiled(function: Callable) -> Callable:
    """Compile a function of arrays and numbers at its first call.

    numba itself is not imported before: processes that compute nothing need not wait for it.
    """

    @functools.cache
    def compile_once() -> Callable:
        return compile_cached(function)

    @functools.wraps(function)
    def call(*arguments: object) -> object:
        return compile_once()(*arguments)

    return call


def compile_cached(function: Callable) -> Callable:
    """Return numba's own compiled function, which other compiled functions may call."""
    import numba

    try:
        made = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to cache it in: each process compiles for itself
        return numba.njit(nogil=True)(function)
    save = made._cache.save_overload

    def save_if_possible(*signature_and_code: object) -> None:
        with contextlib.suppress(OSError):  # the disk of the cache, not of the run, is full
            save(*signature_and_code)

    made._cache.save_overload = save_if_possible
    return made


@compiled
def _locate_fields(
    text: np.ndarray, starts: np.ndarray, ends: np.ndarray, fields: np.ndarray
) -> np.ndarray:
    """Find '@' fields in the basenames of lines; a field that is missing has no length.

    The '@' name begins after the last slash of its line.

    Args:
        text: uint8 [num_bytes].
        starts: First byte of each line. int64 [num_names].
        ends: One past the last byte of each line. int64 [num_names].
        fields: Parts of basename.split("@"), 1 to 19. int64 [num_fields].

    Returns:
        Bounds, int64 [num_fields, 2, num_names].
    """
    bounds = np.zeros((len(fields), 2, len(starts)), np.int64)
    ats = np.zeros(_MAX_ATS, np.int64)
    for name in range(len(starts)):
        num_ats, place = 0, starts[name]
        for byte in text[starts[name] : ends[name]]:  # faster than by index
            if byte == _AT:
                if num_ats < _MAX_ATS:
                    ats[num_ats] = place
                num_ats += 1
            elif byte == _SLASH:
                num_ats = 0
            place += 1
        for row in range(len(fields)):
            field = fields[row]
            if field == _TIMESTAMP and _OLD_ATS[0] <= num_ats <= _OLD_ATS[1]:
                first = ats[num_ats - 1] + 1
                past = ends[name] - 1  # the last dot begins the extension
                while past > first and text[past] != _DOT:
                    past -= 1
                bounds[row, 0, name], bounds[row, 1, name] = first, max(first, past)
            elif num_ats > field:  # the last part carries the extension and is never a field
                bounds[row, 0, name], bounds[row, 1, name] = ats[field - 1] + 1, ats[field]
    return bounds


@compiled
def _parse_decimals(text: np.ndarray, bounds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Read decimal numbers of digits, at most one dot and a minus; NaN where there is none.

    The digits are gathered into an integer; one of at most 2**53, divided by a power of ten of at
    most 10**22, is rounded once, hence equals `float()`.

    Args:
        text: uint8 [num_bytes].
        bounds: Of one field, int64 [2, num_names].
        values: Written to. float64 [num_names].

    Returns:
        Which fields have a text of another form. bool [num_names].
    """
    is_other = np.zeros(len(values), np.bool_)
    for name in range(len(values)):
        first, past = bounds[0, name], bounds[1, name]
        is_negative = first < past and text[first] == _MINUS
        digits, num_digits, num_decimals, num_dots = 0, 0, 0, 0
        is_plain = True
        for byte in text[first + is_negative : past]:
            if _ZERO <= byte <= _NINE:
                digits = 10 * digits + (byte - _ZERO)
                num_digits += 1
                num_decimals += num_dots
            elif byte == _DOT:
                num_dots += 1
            else:
                is_plain = False
            if digits > _MAX_EXACT:  # stop here: it must not overflow
                is_plain = False
                break
        is_plain &= num_digits > 0 and num_dots <= 1 and num_decimals < len(_POWERS_OF_TEN)
        if is_plain:
            value = digits / _POWERS_OF_TEN[num_decimals]
            values[name] = -value if is_negative else value
        else:
            values[name] = np.nan
            is_other[name] = past > first
    return is_other


@compiled
def _hash_texts(text: np.ndarray, bounds: np.ndarray, hashes: np.ndarray) -> None:
    """Hash some fields of each name together, with their widths, 8 bytes at a time.

    Args:
        text: uint8 [num_bytes].
        bounds: int64 [num_fields, 2, num_names].
        hashes: Written to. uint64 [num_names].
    """
    for name in range(len(hashes)):
        mixed = np.uint64(0)
        for row in range(len(bounds)):
            first, past = bounds[row, 0, name], bounds[row, 1, name]
            mixed = (mixed ^ np.uint64(past - first)) * _HASH_FACTOR  # modulo 2**64
            mixed ^= mixed >> _HASH_SHIFT
            for begin in range(first, past, _WORD):
                word = np.uint64(0)
                for place in range(begin, min(begin + _WORD, past)):
                    word |= np.uint64(text[place]) << np.uint64(8 * (place - begin))
                mixed = (mixed ^ word) * _HASH_FACTOR
                mixed ^= mixed >> _HASH_SHIFT
        hashes[name] = mixed
