"""The partition of a training folder on disk, memory-mapped and shared by all groups and workers.

A class index is a folder of flat arrays below the cache folder. Its name holds every parameter, a
hash of the resolved image folder, and a digest of the whole list of names, so that a changed folder
has another class index.

Checked when it is opened: the CRC-32 of its files, and that the list of images is the one that was
indexed: by its size and time of modification or, where these differ, by the digest of its content.
"""

import dataclasses
import hashlib
import json
import logging
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

import commons
from datasets.image_lists import ImagePaths, find_folder, list_images, mark_length, read_text
from datasets.image_names import FIELDS, hash_fields, read_numbers, read_prefixes
from datasets.partition import (
    PanoramaParams,
    Partition,
    PartitionParams,
    find_axes,
    find_cells,
    group_cells,
)

_log = logging.getLogger(__name__)

FORMAT_VERSION = 3
ARRAYS = ("image_offsets", "class_starts", "class_cells", "group_starts", "group_ids")
_AXES = "class_axes"  # array of `find_axes`, where classes hold panoramas
_CELL_FIELDS = ("UTM east", "UTM north", "heading")  # of '@' names
_PANORAMA_FIELDS = ("UTM east", "UTM north", "pano id")  # equal ones are one panorama
_WALKED_NAMES = "images_paths.txt"  # the list of a folder that was walked
_META = "meta.json"
_DIGEST_VERSION = 1  # checkpoints hold digests: with another version they could not be resumed
_MAX_LABEL = 30  # of the name of the folder: 255 bytes have to hold the parameters too
_LINE_BYTES = 256  # read at once for a path; more if the line is longer
_BYTES_PER_BLOCK = 1 << 20  # of a file that is checked


