"""Read numbers out of millions of '@' file names at once."""

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from datasets.image_paths import ImagePaths

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
_NAMES_PER_BLOCK = 1 << 17  # bounds the memory to some tens of MB
_SPARSE = 4  # lines that fill less than a fourth of their text are read by themselves
_EXACT_DIGITS = 15  # decimal integers below 10**15 are exact in float64
_POWERS_OF_TEN = np.array([float(f"1e{n}") for n in range(_EXACT_DIGITS + 3)])
_WORD = 8  # bytes of a text that are hashed at a time
_WORD_MASKS = np.array([256**count - 1 for count in range(_WORD + 1)], np.uint64)
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, 2**64 divided by the golden ratio


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
    *numbers, zones = read_fields(paths, [*fields, "UTM zone"])
    check_present(paths, dict(zip(fields, numbers, strict=True)))
    zones, counts = np.unique(zones[np.isfinite(zones)], return_counts=True)
    if len(zones) > 1:
        found = ", ".join(
            f"{count:,} in zone {zone:g}" for zone, count in zip(zones, counts, strict=True)
        )
        raise ValueError(
            f"The images of {paths.folder} are of several UTM zones ({found}): their coordinates "
            "cannot be compared; keep to one zone, or project all of them to one"
        )
    return np.stack(numbers)


def read_fields(paths: ImagePaths, fields: Sequence[str]) -> np.ndarray:
    """Read number fields of all names at once, each exactly as `float()` reads it.

    Args:
        paths: The images.
        fields: Which numbers, keys of FIELDS.

    Returns:
        One row per field, NaN where a name has no such number. float64 [len(fields), num_images].
    """
    numbers = np.empty((len(fields), len(paths)))
    for block, text, bounds in _blocks(paths, [FIELDS[name] for name in fields]):
        for row, (field_starts, field_ends) in zip(numbers, bounds, strict=True):
            row[block] = _parse_decimals(text, field_starts, field_ends)
    return numbers


def read_prefixes(paths: ImagePaths, field: str, width: int) -> np.ndarray:
    """Read the first bytes of a field (key of FIELDS), fewer where it is shorter.

    Returns:
        S<width> [num_images].
    """
    prefixes = np.zeros((len(paths), width), np.uint8)
    for block, text, [(starts, ends)] in _blocks(paths, [FIELDS[field]]):
        for column in range(width):
            inside = starts + column < ends
            prefixes[block, column] = np.where(inside, text[(starts + column) * inside], 0)
    return prefixes.view(f"S{width}")[:, 0]


def hash_fields(paths: ImagePaths, fields: Sequence[str]) -> np.ndarray:
    """Hash the text of some fields together: names that write all of them alike have one hash.

    Names that do not have the same hash only by chance: once in about 3 million times among
    3.4 million different ones.

    Args:
        paths: The images.
        fields: Which ones, keys of FIELDS. A field that is not there counts as an empty one.

    Returns:
        uint64 [num_images].
    """
    hashes = np.zeros(len(paths), np.uint64)
    for block, text, bounds in _blocks(paths, [FIELDS[name] for name in fields]):
        padded = np.concatenate((text, np.zeros(_WORD, np.uint8)))
        words = np.ndarray(len(text) + 1, "<u8", padded, strides=(1,))  # one begins at every byte
        for starts, ends in bounds:
            widths = ends - starts
            hashes[block] = _mix(hashes[block], widths.astype(np.uint64))
            for first in range(0, int(widths.max()), _WORD):
                left = np.clip(widths - first, 0, _WORD)
                word = words[np.minimum(starts + first, len(text))] & _WORD_MASKS[left]
                hashes[block] = np.where(left, _mix(hashes[block], word), hashes[block])
    return hashes


def _mix(hashes: np.ndarray, words: np.ndarray) -> np.ndarray:
    mixed = (hashes ^ words) * _HASH_FACTOR  # modulo 2**64
    return mixed ^ (mixed >> np.uint64(29))


