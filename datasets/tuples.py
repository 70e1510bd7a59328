"""Training sets of tuples: database, queries, and which images are near each query.

Tuple methods (NetVLAD and those after it) train on a query, a positive and negatives. Positives are
database images within 10 m of the query, images within 25 m are never its negatives (NetVLAD,
section 4; both bounds inclusive).
"""

from dataclasses import dataclass

import numpy as np

from datasets.image_lists import ImagePaths


@dataclass(frozen=True)
class Neighbours:
    """Database indices for each query, in one block.

    Attributes:
        offsets: Where the indices of each query begin, and the end. int64 [num_queries + 1].
        indices: Ascending for each query. int32, or int64 for larger databases.
            [num_pairs].
    """

    offsets: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.offsets) - 1

    def of(self, query: int) -> np.ndarray:
        """Return the database indices of a query, ascending; a view."""
        return self.indices[self.offsets[query] : self.offsets[query + 1]]

    @property
    def counts(self) -> np.ndarray:
        """Number of indices of each query. int64 [num_queries]."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class TupleSet:
    """A database, the queries that have a positive, and what is near them.

    Attributes:
        database: Images that positives and negatives are of.
        queries: Images that have at least one positive.
        positives: Database indices within the radius of positives, for each query.
        near: Database indices that are never negatives, for each query; the positives are among
            them.
        num_dropped: Number of queries left out because they have no positive.
        database_panoramas: Panorama of each database image; equal numbers are one panorama, also
            between database and queries. int64 [num_database]; None if names have no panorama.
        query_panoramas: The same of the queries. int64 [num_queries], or None.
        digest: Of all names and parameters; sets with one digest are the same.
        notes: Sentences on the set.
    """

    database: ImagePaths
    queries: ImagePaths
    positives: Neighbours
    near: Neighbours
    num_dropped: int = 0
    database_panoramas: np.ndarray | None = None
    query_panoramas: np.ndarray | None = None
    digest: str = ""
    notes: tuple[str, ...] = ()
