import numpy as np
import pytest
import torch
from golden_cases import assert_close, golden
from test_netvlad import make_maps

from model.aggregation import build_aggregation
from model.aggregation.apanet import APANet, grid_maxima

CASES = ["apanet_a", "apanet_vgg480"]
PRECISIONS = [(torch.float64, 1e-8), (torch.float32, 1e-5)]


def layer_of(case, attention, dtype):
    layer = APANet(case.meta["cfg"]["D"], 0, attention)
    weights = {key: torch.tensor(value) for key, value in case.weights().items()}
    state = {"score.weight": weights["v0"][None], "score.bias": weights["b0"]}
    if attention == "cascade":
        state |= {f"context.{key}": weights[f"fc.{key}"] for key in ("weight", "bias")}
    layer.load_state_dict(state)
    return layer.to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("attention", ["cascade", "single"])
@pytest.mark.parametrize("name", CASES)
def test_descriptors_and_gradients_equal_the_reconstruction(name, attention, dtype, tolerance):
    case = golden(name)
    layer = layer_of(case, attention, dtype)
    maps = torch.tensor(case["in.x"], dtype=dtype, requires_grad=True)
    descriptors = layer(maps)
    assert_close(descriptors.detach(), case[f"out.{attention}"], tolerance)
    (descriptors * torch.tensor(case["in.R"])).sum().backward()
    if attention == "cascade":
        assert_close(maps.grad, case["grad.x_cascade"], tolerance)


@pytest.mark.parametrize("name", CASES)
def test_regions_equal_the_reconstruction(name):
    case = golden(name)
    maps = torch.tensor(case["in.x"])
    regions = torch.cat([grid_maxima(maps, num) for num in (2, 4, 6, 8)], dim=1)
    assert_close(regions.mT, case["mid.regions"], 1e-6)
    boxes = case["mid.boxes_h0h1w0w1"].tolist()
    expected = [maps[:, :, a:b, c:d].amax((2, 3)) for a, b, c, d in boxes]
    assert torch.equal(regions, torch.stack(expected, dim=1))


@pytest.mark.parametrize("size", range(1, 41))
def test_no_window_is_empty_and_all_locations_are_in_one(size):
    """Maps that are negative everywhere: padding would win if it could."""
    maps = -1 - torch.arange(size, dtype=torch.float32).reshape(1, 1, size, 1).expand(1, 1, size, 9)
    for num in (2, 4, 6, 8):
        found = grid_maxima(maps, num)
        assert found.shape == (1, num * num, 1) and (found <= -1).all()
        firsts = sorted((-1 - found[0, :num, 0]).tolist())
        assert firsts[0] == 0 and max(firsts) <= size - 1
        assert grid_maxima(maps.flip(2), num)[0, :num, 0].max() == -1, "the last one, too"


def test_rule_for_small_maps():
    """Of 8 windows on 4 rows, those beside the map have the nearest row."""
    rows = torch.arange(4, dtype=torch.float32).reshape(1, 1, 4, 1)
    assert grid_maxima(rows, 8)[0, :8, 0].tolist() == [0, 0, 0, 1, 2, 3, 3, 3]


def test_second_attention_depends_on_what_the_first_gathered():
    """By hand, for one image."""
    torch.manual_seed(0)
    layer, maps = APANet(5, 0), make_maps(1, 5, 7, 9)
    regions = torch.cat([grid_maxima(maps, num) for num in (2, 4, 6, 8)], dim=1)[0].double().numpy()
    unit = regions / np.linalg.norm(regions, axis=1, keepdims=True)
    v0, b0, weight, bias = (one.detach().double().numpy() for one in layer.parameters())
    gathered = ((unit @ v0[0] + b0)[:, None] * regions).mean(0)
    v1 = np.tanh(weight @ (gathered / np.linalg.norm(gathered)) + bias)
    total = ((unit @ v1)[:, None] * regions).sum(0)
    assert_close(layer(maps)[0].detach(), total / np.linalg.norm(total), 1e-5)


@pytest.mark.parametrize("attention", ["cascade", "single"])
def test_initial_weights(attention):
    torch.manual_seed(0)
    layer = build_aggregation("apanet", 64, 0, {"attention": attention})
    bounds = {"score.weight": (6 / 65) ** 0.5, "context.weight": (6 / 128) ** 0.5}
    for key, one in layer.named_parameters():
        if key.endswith("bias"):
            assert one.eq(0).all()
        else:
            assert 0.9 * bounds[key] < one.abs().max() <= bounds[key]
    assert len(list(layer.parameters())) == (4 if attention == "cascade" else 2)


def test_autocast_gives_float32_descriptors_of_unit_length():
    torch.manual_seed(0)
    layer, maps = APANet(64, 0), make_maps(2, 64, 15, 20)
    with torch.autocast("cpu", torch.bfloat16):
        descriptors = layer(maps)
    assert descriptors.dtype == torch.float32
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2))
    assert ((descriptors * layer(maps)).sum(1) > 0.99).all()


def test_unknown_attention():
    with pytest.raises(ValueError, match="attention=triple: choose from cascade, single"):
        build_aggregation("apanet", 6, 0, {"attention": "triple"})
