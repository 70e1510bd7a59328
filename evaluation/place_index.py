"""A database on disk that can be searched without its images.

A place index is a folder: `descriptors.npy`, or `index.faiss` as faiss writes it, depending on the
search; `images_paths.txt`, the '@' names of the images in the same order, one a line; `index.json`,
the model and the search.
"""

import contextlib
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import commons
from datasets.image_lists import ImagePaths, read_text, split_lines
from datasets.positions import read_positions
from datasets.tables import read_json
from evaluation.descriptor_files import map_array, write_array
from evaluation.search import Index

FORMAT, FORMAT_VERSION = "place index", 3
METADATA_KEYS = ("model", "model_sha256", "resize")  # without these no photo can be searched
_DESCRIPTORS, _FAISS_INDEX = "descriptors.npy", "index.faiss"
_NAMES, _FACTS = "images_paths.txt", "index.json"
_KINDS = {  # of the facts
    **dict.fromkeys(("num_images", "descriptor_dim", "index_bytes"), int),
    **dict.fromkeys(("database_folder", "names_sha256", "search"), str),
    "metadata": dict,
}


@dataclass(frozen=True)
class PlaceIndex:
    """An index of descriptors, the names of their images, and how they were made."""

    index: Index
    search: str  # that the index was built for, with all parameters
    paths: ImagePaths  # the images themselves may be gone
    metadata: dict[str, Any]  # METADATA_KEYS and more, plain values

    @cached_property
    def positions_m(self) -> np.ndarray:
        """East and north on one plane, see `read_positions`. float64 [num_images, 2]."""
        return read_positions(self.paths, self.paths.subset(slice(0))).database_m

    def __str__(self) -> str:
        """Return counts and search."""
        return (
            f"{commons.plural(len(self.paths), 'image')} of {self.paths.folder}, "
            f"{_shape(self.index)[1]}-D, search {self.search}"
        )


def check_place_index_folder(folder: str | os.PathLike) -> None:
    """Check that a folder is new, empty or a place index, which may be replaced.

    Raises:
        FileExistsError: If something else is there.
    """
    folder = Path(folder)
    if not os.path.lexists(folder):
        return
    with contextlib.suppress(ValueError, OSError):
        if not any(folder.iterdir()) or _read_facts(folder):
            return
    raise FileExistsError(f"{folder} exists and is not a place index: give another folder")


def save_place_index(folder: str | os.PathLike, place_index: PlaceIndex) -> None:
    """Write a place index atomically; an older one in the folder is replaced.

    Args:
        folder: Where to.
        place_index: Its metadata are METADATA_KEYS and what else describes the model and the data,
            such as the architecture, the name of the data set and the version of the code.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: If counts differ or metadata lack a key.
    """
    folder, paths = Path(os.path.abspath(folder)), place_index.paths
    check_place_index_folder(folder)
    num_descriptors, dim = _shape(place_index.index)
    if num_descriptors != len(paths):
        raise ValueError(f"{num_descriptors:,} descriptors for {len(paths):,} images: not saved")
    missing = [key for key in METADATA_KEYS if key not in place_index.metadata]
    if missing:
        raise ValueError(f"The metadata of a place index lack {', '.join(missing)}")
    if folder.exists():
        logging.info(f"The place index in {folder} is replaced")
    with commons.atomic_folder(folder, overwrite=True) as temporary:
        file, names = _write_index(place_index.index, temporary), temporary / _NAMES
        with open(names, "wb") as stream:
            stream.writelines(line + b"\n" for line in paths.lines())
        for written in (file, names):
            commons.sync_file(written)
        facts = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "num_images": len(paths),
            "descriptor_dim": dim,
            "database_folder": str(paths.folder),
            "names_sha256": commons.sha256_of(names),
            "index_file": file.name,
            "index_bytes": file.stat().st_size,
            "index_sha256": commons.sha256_of(file),
            "search": place_index.search,
            "metadata": place_index.metadata,
        }
        commons.write_json(facts, temporary / _FACTS)


