"""Costs of methods, against the sizes of published files and products counted by hand."""

import pytest

from benchmarks.method_costs import count_costs

MASK_TOKEN = 768  # of DINOv2 in files; networks of ours have none


@pytest.mark.parametrize(
    ("method", "dim", "in_file", "unused"),
    [
        ("mixvpr", 4096, 10_880_900, 0),
        ("gsv_cities", 4096, 25_606_208, 0),
        ("salad", 8448, 87_991_489, MASK_TOKEN),
        ("boq", 12288, 95_206_560, MASK_TOKEN),
    ],
)
def test_parameters_are_those_of_the_published_files(method, dim, in_file, unused):
    costs = count_costs(method)
    assert (costs.dim, costs.num_parameters) == (dim, in_file - unused)


def test_operations_of_a_transformer_are_counted_with_its_attention():
    tokens, width, patches = 257, 768, 256
    block = 2 * tokens * width * (3 + 1 + 4 + 4) * width + 2 * 2 * tokens * tokens * width
    expected = 12 * block + 2 * patches * 3 * 14 * 14 * width
    costs = count_costs("cosplace_dinov2")
    assert costs.gflops == pytest.approx(expected / 1e9, rel=1e-6)
    assert costs.num_trained == 5 * (12 * width * width + (4 + 4 + 1 + 4 + 2) * width) + 2 * width
