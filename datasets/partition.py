"""Split images into the classes and groups of CosPlace (paper, section 3.2) or EigenPlaces.

A class is a cell of M x M metres and alpha degrees of heading. A group holds every N-th class along
east and north and every L-th along the heading, so that two classes of one group never touch:
images of different classes of a group are at least M(N-1) metres or alpha(L-1) degrees apart.
"""

from dataclasses import dataclass

import numpy as np

FULL_TURN_DEG = 360
_MAX_CELLS = 1 << 26  # from the origin along east and north, in each direction
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
class PanoramaParams(PartitionParams):
    """The same where classes hold panoramas, whatever their headings; EigenPlaces' defaults.

    Images of one position and pano id are a panorama, and count as one.
    """

    M: int = 15
    alpha: int = FULL_TURN_DEG
    N: int = 3
    L: int = 1
    min_images_per_class: int = 5  # panoramas

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if (self.alpha, self.L) != (FULL_TURN_DEG, 1):
            raise ValueError(
                f"--alpha {self.alpha}, --L {self.L}: a panorama has all headings, 360 and 1"
            )
        if self.min_images_per_class < 2:
            raise ValueError(
                "--min_images_per_class must be at least 2, the direction of a class is that of "
                f"its panoramas' positions: it is {self.min_images_per_class}"
            )


