"""Split images into the classes and groups of CosPlace (paper, section 3.2).

A class is a cell of M x M metres and alpha degrees of heading. A group holds every N-th class along
east and north and every L-th along the heading, so that two classes of one group never touch:
images of different classes of a group are at least M(N-1) metres or alpha(L-1) degrees apart.

Every image gets the number of its class from a hash table as it comes; a counting sort puts the
images of each class together. Both take time that is linear in the number of images.
"""

from dataclasses import dataclass

import numpy as np

from datasets import class_loops

FULL_TURN_DEG = 360
_HEADING_BITS, _AXIS_BITS = 9, 27  # of a key: heading ranges, and cells along east and north
_MAX_CELLS = 1 << (_AXIS_BITS - 1)  # from the origin, in each direction
_MIN_SLOTS = 1 << 10
_IMAGES_PER_BLOCK = 1 << 17  # bounds the memory to some MB


@dataclass(frozen=True)
class PartitionParams:
    """The hyper-parameters that define classes and groups; the defaults are the paper's."""

    M: int = 10  # side of a cell, metres
    alpha: int = 30  # heading range of a class, degrees
    N: int = 5  # classes of a group are N cells apart along east and north
    L: int = 2  # classes of a group are L heading ranges apart
    min_images_per_class: int = 10  # smaller classes are dropped

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("M", "alpha", "N", "L"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, it is {getattr(self, name)}")
        if self.alpha > FULL_TURN_DEG:
            raise ValueError(f"--alpha must be at most 360 degrees, it is {self.alpha}")
        if self.min_images_per_class < 0:
            raise ValueError(
                f"--min_images_per_class must not be negative, it is {self.min_images_per_class}"
            )

    @property
    def num_headings(self) -> int:
        """Number of heading ranges in a full turn."""
        return -(-FULL_TURN_DEG // self.alpha)

    @property
    def is_separated_at_north(self) -> bool:
        """Whether classes of one group stay apart also across the wrap from 359 to 0 degrees."""
        return self.num_headings == 1 or FULL_TURN_DEG % (self.alpha * self.L) == 0


@dataclass(frozen=True)
class Partition:
    """Classes and groups as offsets into one order of the images.

    Group g holds classes group_starts[g] to group_starts[g + 1]; class c holds images
    images[class_starts[c] : class_starts[c + 1]], in the order in which they were given.

    Attributes:
        images: What the kept images are called, by (group, class, order). int [num_kept].
        class_starts: int64 [num_classes + 1].
        class_cells: Lower corner of each class: east and north in metres, heading in degrees.
            int64 [num_classes, 3]. Inside a group sorted by (east, north, heading).
        group_starts: int64 [num_groups + 1].
        group_ids: (u, v, w) of the paper. int64 [num_groups, 3]. Groups stand in the order in
            which their first kept image was given.
    """

    images: np.ndarray
    class_starts: np.ndarray
    class_cells: np.ndarray
    group_starts: np.ndarray
    group_ids: np.ndarray


class Partitioner:
    """Splits images that come in blocks.

    Of each image it keeps what it is called and 4 bytes; at the end, what kept ones are called once
    more.
    """

    def __init__(self, params: PartitionParams) -> None:
        """Split by these parameters."""
        self.params = params
        self._classes = _KeyNumbers()
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []  # images and their classes

    def add(
        self, images: np.ndarray, east_m: np.ndarray, north_m: np.ndarray, heading_deg: np.ndarray
    ) -> None:
        """Assign images to their classes.

        Args:
            images: What the partition calls them; all blocks of one type. int [num_images].
            east_m: UTM east in metres, finite. float64 [num_images].
            north_m: UTM north in metres, finite. float64 [num_images].
            heading_deg: Heading in degrees; any finite value, 370 is 10 and -10 is 350.
                float64 [num_images].

        Raises:
            ValueError: If there are positions so far out that their cells cannot be numbered.
        """
        keys = _pack(east_m, north_m, heading_deg, self.params)
        self._blocks.append((images, self._classes.number(keys)))

    def finish(self) -> Partition:
        """Form the groups; there may be none, if no class is large enough.

        Raises:
            ValueError: If there are no images.
        """
        if not any(len(images) for images, _ in self._blocks):
            raise ValueError("There are no images to split into classes")
        keys, counts = self._classes.keys, self._classes.counts
        kept = np.flatnonzero(counts >= self.params.min_images_per_class)
        cells = _unpack(keys[kept])
        group_ids, group_of_class = _order_groups(cells, self.params)
        by_group = np.lexsort((keys[kept], group_of_class))
        kept = kept[by_group]
        class_starts = _offsets(counts[kept])
        return Partition(
            images=self._collect(kept, class_starts),
            class_starts=class_starts,
            class_cells=cells[by_group] * (self.params.M, self.params.M, self.params.alpha),
            group_starts=_offsets(np.bincount(group_of_class, minlength=len(group_ids))),
            group_ids=group_ids,
        )

    def _collect(self, kept: np.ndarray, class_starts: np.ndarray) -> np.ndarray:
        """Return the images of some classes, class after class."""
        next_places = np.full(len(self._classes.keys), -1, np.int64)
        next_places[kept] = class_starts[:-1]
        members = np.empty(class_starts[-1], self._blocks[0][0].dtype)
        for images, classes in self._blocks:
            class_loops.place_members(images, classes, next_places, members)
        return members


class _KeyNumbers:
    """Numbers keys in the order in which they are first met: a hash table that grows."""

    def __init__(self) -> None:
        self._num_known = 0
        self._slots = np.full(_MIN_SLOTS, -1, np.int32)
        self._keys, self._counts = np.empty(0, np.uint64), np.empty(0, np.int64)

    @property
    def keys(self) -> np.ndarray:
        """The key of each number. uint64 [num_known]."""
        return self._keys[: self._num_known]

    @property
    def counts(self) -> np.ndarray:
        """How often each key was met. int64 [num_known]."""
        return self._counts[: self._num_known]

    def number(self, keys: np.ndarray) -> np.ndarray:
        """Return the number of each key. int32 [len(keys)]."""
        self._make_room(self._num_known + len(keys))
        numbers = np.empty(len(keys), np.int32)
        table = (self._slots, self._keys, self._counts)
        self._num_known = class_loops.number_keys(keys, *table, self._num_known, numbers)
        return numbers

    def _make_room(self, num_keys: int) -> None:
        if num_keys > len(self._keys):
            added = max(num_keys, len(self._keys) * 5 // 4) - self._num_known
            self._keys = np.concatenate((self.keys, np.empty(added, np.uint64)))
            self._counts = np.concatenate((self.counts, np.zeros(added, np.int64)))
        if 4 * num_keys > 3 * len(self._slots):
            num_slots = 1 << (2 * num_keys).bit_length()
            self._slots = np.full(num_slots, -1, np.int32)
            counted, known = np.zeros_like(self._counts), self.keys.copy()
            table = (self._slots, self._keys, counted)
            class_loops.number_keys(known, *table, 0, np.empty(len(known), np.int32))


def make_partition(
    east_m: np.ndarray, north_m: np.ndarray, heading_deg: np.ndarray, params: PartitionParams
) -> Partition:
    """Split images that are all there; the partition calls them by their indices, int64.

    Args:
        east_m: See `Partitioner.add`.
        north_m: See there.
        heading_deg: See there.
        params: M, alpha, N, L and the smallest class that is kept.

    Raises:
        ValueError: If there are no images, or positions so far out that cells cannot be numbered.
    """
    partitioner = Partitioner(params)
    for first in range(0, len(east_m), _IMAGES_PER_BLOCK):
        block = slice(first, first + _IMAGES_PER_BLOCK)
        images = np.arange(len(east_m[block])) + first
        partitioner.add(images, east_m[block], north_m[block], heading_deg[block])
    return partitioner.finish()


def cell_of(
    east_m: float, north_m: float, heading_deg: float, params: PartitionParams
) -> list[int]:
    """Return the class of one image as `Partition.class_cells` has it, in plain numbers."""
    wrapped_deg = heading_deg % FULL_TURN_DEG
    headings = 0 if wrapped_deg == FULL_TURN_DEG else int(wrapped_deg // params.alpha)
    cells = (int(axis_m // params.M) * params.M for axis_m in (east_m, north_m))
    return [*cells, headings * params.alpha]


def group_ids_of(cells: np.ndarray, params: PartitionParams) -> np.ndarray:
    """Return the (u, v, w) of the groups of classes.

    Args:
        cells: As in `Partition.class_cells`. int64 [num_classes, 3].
        params: How images form classes and groups.
    """
    return np.mod(cells // (params.M, params.M, params.alpha), (params.N, params.N, params.L))


def _pack(
    east_m: np.ndarray, north_m: np.ndarray, heading_deg: np.ndarray, params: PartitionParams
) -> np.ndarray:
    """Make keys of cells so that sorting the keys sorts by (east, north, heading). uint64."""
    keys = np.zeros(len(east_m), np.uint64)
    for axis_m in (east_m, north_m):
        cells = np.floor_divide(axis_m, params.M)
        if len(cells) and max(-cells.min(), cells.max() + 1) > _MAX_CELLS:
            raise ValueError(
                f"There are images {abs(axis_m).max():.1e} m from the origin, more cells of "
                f"{params.M} m than can be numbered: the UTM coordinates in the file names must "
                "be wrong"
            )
        keys = (keys << _AXIS_BITS) | (cells.astype(np.int64) + _MAX_CELLS).astype(np.uint64)
    headings = np.floor_divide(_wrap_heading(heading_deg), params.alpha)
    return (keys << _HEADING_BITS) | headings.astype(np.uint64)


def _wrap_heading(heading_deg: np.ndarray) -> np.ndarray:
    wrapped = np.mod(heading_deg, FULL_TURN_DEG)
    wrapped[wrapped == FULL_TURN_DEG] = 0  # -1e-20 mod 360 rounds to 360
    return wrapped


def _unpack(keys: np.ndarray) -> np.ndarray:
    """Return the cell numbers (east, north, heading) of packed keys. int64 [len(keys), 3]."""
    keys = keys.astype(np.int64)  # 63 bits
    heading, keys = keys & ((1 << _HEADING_BITS) - 1), keys >> _HEADING_BITS
    north, east = keys & ((1 << _AXIS_BITS) - 1), keys >> _AXIS_BITS
    return np.stack((east - _MAX_CELLS, north - _MAX_CELLS, heading), axis=1)


def _order_groups(cells: np.ndarray, params: PartitionParams) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of groups, in the order of `cells`, and the group number of each class."""
    ids = np.mod(cells, (params.N, params.N, params.L))
    packed = (ids[:, 0] * params.N + ids[:, 1]) * params.L + ids[:, 2]
    _, first_met, inverse = np.unique(packed, return_index=True, return_inverse=True)
    return ids[np.sort(first_met)], np.argsort(np.argsort(first_met))[inverse]


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(counts)))
