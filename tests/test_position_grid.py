import numpy as np
import pytest

from datasets import position_grid
from datasets.position_grid import find_within


def by_hand(database_m, queries_m, radius_m):
    offsets = database_m[None] - queries_m[:, None]
    squared = offsets[..., 0] ** 2 + offsets[..., 1] ** 2
    return [np.flatnonzero(row <= radius_m**2).tolist() for row in squared]


def lists(found):
    return [row.tolist() for row in found]


@pytest.mark.parametrize("radius_m", [0.001, 0.5, 25.0, 30_000.0])
def test_positions_on_the_border_and_far_apart_equal_brute_force(radius_m, monkeypatch):
    monkeypatch.setattr(position_grid, "_POSITIONS_PER_BLOCK", 100)
    rng = np.random.default_rng(0)
    steps = radius_m * np.array([(0, 1), (1, 0), (0, -1), (-1, 0), (0.6, 0.8), (0.28, -0.96)])
    queries_m = rng.integers(0, 20, (40, 2)) * radius_m
    queries_m[::5, 0] += 1e8  # another region
    database_m = (queries_m[:, None] + steps).reshape(-1, 2)  # at the radius, or a bit off
    database_m = np.concatenate((database_m, queries_m, rng.uniform(0, 1e8, (300, 2))))
    expected = by_hand(database_m, queries_m, radius_m)
    assert lists(find_within(database_m, queries_m, radius_m)) == expected
    assert min(map(len, expected)) > 0 and max(map(len, expected)) > 4


@pytest.mark.parametrize("num_entries", [16, 1 << 22], ids=["shared", "of their own"])
def test_a_street_map_equals_brute_force(num_entries, monkeypatch):
    monkeypatch.setattr(position_grid, "_NUM_ENTRIES", num_entries)
    rng = np.random.default_rng(0)
    origin_m = np.array([551_000, 4_180_000])
    database_m = origin_m + rng.uniform(0, 400, (3000, 2)).round(2)
    queries_m = origin_m + rng.uniform(-50, 450, (60, 2)).round(2)
    expected = by_hand(database_m, queries_m, 25.0)
    assert lists(find_within(database_m, queries_m, 25.0)) == expected
    assert min(map(len, expected)) == 0


def test_most_of_a_database_is_dropped_at_once():
    rng = np.random.default_rng(0)
    database_m, queries_m = rng.uniform(0, 20_000, (50_000, 2)), rng.uniform(0, 20_000, (20, 2))
    origin_m = queries_m.min(axis=0)
    cells = position_grid._find_cells(queries_m, origin_m, 25.0)
    near = position_grid._find_near(database_m, cells, origin_m, 25.0)
    assert set(np.concatenate(find_within(database_m, queries_m, 25.0))) <= set(near)
    assert len(near) < 200


def test_nothing_is_near():
    assert lists(find_within(np.zeros((3, 2)), np.full((2, 2), 900.0), 25.0)) == [[], []]
    assert lists(find_within(np.zeros((0, 2)), np.zeros((1, 2)), 25.0)) == [[]]
