"""The partition of a training folder on disk, memory-mapped and shared by all groups and workers.

An index is a folder of flat arrays below the cache folder. Its name holds every parameter, a hash
of the resolved image folder, and a hash of the whole list of names, so that a changed folder is
another index.

A list of millions of names takes seconds to hash. The index holds the stamp of the list file (size,
times, inode) that it was built from; only a file with another stamp is hashed.
"""

import dataclasses
import logging
import os
from pathlib import Path

from datasets.array_files import map_array
from datasets.folder_lists import read_stamp
from datasets.image_paths import path_of_line, require_images
from datasets.index_files import (
    ARRAYS,
    FORMAT_VERSION,
    WALKED_NAMES,
    build_index,
    hash_names,
    hash_text,
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
        try:
            meta = read_meta(self.index_folder)
            self.params = PartitionParams(**meta["params"])
            self.folder = meta["folder"]
            self.num_listed_images = meta["num_listed_images"]
            self.digest = meta["digest"]
            list_file, stamp = meta["list_file"], meta["stamp"]
            (
                self.image_offsets,
                self.class_starts,
                self.class_cells,
                self.group_starts,
                self.group_ids,
            ) = (map_array(self.index_folder / f"{name}.npy") for name in ARRAYS)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise ValueError(
                f"The index {self.index_folder} is damaged ({error}): delete that folder"
            ) from None
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
        """Return the numbers of the images of a class."""
        return range(int(self.class_starts[class_num]), int(self.class_starts[class_num + 1]))

    def num_images(self, group: int) -> int:
        """Return how many images the classes of a group hold together."""
        first, last = self.group_starts[group : group + 2]
        return int(self.class_starts[last] - self.class_starts[first])

    def path(self, image: int) -> str:
        """Return the absolute path of an image."""
        start, num_bytes = int(self.image_offsets[image]), _LINE_BYTES
        while b"\n" not in (text := self._read(start, num_bytes)) and len(text) == num_bytes:
            num_bytes *= 2
        return path_of_line(self.folder, text.partition(b"\n")[0].rstrip(b"\r"))

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
    place = hash_text(f"{source.folder}\n{source.list_file}\n{FORMAT_VERSION}")
    label = "_".join(f"{name}{value}" for name, value in dataclasses.asdict(params).items())
    stem = Path(cache_folder) / f"{source.folder.name}_{label}_{place}"
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
