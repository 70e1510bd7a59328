"""List the images of a folder: by `<folder>_images_paths.txt` beside it, else by a walk.

A list has one path a line, relative to the folder. It often comes with the images from somebody
else, and must not make this program read other files than theirs: a line that is absolute or has
`..` is refused when the list is read.

Millions of paths are held as one block of bytes with offsets.
"""

import importlib.util
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import features

# AVIF is read by Pillow itself where it was built so, HEIC with the package pillow-heif.
HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
HAS_AVIF = HAS_HEIF or features.check("avif")
IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *((".heic", ".heif") if HAS_HEIF else ()),
    *((".avif",) if HAS_AVIF else ()),
)
# Left by operating systems and network drives: no images, whatever their names end in.
_SYSTEM_FOLDERS = {
    *(b"@eadir", b".@__thumb", b".thumbnails", b"__macosx", b".appledouble", b"@tmp"),
    *(b"$recycle.bin", b"#recycle", b"@recycle", b".trashes", b".trash", b"recycler"),
    *(b"#snapshot", b".snapshot", b"@recently-snapshot", b".ipynb_checkpoints"),
}
_SYSTEM_FILES = {b".ds_store", b"thumbs.db", b"desktop.ini"}
_SYSTEM_PREFIX = b"._"  # macOS's companions of files, on disks of others
_SYSTEM_FOLDER_PREFIX = b".trash-"  # and the number of a user of Linux
_SYSTEM = "._*, @eaDir and the like"
_ANCESTOR = "link to a folder that holds this one"
_HINTS = {  # of files that are not read
    **dict.fromkeys((".heic", ".heif"), "pip install pillow-heif to read them"),
    ".avif": "pip install pillow-heif to read them",
}
LIST_ENDING = "_images_paths.txt"
_EXTENSIONS = tuple(extension.encode() for extension in IMAGE_EXTENSIONS)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # may begin a list file, is not part of a name
_BYTES_PER_BLOCK = 1 << 20  # of a text that is searched; stays in the processor's cache
_NEWLINE, _RETURN, _DOT, _SLASH = (ord(character) for character in "\n\r./")
_BAD_BYTES = b"\0:\\" if os.name == "nt" else b"\0"  # of no path in a list; drives on Windows


@dataclass(frozen=True)
class ImagePaths(Sequence):
    """The images of a folder: one block of bytes and the place of each path in it.

    Attributes:
        folder: Absolute folder that the paths are relative to.
        blob: All paths, one a line. uint8 [num_bytes].
        starts: First byte of each path. int64 [num_images].
        ends: One past the last byte of each path. int64 [num_images].
        list_file: The `<folder>_images_paths.txt` read; None if the folder was walked.
        left_out: A sentence on the files of the folder that are no images to read; "" if none.
    """

    folder: Path
    blob: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    list_file: Path | None = None
    left_out: str = ""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.starts)

    def __getitem__(self, index: int) -> str:
        """Return the absolute path of one image."""
        return os.path.join(self.folder, self.name(index))

    def __iter__(self) -> Iterator[str]:
        """Yield the absolute paths in order."""
        return (self[index] for index in range(len(self)))

    def name(self, index: int) -> str:
        """Return the path of one image relative to the folder."""
        return os.fsdecode(self._line(index))

    def lines(self) -> Iterator[bytes]:
        """Yield the relative paths as bytes, in order."""
        return (self._line(index) for index in range(len(self)))

    def subset(self, indices: np.ndarray | slice) -> "ImagePaths":
        """Return the images at these indices, in this order."""
        return replace(self, starts=self.starts[indices], ends=self.ends[indices])

    def _line(self, index: int) -> bytes:
        return self.blob[self.starts[index] : self.ends[index]].tobytes()


def list_images(folder: str | os.PathLike, is_mapped: bool = False) -> ImagePaths:
    """List the images of a folder: those of the list file beside it, else those below it.

    A walk finds IMAGE_EXTENSIONS in any case, in all sub-folders, sorted by relative path; the
    order of a list file stays.

    Args:
        folder: Holds the images.
        is_mapped: See `read_list`.

    Raises:
        FileNotFoundError: If the folder is missing or empty, or the first listed image is missing.
        ValueError: If the list names files outside of the folder, or a path contains a newline.
    """
    folder, list_file = find_folder(folder)
    if list_file is None:
        text, other = walk_images(folder)
        paths = split_lines(folder, np.frombuffer(text, np.uint8))
        paths = replace(paths, left_out=describe_left_out(folder, other))
    else:
        paths = read_list(list_file, folder, is_mapped)
    if len(paths) == 0:
        raise FileNotFoundError(
            f"No image in {list_file or folder}: looked for {', '.join(IMAGE_EXTENSIONS)}. "
            f"{paths.left_out}".strip()
        )
    if list_file is not None and not os.path.exists(paths[0]):
        raise FileNotFoundError(
            f"{list_file} lists {paths[0]}, which does not exist: "
            f"its lines must be paths relative to {folder}"
        )
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


