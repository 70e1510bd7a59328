"""Where descriptors go as they are made, a window of images at a time."""

from collections import Counter
from typing import NamedTuple, Protocol

import numpy as np

from evaluation.processes import gather

UNREADABLE = -1  # height and width of an image that cannot be read
SIZES_DTYPE = np.dtype("<i4")


class Described(NamedTuple):
    """The descriptors of a window."""

    images: range  # their numbers
    descriptors: np.ndarray | None  # float32 [num_images, ...]; None if no image can be read
    sizes: np.ndarray  # height and width for the model, or UNREADABLE. int32 [num_images, 2]


class Facts(NamedTuple):
    """What descriptors are, of one process or of all."""

    image_sizes: dict[str, int]  # "HxW" as given to the model -> number of images, falling
    unreadable: list[int]  # numbers of images, ascending
    shape: tuple[int, ...]  # of the descriptors of one image; () if none can be read


class Rows(Protocol):
    """Descriptors of the images of this process."""

    images: range
    sizes: np.ndarray  # as in `Described`, and 0 for images that wait. int32 [num_images, 2]
    shape: tuple[int, ...] | None  # of the descriptors of one image; None if there are none yet

    def put(self, described: Described) -> None:
        """Take over the descriptors of a window."""

    def close(self) -> None:
        """Expect no more for now; what was put outlasts this process, if these rows can."""


class MemoryRows:
    """Descriptors in memory."""

    def __init__(self, images: range, dtype: str = "float32") -> None:
        """Wait for the descriptors of images, to be kept as float32 or float16."""
        self.images = images
        self.sizes = np.zeros((len(images), 2), SIZES_DTYPE)
        self.shape: tuple[int, ...] | None = None
        self._dtype = dtype
        self._descriptors: np.ndarray | None = None

    def put(self, described: Described) -> None:
        """Take over the descriptors of a window."""
        rows = places_of(described.images, self.images)
        self.sizes[rows] = described.sizes
        if described.descriptors is not None:
            self.shape = described.descriptors.shape[1:]
            self.descriptors(self.shape)[rows] = described.descriptors

    def close(self) -> None:
        """Do nothing: memory ends with its process."""

    def descriptors(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the descriptors, [num_images, *shape]; those that were not put are NaN."""
        if self._descriptors is None:
            self._descriptors = np.full((len(self.images), *shape), np.nan, self._dtype)
        return self._descriptors


def places_of(images: range, among: range) -> slice:
    """Return where images stand among others."""
    return slice(images.start - among.start, images.stop - among.start)


def find_missing(rows: Rows, windows: list[range]) -> list[range]:
    """Return the windows with images that wait or could not be read, which are tried again."""
    is_there = rows.sizes[:, 0] > 0
    return [window for window in windows if not is_there[places_of(window, rows.images)].all()]


def facts_of(rows: Rows) -> Facts:
    """Return what the descriptors of this process are, when all are made."""
    sizes, counts = np.unique(rows.sizes, axis=0, return_counts=True)
    image_sizes = Counter(
        {
            f"{height}x{width}": count
            for (height, width), count in zip(sizes.tolist(), counts.tolist(), strict=True)
            if height != UNREADABLE
        }
    )
    unreadable = rows.images.start + np.flatnonzero(rows.sizes[:, 0] == UNREADABLE)
    return Facts(dict(image_sizes.most_common()), unreadable.tolist(), rows.shape or ())


def gather_facts(rows: Rows) -> Facts:
    """Return what the descriptors of all processes are; waits until all are made."""
    parts = gather(facts_of(rows))
    image_sizes = sum((Counter(part.image_sizes) for part in parts), Counter())
    unreadable = [number for part in parts for number in part.unreadable]
    return Facts(dict(image_sizes.most_common()), unreadable, max(part.shape for part in parts))
