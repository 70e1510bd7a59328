import math

import pytest
import torch
from golden_cases import assert_close, golden

from model.aggregation import AGGREGATIONS, build_aggregation
from model.aggregation.pooling import AvgPool, GeM, L2Norm, MaxPool


@pytest.fixture
def maps():
    """Return feature maps [3, 5, 4, 6], positive and negative."""
    return torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))


def gem_by_hand(channel, p, eps=1e-6):
    """Formula of the paper for one channel, in Python floats."""
    values = [max(value, eps) for value in channel.flatten().tolist()]
    return (sum(value**p for value in values) / len(values)) ** (1 / p)


@pytest.mark.parametrize("p", [1.0, 2.5, 3.0, 4.6])
def test_gem_equals_its_formula(maps, p):
    pooled = GeM(p)(maps)
    assert pooled.shape == (3, 5, 1, 1)
    expected = [[gem_by_hand(channel, p) for channel in image] for image in maps]
    torch.testing.assert_close(pooled[:, :, 0, 0], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_gem_has_p_3_and_eps_1e_6_by_default(maps):
    assert [(key, value.tolist()) for key, value in GeM().state_dict().items()] == [("p", [3.0])]
    expected = [gem_by_hand(channel, 3.0, eps=1e-6) for channel in maps[0]]
    torch.testing.assert_close(GeM()(maps)[0].flatten(), torch.tensor(expected))


def test_gem_with_p_1_is_the_average_of_positive_maps(maps):
    maps = maps.abs() + 0.1
    torch.testing.assert_close(GeM(1.0)(maps), maps.mean((2, 3), keepdim=True))


def test_gem_tends_to_the_maximum_as_p_grows(maps):
    maps = maps.abs() + 0.1
    maximum = maps.amax((2, 3), keepdim=True)
    gaps = [(maximum - GeM(p)(maps)).max().item() for p in (1.0, 3.0, 10.0, 50.0)]
    assert gaps == sorted(gaps, reverse=True)
    # The mean of n powers is at least max^p / n, hence GeM at least max / n^(1/p).
    assert (GeM(50.0)(maps) >= maximum / 24 ** (1 / 50) * (1 - 1e-5)).all()
    assert (GeM(50.0)(maps) <= maximum * (1 + 1e-5)).all()


@pytest.mark.parametrize("value", [-5.0, 0.0, 1e-9])
def test_gem_clamps_at_1e_6_and_its_gradients_stay_finite(value):
    maps = torch.full((1, 2, 3, 3), value, requires_grad=True)
    gem = GeM()
    pooled = gem(maps)
    torch.testing.assert_close(pooled, torch.full((1, 2, 1, 1), 1e-6), rtol=1e-4, atol=0)
    pooled.sum().backward()
    assert maps.grad.eq(0).all()
    assert gem.p.grad.isfinite().all()


def test_gem_gradients_equal_finite_differences(maps):
    maps = (maps[:1, :1].abs() + 0.1).requires_grad_()
    gem = GeM(3.0)
    gem(maps).sum().backward()
    step, channel = 1e-4, maps.detach().double()

    slope = (gem_by_hand(channel, 3 + step) - gem_by_hand(channel, 3 - step)) / (2 * step)
    assert slope != 0
    assert gem.p.grad.item() == pytest.approx(slope, rel=1e-3)

    for y, x in [(0, 0), (3, 5)]:
        nudge = torch.zeros_like(channel)
        nudge[0, 0, y, x] = step
        slope = gem_by_hand(channel + nudge, 3) - gem_by_hand(channel - nudge, 3)
        assert maps.grad[0, 0, y, x].item() == pytest.approx(slope / (2 * step), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gem_computes_half_precision_maps_in_float32(maps, dtype):
    maps = maps.mul(1e-3).to(dtype)  # the cubes, 1e-9, are zero in float16
    maps[:, 0] = -1  # clamped; 1e-6 is not a float16
    pooled = GeM()(maps)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, GeM()(maps.float()), rtol=1e-5, atol=0)
    assert (pooled[:, 1:] > 1e-5).all()


def test_avg_pool_and_max_pool(maps):
    channels = [channel.flatten().tolist() for image in maps for channel in image]
    averages = torch.tensor([math.fsum(channel) / 24 for channel in channels]).view(3, 5, 1, 1)
    maxima = torch.tensor([max(channel) for channel in channels]).view(3, 5, 1, 1)
    torch.testing.assert_close(AvgPool()(maps), averages)
    torch.testing.assert_close(MaxPool()(maps), maxima)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 4, 6)])
