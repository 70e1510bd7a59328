"""The partition of a training folder on disk, memory-mapped and shared by all groups and workers.

An index is a folder of flat arrays below the cache folder. Its name holds every parameter, a hash
of the resolved image folder, and a hash of the whole list of names, so that a changed folder is
another index.

A list of millions of names takes seconds to hash. The index holds the stamp of the list file (size,
times, inode) that it was built from; only a file with another stamp is hashed.
"""

import logging
import os
from pathlib import Path

from datasets.folder_lists import read_stamp
from datasets.image_paths import BYTE_ORDER_MARK, path_of_line, require_images
from datasets.index_arrays import find_wrong_line, map_arrays
from datasets.index_files import (
    WALKED_NAMES,
    build_index,
    damaged,
    hash_names,
    name_index,
    read_meta,
    renew_stamp,
)
from datasets.name_source import NameSource, find_names
from datasets.partition import PartitionParams

_log = logging.getLogger(__name__)

_LINE_BYTES = 256  # read at once for a path; more if the line is longer


class ClassIndex:
    """Classes and groups of a training folder; opening one reads no images and no names.

    Classes are numbered through all groups: group g holds the classes `classes(g)`, class c the
    images `images(c)`, and `path(i)` is the file of image i. `digest` tells whether two indices
    number the same images in the same classes, wherever their folders are.
    """

    def __init__(self, index_folder: str | os.PathLike) -> None:
        """Map an index that `load_index` built.

        Raises:
            FileNotFoundError: If the list of names is gone.
            ValueError: If the index is damaged, or its list was changed since.
        """
        self.index_folder = Path(index_folder)
        meta = read_meta(self.index_folder)
        try:
            self.params = PartitionParams(**meta["params"])
            self.folder = meta["folder"]
            self.num_listed_images = int(meta["num_listed_images"])
            self.digest = meta["digest"]
            list_file, stamp = meta["list_file"], meta["stamp"]
            stem = name_index(self.folder, list_file, self.params)
            if self.index_folder.name != f"{stem}_{self.digest}":
                raise ValueError("its description is of another index")
            arrays = map_arrays(self.index_folder, self.params)
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise damaged(self.index_folder, error) from None
        self.image_offsets = arrays.images
        self.class_starts, self.class_cells = arrays.class_starts, arrays.class_cells
        self.group_starts, self.group_ids = arrays.group_starts, arrays.group_ids
        self._names = open(list_file or self.index_folder / WALKED_NAMES, "rb", buffering=0)  # noqa: SIM115
        if list_file is not None:
            self._check_list(NameSource(Path(self.folder), Path(list_file)), stamp)

    def __reduce__(self) -> tuple:
        """Pickle as the folder: a spawned worker maps the same files."""
        return ClassIndex, (self.index_folder,)

    @property
    def num_groups(self) -> int:
        """Number of groups with at least one class."""
        return len(self.group_ids)

    def classes(self, group: int) -> range:
        """Return the numbers of the classes of a group."""
        return range(int(self.group_starts[group]), int(self.group_starts[group + 1]))

    def images(self, class_num: int) -> range:
        """Return the numbers of the images of a class.

        Raises:
            ValueError: If the index is damaged.
        """
        first, past = self.class_starts[class_num : class_num + 2].tolist()
        if not 0 <= first < past <= len(self.image_offsets):
            raise damaged(self.index_folder, f"class {class_num} has images {first} to {past - 1}")
        return range(first, past)

    def num_images(self, group: int) -> int:
        """Return how many images the classes of a group hold together."""
        classes = self.classes(group)
        return self.images(classes[-1]).stop - self.images(classes[0]).start

    def path(self, image: int) -> str:
        """Return the absolute path of an image.

        Raises:
            ValueError: If the index is damaged: the line of the image is none of its class.
        """
        line = self._line(int(self.image_offsets[image]))
        class_num = int(self.class_starts.searchsorted(image, side="right")) - 1
        if fault := find_wrong_line(line, self.class_cells[class_num], self.params):
            raise damaged(self.index_folder, f"image {image}: {fault}")
        return path_of_line(self.folder, line)

    def describe(self, num_groups: int | None = None) -> str:
        """Return the first groups (default all) with their classes and images, one a line."""
        params = ", ".join(f"{key}={value}" for key, value in vars(self.params).items())
        lines = [
            f"{self.num_listed_images:,} images in {self.folder}",
            f"{self.num_groups} groups with {params}",
            "group  (u, v, w)   classes      images  images/class",
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

    def _line(self, start: int) -> bytes:
        """Read a line of the list; empty if none begins there."""
        if start < 0 or not self._begins_line(start):
            return b""
        num_bytes = _LINE_BYTES
        while b"\n" not in (text := self._read(start, num_bytes)) and len(text) == num_bytes:
            num_bytes *= 2
        return text.partition(b"\n")[0].rstrip(b"\r")

    def _begins_line(self, start: int) -> bool:
        before = self._read(max(start - 3, 0), min(start, 3))
        return before[-1:] in (b"", b"\n") or (start == 3 and before == BYTE_ORDER_MARK)

    def _read(self, start: int, num_bytes: int) -> bytes:
        """Read from the list; mapped, every page of it that was touched would count as memory."""
        if hasattr(os, "pread"):  # forked workers share the position in an open file
            return os.pread(self._names.fileno(), num_bytes, start)
        self._names.seek(start)
        return self._names.read(num_bytes)

    def _check_list(self, source: NameSource, stamp: str) -> None:
        """Make sure that the open list is the one that was indexed, which had this stamp."""
        present = read_stamp(self._names.fileno(), if_settled=True)
        if present and present == stamp:
            return
        if hash_names(source, self.params) != self.digest:
            raise ValueError(
                f"{source.list_file} was changed after the index {self.index_folder} was made of "
                "it: start again"
            )
        renew_stamp(self.index_folder, present)


def load_index(
    folder: str | os.PathLike, params: PartitionParams, cache_folder: str | os.PathLike
) -> ClassIndex:
    """Open the index of a training folder, building it first if there is none.

    Args:
        folder: Folder with the training images, '@' file names with UTM and heading.
        params: How images form classes and groups.
        cache_folder: Where indices are kept.

    Raises:
        FileNotFoundError: If the folder is missing or holds no images.
        ValueError: If names lack UTM or heading.
    """
    if not params.is_separated_at_north:
        _log.warning(
            f"360 degrees are not a multiple of alpha x L = {params.alpha} x {params.L}: around "
            "north, neighbouring classes share a group"
        )
    source = find_names(folder)
    stem = Path(cache_folder) / name_index(source.folder, source.list_file, params)
    index_folder = _find(source, params, stem)
    if index_folder is None:
        _log.info(f"Splitting the images of {source.folder} into classes")
        index_folder = build_index(source, params, stem)
    return ClassIndex(index_folder)


def _find(source: NameSource, params: PartitionParams, stem: Path) -> Path | None:
    """Return the folder of the index of these names, if there is one."""
    require_images(source.first_block())
    if not stem.parent.is_dir():
        return None
    built = [folder for folder in stem.parent.iterdir() if folder.name.startswith(stem.name)]
    stamp = read_stamp(source.list_file, if_settled=True) if source.list_file else ""
    for folder in built:
        if stamp and read_meta(folder).get("stamp") == stamp:
            return folder
    folder = stem.with_name(f"{stem.name}_{hash_names(source, params)}") if built else None
    if folder not in built:
        return None
    renew_stamp(folder, stamp)
    return folder
