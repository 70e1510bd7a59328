import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import assert_close, golden
from test_netvlad import PRECISIONS, make_layer, make_maps, vlad_by_loops

from model.aggregation import build_aggregation
from model.aggregation.sralnet import MOVING, STATIC, SRALNet, means_of_moving, nearest_candidates


def weights_of(case):
    """Return our weights; the case has those of a cluster and of its shadows row after row."""
    clusters, num_shadows = case.meta["cfg"]["K"], case.meta["cfg"]["S"]
    weight = torch.tensor(case["w.conv.weight"]).reshape(clusters, num_shadows + 1, -1, 1, 1)
    bias = torch.tensor(case["w.conv.bias"]).reshape(clusters, num_shadows + 1)
    return {
        "conv.weight": weight[:, 0],
        "conv.bias": bias[:, 0],
        "conv_shadow.weight": weight[:, 1:].flatten(0, 1),
        "conv_shadow.bias": bias[:, 1:].flatten(),
        "centroids": torch.tensor(case["in.centroids"])[:, 0],
    }


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_descriptors_and_gradients_equal_the_reconstruction(dtype, tolerance):
    case = golden("sralnet_a")
    layer = SRALNet(case.meta["cfg"]["D"], 0, case.meta["cfg"]["K"]).to(dtype)
    layer.load_state_dict(weights_of(case))
    maps = torch.tensor(case["in.x"], dtype=dtype, requires_grad=True)
    unit = F.normalize(maps)
    beta, assigned = layer.beta(unit), layer.conv(unit).flatten(2).softmax(1)
    assert_close(beta.detach(), case["mid.beta_k"], tolerance)
    assert_close((assigned * beta).detach(), case["mid.assign"], tolerance)
    assert_close(layer(maps, normalise=False).detach(), case["mid.raw_vlad"], tolerance)
    descriptors = layer(maps)
    assert_close(descriptors.detach(), case["out.vlad"], tolerance)
    assert np.abs(descriptors.detach().numpy() - case["bad.kcz_out"]).max() > 0.01
    (descriptors * torch.tensor(case["in.R"])).sum().backward()
    assert_close(maps.grad, case["grad.x"], tolerance)


def test_weights_of_clusters_and_shadows_follow_from_centroids():
    """Biases are those of squared norms, not the port's."""
    case = golden("sralnet_a")
    layer = SRALNet(case.meta["cfg"]["D"], 0, case.meta["cfg"]["K"])
    own, shadows = torch.tensor(case["in.centroids"]).split([1, 4], dim=1)
    layer.centroids.data = own[:, 0]
    alpha = float(case["in.alpha"])
    layer.set_shadows(shadows.flatten(0, 1), alpha, seed=0)
    rows = {tuple(row.tolist()) for row in (layer.conv_shadow.weight / (2 * alpha)).flatten(1)}
    assert len(rows) > 1
    for row, bias in zip(layer.conv_shadow.weight.flatten(1), layer.conv_shadow.bias, strict=True):
        candidates = 2 * alpha * shadows.flatten(0, 1)
        found = (candidates - row).abs().sum(1).argmin()
        torch.testing.assert_close(candidates[found], row)
        expected = -alpha * shadows.flatten(0, 1)[found].square().sum()
        torch.testing.assert_close(bias, expected)


def test_with_shadows_at_minus_infinity_it_is_netvlad():
    layer, maps = SRALNet(6, 0, 3, shadows=2), make_maps(2, 6, 5, 4)
    netvlad = make_layer(6, 3, vladv2=True)
    layer.load_state_dict(netvlad.state_dict(), strict=False)
    assert not torch.allclose(layer(maps), netvlad(maps), atol=1e-3)
    layer.conv_shadow.bias.data.fill_(-torch.inf)
    torch.testing.assert_close(layer(maps), netvlad(maps))


