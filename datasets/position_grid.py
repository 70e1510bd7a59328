"""Find the positions within a distance of others, among millions of them."""

import numpy as np

_MIN_CELL_M = 1.0  # so that the cells of the globe have numbers of 64 bits
_NUM_ENTRIES = 1 << 22  # of the table of cells, a power of two
_COLUMN_FACTOR = 2_654_435  # odd; spreads columns over the table
_POSITIONS_PER_BLOCK = 1 << 16


def find_within(database_m: np.ndarray, queries_m: np.ndarray, radius_m: float) -> list[np.ndarray]:
    """Find the database positions within a distance of each query, inclusive.

    Positions fall into square cells a little wider than the radius: what is within the radius of a
    query is in its cell or in one of the eight around it. Most of a database is in no such cell and
    is dropped at once. The others are sorted by column and row, and of three columns the rows
    around the query are measured.

    Args:
        database_m: East and north. float64 [num_database, 2].
        queries_m: The same. float64 [num_queries, 2].
        radius_m: Above 0.

    Returns:
        Database indices of each query, ascending. num_queries int64 arrays.
    """
    cell_m = max(radius_m * (1 + 1e-6), _MIN_CELL_M)  # no rounding leads past a neighbour
    origin_m = queries_m.min(axis=0)
    queries = _find_cells(queries_m, origin_m, cell_m)
    near = _find_near(database_m, queries, origin_m, cell_m)
    cells = _find_cells(database_m[near], origin_m, cell_m)
    num_rows = int(np.ptp(cells[:, 1])) + 4 if len(cells) else 1
    keys = cells[:, 0] * num_rows + cells[:, 1]
    order = np.argsort(keys, kind="stable")
    near, keys = near[order], keys[order]
    positions_m = database_m[near]
    columns = queries[:, :1] + np.array([-1, 0, 1])  # [num_queries, 3]
    middle = columns * num_rows + queries[:, 1:]
    firsts = np.searchsorted(keys, middle - 1)
    ends = np.searchsorted(keys, middle + 1, side="right")
    found = []
    for query_m, bounds in zip(queries_m, np.stack((firsts, ends), axis=2).tolist(), strict=True):
        within = []
        for first, end in bounds:
            offsets = positions_m[first:end] - query_m
            squared = offsets[:, 0] ** 2 + offsets[:, 1] ** 2
            within.append(near[first:end][squared <= radius_m**2])
        found.append(np.sort(np.concatenate(within)))
    return found


def _find_near(
    database_m: np.ndarray, queries: np.ndarray, origin_m: np.ndarray, cell_m: float
) -> np.ndarray:
    """Find positions in cells around those of queries, and a few more: cells share table entries.

    Returns:
        Database indices, ascending. int64 [num_near].
    """
    around = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])
    table = np.zeros(_NUM_ENTRIES, bool)
    table[_find_entries((queries[:, None] + around).reshape(-1, 2))] = True
    is_near = np.empty(len(database_m), bool)
    for first in range(0, len(is_near), _POSITIONS_PER_BLOCK):
        block = slice(first, first + _POSITIONS_PER_BLOCK)
        cells = _find_cells(database_m[block], origin_m, cell_m)
        is_near[block] = table[_find_entries(cells)]
    return np.flatnonzero(is_near)


def _find_cells(positions_m: np.ndarray, origin_m: np.ndarray, cell_m: float) -> np.ndarray:
    """Return column and row. int64 [num_positions, 2]."""
    return np.floor((positions_m - origin_m) / cell_m).astype(np.int64)


def _find_entries(cells: np.ndarray) -> np.ndarray:
    """Return which entry of the table each cell has. int64 [num_cells]."""
    return (cells[:, 0] * _COLUMN_FACTOR + cells[:, 1]) & (_NUM_ENTRIES - 1)