def check_present(paths: ImagePaths, numbers: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError that counts the names without a number and shows three.

    Args:
        paths: The images.
        numbers: Keys of FIELDS and what `read_fields` read.
    """
    problems = [
        f"{name} (field {FIELDS[name]} of the '@' name) is missing or not a number in "
        f"{len(bad):,} of {len(paths):,} images, for example "
        + ", ".join(os.path.basename(paths.name(i)) for i in bad[:3])
        for name, row in numbers.items()
        if len(bad := np.flatnonzero(~np.isfinite(row)))
    ]
    if problems:
        raise ValueError(
            f"Bad image names in {paths.folder}: {'; '.join(problems)}. "
            "To make names: python -m datasets.convert --help"
        )


def _blocks(
    paths: ImagePaths, fields: Sequence[int]
) -> Iterator[tuple[slice, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]]:
    """Yield which names, their text, and first and past-the-end byte of each of the fields."""
    for first in range(0, len(paths), _NAMES_PER_BLOCK):
        block = slice(first, first + _NAMES_PER_BLOCK)
        text, starts, ends = _cut_out(paths.blob, paths.starts[block], paths.ends[block])
        yield block, text, _field_bounds(text, starts, ends, fields)


def _cut_out(
    blob: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the part of a text that holds some lines, and where in it they are.

    Lines that are far apart are copied, so that what is between them is not looked through.
    """
    widths, origin = ends - starts, starts.min()
    copied_ends = np.cumsum(widths)
    if _SPARSE * copied_ends[-1] > ends.max() - origin:
        return blob[origin : ends.max()], starts - origin, ends - origin
    shifts = starts - (copied_ends - widths)
    copied = blob[np.repeat(shifts, widths) + np.arange(copied_ends[-1])]
    return copied, copied_ends - widths, copied_ends


def _field_bounds(
    text: np.ndarray, starts: np.ndarray, ends: np.ndarray, fields: Sequence[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Locate '@' fields in the basenames of names; a field that is not there has no length.

    The '@' name begins after the last slash of its line, or after the tab where there is one. Old
    SF-XL test names of 8 to 10 parts have the timestamp in the last one, before the extension.
    """
    slashes = np.flatnonzero((text == ord("/")) | (text == ord("\t")))
    slashes = np.concatenate(([-1], slashes))
    last_slash = slashes[np.searchsorted(slashes, ends) - 1]
    basenames = np.maximum(last_slash + 1, starts)
    ats = np.flatnonzero(text == ord("@"))
    first_at = np.searchsorted(ats, basenames)
    num_ats = np.searchsorted(ats, ends) - first_at
    if not len(ats):
        return [(starts, starts)] * len(fields)
    bounds = []
    for field in fields:
        before = np.minimum(first_at + field - 1, len(ats) - 1)
        after = np.minimum(before + 1, len(ats) - 1)
        exists = num_ats > field  # the last part carries the extension and is never a number
        field_starts = np.where(exists, ats[before] + 1, 0)
        field_ends = np.where(exists, ats[after], field_starts)
        is_old = (num_ats >= 7) & (num_ats <= 9)
        if field == FIELDS["timestamp"] and is_old.any():
            last_ats = ats[np.maximum(first_at + num_ats - 1, 0)]
            field_starts = np.where(is_old, last_ats + 1, field_starts)
            field_ends = np.where(is_old, _before_extension(text, ends, last_ats), field_ends)
        bounds.append((field_starts, field_ends))
    return bounds


def _before_extension(text: np.ndarray, ends: np.ndarray, last_ats: np.ndarray) -> np.ndarray:
    """Return the last dot behind the last '@' of each name, else the byte after that '@'."""
    dots = np.concatenate(([-1], np.flatnonzero(text == ord("."))))
    return np.maximum(dots[np.searchsorted(dots, ends) - 1], last_ats + 1)


def _parse_decimals(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Read decimal numbers out of bytes, NaN where there is none. float64 [len(starts)].

    Digits are gathered column by column into integers; an integer below 10**15 divided by a power
    of ten is rounded once, hence equals `float()`. What does not look like that goes to `float()`.
    """
    widths = ends - starts
    mantissa = np.zeros(len(starts), np.int64)
    digits, decimals, dots = (np.zeros(len(starts), np.int64) for _ in range(3))
    plain = (widths > 0) & (widths <= _EXACT_DIGITS + 2)
    negative = plain & (text[np.minimum(starts, len(text) - 1)] == ord("-"))
    for column in range(int(widths[plain].max(initial=0))):
        inside = plain & (column < widths)
        byte = text[np.where(inside, starts + column, 0)]
        is_digit = inside & (byte >= ord("0")) & (byte <= ord("9"))
        is_dot = inside & (byte == ord("."))
        mantissa = np.where(is_digit, 10 * mantissa + (byte & 15), mantissa)
        digits += is_digit
        decimals += is_digit & (dots > 0)
        dots += is_dot
        plain &= ~inside | is_digit | is_dot | ((column == 0) & negative)
    plain &= (digits > 0) & (digits <= _EXACT_DIGITS) & (dots <= 1)
    values = np.where(negative, -mantissa, mantissa) / _POWERS_OF_TEN[decimals]
    values[widths == 0] = np.nan
    for index in np.flatnonzero(~plain & (widths > 0)):
        values[index] = _parse_float(text[starts[index] : ends[index]].tobytes())
    return values


def _parse_float(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan
