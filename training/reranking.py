"""Difficult positives by k-reciprocal re-ranking, as SFRS's public code (OpenIBL) finds them.

Two images are reciprocal if each is among the nearest of the other. Sets of reciprocal neighbours,
weighted by distance, are compared by their Jaccard distance (Zhong et al., CVPR 2017). A positive
that is nearer to its query by these sets than by its descriptor is worth training on: the network
does not know it yet (SFRS, Ge et al., ECCV 2020).

OpenIBL squares the squared distances once more and divides those of an image by the largest one;
the paper of the re-ranking has neither. `--rerank_distances` chooses, see `SCALINGS`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

from training.mining import cross_distances

NUM_NEAREST = 20  # k1 of the paper: neighbours of an image, beside itself
DISTANCE_WEIGHT = 0.1  # lambda of the paper, for the distance of the descriptors themselves
_ROWS_AT_ONCE = 4096  # of the matrix of all distances
_PAIRS_AT_ONCE = 1024  # whose descriptors are looked up together

# Of squared distances from images, and the largest squared distance from each of these images.
SCALINGS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "openibl": lambda squared, largest: (squared / np.maximum(largest, 1e-12)) ** 2,
    "paper": lambda squared, largest: squared,
}


@dataclass(frozen=True)
class RerankParams:
    """How many positives are compared and taken, and by which distances; OpenIBL's numbers."""

    pos_pool: int = 20  # positives nearest to the query, among which difficult ones are searched
    pos_num: int = 10  # difficult positives of a tuple, at most
    rerank_distances: str = "openibl"  # key of SCALINGS

    def __post_init__(self) -> None:
        """Check names and ranges."""
        if self.rerank_distances not in SCALINGS:
            raise ValueError(
                f"--rerank_distances must be one of {', '.join(SCALINGS)}, it is "
                f"{self.rerank_distances}"
            )
        for flag in ("pos_pool", "pos_num"):
            if getattr(self, flag) < 1:
                raise ValueError(f"--{flag} must be at least 1, it is {getattr(self, flag)}")


