import numpy as np
import pytest
from described_windows import described

from evaluation.rows import MemoryRows, facts_of, find_missing


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_those_of_the_images_of_this_process(dtype):
    rows = MemoryRows(range(8, 20), dtype)
    assert rows.shape is None
    rows.put(described(range(8, 12), unreadable=(9,)))
    rows.put(described(range(16, 20), unreadable=range(16, 20)))
    assert find_missing(rows, [range(8, 10), range(10, 12), range(12, 16), range(16, 20)]) == [
        range(8, 10),
        range(12, 16),
        range(16, 20),
    ], "also those that could not be read"
    rows.put(described(range(12, 16)))
    array = rows.descriptors(rows.shape)
    assert array.dtype == dtype and rows.shape == (2,)
    np.testing.assert_array_equal(array[:, 0], [8, np.nan, *range(10, 16), *[np.nan] * 4])
    assert facts_of(rows) == ({"30x20": 5, "20x30": 2}, [9, 16, 17, 18, 19], (2,))


def test_a_process_without_images_has_rows_of_the_shape_of_the_others():
    rows = MemoryRows(range(5, 5))
    assert facts_of(rows) == ({}, [], ())
    assert rows.descriptors((5, 7)).shape == (0, 5, 7)
