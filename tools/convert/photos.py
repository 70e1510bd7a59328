"""Photos, the '@' names that they get, and the folder that they are written to."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import commons
from datasets.image_lists import LIST_ENDING
from datasets.image_names import ImageName, format_image_name
from tools.convert.positions import PhotoPositions

MAX_NAME_BYTES = 255  # of a file, on all usual file systems
_UNSAFE = re.compile(  # '@', and what some file system does not take
    r'[@/\\<>:"|?*\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]'
)
MODES = {"copy": shutil.copy2, "symlink": os.symlink, "hardlink": os.link}


@dataclass(frozen=True)
class Photos:
    """Image files and the fields of their names, columns of equal length.

    Attributes:
        files: Absolute paths.
        positions: UTM and degrees.
        heading_deg: Clockwise from north, NaN if unknown. float64 [num_images].
        pitch_deg: NaN if unknown. float64 [num_images].
        roll_deg: NaN if unknown. float64 [num_images].
        height_m: NaN if unknown. float64 [num_images].
        pano_ids: "" for the stem of the file.
        timestamps: As SF-XL writes them, or "".
        notes: Any text, or "".
    """

    files: list[str]
    positions: PhotoPositions
    heading_deg: np.ndarray
    pitch_deg: np.ndarray
    roll_deg: np.ndarray
    height_m: np.ndarray
    pano_ids: list[str]
    timestamps: list[str]
    notes: list[str]


def format_names(photos: Photos) -> list[str]:
    """Return one '@' name per photo, all different, also where case does not count.

    Photos whose fields are all equal get a number after the pano_id: 2, 3 and so on. In the pano_id
    and the note, "_" replaces characters that file systems or '@' names do not allow.

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
    """Return text for a field of an '@' name; "_" replaces characters that it cannot hold."""
    return _UNSAFE.sub("_", text)


def check_free(folder: Path) -> None:
    """Refuse a folder that is not empty, or that has a list file beside it.

    Raises:
        FileExistsError: If it does.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: choose another --out")
    list_file = folder.with_name(f"{folder.name}{LIST_ENDING}")
    if list_file.exists():
        raise FileExistsError(
            f"{list_file} exists and would be read instead of the images in {folder}: "
            "choose another --out, or remove that file"
        )


def write_images(files: Sequence[str], names: Sequence[str], folder: Path, mode: str) -> None:
    """Copy or link image files into a folder, under their '@' names.

    Args:
        files: Absolute paths.
        names: Their '@' names, all different.
        folder: Absolute; must be empty or absent.
        mode: Key of MODES.

    Raises:
        FileExistsError: If the folder is not free.
        OSError: If a file cannot be copied or linked; then nothing is written.
    """
    check_free(folder)
    with commons.atomic_folder(folder) as temporary:
        pairs = zip(files, names, strict=True)
        for file, name in tqdm(pairs, desc=f"Images ({mode})", total=len(files), unit="img"):
            try:
                MODES[mode](file, temporary / name)
            except OSError as error:
                raise OSError(
                    f"{file} cannot be brought to {folder} with --mode {mode} "
                    f"({error.strerror}); nothing was written"
                ) from None


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