class ClassIndex:
    """Classes and groups of a training folder; opening one reads no images and no names.

    Indices of classes run through all groups: group g holds the classes `classes(g)`, class c the
    images `images(c)`, and `path(i)` is the file of image i. Two class indices with one `digest`
    have the same images in the same classes, wherever their folders are.

    With `PanoramaParams` an image is the first one of each panorama, `crops(i)` are all of them,
    and `class_axes` are those of `find_axes`.
    """

    def __init__(self, index_folder: str | os.PathLike) -> None:
        """Map a class index that `load_index` built.

        Raises:
            FileNotFoundError: If the list of images is gone.
            ValueError: If the class index is damaged, or its list was changed since.
        """
        self.index_folder = Path(index_folder)
        meta = _read_meta(self.index_folder)
        try:
            has_axes = f"{_AXES}.npy" in meta["crc32"]
            self.params = (PanoramaParams if has_axes else PartitionParams)(**meta["params"])
            self.folder, list_file = meta["folder"], meta["list_file"]
            self.num_listed_images = int(meta["num_listed_images"])
            self.digest = meta["digest"]
            stem = _name_index(self.folder, list_file, self.params)
            if self.index_folder.name != f"{stem}_{self.digest}":
                raise ValueError("its description is of another one")
            for file, crc32 in meta["crc32"].items():
                if _checksum(self.index_folder / file) != crc32:
                    raise ValueError(f"{file} is not as it was written")
            list_stamp = meta["list_stamp"]
            arrays = {
                name: np.load(self.index_folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in ((*ARRAYS, _AXES) if has_axes else ARRAYS)
            }
            if wrong := [name for name in ARRAYS if arrays[name].dtype.kind not in "iu"]:
                raise ValueError(f"{wrong[0]} does not hold whole numbers")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(self.index_folder, error) from None
        self.image_offsets = arrays["image_offsets"]
        self.class_starts, self.class_cells = arrays["class_starts"], arrays["class_cells"]
        self.group_starts, self.group_ids = arrays["group_starts"], arrays["group_ids"]
        self.class_axes = arrays.get(_AXES)  # None where classes hold no panoramas
        self._names = open(list_file or self.index_folder / _WALKED_NAMES, "rb", buffering=0)  # noqa: SIM115
        if list_file is None or _stamp(self._names.fileno()) == list_stamp:
            return
        if _hash_names(read_text(list_file, is_mapped=True), self.params) != self.digest:
            raise ValueError(
                f"{list_file} was changed after the class index {self.index_folder} was made of "
                "it: start again"
            )

    def __reduce__(self) -> tuple:
        """Pickle as the folder: a spawned worker maps the same files."""
        return ClassIndex, (self.index_folder,)

    @property
    def num_groups(self) -> int:
        """Number of groups with at least one class."""
        return len(self.group_ids)

    def classes(self, group: int) -> range:
        """Return the classes of a group."""
        return range(int(self.group_starts[group]), int(self.group_starts[group + 1]))

    def images(self, class_num: int) -> range:
        """Return the indices of the images of a class."""
        return range(*self.class_starts[class_num : class_num + 2].tolist())

    def num_images(self, group: int) -> int:
        """Return how many images the classes of a group hold together."""
        classes = self.classes(group)
        return int(self.class_starts[classes.stop] - self.class_starts[classes.start])

    def path(self, image: int) -> str:
        """Return the absolute path of an image."""
        line = self._read_line(int(self.image_offsets[image]))
        return os.path.join(self.folder, os.fsdecode(line))

    def crops(self, image: int) -> list[str]:
        """Return the absolute paths of the images of a panorama, in the order of the list.

        Args:
            image: Its first one; the others follow it in the list.
        """
        start, num_bytes = int(self.image_offsets[image]), 16 * _LINE_BYTES
        while True:
            text = self._read(start, num_bytes)
            lines = text.split(b"\n")
            is_whole = len(text) < num_bytes  # else the last line may be cut
            lines = [line.rstrip(b"\r") for line in (lines if is_whole else lines[:-1])]
            panoramas = groupby(filter(None, lines), key=_panorama_of)
            same = list(next(panoramas, (None, ()))[1])
            if is_whole or next(panoramas, None):
                return [os.path.join(self.folder, os.fsdecode(line)) for line in same]
            num_bytes *= 2

    def describe(self, num_groups: int | None = None) -> str:
        """Return the first groups (default all) with their classes and images, one a line."""
        params = ", ".join(f"{key}={value}" for key, value in vars(self.params).items())
        what = "images" if self.class_axes is None else "panos"
        lines = [
            f"{self.num_listed_images:,} images in {self.folder}",
            f"{self.num_groups} groups with {params}",
            f"group  (u, v, w)   classes      {what:>6s}  {what:>6s}/class",
        ]
        for group, (u, v, w) in enumerate(self.group_ids[:num_groups]):
            num_classes, num_images = len(self.classes(group)), self.num_images(group)
            lines.append(
                f"{group:5d}  ({u}, {v}, {w})  {num_classes:8,d}  {num_images:10,d}"
                f"  {num_images / num_classes:12.1f}"
            )
        return "\n".join(lines)

    def require_groups(self, groups_num: int) -> None:
        """Raise a ValueError that lists the groups if there are fewer than asked for."""
        smallest = self.params.min_images_per_class
        if not self.num_groups:
            raise ValueError(
                f"No class of {self.folder} ({self.num_listed_images:,} images) has {smallest}: "
                "lower --min_images_per_class, or make classes larger with --M and --alpha"
            )
        if self.num_groups < groups_num:
            raise ValueError(
                f"--groups_num is {groups_num}, but only {self.num_groups} groups have classes of "
                f"at least {smallest} images:\n{self.describe()}\n"
                f"Set --groups_num to {self.num_groups} or less, or lower --min_images_per_class"
            )

    def _read_line(self, start: int) -> bytes:
        num_bytes = _LINE_BYTES
        while b"\n" not in (text := self._read(start, num_bytes)) and len(text) == num_bytes:
            num_bytes *= 2
        return text.partition(b"\n")[0].rstrip(b"\r")

    def _read(self, start: int, num_bytes: int) -> bytes:
        """Read from the list; mapped, every page of it that was touched would count as memory."""
        if hasattr(os, "pread"):  # forked workers share the position in an open file
            return os.pread(self._names.fileno(), num_bytes, start)
        self._names.seek(start)
        return self._names.read(num_bytes)


def load_index(
    folder: str | os.PathLike, params: PartitionParams, cache_folder: str | os.PathLike
) -> ClassIndex:
    """Open the class index of a training folder, building it first if there is none.

    A folder without a list file is walked each time. A list file is not read if its size and time
    of modification are those of the list that was indexed.

    Args:
        folder: Folder with the training images, '@' file names with UTM and heading.
        params: How images form classes and groups.
        cache_folder: Holds class indices.

    Raises:
        FileNotFoundError: If the folder is missing or holds no images.
        ValueError: If names lack UTM or heading, or are of several UTM zones.
    """
    if not params.is_separated_at_north:
        _log.warning(
            f"360 degrees are not a multiple of alpha x L = {params.alpha} x {params.L}: around "
            "north, neighbouring classes share a group"
        )
    real_folder, list_file = find_folder(folder)
    stem = Path(cache_folder) / _name_index(real_folder, list_file, params)
    commons.remove_unfinished(stem.parent)
    stamp = _stamp(list_file) if list_file else None
    built = _find_built(stem)
    for index_folder in built if stamp else ():
        if _read_meta(index_folder).get("list_stamp") == stamp:
            return ClassIndex(index_folder)
    paths = list_images(folder, is_mapped=True)
    index_folder = _with_digest(stem, _hash_names(paths.blob, params)) if built else None
    if index_folder not in built:
        _log.info(f"Splitting the images of {real_folder} into classes")
        index_folder = _build(paths, params, stem, stamp)
    elif stamp:
        with suppress(OSError):  # a shared cache may be another user's: the list is hashed again
            meta = _read_meta(index_folder) | {"list_stamp": stamp}
            commons.write_json(meta, index_folder / _META)
    return ClassIndex(index_folder)


def _find_built(stem: Path) -> list[Path]:
    """Return the class indices of other or equal lists of the same folder and parameters."""
    if not stem.parent.is_dir():
        return []
    return [folder for folder in stem.parent.iterdir() if folder.name.startswith(stem.name)]


def _build(paths: ImagePaths, params: PartitionParams, stem: Path, stamp: list[int] | None) -> Path:
    """Split images into classes and write their class index; two processes may do so at once."""
    with ThreadPoolExecutor(1) as hasher:
        digest = hasher.submit(_hash_names, paths.blob, params)
        if isinstance(params, PanoramaParams):
            contents = _split_panoramas(paths, params)
        else:  # numbers, 24 bytes a name, end before the sorting begins
            partition = group_cells(find_cells(*read_numbers(paths, _CELL_FIELDS), params), params)
            contents = _contents(paths, partition)
    meta = {
        "format_version": FORMAT_VERSION,
        "folder": str(paths.folder),
        "list_file": paths.list_file and str(paths.list_file),
        "list_stamp": stamp,
        "num_listed_images": len(paths),
        "params": dataclasses.asdict(params),
        "digest": digest.result(),
    }
    index_folder = _with_digest(stem, digest.result())
    try:
        with commons.atomic_folder(index_folder) as folder:
            for name, array in contents.items():
                np.save(folder / f"{name}.npy", array, allow_pickle=False)
            if paths.list_file is None:
                paths.blob.tofile(folder / _WALKED_NAMES)
            meta["crc32"] = {file.name: _checksum(file) for file in sorted(folder.iterdir())}
            commons.write_json(meta, folder / _META)
            for file in folder.iterdir():
                commons.sync_file(file)
    except OSError as error:
        if not index_folder.is_dir():  # else another process was first: its class index is the same
            if not os.access(stem.parent, os.W_OK):
                raise OSError(
                    f"The split into classes cannot be saved in {stem.parent.absolute()} "
                    f"({error.strerror or error}): give another --cache_folder"
                ) from error
            raise
    return index_folder


def _split_panoramas(paths: ImagePaths, params: PanoramaParams) -> dict[str, np.ndarray]:
    """Split panoramas into classes; return the arrays of their class index.

    Raises:
        ValueError: If the images of a panorama do not stand together in the list.
    """
    hashes = hash_fields(paths, _PANORAMA_FIELDS)
    first = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
    panoramas = paths.subset(first)
    has_id = read_prefixes(panoramas, "pano id", 1) != b""
    order = np.argsort(hashes[first[has_id]], kind="stable")
    found = hashes[first[has_id]][order]
    if len(torn := np.flatnonzero(found[1:] == found[:-1])):
        again = order[torn[0] + 1]
        raise ValueError(
            f"The images of one panorama must stand together in {paths.list_file or paths.folder}, "
            f"in one folder and sorted by name: those of {len(torn):,} panoramas do not, such as "
            f"{panoramas.subset(np.flatnonzero(has_id)).name(again)}"
        )
    numbers = read_numbers(panoramas, _CELL_FIELDS)
    partition = group_cells(find_cells(*numbers, params), params)
    return _contents(panoramas, partition) | {_AXES: find_axes(*numbers[:2], partition)}


def _contents(paths: ImagePaths, partition: Partition) -> dict[str, np.ndarray]:
    """Return the arrays of a class index but for axes."""
    contents = {"image_offsets": paths.starts[partition.images]}
    return contents | {name: getattr(partition, name) for name in ARRAYS[1:]}


def _panorama_of(line: bytes) -> list[bytes]:
    """Return the fields of a name that are those of its panorama, as `hash_fields` takes them."""
    fields = os.path.basename(line).split(b"@")[:-1]  # the last one has the extension
    places = [FIELDS[name] for name in _PANORAMA_FIELDS]
    return [fields[place] if place < len(fields) else b"" for place in places]


def _hash_names(text: np.ndarray, params: PartitionParams) -> str:
    """Return the digest of a list of names and of how they are split."""
    digest = hashlib.blake2b(repr((_DIGEST_VERSION, params)).encode(), digest_size=12)
    digest.update(text[mark_length(text) :])
    return digest.hexdigest()


def _with_digest(stem: Path, digest: str) -> Path:
    return stem.with_name(f"{stem.name}_{digest}")


def _name_index(
    folder: str | os.PathLike, list_file: str | os.PathLike | None, params: PartitionParams
) -> str:
    """Return the name of a class index without its last part, the digest."""
    label = "_".join(f"{name}{value}" for name, value in dataclasses.asdict(params).items())
    kind = "\npanoramas" if isinstance(params, PanoramaParams) else ""
    place = f"{folder}\n{list_file}\n{FORMAT_VERSION}{kind}".encode(errors="surrogateescape")
    place_hash = hashlib.blake2b(place, digest_size=6).hexdigest()
    return f"{os.path.basename(folder)[:_MAX_LABEL]}_{label}_{place_hash}"


def _stamp(file: Path | int) -> list[int]:
    """Return size and time of modification of a file, by path or descriptor."""
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns]


def _checksum(file: Path) -> int:
    """Return the CRC-32 of a file."""
    crc32 = 0
    with open(file, "rb") as stream:
        while block := stream.read(_BYTES_PER_BLOCK):
            crc32 = zlib.crc32(block, crc32)
    return crc32


def _read_meta(index_folder: Path) -> dict[str, Any]:
    """Read the description of a class index.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        return dict(json.loads((index_folder / _META).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(index_folder, error) from None


def _damaged(index_folder: Path, reason: object) -> ValueError:
    return ValueError(f"The class index {index_folder} is damaged ({reason}): delete that folder")
