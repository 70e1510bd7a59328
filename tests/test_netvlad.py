import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import assert_close, golden
from torch import nn

from benchmarks.netvlad import peak_bytes
from model.aggregation import build_aggregation
from model.aggregation.netvlad import NetVLAD, draw_local_descriptors, find_centroids

PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]  # and the tolerance of golden numbers


def make_maps(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_layer(channels, clusters, fc_output_dim=0, **options):
    torch.manual_seed(0)
    layer = build_aggregation("netvlad", channels, fc_output_dim, {"clusters": clusters} | options)
    layer.conv.weight.data *= 5  # assignments that differ
    return layer


def vlad_by_loops(maps, weight, bias, centroids, gate=lambda image, cluster, place: 1.0):
    """Return V [B, K, C] by the formula, one location and cluster at a time, in float64."""
    locations, weight, bias, centroids = (
        x.detach().double().numpy() for x in (maps.flatten(2), weight, bias, centroids)
    )
    vlad = np.zeros((len(locations), *centroids.shape))
    for image in range(len(locations)):
        for place in range(locations.shape[2]):
            f = locations[image, :, place]
            f = f / np.sqrt((f**2).sum())
            logits = [w @ f + b for w, b in zip(weight, bias, strict=True)]
            shares = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
            for cluster, share in enumerate(shares):
                residual = share * (f - centroids[cluster])
                vlad[image, cluster] += gate(image, cluster, place) * residual
    return vlad


def normalise_by_hand(vlad):
    vlad = vlad / np.linalg.norm(vlad, axis=2, keepdims=True)
    return (vlad / np.linalg.norm(vlad, axis=(1, 2), keepdims=True)).reshape(len(vlad), -1)


# Against the original code


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", ["netvlad_vgb_a", "netvlad_vgb_tokens", "netvlad_v2_a"])
def test_descriptors_and_gradients_equal_the_originals(name, dtype, tolerance):
    """Those of the benchmark, of maps and of tokens [B, n, C], and of Nanne's biased layer."""
    case = golden(name)
    cfg, weights = case.meta["cfg"], case.weights()
    layer = make_layer(cfg["D"], cfg["K"], vladv2="conv.bias" in weights).to(dtype)
    shapes = {key: one.shape for key, one in layer.state_dict().items()}
    assert shapes.keys() == weights.keys()
    layer.load_state_dict({k: torch.tensor(v).reshape(shapes[k]) for k, v in weights.items()})
    x = torch.tensor(case["in.x"], dtype=dtype, requires_grad=True)
    descriptors = layer(x.mT.unsqueeze(3) if cfg.get("tokens") else x)
    assert_close(descriptors.detach(), case["out.vlad"], tolerance)
    loss = (descriptors * torch.tensor(case["in.R"])).sum()
    assert_close(loss.detach(), case["loss.linear"], tolerance)
    loss.backward()
    assert_close(x.grad, case["grad.x"], tolerance)
    for key, parameter in layer.named_parameters():
        assert_close(
            parameter.grad.reshape(case[f"grad.{key}"].shape), case[f"grad.{key}"], tolerance
        )


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_raw_residuals_equal_openibl(dtype, tolerance):
    """Also its descriptors before the whitening, see tests/test_whitening.py."""
    case = golden("netvlad_openibl_a")
    layer = make_layer(case.meta["cfg"]["D"], case.meta["cfg"]["K"]).to(dtype)
    weights = {key: torch.tensor(value) for key, value in case.weights().items()}
    layer.load_state_dict({key: weights[key] for key in ("centroids", "conv.weight")})
    maps = torch.tensor(case["in.x"], dtype=dtype, requires_grad=True)
    assert_close(layer(maps, normalise=False).detach(), case["mid.raw_vlad"], tolerance)
    descriptors = layer(maps)
    assert_close(descriptors.detach(), case["out.vlad"], tolerance)
    whitened = F.linear(
        descriptors,
        weights["pca_layer.weight"].flatten(1).to(dtype),
        weights["pca_layer.bias"].to(dtype),
    )
    (F.normalize(whitened) * torch.tensor(case["in.R"])).sum().backward()
    assert_close(maps.grad, case["grad.x"], tolerance)


@pytest.mark.parametrize("name", ["netvlad_vgb_a", "netvlad_vgb_tokens", "netvlad_openibl_a"])
def test_weights_from_centroids_equal_the_originals(name):
    case = golden(name)
    layer = make_layer(case.meta["cfg"]["D"], case.meta["cfg"]["K"])
    args = [torch.tensor(case[key]) for key in ("in.centroids", "in.descriptors")]
    assert layer.set_centroids(*args) == pytest.approx(float(case["mid.alpha"]), rel=1e-6)
    for key, value in layer.state_dict().items():
        assert_close(value.reshape(case[f"w.{key}"].shape), case[f"w.{key}"], 1e-6)


def test_biased_weights_follow_the_rule_of_relja_and_not_the_known_bug():
    case = golden("netvlad_v2_a")
    layer = make_layer(case.meta["cfg"]["D"], case.meta["cfg"]["K"], vladv2=True)
    args = [torch.tensor(case[key]) for key in ("in.centroids", "in.descriptors")]
    alpha = layer.set_centroids(*args)
    assert alpha == pytest.approx(float(case["mid.alpha"]), rel=1e-6)
    assert alpha != pytest.approx(float(case["bad.nanne_alpha"]), rel=0.01)
    for key, value in layer.state_dict().items():
        assert_close(value, case[f"w.{key}"], 1e-6)
    assert np.abs(layer.conv.bias.detach().numpy() - case["bad.nanne_bias"]).max() > 0.01


# Against loops


@pytest.mark.parametrize("vladv2", [False, True])
@pytest.mark.parametrize("shape", [(3, 6, 4, 5), (1, 6, 1, 7), (20, 6, 3, 3)])
def test_residuals_equal_a_loop_over_locations_and_clusters(shape, vladv2):
    layer, maps = make_layer(6, 3, vladv2=vladv2), make_maps(*shape)
    bias = layer.conv.bias if vladv2 else torch.zeros(3)
    expected = vlad_by_loops(maps, layer.conv.weight.flatten(1), bias, layer.centroids)
    assert_close(layer(maps, normalise=False).detach(), expected, 1e-5)
    assert_close(layer(maps).detach(), normalise_by_hand(expected), 1e-5)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("vladv2", [True, False])
def test_gradients_equal_finite_differences(vladv2, normalise):
    layer = make_layer(5, 3, vladv2=vladv2).double()
    maps = make_maps(2, 5, 2, 3).double().requires_grad_()
    names = list(dict(layer.named_parameters()))

    def aggregate(maps, *weights):
        named = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(layer, named, (maps, normalise))

    assert torch.autograd.gradcheck(aggregate, (maps, *layer.parameters()))


@pytest.mark.parametrize("batch_size", [1, 7, 8, 9, 24])
def test_pieces_of_a_batch_do_not_show(batch_size):
    """Descriptors and gradients are those of one image after the other."""
    layer, maps = make_layer(5, 4), make_maps(batch_size, 5, 3, 4).requires_grad_()
    weights = make_maps(batch_size, layer.out_dim, seed=1)
    (layer(maps) * weights).sum().backward()
    batched = [maps.grad.clone(), *(one.grad.clone() for one in layer.parameters())]
    maps.grad = None
    layer.zero_grad()
    for image, weight in zip(maps, weights, strict=True):
        (layer(image[None]) * weight).sum().backward()
    for one, other in zip(batched, [maps.grad, *(p.grad for p in layer.parameters())], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_residuals_of_parts_of_a_map_add_up():
    layer, maps = make_layer(5, 4), make_maps(2, 5, 6, 8)
    parts = [
        maps[:, :, rows, columns]
        for rows in (slice(3), slice(3, 6))
        for columns in (slice(5), slice(5, 8))
    ]
    total = sum(layer(part, normalise=False) for part in parts)
    torch.testing.assert_close(total, layer(maps, normalise=False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fc_output_dim", [0, 6])
def test_length_and_norm_of_descriptors(fc_output_dim):
    layer = make_layer(5, 3, fc_output_dim)
    descriptors = layer(make_maps(4, 5, 3, 7))
    assert descriptors.shape == (4, fc_output_dim or 15) == (4, layer.out_dim)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(4))
    keys = ["centroids", "conv.weight"] + ["linear.weight", "linear.bias"] * bool(fc_output_dim)
    assert list(layer.state_dict()) == keys
    assert layer(make_maps(4, 5, 3, 7), normalise=False).shape == (4, 3, 5)


def test_empty_locations_and_clusters_have_finite_gradients():
    layer = make_layer(5, 3)
    layer.centroids.data[0] = 0
    layer.conv.weight.data[0] = -1e4  # nothing is assigned to this cluster
    maps = make_maps(2, 5, 2, 3).abs()
    maps[0, :, 1] = 0
    descriptors = layer(maps.requires_grad_())
    assert descriptors[:, :5].eq(0).all()
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2))
    descriptors[:, 7].sum().backward()
    assert all(one.grad.isfinite().all() for one in (maps, *layer.parameters()))
    assert maps.grad[0, :, 1].eq(0).all() and maps.grad[0, :, 0].abs().sum() > 0


def test_autocast_computes_in_float32():
    layer, maps = make_layer(64, 8), make_maps(2, 64, 6, 8).requires_grad_()
    expected = layer(maps)
    expected[:, 0].sum().backward()
    grad, maps.grad = maps.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        descriptors = layer(maps)
    descriptors[:, 0].sum().backward()
    assert torch.equal(descriptors, expected) and torch.equal(maps.grad, grad)
    half = layer(maps.detach().half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_is_at_most_that_of_the_assignments(channels_last):
    """Beside inputs, outputs and their gradients; no tensor [B, K, C, h w] or copy of the maps."""
    layer, maps = make_layer(64, 32), make_maps(12, 64, 24, 32)
    if channels_last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    grad = torch.ones(12, layer.out_dim)
    maps.requires_grad_()
    peak = peak_bytes(lambda: layer(maps).backward(grad), maps.device)
    needed = sum(4 * one.numel() for one in (maps, grad, *layer.parameters()))
    assert peak - needed <= 1.1 * 4 * 12 * 32 * 24 * 32


# Initialisation


def test_initialise_starts_from_clusters_of_the_descriptors():
    """Around three directions; weights send each descriptor to its own."""
    directions = F.normalize(make_maps(3, 8))
    descriptors = F.normalize(
        directions.repeat_interleave(50, dim=0) + 0.05 * make_maps(150, 8, seed=1)
    )
    layer = make_layer(8, 3)
    layer.initialise(descriptors, seed=4)
    cosines = F.normalize(layer.centroids.detach()) @ directions.T
    assert sorted(cosines.argmax(1).tolist()) == [0, 1, 2] and (cosines.max(1).values > 0.99).all()
    shares = layer.conv(descriptors.T[None, :, :, None]).softmax(1)[0, :, :, 0]
    own = shares.argmax(0)
    assert all(len(set(own[first : first + 50].tolist())) == 1 for first in (0, 50, 100))
    best = shares.topk(2, dim=0).values
    # alpha is such that the second best has 0.01 of the best, in the mean of logarithms.
    assert (best[1] / best[0]).log().mean().exp().item() == pytest.approx(0.01, rel=1e-4)


def test_centroids_are_means_of_their_descriptors_and_depend_on_the_seed():
    descriptors = F.normalize(make_maps(400, 8))
    centroids = find_centroids(descriptors, 5, seed=3)
    assert centroids.shape == (5, 8) and centroids.dtype == torch.float32
    nearest = torch.cdist(descriptors, centroids).argmin(1)
    for cluster, centroid in enumerate(centroids):
        mean = descriptors[nearest == cluster].mean(0)
        torch.testing.assert_close(centroid, mean, rtol=0, atol=0.02)
    assert torch.equal(centroids, find_centroids(descriptors, 5, seed=3))
    assert not torch.equal(centroids, find_centroids(descriptors, 5, seed=4))


def test_more_clusters_than_descriptors():
    with pytest.raises(ValueError, match="clusters=9: there are only 5 local descriptors"):
        make_layer(4, 9).initialise(F.normalize(make_maps(5, 4)), seed=0)


def test_descriptors_that_are_all_the_same():
    with pytest.raises(ValueError, match="local descriptors do not differ"):
        make_layer(4, 2).initialise(torch.ones(50, 4) / 2, seed=0)


@pytest.mark.parametrize("clusters", [1, 0, -3])
def test_too_few_clusters(clusters):
    with pytest.raises(ValueError, match=f"clusters={clusters}: needed are 2 at least"):
        NetVLAD(4, 0, clusters)


class Maps(nn.Module):
    """A network whose feature maps are its images, centred in training mode."""

    def __init__(self):
        super().__init__()
        self.layer = nn.BatchNorm2d(3, affine=True)

    def feature_maps(self, images):
        return images - images.mean() if self.training else images


def test_drawn_descriptors_are_locations_of_the_maps():
    network, batches = Maps(), [make_maps(2, 3, 5, 8), make_maps(1, 3, 2, 4)]
    network.train()
    network.layer.eval()
    drawn, _ = draw_local_descriptors(network, iter(batches), per_image=10, seed=1)
    assert network.training and not network.layer.training
    assert drawn.shape == (10 + 10 + 8, 3) and drawn.dtype == torch.float32
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(28))
    for part, image in zip(drawn.split([10, 10, 8]), [*batches[0], *batches[1]], strict=True):
        cosines = part @ F.normalize(image.flatten(1), dim=0)
        assert cosines.max(1).values.min() > 0.9999
        assert len(set(cosines.argmax(1).tolist())) == len(part), "each location once at most"
    same, _ = draw_local_descriptors(network, batches, per_image=10, seed=1)
    assert torch.equal(drawn, same)
    other, _ = draw_local_descriptors(network, batches, per_image=10, seed=2)
    assert not torch.equal(drawn, other)
    with pytest.raises(ValueError, match="no images to draw"):
        draw_local_descriptors(network, [])
