"""Descriptors in a file while they are made, so that a later run can take them up."""

import contextlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

import commons
from datasets.array_files import read_header
from evaluation.rows import SIZES_DTYPE, UNREADABLE, Described, Facts, places_of

_FLUSH_EVERY_S = 10


@dataclass(frozen=True)
class _Layout:
    """Where things are in a file: the header of a .npy, its rows, and then the sizes of images."""

    num_images: int
    dtype: np.dtype
    shape: tuple[int, ...]  # of the descriptors of one image

    @cached_property
    def header(self) -> bytes:
        content = io.BytesIO()
        facts = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        facts["shape"] = (self.num_images, *self.shape)
        np.lib.format.write_array_header_1_0(content, facts)
        return content.getvalue()

    def row(self, number: int) -> int:
        return len(self.header) + number * self.dtype.itemsize * int(np.prod(self.shape))

    def size(self, number: int) -> int:
        return self.row(self.num_images) + number * 2 * SIZES_DTYPE.itemsize


class PartialFile:
    """Descriptors of the images of this process, in a file that all processes write.

    The sizes of images tell which descriptors are valid: a size is written when its descriptor is
    on the disk. Every process begins with the same header, so that none has to be the first, and
    then writes rows of its own images.
    """

    def __init__(self, path: Path, num_images: int, images: range, dtype: str) -> None:
        """Take up what is there.

        Args:
            path: The file; it need not be there.
            num_images: Of all processes.
            images: Of this process.
            dtype: "float32" or "float16".
        """
        self.images = images
        self.sizes = np.zeros((len(images), 2), SIZES_DTYPE)
        self._path, self._num_images, self._dtype = path, num_images, np.dtype(dtype)
        self._layout: _Layout | None = commons.of_main_process(self._find_layout)
        self._file: BinaryIO | None = None
        self._unsaid: list[Described] = []  # the file does not have their sizes yet
        self._flushed_s = time.monotonic()
        if self._layout is not None:
            self.sizes = self._read_sizes(images)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of the descriptors of one image, None if there are none yet."""
        return self._layout and self._layout.shape

    def put(self, described: Described) -> None:
        """Take over the descriptors of a window.

        Raises:
            OSError: If the disk does not take them; what it has remains valid.
        """
        self.sizes[places_of(described.images, self.images)] = described.sizes
        with self._named_in_errors():
            if described.descriptors is not None:
                self._open(described.descriptors.shape[1:])
                self._write_rows(described.images.start, described.descriptors)
            self._unsaid.append(described)
            if self._file is not None and time.monotonic() - self._flushed_s > _FLUSH_EVERY_S:
                self._flush()

    def close(self) -> None:
        """Bring everything to the disk."""
        if self._file is None:
            return
        with self._named_in_errors():
            try:
                self._flush()
            finally:
                file, self._file = self._file, None
                file.close()

    def fill_gaps(self, facts: Facts) -> None:
        """Write NaN for unreadable images; for one process, when all have closed.

        Raises:
            ValueError: If descriptors of other images are missing.
        """
        self._open(facts.shape)
        heights = self._read_sizes(range(self._num_images))[:, 0]
        heights[facts.unreadable] = UNREADABLE
        if not heights.all():
            raise ValueError(
                f"{self._path} lacks descriptors that other processes have made: the folder must "
                "be on a disk that all processes share"
            )
        for number in facts.unreadable:
            self._write_rows(number, np.full((1, *facts.shape), np.nan))
        self.close()

    def become_whole(self, path: Path) -> None:
        """Rename the file to a .npy without the sizes."""
        os.replace(self._path, path)
        os.truncate(path, self._layout.size(0))

    def _find_layout(self) -> _Layout | None:
        """Read the header of the file; one that is broken is removed."""
        if not self._path.exists():
            return None
        try:
            with open(self._path, "rb") as file:
                (num_images, *shape), dtype = read_header(file)
            layout = _Layout(self._num_images, self._dtype, tuple(shape))
            is_ours = (num_images, dtype) == (self._num_images, self._dtype)
            if is_ours and self._path.stat().st_size == layout.size(num_images):
                return layout
        except ValueError:
            pass
        self._path.unlink()
        return None

    def _open(self, shape: tuple[int, ...]) -> None:
        if self._file is not None:
            return
        self._layout = _Layout(self._num_images, self._dtype, shape)
        self._path.touch()
        self._file = open(self._path, "r+b")  # noqa: SIM115, it stays open from window to window
        self._file.write(self._layout.header)
        self._file.truncate(self._layout.size(self._num_images))

    def _write_rows(self, first: int, descriptors: np.ndarray) -> None:
        self._file.seek(self._layout.row(first))
        self._file.write(descriptors.astype(self._dtype).tobytes())

    @contextlib.contextmanager
    def _named_in_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = error.filename or self._path
            raise

    def _flush(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            self._unsaid.clear()  # a second fsync would not fail again, though rows are lost
            raise
        for described in self._unsaid:
            self._file.seek(self._layout.size(described.images.start))
            self._file.write(described.sizes.tobytes())
        self._file.flush()
        self._unsaid.clear()
        self._flushed_s = time.monotonic()

    def _read_sizes(self, images: range) -> np.ndarray:
        place, count = self._layout.size(images.start), 2 * len(images)
        sizes = np.fromfile(self._path, SIZES_DTYPE, count, offset=place).reshape(-1, 2)
        sizes[(sizes == 0).any(axis=1)] = 0  # a process was killed between height and width
        return sizes
