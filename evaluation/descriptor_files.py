"""Descriptors on disk, so that one extraction serves many evaluations.

A folder has a .npy and a .json for each list of images, each view and each model. While descriptors
are extracted they go into chunks, files of consecutive images in a folder .chunks, which a later
run resumes; in the end they are joined.
"""

import contextlib
import glob
import hashlib
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import commons
from datasets.image_lists import ImagePaths
from datasets.tables import read_json
from evaluation.descriptors import (
    Extraction,
    Rows,
    collect_rows,
    gather,
    name_sizes,
    require_readable,
    rows_of,
    split_range,
    stack_rows,
    summarise_sizes,
)
from evaluation.views import View

_log = logging.getLogger(__name__)
_SAYS_AFTER_S = 1
_CHUNK_IMAGES, _CHUNK_S = 65_536, 30  # a chunk is written after so many images or seconds

# Extracts the images of this process that are not done, bool [num_here].
Extract = Callable[[np.ndarray], Generator[Rows, None, None]]


@dataclass(frozen=True)
class DescriptorFiles:
    """Folders of descriptors.

    Of evaluations that share a folder, one extracts, and those that need the same wait.
    """

    model_digest: str  # of the weights: descriptors of another model are other descriptors
    save_folder: str | os.PathLike | None = None
    load_folder: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        """Raise a FileNotFoundError or FileExistsError if the folders cannot be used."""
        if self.save_folder is not None:
            if os.path.isfile(self.save_folder):
                raise FileExistsError(f"{self.save_folder} is a file: give a folder of descriptors")
            os.makedirs(self.save_folder, exist_ok=True)
        if self.load_folder is not None and not os.path.isdir(self.load_folder):
            raise FileNotFoundError(f"There is no folder of descriptors {self.load_folder}")

    def get(
        self, paths: ImagePaths, view: View, extract: Extract, shard: range, dtype: str = "float32"
    ) -> Extraction:
        """Return the descriptors of a shard of images: memory-mapped, if they are or go on disk.

        Args:
            paths: All images.
            view: What the model sees of an image.
            extract: Extracts missing descriptors of the shard.
            shard: Indices of the images of this process.
            dtype: Of the descriptors, "float32" or "float16".

        Raises:
            ValueError: If the files are damaged, or no image can be read.
        """
        stem, facts = None, {}
        with contextlib.ExitStack() as lock:
            if self.save_folder is not None or self.load_folder is not None:
                facts = self._facts(paths, view, dtype)
                stem = commons.of_main_process(lambda: self._find_or_lock(facts, lock))
            if stem is None:
                rows = extract(np.zeros(len(shard), bool))
                return collect_rows(rows, paths, shard, dtype)
            if not commons.of_main_process(lambda: _is_whole(stem)):
                _extract_to_file(stem, paths, extract, shard, dtype, facts)
        return _load(stem, paths, shard, dtype)

    def _find_or_lock(self, facts: dict[str, Any], lock: contextlib.ExitStack) -> Path | None:
        """Return where descriptors are or go, None: in memory; lock it if some are missing."""
        stem = self._choose(facts)
        if stem is None:
            return None
        if not _is_whole(stem):
            lock.enter_context(_extracting(stem))
        if _is_whole(stem):
            _log.info(f"Descriptors of {facts['folder']} are loaded from {stem}.npy")
            if _chunks_of(stem).is_dir() or _file(stem, "lock").exists():
                _clear(stem)  # a run was killed at its end
        elif _chunks_of(stem).is_dir():
            _log.info(f"{_chunks_of(stem)} is from an interrupted run: it is resumed")
        return stem

    def _choose(self, facts: dict[str, Any]) -> Path | None:
        """Return where descriptors are, else where some are, else where they are to be saved."""
        name, folders = _file_name(facts), (self.load_folder, self.save_folder)
        stems = [Path(folder) / name for folder in folders if folder is not None]
        found = [stem for stem in stems if _is_whole(stem)]
        found += [stem for stem in stems if _can_be_resumed(stem)]
        if self.load_folder is not None and not found:
            names = ", ".join(sorted(one.stem for one in Path(self.load_folder).glob("*.json")))
            _log.warning(
                f"{self.load_folder} has no descriptors of {facts['folder']} "
                f"({facts['num_images']:,} images, {facts['view']}) by this model: they are "
                f"extracted. {f'It holds {names}' if names else 'It is empty'}"
            )
        found += stems[-1:] if self.save_folder is not None else []
        return next(iter(found), None)

    def _facts(self, paths: ImagePaths, view: View, dtype: str) -> dict[str, Any]:
        names = hashlib.sha256()
        for line in paths.lines():
            names.update(line + b"\n")
        facts = {
            "model": self.model_digest,
            "folder": os.fsdecode(os.fsencode(paths.folder)),
            "num_images": len(paths),
            "names": names.hexdigest(),
            "view": str(view),
        }
        return facts if dtype == "float32" else facts | {"dtype": dtype}