def find_difficult(
    positives: np.ndarray,
    descriptors: np.ndarray,
    params: RerankParams,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Return the difficult positives of queries, re-ranked among all queries and database images.

    Args:
        positives: Rows of `descriptors`, those nearest to each query first; -1 fills up, also for
            what is unreadable. int64 [n, pool].
        descriptors: Of the n queries, then of the database; NaN where an image is unreadable.
            float32 or float16 [N, D].
        params: How many, and by which distances.
        device: That multiplies.

    Returns:
        Rows of `descriptors`, the most difficult first; -1 fills up. A query with positives has
        one at least. int64 [n, pos_num].
    """
    is_readable = np.isfinite(descriptors[:, 0])
    places = np.cumsum(is_readable) - 1  # among those that are readable
    if not is_readable.all():
        descriptors = descriptors[is_readable]
    rows, columns = np.nonzero(positives >= 0)
    pairs = places[rows], places[positives[rows, columns]]
    jaccard = np.full(positives.shape, np.inf)
    jaccard[rows, columns] = jaccard_distances(descriptors, *pairs, params.rerank_distances, device)
    return choose_difficult(positives, jaccard, params.pos_num)


def choose_difficult(positives: np.ndarray, jaccard: np.ndarray, num: int) -> np.ndarray:
    """Choose positives that are at least as near by Jaccard distance as by that of descriptors.

    Those that gain most ranks come first, equal ones in the order of their Jaccard distances.

    Args:
        positives: Indices of images, the nearest by descriptor first; -1 fills up. int64 [n, pool].
        jaccard: Their Jaccard distances. [n, pool].
        num: At most so many.

    Returns:
        int64 [n, num], -1 fills up.
    """
    order = np.argsort(np.where(positives < 0, np.inf, jaccard), axis=1, kind="stable")
    gained = order - np.arange(positives.shape[1])  # rank by descriptor minus rank by Jaccard
    images = np.take_along_axis(positives, order, axis=1)
    images[gained < 0] = -1
    chosen = np.argsort(np.where(images < 0, 1, -gained), axis=1, kind="stable")[:, :num]
    filled = np.full((len(positives), num), -1)
    filled[:, : chosen.shape[1]] = np.take_along_axis(images, chosen, axis=1)
    return filled


def jaccard_distances(
    descriptors: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    scaling: str = "openibl",
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Return the distances of pairs of images by k-reciprocal re-ranking, with k2 = 1.

    The distances of all images to all others are computed in blocks: memory grows with the number
    of images, not with its square.

    Args:
        descriptors: Of all images. float32 or float16 [N, D].
        rows: First image of each pair. int64 [num_pairs].
        columns: Second image. int64 [num_pairs].
        scaling: Key of SCALINGS.
        device: That multiplies.

    Returns:
        0 to 1 with `openibl`. float64 [num_pairs].
    """
    nearest, largest = _find_nearest(descriptors, NUM_NEAREST + 1, device)

    def measure(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        squared = _distances_of_pairs(descriptors, rows, columns, device)
        return SCALINGS[scaling](squared, largest[rows])

    involved, place = np.unique(np.concatenate((rows, columns)), return_inverse=True)
    sets = _expanded_sets(nearest)[involved].tocoo()
    weights = np.exp(-measure(involved[sets.row], sets.col))
    weights /= np.bincount(sets.row, weights, len(involved))[sets.row]
    weights = csr_array((weights, (sets.row, sets.col)), sets.shape)
    firsts, seconds = weights[place[: len(rows)]], weights[place[len(rows) :]]
    common = firsts.minimum(seconds).sum(axis=1)  # each weights row adds up to 1
    jaccard = 1 - common / (2 - common)
    return (1 - DISTANCE_WEIGHT) * jaccard + DISTANCE_WEIGHT * measure(rows, columns)


def _find_nearest(
    descriptors: np.ndarray, num: int, device: torch.device | str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest images of each, itself among them, and its largest squared distance.

    Returns:
        int64 [N, num] and float32 [N].
    """
    num_images = len(descriptors)
    nearest = np.empty((num_images, min(num, num_images)), np.int64)
    largest = np.empty(num_images, np.float32)
    for first in range(0, num_images, _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        squared = torch.from_numpy(cross_distances(descriptors[part], descriptors, device))
        nearest[part] = squared.topk(nearest.shape[1], largest=False).indices.numpy()
        largest[part] = squared.amax(dim=1).numpy()
    return nearest, largest


def _expanded_sets(nearest: np.ndarray) -> csr_array:
    """Return the reciprocal neighbours of each image, and those that they bring with them.

    A neighbour brings its own reciprocal ones, of half as many nearest, if more than two thirds of
    them are in the set already.

    Returns:
        Entries where row i has image j in its set. [N, N].
    """
    sets = _reciprocal(nearest)
    halves = _reciprocal(nearest[:, : round(NUM_NEAREST / 2) + 1])
    common = sets.multiply(sets @ halves.T).tocoo()  # of the set of i and the half set of j in it
    brings = common.data > 2 / 3 * halves.sum(axis=1)[common.col]
    pairs = common.row[brings], common.col[brings]
    bringing = csr_array((np.ones(len(pairs[0]), np.float32), pairs), sets.shape)
    return csr_array(sets + bringing @ halves)


def _reciprocal(nearest: np.ndarray) -> csr_array:
    """Return ones where two images are among the nearest of each other, float32 [N, N]."""
    num_images, num = nearest.shape
    ones, starts = np.ones(nearest.size, np.float32), num * np.arange(num_images + 1)
    is_near = csr_array((ones, nearest.ravel(), starts), (num_images, num_images))
    return csr_array(is_near.multiply(is_near.T))


def _distances_of_pairs(
    descriptors: np.ndarray, rows: np.ndarray, columns: np.ndarray, device: torch.device | str
) -> np.ndarray:
    """Return squared distances, float32 [num_pairs]; quick if pairs with one row are together."""
    squared = np.empty(len(rows), np.float32)
    for part in _slices(len(rows), _PAIRS_AT_ONCE):
        (first, row), (second, column) = (
            np.unique(images[part], return_inverse=True) for images in (rows, columns)
        )
        block = cross_distances(descriptors[first], descriptors[second], device)
        squared[part] = block[row, column]
    return squared


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(first, first + step) for first in range(0, length, step))