def test_residuals_equal_a_loop():
    torch.manual_seed(0)
    layer, maps = SRALNet(6, 0, 3, shadows=2), make_maps(2, 6, 3, 4)
    unit = F.normalize(maps)
    own, shadows = (
        conv(unit).detach().flatten(2).exp() for conv in (layer.conv, layer.conv_shadow)
    )

    def share(image, cluster, place):
        others = shadows[image, 2 * cluster : 2 * cluster + 2, place].sum()
        return (own[image, cluster, place] / (own[image, cluster, place] + others)).item()

    weight, bias = layer.conv.weight.flatten(1), layer.conv.bias
    expected = vlad_by_loops(maps, weight, bias, layer.centroids, share)
    assert_close(layer(maps, normalise=False).detach(), expected, 1e-5)


def test_nearest_candidates():
    centroids = torch.tensor([[0.0, 0], [1, 0], [5, 0]])
    candidates = torch.tensor([[4.0, 0], [0, 1], [0, 0.5]])
    found = nearest_candidates(centroids, candidates, 2)
    assert found.tolist() == [[[0, 0.5], [0, 1]], [[0, 0.5], [0, 1]], [[4, 0], [0, 0.5]]]
    others = nearest_candidates(centroids, None, 2)
    assert others.tolist() == [[[1, 0], [5, 0]], [[0, 0], [5, 0]], [[1, 0], [0, 0]]]


def test_initialise_from_labels():
    """Clusters are of what stands still, shadows of what moves; other labels are of neither."""
    torch.manual_seed(0)
    standing, moving, unused = (
        F.normalize(torch.randn(60, 8)),
        F.normalize(torch.randn(30, 8)),
        torch.ones(7, 8),
    )
    labels = torch.tensor(
        [STATIC[i % 7] for i in range(60)] + [MOVING[i % 5] for i in range(30)] + [1] * 7
    )
    descriptors = torch.cat((standing, moving, unused / 8**0.5))
    layer, alone = SRALNet(8, 0, 4), SRALNet(8, 0, 4)
    layer.initialise(descriptors, 3, labels)
    means = torch.stack([moving[i::5].mean(0) for i in range(5)])
    torch.testing.assert_close(means_of_moving(descriptors, labels), means)
    alone.set_centroids(layer.centroids, standing)
    torch.testing.assert_close(alone.conv.weight, layer.conv.weight)
    ratio = layer.conv.weight.flatten(1) / layer.centroids  # 2 alpha
    shadows = (layer.conv_shadow.weight.flatten(1) / ratio[0, 0]).reshape(4, 4, 8)
    for centroid, found in zip(layer.centroids.detach(), shadows, strict=True):
        distances = (means - centroid).norm(dim=1)
        torch.testing.assert_close(found.detach(), means[distances.argsort()[:4]])


def test_without_labels_clusters_shadow_each_other():
    descriptors = F.normalize(make_maps(100, 8))
    layer = SRALNet(8, 0, 6)
    layer.initialise(descriptors, seed=0)
    scale = (layer.conv.weight.flatten(1) / layer.centroids)[0, 0]
    shadows = (layer.conv_shadow.weight.flatten(1) / scale).reshape(6, 4, 8).detach()
    for cluster, found in enumerate(shadows):
        nearest = torch.cdist(found, layer.centroids.detach()).argmin(1).tolist()
        assert len(set(nearest)) == 4 and cluster not in nearest
    with pytest.raises(ValueError, match="4 candidates are needed, there are 3 other clusters"):
        SRALNet(8, 0, 4).initialise(descriptors, seed=0)


def test_bad_options_and_labels():
    with pytest.raises(ValueError, match="shadows=0: needed is 1 at least"):
        build_aggregation("sralnet", 6, 0, {"shadows": 0})
    descriptors, labels = F.normalize(make_maps(40, 8)), torch.zeros(40, dtype=torch.int64)
    labels[:6] = torch.tensor([10, 11, 10, 11, 13, 13])
    with pytest.raises(ValueError, match="there are 3 classes that move in the labels given"):
        SRALNet(8, 0, 3).initialise(descriptors, 0, labels)
    with pytest.raises(ValueError, match="only 0 local descriptors"):
        SRALNet(8, 0, 3).initialise(descriptors, 0, labels + 10)
