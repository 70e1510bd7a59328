"""Split images into the classes and groups of CosPlace (paper, section 3.2).

A class is a cell of M x M metres and alpha degrees of heading. A group holds every N-th class along
east and north and every L-th along the heading, so that two classes of one group never touch:
images of different classes of a group are at least M(N-1) metres or alpha(L-1) degrees apart.

Pure NumPy on whole columns: one integer key per image, one sort, offsets into the sorted order.
"""

from dataclasses import dataclass

import numpy as np

FULL_TURN_DEG = 360


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
        images: Indices of the kept images, by (group, class, index). int64 [num_kept].
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


def make_partition(
    east_m: np.ndarray, north_m: np.ndarray, heading_deg: np.ndarray, params: PartitionParams
) -> Partition:
    """Assign every image to its class and every class to its group.

    Args:
        east_m: UTM east in metres, finite. float64 [num_images].
        north_m: UTM north in metres, finite. float64 [num_images].
        heading_deg: Heading in degrees; any finite value, 370 is 10 and -10 is 350.
            float64 [num_images].
        params: M, alpha, N, L and the smallest class that is kept.

    Returns:
        The partition; it may have no groups, if no class is large enough.

    Raises:
        ValueError: If there are no images, or their positions span so far that cells cannot be
            numbered in 64 bits.
    """
    if not len(east_m):
        raise ValueError("There are no images to split into classes")
    axes = (
        np.floor_divide(east_m, params.M),
        np.floor_divide(north_m, params.M),
        np.floor_divide(_wrap_heading(heading_deg), params.alpha),
    )
    keys, lows, spans = _pack(axes)
    order, starts, first_images = _group_equal(keys)
    counts = np.diff(starts)
    kept = np.flatnonzero(counts >= params.min_images_per_class)
    cells = _unpack(keys[order[starts[kept]]], lows, spans)
    group_ids, group_of_class = _order_groups(cells, first_images[kept], params)
    by_group = np.argsort(group_of_class, kind="stable")  # keys are sorted: so are cells in a group
    kept = kept[by_group]
    return Partition(
        images=order[_ranges(starts[kept], counts[kept])],
        class_starts=_offsets(counts[kept]),
        class_cells=cells[by_group] * (params.M, params.M, params.alpha),
        group_starts=_offsets(np.bincount(group_of_class, minlength=len(group_ids))),
        group_ids=group_ids,
    )


def _wrap_heading(heading_deg: np.ndarray) -> np.ndarray:
    wrapped = np.mod(heading_deg, FULL_TURN_DEG)
    wrapped[wrapped == FULL_TURN_DEG] = 0  # -1e-20 mod 360 rounds to 360
    return wrapped


def _pack(axes: tuple[np.ndarray, ...]) -> tuple[np.ndarray, list[int], list[int]]:
    """Number the cells so that sorting the numbers sorts by (east, north, heading)."""
    lows = [int(axis.min()) for axis in axes]
    spans = [int(axis.max()) - low + 1 for axis, low in zip(axes, lows, strict=True)]
    if spans[0] * spans[1] * spans[2] >= 2**62:
        raise ValueError(
            f"The images span {spans[0]:.1e} x {spans[1]:.1e} cells, more than can be numbered: "
            "the UTM coordinates in the file names must be wrong"
        )
    keys = np.zeros(len(axes[0]), np.int64)
    for axis, low, span in zip(axes, lows, spans, strict=True):
        keys *= span
        keys += axis.astype(np.int64) - low
    return keys, lows, spans


def _unpack(keys: np.ndarray, lows: list[int], spans: list[int]) -> np.ndarray:
    """Return the cell numbers (east, north, heading) of packed keys. int64 [len(keys), 3]."""
    rest, heading = np.divmod(keys, spans[2])
    east, north = np.divmod(rest, spans[1])
    return np.stack((east, north, heading), axis=1) + np.array(lows)


def _group_equal(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort; return the order, the starts of equal runs (plus the end), and the first of each."""
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    is_start = np.concatenate(([True], in_order[1:] != in_order[:-1]))
    starts = np.append(np.flatnonzero(is_start), len(keys))
    return order, starts, order[starts[:-1]]


def _order_groups(
    cells: np.ndarray, first_images: np.ndarray, params: PartitionParams
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of groups, by their first image, and the group number of each class."""
    ids = np.mod(cells, (params.N, params.N, params.L))
    packed = (ids[:, 0] * params.N + ids[:, 1]) * params.L + ids[:, 2]
    by_image = np.argsort(first_images)
    values, first_met, inverse = np.unique(packed[by_image], return_index=True, return_inverse=True)
    ranks = np.argsort(np.argsort(first_met))
    group_of_class = np.empty(len(cells), np.int64)
    group_of_class[by_image] = ranks[inverse]
    group_ids = np.empty((len(values), 3), np.int64)
    group_ids[group_of_class] = ids
    return group_ids, group_of_class


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(counts)))


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenate the ranges start, start + 1, ... of the given lengths."""
    return np.repeat(starts - _offsets(counts)[:-1], counts) + np.arange(counts.sum())