def load_place_index(folder: str | os.PathLike) -> PlaceIndex:
    """Open a place index, whose files are read once to be checked; searching maps them.

    Raises:
        FileNotFoundError: If there is none, or a file of it is missing.
        ValueError: If it is of another version, damaged, or its parts do not belong together.
    """
    folder = Path(folder)
    facts = _read_facts(folder)
    for name in (facts["index_file"], _NAMES):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"The place index {folder} has lost its {name}: make it again")
    if commons.sha256_of(folder / _NAMES) != facts["names_sha256"]:
        raise ValueError(
            f"{folder / _NAMES} was changed since the place index was made: make it again"
        )
    paths = split_lines(facts["database_folder"], read_text(folder / _NAMES))
    file = folder / facts["index_file"]
    expected = facts.get("index_sha256")  # an older version did not save it
    is_whole = file.stat().st_size == facts["index_bytes"]  # else it is named below
    if is_whole and expected and commons.sha256_of(file) != expected:
        raise ValueError(
            f"{file} is damaged: its SHA-256 is not the one it was written with; make the place "
            "index again"
        )
    index = _read_index(file, facts["index_bytes"])
    (num_descriptors, dim), num_images = _shape(index), facts["num_images"]
    if not num_descriptors == len(paths) == num_images or dim != facts["descriptor_dim"]:
        raise ValueError(
            f"The place index {folder} does not hold together: {num_descriptors:,} descriptors of "
            f"length {dim}, {len(paths):,} names; {_FACTS} says {num_images:,} images and length "
            f"{facts['descriptor_dim']}: make it again"
        )
    return PlaceIndex(index, facts["search"], paths, facts["metadata"])


def _read_facts(folder: Path) -> dict[str, Any]:
    """Read `index.json` and check that it is one of ours and of this version."""
    file = folder / _FACTS
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no place index: it has no {_FACTS}")
    facts = read_json(file, object)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(f"{file} does not describe a place index")
    if facts.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder} is a place index of version {facts.get('format_version')}, this code reads "
            f"version {FORMAT_VERSION}: make it again"
        )
    bad = [key for key, kind in _KINDS.items() if not isinstance(facts.get(key), kind)]
    if facts.get("index_file") not in (_DESCRIPTORS, _FAISS_INDEX):
        bad.append("index_file")
    bad += [key for key in METADATA_KEYS if key not in (facts.get("metadata") or {})]
    if bad:
        raise ValueError(f"{file} is damaged: {', '.join(bad)} is missing or wrong")
    return facts


def _shape(index: Index) -> tuple[int, int]:
    """Return the number of descriptors and their length."""
    return index.shape if isinstance(index, np.ndarray) else (index.ntotal, index.d)


def _write_index(index: Index, folder: Path) -> Path:
    if isinstance(index, np.ndarray):
        write_array(index, folder / _DESCRIPTORS)
        return folder / _DESCRIPTORS
    with open(folder / _FAISS_INDEX, "wb") as file:  # of itself faiss loses errors of closing
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
    return folder / _FAISS_INDEX


def _read_index(file: Path, num_bytes: int) -> Index:
    """Map an index into memory; one of faiss is read where faiss is too old for that."""
    found = file.stat().st_size
    if found != num_bytes:  # reading past the end of a mapped file kills a process
        raise ValueError(
            f"{file} is damaged: it has {found:,} bytes, it was written with {num_bytes:,}; make "
            "the place index again"
        )
    try:
        if file.name == _FAISS_INDEX:
            return faiss.read_index(str(file), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
        descriptors = map_array(file)
    except (RuntimeError, ValueError):
        raise ValueError(
            f"{file} is damaged: it cannot be read; make the place index again"
        ) from None
    if descriptors.ndim != 2 or descriptors.dtype not in (np.float32, np.float16):
        raise ValueError(
            f"{file} is damaged: it holds no matrix of descriptors; make the place index again"
        )
    return descriptors
