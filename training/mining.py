"""Choose the tuples that a method trains on: the best positive and hard negatives of each query.

A refresh has three steps: `Miner.draw` says which images are needed, the caller extracts them and
measures `cross_distances`, `Miner.mine` turns distances into tuples. No step but the second sees an
image or a network, and none has a generator: what is drawn is a function of (seed, epoch, loop).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from datasets.ground_truth import Neighbours
from datasets.tuples import TupleSet

_BYTES_PER_BLOCK = 1 << 26  # of float32 descriptors


class _Kind(NamedTuple):
    """What sets a kind of mining apart."""

    extracts_all: bool = False  # of the database; the last negatives of a query stay candidates
    shares_pool: bool = False  # by all queries of a refresh
    takes_nearest: bool = True  # of the candidates as negatives, rather than any
    follows_openibl: bool = False  # see `Miner`


MINING: Mapping[str, _Kind] = {
    "full": _Kind(extracts_all=True),
    "partial": _Kind(shares_pool=True),
    "random": _Kind(takes_nearest=False),
    "openibl": _Kind(extracts_all=True, follows_openibl=True),
}


@dataclass(frozen=True)
class MiningParams:
    """How tuples are chosen; the numbers are those of the VGB benchmark and OpenIBL."""

    mining: str = "full"  # a key of MINING
    num_negatives: int = 10  # of a tuple
    pool_size: int = 1000  # random database images, the candidates for negatives
    queries_per_refresh: int = 1000  # all if there are fewer

    def __post_init__(self) -> None:
        """Check names and ranges."""
        if self.mining not in MINING:
            raise ValueError(f"--mining must be one of {', '.join(MINING)}, it is {self.mining}")
        for flag, value in (
            ("negs_num_per_query", self.num_negatives),
            ("cache_refresh_rate", self.queries_per_refresh),
        ):
            if value < 1:
                raise ValueError(f"--{flag} must be at least 1, it is {value}")
        if MINING[self.mining].takes_nearest and self.pool_size < self.num_negatives:
            raise ValueError(
                f"--neg_samples_num {self.pool_size} draws fewer images than the "
                f"{self.num_negatives} negatives of --negs_num_per_query"
            )


@dataclass(frozen=True)
class Draws:
    """What a refresh needs and draws.

    Attributes:
        queries: Indices of the queries. int64 [n].
        database: Indices of the database images to extract, ascending. int64 [m].
        candidates: Database images that may become negatives of each query, in the order of the
            draw, or -1; those near the query are left out later. int [n, c].
    """

    queries: np.ndarray
    database: np.ndarray
    candidates: np.ndarray


class Miner:
    """Draws images and chooses tuples, refresh after refresh.

    - `full`: `pool_size` random images for each query, and its negatives of the last time.
    - `partial`: one pool of `pool_size` random images for all queries of a refresh.
    - `random`: `num_negatives` random images are the negatives.
    - `openibl`: as `full`; also, each query is drawn once before any is drawn again, and images of
      the query's own panorama are not its positives, where names have panoramas.

    The best positive is the nearest one. Negatives are the nearest candidates; equally near ones in
    the order of the draw (`partial`) or by index (`full`, `openibl`). No image near the query, as
    the tuple set says, is a negative. As in VGB pools are drawn among all images, those near a
    query are left out afterwards; OpenIBL draws as many others for them.

    Attributes:
        remembered: The last negatives of each query, -1 where there are none; all that changes from
            one refresh to the next. int32 [num_queries, num_negatives], of no rows for kinds that
            do not remember.
    """

    def __init__(self, tuple_set: TupleSet, params: MiningParams, seed: int) -> None:
        """Find the queries that can make a tuple.

        Raises:
            ValueError: If there are none.
        """
        self._kind, self._params, self._seed = MINING[params.mining], params, seed
        self._num_database = len(tuple_set.database)
        self._near, self._positives = tuple_set.near, tuple_set.positives
        if self._kind.follows_openibl and tuple_set.query_panoramas is not None:
            panoramas = tuple_set.database_panoramas[self._positives.indices]
            own = tuple_set.query_panoramas[self._positives.queries]
            self._positives = self._positives.where(panoramas != own)
        is_usable = (self._positives.counts > 0) & (self._near.counts < self._num_database)
        if not is_usable.any():
            raise ValueError(
                f"--mining {params.mining}: none of the {len(self._near):,} queries has both a "
                "positive and a database image that is far enough to be a negative"
            )
        self._usable = np.flatnonzero(is_usable)
        num_remembered = len(self._near) if self._kind.extracts_all else 0
        self.remembered = np.full((num_remembered, params.num_negatives), -1, np.int32)

    @property
    def num_usable(self) -> int:
        """Number of queries that can make a tuple."""
        return len(self._usable)

    def num_queries(self, loop: int) -> int:
        """Return the number of queries of a refresh: the last ones of `openibl` may be fewer."""
        size = min(self._params.queries_per_refresh, self.num_usable)
        if not self._kind.follows_openibl:
            return size
        return min(size, self.num_usable - loop % -(-self.num_usable // size) * size)

    def draw(self, epoch: int, loop: int, order: int | None = None) -> Draws:
        """Draw the queries of a refresh and their candidates.

        Args:
            epoch: Counted from 0.
            loop: Refreshes before this one in the epoch.
            order: Of the queries of `openibl`: epochs with equal numbers have one order; None for
                that of the epoch.
        """
        rng = np.random.default_rng((self._seed, epoch, loop))
        queries = self._draw_queries(rng, epoch if order is None else order, loop)
        size = self._params.pool_size
        if not self._kind.takes_nearest:
            size = self._params.num_negatives + self._near.counts[queries].max()
        size = min(size, self._num_database)
        # A pool is a stretch of one random order, from a random place on.
        order = rng.permutation(self._num_database).astype(np.int32)
        places = rng.integers(self._num_database, size=len(queries))
        if self._kind.shares_pool:
            places[:] = 0
        pools = sliding_window_view(np.resize(order, self._num_database + size), size)
        candidates = pools[places]
        if self._kind.extracts_all:
            return Draws(queries, np.arange(self._num_database), candidates)
        needed = _pairs(self._positives, queries)[1]
        if self._kind.takes_nearest:
            needed = np.concatenate((needed, candidates.ravel()))
        return Draws(queries, np.unique(needed), candidates)

    def mine(self, draws: Draws, distances: np.ndarray) -> np.ndarray:
        """Choose the tuples of a refresh, and remember their negatives.

        If a query has fewer candidates than a tuple has negatives, they are repeated, nearest
        first. A query that cannot make a tuple, since it, all its positives or all candidates are
        unreadable, is replaced by the tuple of another one, so that a refresh has n tuples in any
        case; a warning counts both.

        Args:
            draws: Of the refresh.
            distances: From draws.queries to draws.database, inf (or NaN) where an image is
                unreadable; in any unit that grows with the distance. float32 [n, m].

        Returns:
            Index of the query, database indices of its positive and of its negatives, the nearest
            first. int64 [n, 2 + num_negatives].

        Raises:
            ValueError: If no query can make a tuple.
        """
        positives = self.nearest_positives(draws, distances, 1)[:, 0]
        negatives, num_found = self._choose_negatives(draws, distances)
        is_complete = (positives >= 0) & (num_found > 0)
        if not is_complete.any():
            raise ValueError(
                f"None of {len(draws.queries):,} queries makes a tuple: their images, all their "
                "positives or all candidates for negatives are unreadable, or descriptors are not "
                "finite"
            )
        if self._kind.extracts_all:
            self.remembered[draws.queries[is_complete]] = negatives[is_complete]
        tuples = np.column_stack((draws.queries, positives, negatives))
        num_replaced = int((~is_complete).sum())
        tuples[~is_complete] = np.resize(tuples[is_complete], (num_replaced, tuples.shape[1]))
        num_short = int((num_found < self._params.num_negatives).sum())
        if num_short or num_replaced:
            logging.warning(
                f"{num_short:,} of {len(tuples):,} tuples have fewer than "
                f"{self._params.num_negatives} different negatives, {num_replaced:,} could not be "
                "made and repeat others"
            )
        return tuples

    def nearest_positives(self, draws: Draws, distances: np.ndarray, num: int) -> np.ndarray:
        """Return the readable positives of each query of a refresh, the nearest ones.

        Args:
            draws: Of the refresh.
            distances: As of `mine`.
            num: At most so many.

        Returns:
            Database indices, the nearest first, -1 fills up. int64 [n, num].
        """
        rows, indices = _pairs(self._positives, draws.queries)
        costs = distances[rows, np.searchsorted(draws.database, indices)]
        order = np.lexsort((costs, rows))  # equal ones stay in the order of their indices
        ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
        is_kept = np.isfinite(costs[order]) & (ranks < num)
        nearest = np.full((len(draws.queries), num), -1)
        nearest[rows[is_kept], ranks[is_kept]] = indices[order][is_kept]
        return nearest

    def _draw_queries(self, rng: np.random.Generator, order: int, loop: int) -> np.ndarray:
        size = min(self._params.queries_per_refresh, len(self._usable))
        if not self._kind.follows_openibl:
            return rng.choice(self._usable, size, replace=False)
        passes, part = divmod(loop, -(-len(self._usable) // size))
        rng = np.random.default_rng((self._seed, order, passes, 1))
        return rng.permutation(self._usable)[part * size : (part + 1) * size]

    def _choose_negatives(
        self, draws: Draws, distances: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the negatives of each query, and how many different ones they are."""
        candidates = draws.candidates
        if self._kind.extracts_all:
            candidates = np.concatenate((self.remembered[draws.queries], candidates), axis=1)
        costs = self._measure(draws, candidates, distances)
        rows, columns = self._find_nearest(draws.queries, candidates, costs)
        images = candidates[rows, columns]
        ties = images if self._kind.extracts_all else columns
        order = np.lexsort((ties, costs[rows, columns], rows))
        rows, images = rows[order], images[order]
        is_new = np.append(True, (rows[1:] != rows[:-1]) | (images[1:] != images[:-1]))[: len(rows)]
        rows, images = rows[is_new], np.append(images[is_new], -1)
        num_found = np.bincount(rows, minlength=len(candidates))
        first = np.cumsum(num_found) - num_found
        num_found = np.minimum(num_found, self._params.num_negatives)
        repeated = np.arange(self._params.num_negatives) % np.maximum(num_found, 1)[:, None]
        return images[first[:, None] + repeated], num_found

    def _measure(self, draws: Draws, candidates: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Return distances to candidates; inf if they are unreadable, 0 if they do not matter."""
        if not self._kind.takes_nearest:
            return np.zeros(candidates.shape, np.float32)
        column_of = np.zeros(self._num_database, np.int64)
        column_of[draws.database] = np.arange(len(draws.database))
        costs = np.take_along_axis(distances, column_of[candidates], axis=1)
        return np.where((candidates >= 0) & np.isfinite(costs), costs, np.inf)

    def _find_nearest(
        self, queries: np.ndarray, candidates: np.ndarray, costs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns of nearest candidates that are readable and not near.

        They are some more than needed: those that are near a query may be the nearest of all, and
        what it remembers may be drawn again.
        """
        most_near = self._near.counts[queries].max()
        enough = min(2 * self._params.num_negatives + most_near, candidates.shape[1])
        limits = np.partition(costs, enough - 1, axis=1)[:, enough - 1 : enough]
        rows, columns = np.nonzero((costs <= limits) & (costs < np.inf))
        near_rows, near = _pairs(self._near, queries)
        pairs = near_rows * self._num_database + near
        is_near = np.isin(rows * self._num_database + candidates[rows, columns], pairs)
        return rows[~is_near], columns[~is_near]


def cross_distances(
    queries: np.ndarray, database: np.ndarray, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Measure the squared L2 distances from queries to database images.

    They follow from norms and one matrix product in float32, block by block, so that the database
    is in memory once. Distances are exact to some 1e-6 of the squared norms; ones below 0 are 0.

    Args:
        queries: float32 or float16 [n, D].
        database: float32 or float16 [m, D].
        device: That multiplies; blocks of the database are copied there.

    Returns:
        float32 [n, m].
    """
    lines = torch.from_numpy(queries).to(device, torch.float32)
    squared_norms = _squared_norms(lines)[:, None]
    distances = np.empty((len(queries), len(database)), np.float32)
    step = max(_BYTES_PER_BLOCK // (4 * queries.shape[1]), 1)
    buffer = lines.new_empty((step, queries.shape[1]))  # new memory would take longer to fill
    for first in range(0, len(database), step):
        block = torch.from_numpy(database[first : first + step]).to(device)
        if block.dtype != torch.float32:
            block = buffer[: len(block)].copy_(block)
        product = torch.addmm(_squared_norms(block)[None], lines, block.T, alpha=-2)
        product.add_(squared_norms).clamp_(min=0)
        distances[:, first : first + step] = product.cpu().numpy()
    return distances


def _squared_norms(descriptors: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(descriptors, dim=1).square()  # without a tensor of squares


def _pairs(neighbours: Neighbours, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the neighbours of some queries end to end, and of which row of `queries` each is."""
    counts = neighbours.counts[queries]
    rows = np.repeat(np.arange(len(queries)), counts)
    before = np.cumsum(counts) - counts  # neighbours of the rows above
    places = np.arange(len(rows)) + np.repeat(neighbours.offsets[queries] - before, counts)
    return rows, neighbours.indices[places]
