"""Positives of each query: by distance, by frame number, or read from a file."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from datasets.image_lists import ImagePaths
from datasets.positions import Positions
from datasets.tables import unescape_cell

_QUERIES_AT_ONCE = 1024  # for which the tree makes lists, whose indices take 40 bytes each


@dataclass(frozen=True)
class Neighbours:
    """Database indices for each query, in one block.

    Attributes:
        offsets: Where the indices of each query begin, and the end. int64 [num_queries + 1].
        indices: Ascending for each query. int32, or int64 for larger databases. [num_pairs].
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

    @property
    def queries(self) -> np.ndarray:
        """The query of each index. int64 [num_pairs]."""
        return np.repeat(np.arange(len(self)), self.counts)

    def where(self, is_kept: np.ndarray) -> "Neighbours":
        """Return the pairs of query and database image for which a mask [num_pairs] is True."""
        kept_before = np.concatenate(([0], np.cumsum(is_kept)))
        return Neighbours(kept_before[self.offsets], self.indices[is_kept])

    def subset(self, is_kept: np.ndarray) -> "Neighbours":
        """Return the queries for which a mask [num_queries] is True."""
        indices = self.indices[np.repeat(is_kept, self.counts)]
        return Neighbours(_offsets(self.counts[is_kept]), indices)


@dataclass(frozen=True)
class GroundTruth:
    """The positives of each query."""

    positives_per_query: list[np.ndarray]  # database indices, ascending. num_queries int64 arrays
    rule: str  # in words
    threshold_m: float | None = None  # None if positives do not depend on a distance

    @property
    def has_positives(self) -> np.ndarray:
        """Whether a query has positives. bool [num_queries]."""
        return np.array([len(positives) > 0 for positives in self.positives_per_query])


def within_distance(positions: Positions, threshold_m: float) -> GroundTruth:
    """Database images within `threshold_m` metres of the query, inclusive, are positives."""
    near = find_neighbours(positions, threshold_m)
    indices = near.indices.astype(np.int64)
    bounds = zip(near.offsets[:-1], near.offsets[1:], strict=True)
    positives = [indices[first:past] for first, past in bounds]
    return GroundTruth(positives, f"UTM distance of at most {threshold_m:g} m", threshold_m)


def find_neighbours(positions: Positions, radius_m: float) -> Neighbours:
    """Find the database images within `radius_m` metres of each query, inclusive, in float64.

    Beside the result, this takes the memory of a tree of the database and of some MB of queries.
    """
    tree = cKDTree(positions.database_m, balanced_tree=False, compact_nodes=False)  # fast to build
    searched_m = radius_m * (1 + 1e-6) + 1e-6  # the tree rounds; below, the radius is exact
    fits = len(positions.database_m) <= np.iinfo(np.int32).max
    indices, counts = [np.empty(0, np.int32 if fits else np.int64)], [np.empty(0, np.int64)]
    for first in range(0, len(positions.queries_m), _QUERIES_AT_ONCE):
        queries_m = positions.queries_m[first : first + _QUERIES_AT_ONCE]
        lists = tree.query_ball_point(queries_m, searched_m, return_sorted=True)
        block = Neighbours(
            _offsets([len(one) for one in lists]),
            np.fromiter(chain.from_iterable(lists), indices[0].dtype),
        )
        offsets_m = positions.database_m[block.indices] - queries_m[block.queries]
        is_within = offsets_m[:, 0] ** 2 + offsets_m[:, 1] ** 2 <= radius_m**2
        block = block.where(is_within)
        indices.append(block.indices)
        counts.append(block.counts)
    return Neighbours(_offsets(np.concatenate(counts)), np.concatenate(indices))


