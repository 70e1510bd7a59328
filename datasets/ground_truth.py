"""Which database images are right for a query: by distance, by frame number, or told by a file."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from datasets.array_files import check_size, read_header
from datasets.image_paths import ImagePaths
from datasets.pickled_lists import read_lists
from datasets.position_grid import find_within
from datasets.positions import Positions

_MAX_EXACT = 2**53  # whole numbers below it are exact as floats


@dataclass(frozen=True)
class GroundTruth:
    """The database images that are right for each query."""

    positives_per_query: list[np.ndarray]  # database indices, ascending. num_queries int arrays
    rule: str  # in words
    threshold_m: float | None = None  # None if it is not a matter of distance

    @property
    def has_positives(self) -> np.ndarray:
        """Whether a query has any. bool [num_queries]."""
        return np.array([len(positives) > 0 for positives in self.positives_per_query])


def within_distance(positions: Positions, threshold_m: float) -> GroundTruth:
    """Take the database images within a distance of the query, inclusive, for right (metres)."""
    return GroundTruth(
        find_within(positions.database_m, positions.queries_m, threshold_m),
        f"UTM distance of at most {threshold_m:g} m",
        threshold_m,
    )


def within_frames(num_database: int, query_frames: np.ndarray, frames: int) -> GroundTruth:
    """Take the database images at most so many frames away for right.

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
    """Read which database images are right for each query from a file.

    A .csv has a line `query,database` and then one pair a line. Images are given by number
    (from 0, in the order of the list of images), by path, relative to the folder or absolute, or by
    file name.
    A .npy has one row of database numbers per query: a matrix, padded with -1, or an array of
    lists, or one of pairs (query number, list).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or names images that are not there.
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
                f"there are {len(database):,}, numbered from 0"
            )
    return GroundTruth(rows, f"told by {file}")


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
        raise ValueError(f"{file}: {len(bad)} lines have not two cells, for example {bad[0]}")
    query_numbers = _find_images(file, [row[0] for row in rows], queries)
    database_numbers = _find_images(file, [row[1] for row in rows], database)
    positives: list[set[int]] = [set() for _ in queries]
    for query, image in zip(query_numbers, database_numbers, strict=True):
        positives[query].add(image)
    return [np.array(sorted(row), dtype=np.int64) for row in positives]


def _find_images(file: Path, texts: Sequence[str], paths: ImagePaths) -> list[int]:
    """Return the numbers of images given by number, relative path or file name."""
    numbers: dict[str, int] = {}
    relative = [os.path.relpath(path, paths.folder) for path in paths]
    for number, path in enumerate(relative):
        name = os.path.basename(path)
        numbers[name] = -1 if name in numbers else number  # -1: several have this name
    numbers |= {path: number for number, path in enumerate(relative)}
    numbers |= {str(number): number for number in range(len(paths))}
    prefix = os.path.join(paths.folder, "")
    found = [numbers.get(text.strip().removeprefix(prefix), -1) for text in texts]
    pairs = zip(texts, found, strict=True)
    unknown = list(dict.fromkeys(text for text, number in pairs if number < 0))
    if unknown:
        raise ValueError(
            f"{file} names {len(unknown):,} images that are not in {paths.folder}, or are there "
            f"several times, for example {', '.join(unknown[:3])}"
        )
    return found


def _read_npy(file: Path, num_queries: int) -> list[np.ndarray]:
    try:
        with open(file, "rb") as stream:
            content = _read_array(stream)
        if (
            content.ndim == 0
            or content.dtype.kind not in "iufO"
            or (content.ndim > 2 and content.dtype != object)
        ):
            raise ValueError(f"it is a {content.ndim}-dimensional array of {content.dtype}")
        if _are_pairs(content):
            content = _order_pairs(content)
        if len(content) == num_queries:
            rows = [_read_row(row) for row in content]
    except Exception as error:  # a broken pickle meets many kinds
        raise ValueError(f"{file} is no array of positives: {error}") from None
    if len(content) != num_queries:
        raise ValueError(
            f"{file} has {len(content):,} rows of positives for {num_queries:,} queries"
        )
    return rows


def _read_row(row: object) -> np.ndarray:
    """Return the numbers of one row, ascending."""
    values = np.asarray(row, dtype=np.float64).ravel()
    if not (np.abs(values) < _MAX_EXACT).all() or (values % 1 != 0).any():
        raise ValueError("it holds other things than whole numbers")
    return np.unique(values[values != -1]).astype(np.int64)


def _are_pairs(content: np.ndarray) -> bool:
    """Tell (query number, list) pairs from queries that have two positives each."""
    is_table = content.dtype == object and content.ndim == 2 and content.shape[1] == 2
    return is_table and all(isinstance(row, (list, np.ndarray)) for row in content[:, 1])


def _order_pairs(pairs: np.ndarray) -> list:
    """Return the lists of (query number, list) pairs, which must number all queries."""
    lists = dict(pairs)
    if set(lists) != set(range(len(pairs))):
        raise ValueError("its first column does not number the queries from 0")
    return [lists[query] for query in range(len(pairs))]


def _read_array(stream: BinaryIO) -> np.ndarray:
    """Read a .npy file; lists of different lengths are pickled, and only arrays are let in."""
    shape, dtype = read_header(stream)
    if dtype.hasobject:
        return read_lists(stream, shape)
    check_size(stream, shape, dtype)
    stream.seek(0)
    return np.load(stream, allow_pickle=False)
