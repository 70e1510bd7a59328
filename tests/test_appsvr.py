import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import assert_close, golden
from test_netvlad import make_maps

from model.aggregation.appsvr import APPSVR, regions_of
from model.aggregation.netvlad import NetVLAD

CASES = ["appsvr_a", "appsvr_odd"]
PRECISIONS = [(torch.float64, 1e-8), (torch.float32, 1e-5)]


def layer_of(case, dtype):
    layer = APPSVR(case.meta["cfg"]["D"], 0, case.meta["cfg"]["K"], case.meta["cfg"]["S"]).to(dtype)
    weights = {key: torch.tensor(value) for key, value in case.weights().items()}
    of_levels = weights.pop("conv_app")
    weights |= {f"conv_app.{level}.weight": one for level, one in enumerate(of_levels)}
    shapes = {key: one.shape for key, one in layer.state_dict().items()}
    layer.load_state_dict({key: one.reshape(shapes[key]) for key, one in weights.items()})
    return layer


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", CASES)
def test_descriptors_and_gradients_equal_the_later_module(name, dtype, tolerance):
    case = golden(name)
    layer = layer_of(case, dtype)
    maps = torch.tensor(case["in.x"], dtype=dtype, requires_grad=True)
    unit = F.normalize(maps)
    local = layer.beta(unit) * layer.conv(unit).flatten(2).softmax(1)
    assert_close(local.detach(), case["mid.local_weight_ab"].reshape(local.shape), tolerance)
    descriptors = layer(maps)
    assert_close(descriptors.detach(), case["out.vlad"], tolerance)
    (descriptors * torch.tensor(case["in.R"])).sum().backward()
    assert_close(maps.grad, case["grad.x"], tolerance)
    for key, parameter in (
        ("cluster_weights", layer.cluster_weights),
        ("conv_shadow.weight", layer.conv_shadow.weight),
        ("conv_app0.weight", layer.conv_app[0].weight),
    ):
        assert_close(parameter.grad, case[f"grad.{key}"], tolerance)


@pytest.mark.parametrize("name", CASES)
def test_residuals_are_those_of_regions_by_their_saliency(name):
    case = golden(name)
    maps = torch.tensor(case["in.x"], dtype=torch.float64)
    raw = layer_of(case, torch.float64)(maps, normalise=False).detach()
    saliency, residuals = torch.tensor(case["mid.saliency"]), case["mid.region_residuals"]
    expected = (saliency[..., None] * torch.tensor(residuals).double()).sum(2)
    assert_close(raw, expected, 1e-6)  # the residuals are stored as float32


@pytest.mark.parametrize("name", CASES)
def test_regions_are_those_of_the_later_module(name):
    case = golden(name)
    height, width = case["in.x"].shape[2:]
    boxes, like = [], torch.zeros(1)
    for num in (1, 2, 4):
        rows, columns = regions_of(like, height, num), regions_of(like, width, num)
        for row in rows:
            for column in columns:
                filled = [one.nonzero().flatten().tolist() for one in (row, column)]
                assert all(side == [*range(side[0], side[-1] + 1)] for side in filled)
                boxes.append([edge for side in filled for edge in (side[0], side[-1] + 1)])
    assert boxes == case["mid.boxes_h0h1w0w1"].tolist()


@pytest.mark.parametrize("name", CASES)
def test_weights_from_centroids_equal_the_later_module(name):
    """But for the shadow that is another cluster at random."""
    case = golden(name)
    clusters, channels = case["in.centroids"].shape
    layer = APPSVR(channels, 0, clusters)
    centroids, descriptors, centres = (
        torch.tensor(case[f"in.{key}"])
        for key in ("centroids", "descriptors", "semantic_shadow_centres")
    )
    alpha = layer.set_centroids(centroids, descriptors)
    assert alpha == pytest.approx(float(case["mid.alpha"]), rel=1e-6)
    layer.cluster_weights.data.fill_(5)
    layer.set_shadows(centres, alpha, seed=0)
    shadows = layer.conv_shadow.weight.detach().reshape(clusters, 4, channels)
    assert_close(shadows[:, :3], case["w.conv_shadow.weight"][:, :3], 1e-6)
    own = layer.conv.weight.detach().flatten(1)
    for cluster, shadow in enumerate(shadows[:, 3]):
        same = (own - shadow).abs().amax(1) < 1e-6
        assert same.sum() == 1 and not same[cluster]
    saliency = np.stack([conv.weight.detach().flatten(1).numpy() for conv in layer.conv_app])
    assert_close(saliency, case["mid.init_conv_app"], 1e-6)
    assert layer.cluster_weights.eq(1).all()

    nearest = F.normalize(centres)[torch.tensor(case["mid.init_semantic_choice"])]
    layer.copy_shadows(nearest, case["mid.init_random_other_centroid"][:, 0], alpha)
    assert_close(
        layer.conv_shadow.weight.detach().reshape(shadows.shape), case["w.conv_shadow.weight"], 1e-6
    )


def test_one_region_without_shadows_is_netvlad():
    """The saliency of one region is 1 after its L2."""
    torch.manual_seed(0)
    layer, maps = APPSVR(6, 0, 3, shadows=2), make_maps(2, 6, 5, 4)
    layer.levels = [1]
    layer.conv_app = layer.conv_app[:1]
    layer.conv_app[0].weight.data.abs_()
    layer.conv_shadow = torch.nn.Conv2d(6, 6, 1)
    layer.conv_shadow.weight.data.zero_()
    layer.conv_shadow.bias.data.fill_(-1e9)
    netvlad = NetVLAD(6, 0, 3)
    shared = ("centroids", "conv.weight")
    netvlad.load_state_dict({key: layer.state_dict()[key] for key in shared})
    maps = maps.abs()  # so that saliencies are not 0
    torch.testing.assert_close(layer(maps), netvlad(maps))


def test_cluster_weights_scale_clusters():
    torch.manual_seed(0)
    layer, maps = APPSVR(6, 0, 3), make_maps(2, 6, 5, 4)
    before = layer(maps).unflatten(1, (3, 6))
    layer.cluster_weights.data = torch.tensor([0.0, 3, 4])
    after = layer(maps).unflatten(1, (3, 6))
    torch.testing.assert_close(before.norm(dim=2), torch.full((2, 3), 3**-0.5))
    torch.testing.assert_close(after.norm(dim=2), torch.tensor([[0.0, 0.6, 0.8]] * 2))
    torch.testing.assert_close(F.normalize(after[:, 1:], dim=2), F.normalize(before[:, 1:], dim=2))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 6), (15, 20)])
def test_maps_of_all_sizes(size):
    torch.manual_seed(0)
    layer = APPSVR(6, 8, 5, shadows=1)
    layer.initialise(F.normalize(make_maps(60, 6)), seed=1)
    maps = make_maps(2, 6, *size).requires_grad_()
    descriptors = layer(maps)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2))
    descriptors[:, 0].sum().backward()
    assert maps.grad.isfinite().all()
