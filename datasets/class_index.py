"""The partition of a training folder on disk, memory-mapped and shared by all groups and workers.

An index is a folder of flat arrays below the cache folder. Its name holds a hash of the resolved
image folder, the whole list of names and every parameter, so that a changed folder is another
index. It is built under a temporary name and renamed: two processes may build it at once.
"""

import dataclasses
import hashlib
import json
import logging
import mmap
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from datasets.image_paths import ImagePaths, list_images, path_of_line
from datasets.name_fields import read_numbers
from datasets.partition import PartitionParams, make_partition

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
_ARRAYS = ("image_offsets", "class_starts", "class_cells", "group_starts", "group_ids")


class ClassIndex:
    """Classes and groups of a training folder; opening one reads no images and no names.

    Classes are numbered through all groups: group g holds the classes `classes(g)`, class c the
    images `images(c)`, and `path(i)` is the file of image i. `digest` tells whether two indices
    number the same images in the same classes, wherever their folders are.
    """

    def __init__(self, index_folder: str | os.PathLike) -> None:
        """Map an index that `load_index` built."""
        self.index_folder = Path(index_folder)
        meta = json.loads((self.index_folder / "meta.json").read_text())
        self.params = PartitionParams(**meta["params"])
        self.folder = meta["folder"]
        self.num_listed_images = meta["num_listed_images"]
        self.digest = meta["digest"]
        (
            self.image_offsets,
            self.class_starts,
            self.class_cells,
            self.group_starts,
            self.group_ids,
        ) = (
            np.load(self.index_folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in _ARRAYS
        )
        list_file = meta["list_file"] or self.index_folder / "images_paths.txt"
        with open(list_file, "rb") as file:
            self._names = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

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
        start = int(self.image_offsets[image])
        end = self._names.find(b"\n", start)
        line = self._names[start : end if end >= 0 else len(self._names)].rstrip(b"\r")
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
    paths = list_images(folder)
    digest = _hash(repr((FORMAT_VERSION, params)).encode(), paths.blob)
    place = _hash(f"{paths.folder}\n{paths.list_file}".encode(), digest.encode())
    label = "_".join(f"{name}{value}" for name, value in dataclasses.asdict(params).items())
    index_folder = Path(cache_folder) / f"{paths.folder.name}_{label}_{place}"
    if not index_folder.is_dir():
        _log.info(f"Splitting {len(paths):,} images into classes")
        _build(paths, params, digest, index_folder)
    try:
        return ClassIndex(index_folder)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(
            f"The index {index_folder} is damaged ({error}): delete that folder"
        ) from None


def _hash(*contents: bytes | np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _build(paths: ImagePaths, params: PartitionParams, digest: str, index_folder: Path) -> None:
    partition = make_partition(*read_numbers(paths, ("UTM east", "UTM north", "heading")), params)
    arrays = {name: getattr(partition, name) for name in _ARRAYS[1:]}
    arrays["image_offsets"] = paths.starts[partition.images]
    meta = {
        "format_version": FORMAT_VERSION,
        "folder": str(paths.folder),
        "list_file": paths.list_file and str(paths.list_file),
        "num_listed_images": len(paths),
        "params": dataclasses.asdict(params),
        "digest": digest,
    }
    index_folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".building_", dir=index_folder.parent))
    temporary.chmod(0o755)  # others may share the cache
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        if paths.list_file is None:
            paths.blob.tofile(temporary / "images_paths.txt")
        (temporary / "meta.json").write_text(json.dumps(meta, indent=2))
        temporary.rename(index_folder)
    except OSError:
        if not index_folder.is_dir():  # else another process was first: its index is the same
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
