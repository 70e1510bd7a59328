"""What the benchmark of the last blocks counts, on a backbone of 2 blocks."""

import pytest
import tiny_backbone  # noqa: F401, adds TinyDINOv2
import torch

from benchmarks.finetuning import FineTuning, check_equal, train, trained_bytes
from model.network import build_network


@pytest.fixture(scope="module")
def figures():
    """Return those of training the last block and both, and the network."""
    setting = FineTuning("TinyDINOv2", batch_size=2, image_size=42, num_iterations=2, device="cpu")
    network = build_network("TinyDINOv2", 0, "cls", "none")
    return train(setting, 1, 1), train(setting, 0, 1), network


def test_gradients_and_states_of_the_optimizer_are_three_times_what_is_trained(figures):
    last, both, network = figures
    numbers = sum(parameter.numel() for parameter in network.parameters())
    frozen = sum(one.numel() for one in network.backbone.embeddings())
    frozen += sum(one.numel() for one in network.backbone.blocks[0].parameters())
    for found, trained in ((last, numbers - frozen), (both, numbers)):
        steps = len(list(network.parameters()))  # a counter each, at most
        assert found.trained_mb * 2**20 == pytest.approx(3 * 4 * trained, abs=4 * steps)


def test_less_is_kept_of_frozen_blocks_and_gradients_are_the_same(figures):
    last, both, _ = figures
    images_mb = 4 * 2 * 3 * 42 * 42 / 2**20  # for the patch embedding
    blocks_mb = both.kept_mb - images_mb
    assert 0.45 * blocks_mb < last.kept_mb < 0.55 * blocks_mb
    assert last.gradient == pytest.approx(both.gradient, rel=1e-5) and both.gradient > 0
    check_equal(last, both)
    with pytest.raises(ValueError, match="the gradients differ"):
        check_equal(last._replace(gradient=2 * last.gradient), both)


def test_bytes_of_an_optimizer_without_states_are_those_of_gradients():
    layer = torch.nn.Linear(3, 2)
    layer.weight.grad = torch.zeros(2, 3)
    assert trained_bytes(layer, torch.optim.SGD(layer.parameters(), 0.1)) == 4 * 6