def find_list_file(*folders: Path) -> Path | None:
    """Return the first `<folder>_images_paths.txt` that stands beside a folder, or None."""
    beside = (folder.with_name(f"{folder.name}{LIST_ENDING}") for folder in folders)
    return next((path for path in beside if os.path.isfile(path)), None)


def read_list(list_file: Path, folder: str | os.PathLike, is_mapped: bool = False) -> ImagePaths:
    """Read a list of paths relative to a folder; neither folder nor images need to exist.

    Args:
        list_file: One path a line.
        folder: Base of the paths.
        is_mapped: Map the list instead of reading it. For the names of SF-XL this saves 4 GB and
            seconds, but the process dies if somebody cuts the file meanwhile: for short use.

    Raises:
        ValueError: If a line leads out of the folder; names list, line and path.
    """
    paths = split_lines(folder, read_text(list_file, is_mapped), list_file)
    _check_lines(paths)
    return paths


def read_text(list_file: str | os.PathLike, is_mapped: bool = False) -> np.ndarray:
    """Return the bytes of a list, see `read_list`. uint8 [num_bytes]."""
    if is_mapped and os.path.getsize(list_file):  # an empty file cannot be mapped
        return np.asarray(np.memmap(list_file, np.uint8, mode="r"))
    return np.fromfile(list_file, np.uint8)


def image_paths_of(files: Iterable[str | os.PathLike]) -> ImagePaths:
    """Make an ImagePaths out of single files, in the order given; their names may be any.

    Raises:
        FileNotFoundError: If one is not a file.
    """
    names = [os.fsencode(os.path.abspath(file)) for file in files]
    missing = [name for name in names if not os.path.isfile(name)]
    if missing:
        raise FileNotFoundError(f"There is no image {os.fsdecode(missing[0])}")
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    starts = ends - [len(name) for name in names]
    return ImagePaths(Path.cwd(), np.frombuffer(b"".join(names), np.uint8), starts, ends)


def list_photos(given: Sequence[str]) -> ImagePaths:
    """List images given as files or as folders, which are searched like those of a database.

    Raises:
        FileNotFoundError: If one does not exist, or a folder has no image.
    """
    files: list[str] = []
    for path in given:
        found = list_images(path) if os.path.isdir(path) else [path]
        if left_out := getattr(found, "left_out", ""):
            logging.warning(left_out)
        files += found
    return image_paths_of(files)


def split_lines(
    folder: str | os.PathLike, blob: np.ndarray, list_file: Path | None = None
) -> ImagePaths:
    """Make the images of a folder out of a text with one relative path a line; CRLF is accepted.

    Args:
        folder: Base of the paths; it need not exist.
        blob: The text. uint8 [num_bytes].
        list_file: The file that holds the text.
    """
    blob = blob.view()
    blob.flags.writeable = False  # also, compiled loops are compiled for this kind alone
    newlines = [
        np.flatnonzero(blob[first : first + _BYTES_PER_BLOCK] == _NEWLINE) + first
        for first in range(0, len(blob), _BYTES_PER_BLOCK)
    ]
    open_end = [len(blob)] if len(blob) and blob[-1] != _NEWLINE else []
    ends = np.concatenate([*newlines, np.array(open_end, np.int64)])
    starts = np.concatenate(([mark_length(blob)], ends[:-1] + 1)) if len(ends) else ends
    ends = ends - (blob[ends - 1] == _RETURN)
    is_filled = ends > starts
    if not is_filled.all():
        starts, ends = starts[is_filled], ends[is_filled]
    return ImagePaths(Path(os.path.abspath(folder)), blob, starts, ends, list_file)


def mark_length(blob: np.ndarray) -> int:
    """Return the number of bytes before the first line of a text: 3 of a byte order mark, or 0."""
    begins_with_mark = blob[: len(_BYTE_ORDER_MARK)].tobytes() == _BYTE_ORDER_MARK
    return len(_BYTE_ORDER_MARK) if begins_with_mark else 0


