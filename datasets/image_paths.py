"""List the images of a folder and read what their '@' file names say.

A name is `@` separated: UTM east, UTM north, zone number, zone letter, latitude, longitude,
pano id, tile, heading, pitch, roll, height, timestamp, note, extension. Splitting a well-formed
name gives 16 parts (the first one is empty); old SF-XL test names have 8 to 10. Only the UTM
position is always needed, and the heading for training.

A line of a list file is the path of an image, relative to the folder. Where files have names of
their own, the '@' name follows after a tab: `/photos/IMG_1.jpg<TAB>@0544388.51@...@.jpg`; only such
paths may lie elsewhere, see `list_lines`.

Millions of names are kept as one block of bytes with offsets.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets.folder_lists import (
    IMAGE_EXTENSIONS,
    LIST_ENDING,
    check_no_separators,
    is_outdated,
    walk_images,
)
from datasets.list_lines import check_lines

_BYTES_PER_BLOCK = 1 << 23  # of a text that is worked through; bounds the memory
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # may begin a list file, is not part of a name


@dataclass(frozen=True)
class ImageName:
    """The fields of one '@' file name; what a name does not say is None or empty."""

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
                f"{name} (field {field}) is '{fields[field]}', not a number, in {basename}"
            )
        return value

    east, north, zone = number(1, "UTM east"), number(2, "UTM north"), number(3, "UTM zone")
    if east is None or north is None:
        raise ValueError(f"No UTM position in '{basename}': names begin '@UTM_east@UTM_north@'")
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


@dataclass(frozen=True)
class ImagePaths(Sequence):
    """The images of a folder: one block of bytes and the place of each line in it.

    Attributes:
        folder: Absolute folder that the paths are relative to.
        blob: All paths, one a line; after a tab the '@' name, if that is not the file's own.
            uint8 [num_bytes].
        starts: First byte of each line. int64 [num_images].
        ends: One past the last byte of each line. int64 [num_images].
        list_file: The `<folder>_images_paths.txt` read; None if the folder was walked.
    """

    folder: Path
    blob: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    list_file: Path | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.starts)

    def __getitem__(self, index: int) -> str:
        """Return the absolute path of one image."""
        return path_of_line(self.folder, self._line(index))

    def __iter__(self) -> Iterator[str]:
        """Yield the absolute paths in order."""
        return (self[index] for index in range(len(self)))

    def name(self, index: int) -> str:
        """Return the '@' name of one image, below its sub-folders if it is the file's own name."""
        return os.fsdecode(self._line(index).rpartition(b"\t")[2])

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the list, in order."""
        return (self._line(index) for index in range(len(self)))

    def subset(self, indices: np.ndarray | slice) -> "ImagePaths":
        """Return the images of these numbers, in this order."""
        return replace(self, starts=self.starts[indices], ends=self.ends[indices])

    def _line(self, index: int) -> bytes:
        return self.blob[self.starts[index] : self.ends[index]].tobytes()


def path_of_line(folder: str | os.PathLike, line: bytes) -> str:
    """Return the absolute path of the image that a line stands for."""
    return os.path.join(folder, os.fsdecode(line.partition(b"\t")[0]))


def list_images(folder: str | os.PathLike) -> ImagePaths:
    """List the images below a folder, or those of `<folder>_images_paths.txt` if it stands beside.

    A walk finds .jpg, .jpeg and .png in any case, in all sub-folders, sorted by relative path; the
    order of a list file is kept.

    Raises:
        FileNotFoundError: If the folder is missing or empty, or the list names a missing image.
        ValueError: If the list names files outside of the folder.
    """
    folder, list_file = find_folder(folder)
    if list_file is None:
        blob = np.frombuffer(b"".join(walk_images(folder).texts), np.uint8)
    else:
        blob = np.fromfile(list_file, np.uint8)
    paths = split_names(folder, blob, list_file)
    if list_file is not None:
        check_lines(paths.blob, paths.starts, paths.ends, list_file)
    require_images(paths)
    return paths


def find_folder(folder: str | os.PathLike) -> tuple[Path, Path | None]:
    """Return the real path of a folder of images, and the list file beside it, if there is one.

    Raises:
        FileNotFoundError: If the folder is missing.
    """
    given, folder = Path(os.path.abspath(folder)), Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist")
    return folder, find_list_file(given, folder)


def require_images(paths: ImagePaths) -> None:
    """Raise a FileNotFoundError if there are no images, or the first listed one is missing."""
    if len(paths) == 0:
        raise FileNotFoundError(
            f"No image in {paths.list_file or paths.folder}: "
            f"looked for {', '.join(IMAGE_EXTENSIONS)}"
        )
    if paths.list_file and not os.path.exists(paths[0]):
        raise FileNotFoundError(
            f"{paths.list_file} lists {paths[0]}, which does not exist: "
            f"its lines must be paths relative to {paths.folder}"
        )


def find_list_file(*folders: Path) -> Path | None:
    """Return the first `<folder>_images_paths.txt` that stands beside a folder, or None.

    One that we wrote is passed over if folders changed since.
    """
    beside = (folder.with_name(f"{folder.name}{LIST_ENDING}") for folder in folders)
    return next((path for path in beside if os.path.isfile(path) and not is_outdated(path)), None)


def split_names(
    folder: str | os.PathLike, blob: np.ndarray, list_file: Path | None = None
) -> ImagePaths:
    """Make the images of a folder out of a text with one relative path a line.

    Args:
        folder: What the paths are relative to; it need not exist.
        blob: The text. uint8 [num_bytes].
        list_file: Where the text is from.
    """
    has_mark = blob[: len(BYTE_ORDER_MARK)].tobytes() == BYTE_ORDER_MARK
    blob = blob[len(BYTE_ORDER_MARK) :] if has_mark else blob.view()
    blob.flags.writeable = False  # also, compiled loops are compiled for this kind alone
    return ImagePaths(Path(os.path.abspath(folder)), blob, *_split_lines(blob), list_file)


def image_paths_of(files: Iterable[str | os.PathLike]) -> ImagePaths:
    """Make an ImagePaths out of single files, in the order given; their names may be any.

    Raises:
        FileNotFoundError: If one is not a file.
        ValueError: If the name of one contains a newline or a tab.
    """
    names = [os.fsencode(os.path.abspath(file)) for file in files]
    missing = [name for name in names if not os.path.isfile(name)]
    if missing:
        raise FileNotFoundError(f"There is no image {os.fsdecode(missing[0])}")
    check_no_separators(names)
    text = b"".join(name + b"\n" for name in names)
    return split_names(os.getcwd(), np.frombuffer(text, np.uint8))


def _split_lines(blob: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first and past-the-end byte of every line that is not empty; CRLF is accepted."""
    parts = [
        np.flatnonzero(blob[first : first + _BYTES_PER_BLOCK] == ord("\n")) + first
        for first in range(0, len(blob), _BYTES_PER_BLOCK)
    ]
    open_end = [len(blob)] if len(blob) and blob[-1] != ord("\n") else []
    newlines = np.concatenate([*parts, np.array(open_end, np.int64)])
    starts = np.concatenate(([0], newlines[:-1] + 1)) if len(newlines) else newlines
    ends = newlines - (blob[newlines - 1] == ord("\r"))
    filled = ends > starts
    return (starts, ends) if filled.all() else (starts[filled], ends[filled])
