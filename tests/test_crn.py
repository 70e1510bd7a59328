import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import assert_close, golden
from test_netvlad import PRECISIONS, make_layer, make_maps, vlad_by_loops

from model.aggregation import AGGREGATIONS, build_aggregation
from model.aggregation.crn import CRN, ContextMask

CASES = ["crn_vgb_a", "crn_vgb_b"]


def layer_of(case, dtype, **options):
    """Return a layer with the weights of a case; the fixed sum of context filters is not in it."""
    layer = CRN(case.meta["cfg"]["D"], 0, case.meta["cfg"]["K"], **options).to(dtype)
    fixed = {"crn.acc_w.weight": np.ones((1, 84, 1, 1)), "crn.acc_w.bias": np.zeros(1)}
    layer.load_state_dict({k: torch.tensor(v) for k, v in (case.weights() | fixed).items()})
    return layer


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_descriptors_and_gradients_equal_the_benchmark(name, dtype, tolerance):
    case = golden(name)
    layer = layer_of(case, dtype)
    maps = torch.tensor(case["in.x"], dtype=dtype, requires_grad=True)
    assert_close(layer.crn(F.normalize(maps)).detach(), case["mid.mask"], tolerance)
    descriptors = layer(maps)
    assert_close(descriptors.detach(), case["out.vlad"], tolerance)
    loss = (descriptors * torch.tensor(case["in.R"])).sum()
    assert_close(loss.detach(), case["loss.linear"], tolerance)
    loss.backward()
    assert_close(maps.grad, case["grad.x"], tolerance)
    for key in case.names("grad."):
        if key != "x":  # some gradients were stored as float32
            stored = case[f"grad.{key}"]
            limit = max(tolerance, 1e-6) if stored.dtype == np.float32 else tolerance
            assert_close(layer.get_parameter(key).grad, stored, limit)


@pytest.mark.parametrize("name", CASES)
def test_the_mask_of_the_original_fades_at_the_rim(name):
    case = golden(name)
    layer = layer_of(case, torch.float64, upsampling="deconvolution")
    unit = F.normalize(torch.tensor(case["in.x"], dtype=torch.float64))
    mask = layer.crn(unit).detach()
    assert_close(mask, case["recon.caffe_mask"], 1e-9)
    ratio = mask.numpy() / np.maximum(case["mid.mask"], 1e-12)
    filled = case["mid.mask"][0, 0] > 1e-6
    assert np.allclose(ratio[0, 0, 0, 1:-1][filled[0, 1:-1]], 0.75)
    assert np.allclose(ratio[0, 0, 1:-1, 1:-1][filled[1:-1, 1:-1]], 1)
    assert not filled[0, 0] or np.isclose(ratio[0, 0, 0, 0], 0.5625)


def test_odd_maps_have_a_mask_of_their_size():
    case = golden("crn_mask_odd_a")
    mask = ContextMask(case.meta["cfg"]["D"], by_deconvolution=False)
    mask.load_state_dict({k: torch.tensor(v) for k, v in case.weights().items()}, strict=False)
    unit = F.normalize(torch.tensor(case["in.x"], dtype=torch.float32))
    assert_close(mask(unit).detach(), case["out.mask_resized"], 1e-5)


@pytest.mark.parametrize("upsampling", ["bilinear", "deconvolution"])
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (15, 20), (16, 7)])
def test_maps_of_all_sizes(size, upsampling):
    layer = build_aggregation("crn", 4, 0, {"clusters": 3, "upsampling": upsampling})
    maps = make_maps(2, 4, *size)
    mask = layer.crn(maps)
    assert mask.shape == (2, 1, *size) and (mask >= 0).all()
    descriptors = layer(maps)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2))


def constant(value):
    return lambda maps: torch.full_like(maps[:, :1], value)


def test_with_a_mask_of_1_it_is_netvlad(monkeypatch):
    netvlad, maps = make_layer(6, 3), make_maps(2, 6, 5, 4)
    crn = CRN(6, 0, 3)
    missing, unexpected = crn.load_state_dict(netvlad.state_dict(), strict=False)
    assert not unexpected and all(key.startswith("crn.") for key in missing)
    monkeypatch.setattr(crn.crn, "forward", constant(1.0))
    torch.testing.assert_close(crn(maps), netvlad(maps))
    raw = netvlad(maps, normalise=False)
    monkeypatch.setattr(crn.crn, "forward", constant(2.5))
    torch.testing.assert_close(crn(maps, normalise=False), 2.5 * raw)
    torch.testing.assert_close(crn(maps), netvlad(maps))


def test_the_mask_weighs_each_location():
    layer, maps = CRN(6, 0, 3), make_maps(2, 6, 4, 5)
    mask = layer.crn(F.normalize(maps)).detach().flatten(2)
    assert mask.std() > 0.01
    bias, weight = torch.zeros(3), layer.conv.weight.flatten(1)
    expected = vlad_by_loops(
        maps, weight, bias, layer.centroids, lambda image, _, place: mask[image, 0, place].item()
    )
    assert_close(layer(maps, normalise=False).detach(), expected, 1e-5)


def test_the_mask_of_the_original_sees_the_maps_as_they_are():
    torch.manual_seed(0)
    maps = make_maps(2, 6, 4, 4)
    layers = {name: CRN(6, 0, 3, mask_input=name) for name in ("unit", "raw")}
    layers["raw"].load_state_dict(layers["unit"].state_dict())
    gates = {name: layer.gates(maps) for name, layer in layers.items()}
    scaled = {name: layer.gates(4 * maps) for name, layer in layers.items()}
    torch.testing.assert_close(scaled["unit"], gates["unit"])
    torch.testing.assert_close(scaled["raw"], 4 * gates["raw"])  # its biases are 0
    assert not torch.allclose(gates["raw"], gates["unit"])


def test_the_sum_of_context_filters_is_not_trained():
    layer = CRN(6, 0, 3)
    fixed = {key for key, one in layer.named_parameters() if not one.requires_grad}
    assert fixed == {"crn.acc_w.weight", "crn.acc_w.bias"}
    layer(make_maps(2, 6, 4, 4))[:, 0].sum().backward()
    assert all(one.grad is not None for one in layer.parameters() if one.requires_grad)


def test_keys_are_those_of_the_benchmark():
    with torch.device("meta"):
        shapes = {key: list(one.shape) for key, one in CRN(512, 0).state_dict().items()}
    filters = {3: 32, 5: 32, 7: 20}
    expected = {"centroids": [64, 512], "conv.weight": [64, 512, 1, 1]}
    for side, num in filters.items():
        expected[f"crn.filter_{side}_{side}.weight"] = [num, 512, side, side]
        expected[f"crn.filter_{side}_{side}.bias"] = [num]
    assert shapes == expected | {"crn.acc_w.weight": [1, 84, 1, 1], "crn.acc_w.bias": [1]}
    assert AGGREGATIONS["crn"].extends == "netvlad"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"upsampling": "nearest"}, "upsampling=nearest: choose from bilinear, deconvolution"),
        ({"mask_input": "both"}, "mask_input=both: choose from unit, raw"),
        ({"clusters": 1}, "clusters=1: needed are 2 at least"),
    ],
)
def test_options_out_of_range(option, sentence):
    with pytest.raises(ValueError, match=f"--aggregation_args {sentence}"):
        build_aggregation("crn", 6, 0, option)
