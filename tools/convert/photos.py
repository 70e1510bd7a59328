"""Photos with what is known of each, and the '@' names that say it."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from datasets.image_names import ImageName, format_image_name
from tools.convert.positions import Positions

MAX_NAME_BYTES = 255  # of a file, on all usual file systems
_UNSAFE = re.compile(r'[@/\\<>:"|?*\x00-\x1f\x7f]')  # '@' and what some file system does not take


@dataclass(frozen=True)
class Photos:
    """Image files and what is known of each, columns of equal length.

    Attributes:
        files: Absolute paths.
        positions: Where they were taken.
        heading_deg: Clockwise from north, NaN if not known. float64 [num_images].
        pitch_deg: NaN if not known. float64 [num_images].
        roll_deg: NaN if not known. float64 [num_images].
        height_m: NaN if not known. float64 [num_images].
        pano_ids: "" for the stem of the file.
        timestamps: As SF-XL writes them, or "".
        notes: Any text, or "".
    """

    files: list[str]
    positions: Positions
    heading_deg: np.ndarray
    pitch_deg: np.ndarray
    roll_deg: np.ndarray
    height_m: np.ndarray
    pano_ids: list[str]
    timestamps: list[str]
    notes: list[str]


def format_names(photos: Photos) -> list[str]:
    """Return one '@' name per photo, all different, also where case does not count.

    Images that all fields agree on are told apart by a number after the pano_id: 2, 3 and so on.
    The pano_id and the note get "_" for characters that file systems or '@' names do not allow.

    Raises:
        ValueError: If a name is longer than a file system takes.
    """
    names, numbers = [], {}
    for fields in _fields_of(photos):
        name = format_image_name(fields)
        first = name.casefold()
        while name.casefold() in numbers:
            numbers[first] += 1
            pano_id = f"{fields.pano_id}_{numbers[first]}".lstrip("_")
            name = format_image_name(replace(fields, pano_id=pano_id))
        numbers[name.casefold()] = 1
        names.append(name)
    _check_lengths(names, photos.files)
    return names


def safe_text(text: str) -> str:
    """Return text for a field of an '@' name, with "_" for characters that cannot be in it."""
    return _UNSAFE.sub("_", text)


def _fields_of(photos: Photos) -> Iterator[ImageName]:
    positions = photos.positions
    columns = zip(
        photos.files,
        positions.east_m.tolist(),
        positions.north_m.tolist(),
        positions.zones.tolist(),
        positions.letters.tolist(),
        _known(positions.latitude_deg),
        _known(positions.longitude_deg),
        photos.pano_ids,
        _known(np.mod(photos.heading_deg, 360)),
        _known(photos.pitch_deg),
        _known(photos.roll_deg),
        _known(photos.height_m),
        photos.timestamps,
        photos.notes,
        strict=True,
    )
    for (
        file,
        east,
        north,
        zone,
        letter,
        latitude,
        longitude,
        pano_id,
        *angles,
        time,
        note,
    ) in columns:
        stem, extension = os.path.splitext(os.path.basename(file))
        yield ImageName(
            east,
            north,
            zone or None,
            letter,
            latitude,
            longitude,
            safe_text(pano_id or stem),
            "",
            *angles,
            time,
            safe_text(note),
            extension.lower(),
        )


def _known(numbers: np.ndarray) -> list[float | None]:
    return [None if number != number else number for number in numbers.tolist()]


def _check_lengths(names: list[str], files: list[str]) -> None:
    long = [
        number
        for number, name in enumerate(names)
        if len(name) * 4 > MAX_NAME_BYTES and len(os.fsencode(name)) > MAX_NAME_BYTES
    ]
    if long:
        raise ValueError(
            f"The names of {len(long):,} images would be longer than {MAX_NAME_BYTES} bytes, for "
            f"example that of {files[long[0]]}: shorten its name, pano_id or note"
        )