def walk_images(folder: str | os.PathLike) -> tuple[bytearray, Counter[str]]:
    """Find IMAGE_EXTENSIONS in any case, in all sub-folders.

    Links are followed, but those to a folder above; a folder that several links lead to is entered
    once, by the first of them. What operating systems and network drives leave, such as `._*` and
    `@eaDir`, is no image.

    Returns:
        Paths relative to the folder, one a line, sorted as bytes; and the number of other files and
        of system folders by what they are, see `describe_left_out`.

    Raises:
        OSError: If a folder cannot be read.
        ValueError: If paths contain a newline.
    """
    root = os.fsencode(folder)
    text, bad, other = bytearray(), [], Counter()
    above = {_identify(parent) for parent in Path(folder).resolve().parents}
    entered: set[tuple[int, int]] = set()
    stack = [b""]  # images and, with a slash at the end, folders; the next one in order is the last
    while stack:
        path = stack.pop()
        if path and not path.endswith(b"/"):
            text += path + b"\n"
            if b"\n" in path:
                bad.append(path)
            continue
        identity = _identify(os.path.join(root, path))
        if identity in above:
            other[_ANCESTOR] += 1
        elif identity not in entered:
            entered.add(identity)
            stack += sorted(_scan(root, path, other), reverse=True)
    _refuse(bad)
    return text, other


def describe_left_out(folder: str | os.PathLike, other: Mapping[str, int]) -> str:
    """Return a sentence on files that `walk_images` left out; "" if there are none."""
    system, others = other.get(_SYSTEM, 0), {key: n for key, n in other.items() if key != _SYSTEM}
    parts = [f"{count:,} {kind}" for kind, count in sorted(others.items())]
    hints = dict.fromkeys(_HINTS[kind] for kind in others if kind in _HINTS)
    hint = "".join(f" ({hint})" for hint in hints)
    texts = [f"{', '.join(parts)} not read{hint}"] if parts else []
    texts += [f"{system:,} of {_SYSTEM} left out"] if system else []
    return f"{folder}: {'; '.join(texts)}" if texts else ""


def _scan(root: bytes, folder: bytes, other: Counter[str]) -> Iterator[bytes]:
    """Yield the images of a folder, and its sub-folders with a slash, relative to the root.

    Counts what is left out in `other`.
    """
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            name = entry.name
            if is_folder and not _is_of_system(name.lower()):
                yield folder + name + b"/"
            elif is_folder or name.startswith(_SYSTEM_PREFIX) or name.lower() in _SYSTEM_FILES:
                other[_SYSTEM] += 1
            elif name.endswith(_EXTENSIONS) or name.lower().endswith(_EXTENSIONS):
                yield folder + name
            else:
                other[os.path.splitext(os.fsdecode(name))[1].lower() or "without an extension"] += 1


def _is_of_system(folder: bytes) -> bool:
    return folder in _SYSTEM_FOLDERS or folder.startswith(_SYSTEM_FOLDER_PREFIX)


def _identify(folder: str | bytes | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _refuse(bad: list[bytes]) -> None:
    if bad:
        raise ValueError(
            f"{len(bad)} image names contain a newline, for example {bad[0]!r}: rename"
        )


def _check_lines(paths: ImagePaths) -> None:
    """Raise a ValueError about the first line that leads out of the folder."""
    is_suspicious = paths.blob[paths.starts] == _SLASH if len(paths) else np.empty(0, bool)
    for first in range(0, len(paths.blob), _BYTES_PER_BLOCK):
        block = paths.blob[first : first + _BYTES_PER_BLOCK + 1]  # two dots may lie across blocks
        is_dot = block == _DOT
        is_odd = np.append(is_dot[:-1] & is_dot[1:], False)
        for bad_byte in _BAD_BYTES:
            is_odd |= block == bad_byte
        if is_odd.any():
            places = np.flatnonzero(is_odd) + first
            is_suspicious[np.searchsorted(paths.starts, places, side="right") - 1] = True
    for index in np.flatnonzero(is_suspicious):
        if fault := _find_fault(paths.name(index)):
            line = np.count_nonzero(paths.blob[: paths.starts[index]] == _NEWLINE) + 1
            raise ValueError(f"{paths.list_file}, line {line:,}: {fault}")


def _find_fault(path: str) -> str:
    """Return why a path may not be in a list; empty if it may."""
    if any(chr(bad_byte) in path for bad_byte in _BAD_BYTES):
        what = "a zero byte, a colon or a backslash" if len(_BAD_BYTES) > 1 else "a zero byte"
        return f"{path!r} has {what}, as no path in a list"
    if ".." in path.split("/"):
        return f"{path!r} may lead out of the folder: paths in a list are without '..'"
    if path.startswith("/"):
        return f"{path!r} is not relative to the folder, as paths in a list must be"
    return ""