def write_array(array: np.ndarray, file: Path) -> None:
    """Write a .npy, whole or not at all; np.save gives no error where the last bytes do not fit."""
    with commons.atomic_write(file) as path, open(path, "wb") as stream:
        array = np.ascontiguousarray(array)
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(array.data)


def map_array(file: Path) -> np.ndarray:
    """Map the array of a .npy file into memory, read-only.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no array of numbers or text, or declares more than the file holds.
    """
    try:
        with np.errstate(over="ignore"):  # of sizes in a broken header
            return np.lib.format.open_memmap(file, mode="r")  # never unpickles
    except OSError:
        raise
    except Exception as error:  # broken headers raise many kinds
        raise ValueError(f"it is no .npy array ({error})") from None


def _file_name(facts: dict[str, Any]) -> str:
    """Return a name that people recognise, and another one for any other facts."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return "_".join((*Path(facts["folder"]).parts[-3:], digest[:12])).replace(os.sep, "")


def _file(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")


def _chunks_of(stem: Path) -> Path:
    return _file(stem, "chunks")


def _is_whole(stem: Path) -> bool:
    return _file(stem, "npy").is_file() and _file(stem, "json").is_file()


def _can_be_resumed(stem: Path) -> bool:
    chunks = _chunks_of(stem)
    if not chunks.is_dir():
        return False
    can_be_written = os.access(chunks, os.W_OK) and os.access(stem.parent, os.W_OK)
    if not can_be_written:
        _log.warning(
            f"{chunks} is from an interrupted run, but cannot be written: it is not resumed"
        )
    return can_be_written


@contextlib.contextmanager
def _extracting(stem: Path) -> Iterator[None]:
    """Wait until no other evaluation extracts these descriptors, and let none do so."""
    lock = _file(stem, "lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(commons.file_lock(lock, _SAYS_AFTER_S))
        except TimeoutError:
            _log.info(f"Waiting for another evaluation, which extracts {_file(stem, 'npy')}")
            is_alone = commons.num_ranks() == 1
            longest_s = -1 if is_alone else 0.9 * commons.LONGEST_WAIT.total_seconds()
            try:
                stack.enter_context(commons.file_lock(lock, longest_s))
            except TimeoutError:
                raise TimeoutError(
                    f"Another evaluation still extracts {_file(stem, 'npy')}: wait for it"
                ) from None
        _remove_temporary(stem)
        yield
    if _is_whole(stem):  # nobody needs it any more
        with contextlib.suppress(OSError):
            lock.unlink()


def _clear(stem: Path) -> None:
    """Remove what a run left that was killed when the descriptors were whole, if none uses it."""
    with contextlib.suppress(OSError):  # another process has the lock, or the disk is read-only
        with commons.file_lock(_file(stem, "lock"), 0):
            _remove_temporary(stem)
            shutil.rmtree(_chunks_of(stem), ignore_errors=True)
        _file(stem, "lock").unlink()


def _remove_temporary(stem: Path) -> None:
    """Remove files that killed runs wrote, see `commons.temporary_path`; the lock is held."""
    for suffix in ("npy", "json"):
        for file in stem.parent.glob(f".{glob.escape(_file(stem, suffix).name)}_*"):
            file.unlink(missing_ok=True)


def _extract_to_file(
    stem: Path, paths: ImagePaths, extract: Extract, shard: range, dtype: str, facts: dict[str, Any]
) -> None:
    folder = _chunks_of(stem)
    with commons.main_process_first():
        folder.mkdir(exist_ok=True)
    done = np.zeros(len(shard), bool)
    for part in _read_chunks(folder, shard, dtype):
        done[rows_of(part.images, shard)] |= part.sizes[:, 0] > 0
    with contextlib.closing(extract(done)) as rows:  # ends the progress bar before an error
        _write_chunks(folder, rows, dtype)
    gather(None)  # wait for the chunks of all processes
    with commons.main_process_first():
        if commons.rank() == 0:
            _join_chunks(stem, paths, dtype, facts)
            _log.info(f"Descriptors of {paths.folder} are in {_file(stem, 'npy')}")


def _write_chunks(folder: Path, rows: Iterable[Rows], dtype: str) -> None:
    """Write descriptors of consecutive images together, also those of a run that stops.

    Only a kill loses something: the chunk that is not written yet.
    """
    pending: list[Rows] = []
    begun_s = time.monotonic()
    try:
        for part in rows:
            if pending:
                is_gap = pending[-1].images.stop != part.images.start
                is_full = len(pending) * len(part.images) >= _CHUNK_IMAGES
                if is_gap or is_full or time.monotonic() - begun_s > _CHUNK_S:
                    _write_chunk(folder, pending, dtype)
                    pending, begun_s = [], time.monotonic()
            pending.append(part)
    finally:
        if pending:
            _write_chunk(folder, pending, dtype)


def _write_chunk(folder: Path, parts: list[Rows], dtype: str) -> None:
    """Write two .npy files; the sizes come last: they mean that the chunk is whole."""
    images = range(parts[0].images.start, parts[-1].images.stop)
    _, descriptors, sizes = stack_rows(parts, images, dtype)
    for kind, array in (("descriptors", descriptors), ("sizes", sizes)):
        file = folder / f"{images.start}-{images.stop}.{kind}.npy"
        if array is not None:
            write_array(array, file)


def _read_chunks(folder: Path, images: range, dtype: str) -> Iterator[Rows]:
    """Map the parts of chunks that belong to images into memory; damaged chunks are left out."""
    for file in folder.glob("[0-9]*-*.sizes.npy"):
        name = file.name.removesuffix(".sizes.npy")
        chunk = range(*map(int, name.split("-")))
        both = range(max(chunk.start, images.start), min(chunk.stop, images.stop))
        if not both:
            continue
        try:
            sizes, descriptors = map_array(file), None
            if (sizes.shape, sizes.dtype) != ((len(chunk), 2), np.int32):
                continue
            if (sizes > 0).any():
                descriptors = map_array(folder / f"{name}.descriptors.npy")
                if (descriptors.shape[:1], descriptors.dtype) != ((len(chunk),), dtype):
                    continue
        except (OSError, ValueError):
            continue
        rows = rows_of(both, chunk)
        yield Rows(both, descriptors if descriptors is None else descriptors[rows], sizes[rows])


def _join_chunks(stem: Path, paths: ImagePaths, dtype: str, facts: dict[str, Any]) -> None:
    """Write all chunks into one .npy, then remove them.

    Raises:
        ValueError: If images are missing, or none can be read.
    """
    folder, images, shape = _chunks_of(stem), range(len(paths)), None
    is_there = np.zeros(len(paths), bool)
    for part in _read_chunks(folder, images, dtype):
        is_there[rows_of(part.images, images)] = True
        shape = shape if part.descriptors is None else part.descriptors.shape[1:]
    if not is_there.all():
        raise ValueError(
            f"{folder} lacks descriptors that other processes have extracted: the folder must be "
            "on a disk that all processes share"
        )
    require_readable(shape is not None, paths)
    counts, unreadable = Counter(), []
    with commons.atomic_write(_file(stem, "npy")) as path, open(path, "wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, header | {"shape": (len(paths), *shape)})
        for block in split_range(images, _CHUNK_IMAGES):
            parts = _read_chunks(folder, block, dtype)
            _, descriptors, sizes = stack_rows(parts, block, dtype)
            if descriptors is None:
                descriptors = np.full((len(block), *shape), np.nan, dtype)
            file.write(descriptors.tobytes())
            block_counts, block_unreadable = summarise_sizes(sizes, block.start)
            counts, unreadable = counts + block_counts, unreadable + block_unreadable
        found = {"image_sizes": name_sizes(counts), "unreadable": unreadable}
        commons.write_json(facts | found, _file(stem, "json"))
    shutil.rmtree(folder)


def _load(stem: Path, paths: ImagePaths, shard: range, dtype: str) -> Extraction:
    array_file = _file(stem, "npy")
    try:
        facts = read_json(_file(stem, "json"))
        descriptors = map_array(array_file)
        if descriptors.dtype != dtype or len(descriptors) != len(paths):
            raise ValueError(f"it has {descriptors.dtype} of shape {descriptors.shape}")
        sizes, unreadable = dict(facts["image_sizes"]), list(facts["unreadable"])
        if not all(type(number) is int for number in (*sizes.values(), *unreadable)):
            raise ValueError("image_sizes or unreadable are not whole numbers")
        if unreadable and not 0 <= min(unreadable) <= max(unreadable) < len(paths):
            raise ValueError("unreadable are not indices of its images")
        rows = descriptors[shard.start : shard.stop]
        return Extraction(rows, sizes, len(paths), unreadable, shard.start)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{array_file} holds no descriptors that can be used: {error}") from None