def test_l2_norm_scales_each_location_to_unit_length(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    unit = L2Norm()(x)
    torch.testing.assert_close(unit.square().sum(1), torch.ones(unit[:, 0].shape))
    torch.testing.assert_close(unit * x.square().sum(1, keepdim=True).sqrt(), x)  # same direction


def test_l2_norm_of_zero_is_zero():
    assert L2Norm()(torch.zeros(2, 5)).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_l2_norm_of_half_precision_has_unit_length_to_float32(dtype):
    unit = L2Norm()(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).to(dtype))
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(8), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("saved", AGGREGATIONS)
@pytest.mark.parametrize("loading", AGGREGATIONS)
def test_an_aggregation_refuses_the_state_of_another(saved, loading):
    aggregation = build_aggregation(loading, 5, 0)
    state = build_aggregation(saved, 5, 0).state_dict()
    if saved == loading:
        aggregation.load_state_dict(state)
    elif {saved, loading} - {"avg", "max", "none"}:
        with pytest.raises(RuntimeError, match="Unexpected key|Missing key"):
            aggregation.load_state_dict(state)
    else:
        with pytest.raises(ValueError, match=f"pooling is {saved}, the network's is {loading}"):
            aggregation.load_state_dict(state)


@torch.no_grad()
@pytest.mark.parametrize("fc_output_dim", [0, 7])
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_aggregations_have_the_promised_length(maps, name, fc_output_dim):
    """out_dim, unit length; some are for maps of one size, some get class tokens."""
    aggregation = build_aggregation(name, 5, fc_output_dim)
    larger = torch.randn(3, 5, *getattr(aggregation, "map_size", (4, 17)))
    inputs = {"none": maps[:, :, :1, :1], "mixvpr": larger, "salad": (larger, larger[:, :, 0, 0])}
    descriptors = aggregation(inputs.get(name, (maps, maps[:, :, 0, 0]) if name == "cls" else maps))
    own_dims = dict.fromkeys(("netvlad", "crn", "sralnet", "appsvr"), 5 * 64)
    own_dims |= {"convap": 1024 * 2 * 2, "mixvpr": 1024 * 4, "boq": 512 * 32}
    own_dim = (own_dims | {"salad": 64 * 128 + 256}).get(name, 5)
    assert descriptors.shape == (3, fc_output_dim or own_dim) == (3, aggregation.out_dim)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(3), rtol=0, atol=1e-4)


@torch.no_grad()
def test_gem_plain_is_gem_on_the_maps_themselves(maps):
    aggregation = build_aggregation("gem_plain", 5, 0)
    assert list(aggregation.state_dict()) == ["0.p"]
    expected = torch.tensor([[gem_by_hand(channel, 3.0) for channel in image] for image in maps])
    expected = expected / (expected.square().sum(1, keepdim=True).sqrt() + 1e-6)
    torch.testing.assert_close(aggregation(maps), expected)


VGB_MODES = ("before_pool", "after_pool", "none")


@pytest.mark.parametrize("p", [3.0, 2.5])
@pytest.mark.parametrize("l2", VGB_MODES)
def test_gem_equals_the_benchmark_in_its_modes(l2, p):
    """Values, and gradients of the maps and of p."""
    case, mode = golden("gem_vgb_a"), f"{l2}.p{p}"
    aggregation = build_aggregation("gem", 6, 0, {"l2": l2})
    aggregation.load_state_dict({"1.p": torch.tensor([p])})
    maps = torch.tensor(case["in.x"], dtype=torch.float32, requires_grad=True)
    descriptors = aggregation(maps)
    assert_close(descriptors.detach(), case[f"out.{mode}"], 1e-5)
    loss = (descriptors * torch.tensor(case["in.R"])).sum()
    assert_close(loss.detach(), case[f"loss.{mode}"], 1e-5)
    loss.backward()
    assert_close(maps.grad, case[f"grad.x.{mode}"], 1e-5)
    assert_close(aggregation[1].p.grad, case[f"grad.p.{mode}"], 1e-5)


def test_poolings_equal_the_benchmark():
    case = golden("gem_vgb_a")
    maps = torch.tensor(case["in.x"], dtype=torch.float32)
    tokens = torch.tensor(case["in.tokens"], dtype=torch.float32).mT.unsqueeze(3)  # [B, C, n, 1]
    for pool, x, output in (
        (AvgPool(), maps, "spoc"),
        (MaxPool(), maps, "mac"),
        (GeM(), tokens, "tokens.p3.0"),
    ):
        assert_close(pool(x).detach(), case[f"out.{output}"], 1e-5)


@pytest.mark.parametrize("l2", ["both", *VGB_MODES])
def test_keys_of_gem_are_those_of_published_files(l2):
    aggregation = build_aggregation("gem", 6, 4, {"l2": l2})
    assert list(aggregation.state_dict()) == ["1.p", "3.weight", "3.bias"]


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("gem", {"l3": 1}, "'l3' is no option of gem; its options and their defaults are l2=both"),
        ("avg", {"l2": "both"}, "'l2' is no option of avg; it has no options"),
        ("gem", {"l2": True}, "l2=True: gem needs a value like both, .* is bool, not str"),
        ("gem", {"l2": "last"}, "l2=last: choose from both, before_pool, after_pool, none"),
    ],
)
def test_options_that_an_aggregation_does_not_have(name, args, sentence):
    with pytest.raises(ValueError, match=f"--aggregation_args:? {sentence}"):
        build_aggregation(name, 6, 0, args)