@dataclass(frozen=True)
class Partition:
    """Classes and groups as offsets into one order of the images.

    Group g holds classes group_starts[g] to group_starts[g + 1]; class c holds images
    images[class_starts[c] : class_starts[c + 1]], in the order in which they were given.

    Attributes:
        images: Indices of the kept images, by (group, class, order). int64 [num_kept].
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
    """Split images into classes, and the classes into groups.

    Args:
        east_m: UTM east in metres, finite. float64 [num_images].
        north_m: UTM north in metres, finite. float64 [num_images].
        heading_deg: Heading in degrees; any finite value, 370 is 10 and -10 is 350.
            float64 [num_images].
        params: M, alpha, N, L and the smallest class that is kept.

    Raises:
        ValueError: If there are no images, or positions too far from the origin.
    """
    return group_cells(find_cells(east_m, north_m, heading_deg, params), params)


def find_cells(
    east_m: np.ndarray, north_m: np.ndarray, heading_deg: np.ndarray, params: PartitionParams
) -> np.ndarray:
    """Return the cell of each image, packed: cells sort by (east, north, heading).

    The indices of a cell are floor(east / M), floor(north / M) and floor(heading / alpha).

    Args:
        east_m: See `make_partition`.
        north_m: See there.
        heading_deg: See there.
        params: M and alpha.

    Returns:
        int64 [num_images].

    Raises:
        ValueError: If there are positions too far from the origin.
    """
    cells = np.empty(len(east_m), np.int64)
    for first in range(0, len(cells), _IMAGES_PER_BLOCK):
        block = slice(first, first + _IMAGES_PER_BLOCK)
        east = _floor_divide(east_m[block], params.M)
        north = _floor_divide(north_m[block], params.M)
        _check_extent(east, params.M)
        _check_extent(north, params.M)
        wrapped_deg = heading_deg[block]
        if wrapped_deg.min() < 0 or wrapped_deg.max() >= FULL_TURN_DEG:
            wrapped_deg = np.mod(wrapped_deg, FULL_TURN_DEG)
            wrapped_deg[wrapped_deg == FULL_TURN_DEG] = 0  # -1e-20 mod 360 rounds to 360
        heading = _floor_divide(wrapped_deg, params.alpha)
        cells[block] = _pack(*(index.astype(np.int64) for index in (east, north, heading)))
    return cells


def group_cells(cells: np.ndarray, params: PartitionParams) -> Partition:
    """Make a class of each cell with enough images, and form the groups; there may be none.

    Class (e, n, h) is in group (e mod N, n mod N, h mod L).

    Args:
        cells: Of each image, see `find_cells`. int64 [num_images].
        params: N, L and the smallest class that is kept.

    Raises:
        ValueError: If there are no images.
    """
    if not len(cells):
        raise ValueError("There are no images to split into classes")
    order = np.argsort(cells, kind="stable")  # the images cell by cell, each in the order given
    in_order = cells[order]
    starts = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1]))
    counts = np.diff(starts, append=len(cells))
    starts, counts = (kept[counts >= params.min_images_per_class] for kept in (starts, counts))
    first_images, indices = order[starts], np.stack(_unpack(in_order[starts]), axis=1)

    ids = indices % (params.N, params.N, params.L)  # (u, v, w) of each class
    packed_ids = (ids[:, 0] * params.N + ids[:, 1]) * params.L + ids[:, 2]
    _, some_class, groups = np.unique(packed_ids, return_index=True, return_inverse=True)
    first_of_group = np.full(len(some_class), len(cells))
    np.minimum.at(first_of_group, groups, first_images)
    by_first = np.argsort(first_of_group)
    ranks = np.argsort(by_first)[groups]  # of each class: that of its group

    by_group = np.argsort(ranks, kind="stable")  # inside a group, the order of cells stays
    starts, counts = starts[by_group], counts[by_group]
    class_starts = _offsets(counts)
    places = np.repeat(starts - class_starts[:-1], counts)
    places += np.arange(len(places))
    return Partition(
        images=order[places],
        class_starts=class_starts,
        class_cells=indices[by_group] * (params.M, params.M, params.alpha),
        group_starts=_offsets(np.bincount(ranks, minlength=len(by_first))),
        group_ids=ids[some_class[by_first]],
    )


def find_axes(east_m: np.ndarray, north_m: np.ndarray, partition: Partition) -> np.ndarray:
    """Return where each class is, and the direction across that of its positions (EigenPlaces).

    The direction is the second row of U, as numpy's SVD of the centred positions [2, count] gives
    it: the second principal axis, as U is symmetric there. Its sign is LAPACK's choice, so other
    formulas or torch's SVD would not do. Classes of one size are decomposed by one call, which
    gives the same bits as one call each.

    Args:
        east_m: See `make_partition`.
        north_m: See there.
        partition: Classes of at least two images each.

    Returns:
        Mean east and north in metres, then the direction's east and north, of unit length.
        float64 [num_classes, 4].
    """
    positions_m = np.stack((east_m[partition.images], north_m[partition.images]), axis=1)
    counts = np.diff(partition.class_starts)
    axes = np.empty((len(counts), 4))
    for count in np.unique(counts):
        classes = np.flatnonzero(counts == count)
        members = partition.class_starts[classes][:, None] + np.arange(count)
        means_m = positions_m[members].mean(axis=1)
        centred_m = positions_m[members] - means_m[:, None]
        u, _, _ = np.linalg.svd(centred_m.swapaxes(1, 2), full_matrices=False)
        axes[classes] = np.hstack((means_m, u[:, 1]))
    return axes


def _floor_divide(values: np.ndarray, divisor: int) -> np.ndarray:
    """Return the exact floor of quotients below 2**53; `np.floor_divide` takes five times longer.

    A quotient just below an integer may round up to it, but never down below one.
    """
    quotients = np.floor(values / divisor)
    return quotients - (quotients * divisor > values)


def _check_extent(cells: np.ndarray, side_m: int) -> None:
    if max(-cells.min(), cells.max() + 1) > _MAX_CELLS:
        raise ValueError(
            f"There are images {abs(cells).max() * side_m:.1e} m from the origin, more cells of "
            f"{side_m} m than can be indexed: the UTM coordinates in the file names must be wrong"
        )


def _pack(east: np.ndarray, north: np.ndarray, heading: np.ndarray) -> np.ndarray:
    return (east * (2 * _MAX_CELLS) + north) * FULL_TURN_DEG + heading  # 63 bits


def _unpack(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cells, heading = np.divmod(cells, FULL_TURN_DEG)
    east = (cells + _MAX_CELLS) // (2 * _MAX_CELLS)
    return east, cells - east * (2 * _MAX_CELLS), heading


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(counts)))
