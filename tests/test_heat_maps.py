"""Where descriptors look, against loops over locations."""

import math

import numpy as np
import pytest
import tiny_backbone  # noqa: F401, networks below name it
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from evaluation.views import View
from model.aggregation import build_aggregation
from model.network import GeoLocalizationNet, build_network
from model.other_models import OtherModel
from reports.heat_maps import heat_maps
from reports.overlays import draw_overlay, draw_sheet, find_peak

CHANNELS, HEIGHT, WIDTH = 6, 3, 4


class Fixed(nn.Module):
    """A backbone that gives the same map whatever the image."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, images):
        return self.maps.expand(len(images), -1, -1, -1)


class Patches(nn.Module):
    """A backbone: the mean of each patch of 8 x 8, as three channels that are not negative."""

    def forward(self, images):
        return F.avg_pool2d(images, 8) + 3  # they are ImageNet-normalised


def network_with(aggregation, fc_output_dim=0, **options):
    """Return a network with a fixed map of random values, some below 0."""
    torch.manual_seed(0)
    layers = build_aggregation(aggregation, CHANNELS, fc_output_dim, options)
    for parameter in layers.parameters():  # also those that start equal
        parameter.data += 0.1 * torch.randn_like(parameter)
    maps = torch.randn(1, CHANNELS, HEIGHT, WIDTH) + 0.5
    return GeoLocalizationNet(Fixed(maps), layers).eval()


def look(network, size=(32, 40)):
    return heat_maps(network, torch.zeros(1, 3, *size))


def only(seen):
    (heat,) = seen.maps.values()
    assert heat.dtype == np.float32
    return heat


def locations_of(network):
    maps = network.backbone.maps[0].double().numpy()
    for row in range(HEIGHT):
        for column in range(WIDTH):
            yield row, column, maps[:, row, column]


def unit(vector):
    return vector / math.sqrt(sum(float(value) ** 2 for value in vector))


def of(parameter):
    return parameter.detach().double().numpy()


@pytest.mark.parametrize("vladv2", [False, True])
def test_netvlad_counts_residuals_by_assignment(vladv2):
    network = network_with("netvlad", clusters=3, vladv2=vladv2)
    layers, seen = network.aggregation, look(network)
    heat, bias = only(seen), of(layers.conv.bias) if vladv2 else np.zeros(3)
    assert seen.kind == "residuals by assignment" and heat.shape == (HEIGHT, WIDTH)
    for row, column, local in locations_of(network):
        local = unit(local)
        logits = [w[:, 0, 0] @ local + b for w, b in zip(of(layers.conv.weight), bias, strict=True)]
        total = sum(math.exp(logit) for logit in logits)
        expected = 0.0
        for logit, centroid in zip(logits, of(layers.centroids), strict=True):
            expected += math.exp(logit) / total * math.dist(local, centroid)
        assert heat[row, column] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["crn", "sralnet", "appsvr"])
def test_relatives_of_netvlad_are_gated(name):
    network = network_with(name, clusters=3, **({} if name == "crn" else {"shadows": 2}))
    layers, heat = network.aggregation, only(look(network))
    with torch.no_grad():
        gates = layers.gates(network.backbone.maps)[0].double().numpy()  # [1 or 3, h w]
    gates = np.broadcast_to(gates, (3, HEIGHT * WIDTH))
    assert np.ptp(gates) > 0.01
    bias = np.zeros(3) if layers.conv.bias is None else of(layers.conv.bias)
    for row, column, local in locations_of(network):
        local = unit(local)
        logits = of(layers.conv.weight)[:, :, 0, 0] @ local + bias
        shares = np.exp(logits) / np.exp(logits).sum() * gates[:, row * WIDTH + column]
        expected = sum(
            share * math.dist(local, centroid)
            for share, centroid in zip(shares, of(layers.centroids), strict=True)
        )
        assert heat[row, column] == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("aggregation", ["gem", "gem_plain"])
@pytest.mark.parametrize("fc_output_dim", [0, 5])
def test_gem_is_gradient_times_activation(aggregation, fc_output_dim):
    network = network_with(aggregation, fc_output_dim)
    heat = only(look(network))
    begins_with_l2 = aggregation == "gem"
    p = float(next(v for k, v in network.aggregation.state_dict().items() if k.endswith(".p")))
    weight, bias = np.eye(CHANNELS), np.zeros(CHANNELS)
    if fc_output_dim:
        linear = next(one for one in network.aggregation if isinstance(one, nn.Linear))
        weight, bias = of(linear.weight), of(linear.bias)
    activations = {
        (row, column): unit(local) if begins_with_l2 else local
        for row, column, local in locations_of(network)
    }
    num, pooled = HEIGHT * WIDTH, np.zeros(CHANNELS)
    for channel in range(CHANNELS):
        powers = [max(local[channel], 1e-6) ** p for local in activations.values()]
        pooled[channel] = (sum(powers) / num) ** (1 / p)
    vector = weight @ pooled + bias
    direction = unit(vector)
    for (row, column), local in activations.items():
        expected = 0.0
        for channel in range(CHANNELS):
            if local[channel] > 1e-6:
                of_pooled = local[channel] ** (p - 1) / num * pooled[channel] ** (1 - p)
                expected += (weight[:, channel] @ direction) * of_pooled * local[channel]
        assert heat[row, column] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    # The locations share the length of the vector, less what its bias gives.
    assert heat.sum() == pytest.approx(np.linalg.norm(vector) - bias @ direction, rel=1e-4)


@pytest.mark.parametrize("aggregation", ["avg", "max"])
def test_other_poolings_share_the_length_too(aggregation):
    network = network_with(aggregation)
    heat = only(look(network))
    local = F.normalize(network.backbone.maps)[0]
    pooled = local.mean((1, 2)) if aggregation == "avg" else local.amax((1, 2))
    assert heat.sum() == pytest.approx(pooled.norm().item(), rel=1e-5)
    is_nowhere_largest = (local == local.amax((1, 2), keepdim=True)).sum(0).numpy() == 0
    assert aggregation == "avg" or (heat[is_nowhere_largest] == 0).all()


def test_attention_of_sequence_pooling_adds_up_to_one():
    network = network_with("seqpool", 5)
    seen = look(network)
    heat, layer = only(seen), network.aggregation[1].attention
    assert seen.kind == "attention" and heat.sum() == pytest.approx(1, rel=1e-6)
    logits = {
        (row, column): float(of(layer.weight)[0] @ local + of(layer.bias)[0])
        for row, column, local in locations_of(network)
    }
    total = sum(math.exp(logit) for logit in logits.values())
    for (row, column), logit in logits.items():
        assert heat[row, column] == pytest.approx(math.exp(logit) / total, rel=1e-5)


def test_queries_of_boq_are_seen_layer_by_layer():
    network = network_with("boq", proj_channels=128, num_queries=3, row_dim=2)
    seen = look(network)
    assert seen.kind == "attention of queries" and list(seen.maps) == ["layer 1", "layer 2"]
    layers = network.aggregation
    with torch.no_grad():
        tokens = layers.proj_c(network.backbone.maps).flatten(2).transpose(1, 2)
        tokens = layers.norm_input(tokens)
        for block, heat in zip(layers.boqs, seen.maps.values(), strict=True):
            tokens, queries = block.encoder(tokens), block.own_queries()
            plain = nn.MultiheadAttention(128, 2, batch_first=True)
            plain.load_state_dict(block.cross_attn.state_dict())
            _, weights = plain(queries, tokens, tokens)  # [1, 3, 12], mean of the heads
            np.testing.assert_allclose(heat.ravel(), weights[0].mean(0), rtol=1e-4)
            assert heat.sum() == pytest.approx(1, rel=1e-5) and np.ptp(heat) > 0.01


def test_salad_counts_what_is_not_in_the_dustbin():
    network = network_with("salad", clusters=4, cluster_dim=5, token_dim=0, hidden=8)
    layers, seen = network.aggregation, look(network)
    heat, num = only(seen), HEIGHT * WIDTH
    with torch.no_grad():
        scores = layers.score(network.backbone.maps)[0].flatten(1).double().numpy()  # [4, 12]
    scores = np.exp(np.vstack((scores, np.full(num, layers.dust_bin.item()))))
    columns = np.ones(num)
    for _ in range(3):  # masses of clusters, dustbin and locations, in turn
        rows = np.array([1.0] * 4 + [num - 4]) / (scores @ columns)
        columns = 1 / (rows @ scores)
    plan = rows[:, None] * scores * columns
    np.testing.assert_allclose(heat.ravel(), plan[:4].sum(0), rtol=1e-4)
    np.testing.assert_allclose(heat.ravel() + plan[4], 1, rtol=1e-4)  # all of a location
    assert seen.kind == "mass outside the dustbin" and np.ptp(heat) > 0.01


@pytest.mark.parametrize("name", ["salad", "boq"])
def test_aggregations_on_tokens_of_a_transformer(name):
    options = {"clusters": 4} if name == "salad" else {"proj_channels": 64}
    torch.manual_seed(0)
    architecture = ("TinyDINOv2", 0, name, "none")
    network = build_network(*architecture, aggregation_args=options).eval()
    for heat in heat_maps(network, torch.randn(1, 3, 42, 56)).maps.values():
        assert heat.shape == (3, 4) and np.isfinite(heat).all() and heat.min() >= 0


def test_the_class_token_attends_to_patches_and_itself():
    torch.manual_seed(0)
    network = build_network("TinyDINOv2", 0, "cls", backbone_weights="none").eval()
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    images = torch.randn(1, 3, 42, 56)
    seen = heat_maps(network, images)
    heat = only(seen)
    assert seen.kind == "attention of the class token" and heat.shape == (3, 4)
    backbone = network.backbone
    tokens = []
    block = backbone.blocks[-1]
    handle = block.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0]))
    with torch.no_grad():
        backbone(images)
        handle.remove()
        qkv = block.attn.qkv(block.norm1(tokens[0]))[0].double().numpy()  # [13, 48]
    shares = np.zeros(13)
    for head in range(2):  # of 8 channels; queries, keys and values side by side
        query, keys = qkv[0, head * 8 : head * 8 + 8], qkv[:, 16 + head * 8 : 24 + head * 8]
        weights = np.exp([query @ key / math.sqrt(8) for key in keys])
        shares += weights / weights.sum() / 2
    np.testing.assert_allclose(heat.ravel(), shares[1:], rtol=1e-4)
    assert heat.sum() + shares[0] == pytest.approx(1, rel=1e-5) and np.ptp(shares) > 0.001


OTHERS = {
    "apanet": {},
    "convap": {"out_channels": 4},
    "mixvpr": {"out_channels": 5, "height": HEIGHT, "width": WIDTH},
}


def moves_of(network):
    """Return how far the descriptor moves if a location fades a little, by differences. [h, w]"""
    layers, maps = network.aggregation.double(), network.backbone.maps.double()
    moves, mean = np.zeros((HEIGHT, WIDTH)), maps.mean((2, 3))[0]
    with torch.no_grad():
        for row in range(HEIGHT):
            for column in range(WIDTH):
                ends = []
                for sign in (-1, 1):
                    moved = maps.clone()
                    moved[0, :, row, column] += sign * 1e-5 * (maps[0, :, row, column] - mean)
                    ends.append(layers(moved))
                moves[row, column] = (ends[1] - ends[0]).norm().item() / 2e-5
    network.aggregation.float()
    return moves


@pytest.mark.parametrize("name", list(OTHERS))
def test_any_other_aggregation_is_seen_by_how_its_descriptor_moves(name):
    network = network_with(name, **OTHERS[name])
    seen = look(network)
    heat = only(seen)
    assert seen.kind == "gradient x (activation - mean)" and network.out_dim <= 32
    np.testing.assert_allclose(heat, moves_of(network), rtol=2e-3, atol=1e-6)
    assert np.ptp(heat) > 0.01


def test_random_directions_suffice_for_long_descriptors():
    network = network_with("apanet", 400)
    heat = only(look(network))
    ratios = heat / moves_of(network)
    assert 0.9 < ratios.mean() < 1.1 and ratios.std() < 0.25 and ratios.std() > 0
    np.testing.assert_array_equal(only(look(network)), heat)


def test_networks_that_show_no_locations_are_refused():
    with pytest.raises(ValueError, match="do not show their maps"):
        heat_maps(OtherModel(lambda images: images.mean((2, 3)), {}), torch.zeros(1, 3, 8, 8))
    network = network_with("gem")
    network.backbone.maps = network.backbone.maps[:, :, :1, :1]
    with pytest.raises(ValueError, match="has one location"):
        look(network)


@pytest.mark.parametrize("aggregation", ["gem_plain", "gem", "convap_like"])
@pytest.mark.parametrize("rule", ["none", "64", "48x96"])
def test_the_picture_lines_up_with_the_image(aggregation, rule):
    """One bright object, in images that are not square, at odd places."""
    pixels = np.full((96, 160, 3), 20, np.uint8)
    top, left = 56, 24
    pixels[top : top + 24, left : left + 24] = (40, 60, 255) if aggregation == "gem" else 250
    if aggregation == "convap_like":
        layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        torch.manual_seed(0)
        layers[0].reset_parameters()
        layers.out_dim = 16
    else:
        layers = build_aggregation(aggregation, 3, 0)
    network = GeoLocalizationNet(Patches(), layers).eval()
    images = View(rule)(torch.from_numpy(pixels).permute(2, 0, 1)[None])[:, 0]
    heat = only(heat_maps(network, images))
    peak = find_peak(heat, (160, 96))
    assert left <= peak.x <= left + 24 and top <= peak.y <= top + 24
    assert peak.over_mean > 1
    image = Image.fromarray(pixels)
    drawn = np.array(draw_overlay(image, heat)).astype(int)
    assert drawn.shape == pixels.shape
    # Away from the object the image is grey, so that brightness is the map's.
    row, column = np.unravel_index(drawn.sum(2).argmax(), drawn.shape[:2])
    assert left <= column < left + 24 and top <= row < top + 24


def test_a_sheet_has_the_image_the_maps_and_their_scales():
    image = Image.new("RGB", (96, 48), (10, 200, 30))
    heats = {"layer 1": np.eye(3, dtype=np.float32), "layer 2": np.ones((2, 2), np.float32)}
    sheet = np.array(draw_sheet(image, "street", "attention", heats)).astype(int)
    assert sheet.shape[1] == 10 + 3 * (480 + 10)
    np.testing.assert_array_equal(sheet[10 + 120, 10 + 240], (10, 200, 30))
    bars = sheet[240 + 20 + 7]
    for left in (500, 990):  # from black to yellow, over the width of the picture
        assert bars[left + 1].sum() < 40 and bars[left + 478].sum() > 500
    below = sheet[240 + 20 :]
    for left, first in ((10, 0), (500, 20), (990, 20)):
        assert (below[first:, left : left + 300].sum(2) < 300).sum() > 60, "something is written"


def test_maps_without_heat_are_drawn_too():
    image = Image.new("RGB", (16, 8), (90, 90, 90))
    drawn = np.array(draw_overlay(image, np.full((2, 3), -1, np.float32)))
    assert (drawn == drawn[0, 0]).all() and drawn.max() < 90
    assert math.isnan(find_peak(np.zeros((2, 2), np.float32), image.size).over_mean)