def _offsets(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return where the elements of each list begin if they are joined, and the end."""
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def within_frames(num_database: int, query_frames: np.ndarray, frames: int) -> GroundTruth:
    """Database images whose frame number differs by at most `frames` are positives.

    Args:
        num_database: Database image i is frame i.
        query_frames: Frame numbers of the queries. int [num_queries].
        frames: Largest difference of frame numbers, inclusive.
    """
    positives = [
        np.arange(max(frame - frames, 0), min(frame + frames + 1, num_database))
        for frame in query_frames
    ]
    noun = "frame" if frames == 1 else "frames"
    return GroundTruth(positives, f"at most {frames} {noun} away")


def read_positives(
    file: str | os.PathLike, database: ImagePaths, queries: ImagePaths
) -> GroundTruth:
    """Read the positives of each query from a file.

    A .csv has the line `query,database`, then one pair a line. An image is given by its index (from
    0, in the order of the list of images), by its path, relative to the folder or absolute, or by
    its file name. A .npy is a matrix of integers: one row of database indices per query, padded
    with -1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or refers to images that do not exist.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file of positives {file}")
    if file.suffix == ".csv":
        rows = _read_csv(file, database, queries)
    elif file.suffix == ".npy":
        rows = _read_npy(file, len(queries))
    else:
        raise ValueError(f"Positives are read from .csv or .npy, not from {file}")
    for query, row in enumerate(rows):
        if len(row) and not 0 <= row.min() <= row.max() < len(database):
            raise ValueError(
                f"{file}: query {query} has database images {row.min()} to {row.max()}; "
                f"there are {len(database):,}, counted from 0"
            )
    return GroundTruth(rows, f"read from {file}")


def _read_csv(file: Path, database: ImagePaths, queries: ImagePaths) -> list[np.ndarray]:
    with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        try:
            header, *rows = list(csv.reader(lines)) or [[]]
        except csv.Error as error:
            raise ValueError(f"{file} is not a table: {error}") from None
    if [cell.strip().lower() for cell in header] != ["query", "database"]:
        raise ValueError(f"{file} must begin with the line 'query,database', not {header}")
    rows = [row for row in rows if row]
    if bad := [row for row in rows if len(row) != 2]:
        raise ValueError(f"{file}: {len(bad)} lines do not have two cells, for example {bad[0]}")
    query_indices = _find_images(file, [row[0] for row in rows], queries)
    database_indices = _find_images(file, [row[1] for row in rows], database)
    positives: list[set[int]] = [set() for _ in queries]
    for query, image in zip(query_indices, database_indices, strict=True):
        positives[query].add(image)
    return [np.array(sorted(row), dtype=np.int64) for row in positives]


def _find_images(file: Path, texts: Sequence[str], paths: ImagePaths) -> list[int]:
    """Return the indices of images that are given by index, path or file name."""
    indices: dict[str, int] = {}
    relative = [os.path.relpath(path, paths.folder) for path in paths]
    for index, path in enumerate(relative):
        name = os.path.basename(path)
        indices[name] = -1 if name in indices else index  # -1: several images have this name
    indices |= {path: index for index, path in enumerate(relative)}
    indices |= {str(index): index for index in range(len(paths))}
    prefix = os.path.join(paths.folder, "")
    texts = [text.strip() for text in texts]
    whole = [text if text in indices else unescape_cell(text) for text in texts]
    found = [indices.get(text.removeprefix(prefix), -1) for text in whole]
    pairs = zip(texts, found, strict=True)
    unknown = list(dict.fromkeys(text for text, index in pairs if index < 0))
    if unknown:
        raise ValueError(
            f"{file} names {len(unknown):,} images that are not in {paths.folder}, or are there "
            f"several times, for example {', '.join(unknown[:3])}"
        )
    return found


def _read_npy(file: Path, num_queries: int) -> list[np.ndarray]:
    try:  # mapped into memory, an array that declares more than the file holds is refused
        with np.errstate(over="ignore"):  # of sizes in a broken header
            matrix = np.lib.format.open_memmap(file, mode="r")  # never unpickles
    except Exception as error:  # broken headers raise many kinds
        raise ValueError(
            f"{file} cannot be read as an array of numbers ({error}). Save positives as a CSV "
            "with the columns query,database, or as a matrix of integers, padded with -1"
        ) from None
    if matrix.ndim != 2 or matrix.dtype.kind not in "iu":
        raise ValueError(
            f"{file} holds a {matrix.ndim}-dimensional array of {matrix.dtype}, not a matrix of "
            "integers: one row of database indices per query, padded with -1"
        )
    if len(matrix) != num_queries:
        raise ValueError(
            f"{file} has {len(matrix):,} rows of positives for {num_queries:,} queries"
        )
    return [np.unique(row[row != -1]).astype(np.int64) for row in matrix]
