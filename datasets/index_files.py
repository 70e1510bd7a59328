"""Build the index of a training folder and look after its files; `class_index` reads them.

An index is built under a temporary name and renamed: two processes may build it at once.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import commons
from datasets.folder_lists import read_stamp
from datasets.index_arrays import ARRAYS, CELL_FIELDS
from datasets.name_fields import NumberReader
from datasets.name_source import NameSource
from datasets.partition import Partition, Partitioner, PartitionParams

FORMAT_VERSION = 2
WALKED_NAMES = "images_paths.txt"  # the list of a folder that was walked
_DIGEST_VERSION = 1  # checkpoints hold digests: with another version they would not go on
_META = "meta.json"
_MAX_LABEL = 40  # of the name of the folder: 255 bytes have to hold the parameters too


def build_index(source: NameSource, params: PartitionParams, stem: Path) -> Path:
    """Split the images into classes and write their index.

    Args:
        source: Their names.
        params: How images form classes and groups.
        stem: Path of the index without its last part, the digest.

    Returns:
        The folder of the index.

    Raises:
        ValueError: If names lack UTM or heading, or are of several UTM zones.
    """
    stamp = read_stamp(source.list_file, if_settled=True) if source.list_file else ""
    partition, num_listed_images, digest = _split(source, params)
    meta = {
        "format_version": FORMAT_VERSION,
        "folder": str(source.folder),
        "list_file": source.list_file and str(source.list_file),
        "stamp": stamp,
        "num_listed_images": num_listed_images,
        "params": dataclasses.asdict(params),
        "digest": digest,
    }
    index_folder = stem.with_name(f"{stem.name}_{digest}")
    stem.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".building_", dir=stem.parent))
    temporary.chmod(0o755)  # others may share the cache
    try:
        for name, array in zip(ARRAYS, dataclasses.astuple(partition), strict=True):
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        if source.list_file is None:
            (temporary / WALKED_NAMES).write_bytes(source.walked)
        commons.write_json(meta, temporary / _META)
        for file in temporary.iterdir():
            commons.sync_file(file)
        temporary.rename(index_folder)
        commons.sync_folder(stem.parent)
    except OSError:
        if not index_folder.is_dir():  # else another process was first: its index is the same
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return index_folder


def hash_names(source: NameSource, params: PartitionParams) -> str:
    """Return the digest of the names and of how they are split."""
    digest = _start_digest(params)
    for _, text in source.texts():
        digest.update(text)
    return digest.hexdigest()


def name_index(
    folder: str | os.PathLike, list_file: str | os.PathLike | None, params: PartitionParams
) -> str:
    """Return the name of an index without its last part, the digest."""
    label = "_".join(f"{name}{value}" for name, value in dataclasses.asdict(params).items())
    place = _hash_text(f"{folder}\n{list_file}\n{FORMAT_VERSION}")
    return f"{os.path.basename(folder)[:_MAX_LABEL]}_{label}_{place}"


def read_meta(index_folder: Path) -> dict[str, Any]:
    """Read what an index says of itself.

    Raises:
        ValueError: If that cannot be read.
    """
    try:
        return dict(json.loads((index_folder / _META).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise damaged(index_folder, error) from None


def damaged(index_folder: Path, reason: object) -> ValueError:
    """Return the error for an index whose files are not as they were written."""
    return ValueError(f"The index {index_folder} is damaged ({reason}): delete that folder")


def renew_stamp(index_folder: Path, stamp: str) -> None:
    """Note that a list file with this stamp has the names that were indexed."""
    with suppress(OSError):  # the index may be shared and not ours: the list is hashed again
        commons.write_json(read_meta(index_folder) | {"stamp": stamp}, index_folder / _META)


def _split(source: NameSource, params: PartitionParams) -> tuple[Partition, int, str]:
    """Read names block by block; return offsets of lines by class, the number of names, a digest.

    Another thread hashes a block while it is read.
    """
    reader, partitioner = NumberReader(CELL_FIELDS), Partitioner(params)
    digest = _start_digest(params)
    num_bytes = os.path.getsize(source.list_file) if source.list_file else len(source.walked)
    offset_type = np.uint32 if num_bytes < 2**32 else np.int64
    with ThreadPoolExecutor(1) as hasher:
        for start, paths in source.blocks():
            hashed = hasher.submit(digest.update, paths.blob)
            numbers = reader.read(paths)
            if reader.all_good:
                partitioner.add((paths.starts + start).astype(offset_type), *numbers)
            hashed.result()
    reader.check(source.folder)
    return partitioner.finish(), reader.num_names, digest.hexdigest()


def _hash_text(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=6).hexdigest()


def _start_digest(params: PartitionParams) -> "hashlib.blake2b":
    return hashlib.blake2b(repr((_DIGEST_VERSION, params)).encode(), digest_size=12)
