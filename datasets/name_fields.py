"""Read numbers out of millions of '@' file names at once."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from datasets import name_loops
from datasets.image_paths import ImagePaths, parse_float

FIELDS = {  # name -> part of basename.split("@")
    "UTM east": 1,
    "UTM north": 2,
    "UTM zone": 3,
    "latitude band": 4,  # the letter of the zone
    "latitude": 5,
    "longitude": 6,
    "pano id": 7,
    "heading": 9,
    "timestamp": name_loops.TIMESTAMP_FIELD,
}
_NAMES_PER_BLOCK = 1 << 17  # bounds the memory to some MB
_NUM_EXAMPLES = 3


class NumberReader:
    """Reads number fields that every name must have, in one UTM zone, block by block of names.

    Names are judged together: after the last block `check` counts what is wrong in all of them.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        """Read these fields, keys of FIELDS; metres for positions, degrees for headings."""
        self.fields = fields
        self.num_names = 0
        self._num_bad = dict.fromkeys(fields, 0)
        self._examples: dict[str, list[str]] = {field: [] for field in fields}
        self._num_by_zone: Counter[float] = Counter()

    @property
    def all_good(self) -> bool:
        """Whether every name so far had all of the fields."""
        return not any(self._num_bad.values())

    def read(self, paths: ImagePaths) -> np.ndarray:
        """Return one row per field, NaN where a name has no such number.

        float64 [len(fields), num_images].
        """
        *numbers, zones = read_fields(paths, [*self.fields, "UTM zone"])
        self.num_names += len(paths)
        for field, row in zip(self.fields, numbers, strict=True):
            bad = np.flatnonzero(~np.isfinite(row))
            self._num_bad[field] += len(bad)
            missing = _NUM_EXAMPLES - len(self._examples[field])
            self._examples[field] += [os.path.basename(paths.name(i)) for i in bad[:missing]]
        zones, counts = np.unique(zones[np.isfinite(zones)], return_counts=True)
        self._num_by_zone.update(dict(zip(zones.tolist(), counts.tolist(), strict=True)))
        return np.stack(numbers)

    def check(self, folder: str | os.PathLike) -> None:
        """Raise a ValueError about the images of a folder if names are not as they must be.

        It counts the names without a number and shows three; or says which UTM zones there are.
        """
        _refuse_bad(folder, self.num_names, self._num_bad, self._examples)
        if len(self._num_by_zone) > 1:
            zones = sorted(self._num_by_zone.items())
            found = ", ".join(f"{count:,} in zone {zone:g}" for zone, count in zones)
            raise ValueError(
                f"The images of {folder} are of several UTM zones ({found}): their coordinates "
                "cannot be compared; keep to one zone, or project all of them to one"
            )


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
    reader = NumberReader(fields)
    numbers = reader.read(paths)
    reader.check(paths.folder)
    return numbers


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
            for index in np.flatnonzero(name_loops.parse_decimals(paths.blob, of_field, values)):
                first, past = of_field[:, index]
                values[index] = parse_float(paths.blob[first:past].tobytes())
    return numbers


def read_prefixes(paths: ImagePaths, field: str, width: int) -> np.ndarray:
    """Read the first bytes of a field (key of FIELDS), fewer where it is shorter.

    Returns:
        S<width> [num_images].
    """
    prefixes = np.zeros((len(paths), width), np.uint8)
    for block, [bounds] in _blocks(paths, [field]):
        name_loops.copy_prefixes(paths.blob, bounds, prefixes[block])
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
    hashes = np.empty(len(paths), np.uint64)
    for block, bounds in _blocks(paths, fields):
        name_loops.hash_texts(paths.blob, bounds, hashes[block])
    return hashes


def check_present(paths: ImagePaths, numbers: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError that counts the names without a number and shows three.

    Args:
        paths: The images.
        numbers: Keys of FIELDS and what `read_fields` read.
    """
    bad = {name: np.flatnonzero(~np.isfinite(row)) for name, row in numbers.items()}
    _refuse_bad(
        paths.folder,
        len(paths),
        {name: len(indices) for name, indices in bad.items()},
        {
            name: [os.path.basename(paths.name(i)) for i in indices[:_NUM_EXAMPLES]]
            for name, indices in bad.items()
        },
    )


def _refuse_bad(
    folder: str | os.PathLike,
    num_names: int,
    num_bad: Mapping[str, int],
    examples: Mapping[str, list[str]],
) -> None:
    problems = [
        f"{name} (field {FIELDS[name]} of the '@' name) is missing or not a number in "
        f"{num:,} of {num_names:,} images, for example {', '.join(examples[name])}"
        for name, num in num_bad.items()
        if num
    ]
    if problems:
        raise ValueError(
            f"Bad image names in {folder}: {'; '.join(problems)}. "
            "To make names: python -m tools.convert --help"
        )


def _blocks(paths: ImagePaths, fields: Sequence[str]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield which names, and the bounds of their fields. int64 [len(fields), 2, num_names]."""
    numbers = np.array([FIELDS[name] for name in fields])
    for first in range(0, len(paths), _NAMES_PER_BLOCK):
        block = slice(first, first + _NAMES_PER_BLOCK)
        starts, ends = paths.starts[block], paths.ends[block]
        yield block, name_loops.locate_fields(paths.blob, starts, ends, numbers)
