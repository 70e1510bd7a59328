"""Conv-AP, MixVPR, SALAD, MegaLoc and BoQ against what their public code gave."""

import pytest
import torch
import torch.nn.functional as F
from golden_cases import assert_close, golden
from tiny_backbone import make_dinov2

from model.aggregation import build_aggregation
from model.checkpoints import load_network
from model.inference import optimize
from model.network import GeoLocalizationNet, build_network

# float64, and the tolerance of the golden numbers; SALAD's code has some lengths in float32 always
PRECISIONS = [(torch.float64, 1e-7), (torch.float32, 1e-5)]
precisions = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)


def load(layer, weights, prefix, dtype):
    """Load the weights whose names have a prefix, without it, strictly."""
    layer.load_state_dict(
        {
            key.removeprefix(prefix): torch.as_tensor(value)
            for key, value in weights.items()
            if key.startswith(prefix)
        }
    )
    return layer.to(dtype).eval()


def tensor(case, name, dtype, **settings):
    return torch.tensor(case[name], dtype=dtype, **settings)


def check_descriptors(layer, case, inputs, dtype, tolerance, out="descriptor", suffix=""):
    """Compare descriptors, and gradients of the sum of their products with R."""
    inputs = {name: tensor(case, f"in.{name}", dtype, requires_grad=True) for name in inputs}
    features = tuple(inputs.values()) if len(inputs) > 1 else next(iter(inputs.values()))
    descriptors = layer(features)
    assert_close(descriptors.detach(), case[f"out.{out}"], tolerance)
    assert layer.out_dim == descriptors.shape[1]
    (descriptors * tensor(case, f"in.R{suffix}", dtype)).sum().backward()
    for name, given in inputs.items():
        assert_close(given.grad, case[f"grad.{name}{suffix}"], 20 * tolerance)


# Conv-AP and MixVPR


@precisions
def test_convap_equals_the_public_code(dtype, tolerance):
    case = golden("gsv_heads_a")
    args = {"out_channels": 4, "side": 2}
    layer = load(build_aggregation("convap", 6, 0, args), case.weights(), "convap.", dtype)
    check_descriptors(layer, case, ["x"], dtype, tolerance, "convap", ".convap")


@precisions
def test_gsv_cities_other_heads_are_poolings_of_ours(dtype, tolerance):
    """Its GeM has no L2 before; its CosPlace head is CosPlace's."""
    case = golden("gsv_heads_a")
    weights = {key: torch.as_tensor(value) for key, value in case.weights().items()}
    maps = tensor(case, "in.x", dtype)
    gem = build_aggregation("gem", 6, 0, {"l2": "after_pool"}).to(dtype)
    gem.load_state_dict({"1.p": weights["gem.p"]})
    assert_close(gem(maps).detach(), case["out.gem"], 1e-5)
    cosplace = build_aggregation("gem", 6, 4)
    names = {"1.p": "gem.p", "3.weight": "fc.weight", "3.bias": "fc.bias"}
    cosplace.load_state_dict({ours: weights[f"cosplace.{name}"] for ours, name in names.items()})
    assert_close(cosplace(maps.float()).detach(), case["out.cosplace"], 1e-5)


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (7, 4), (16, 9), (1, 2)])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_cells_of_convap_are_those_of_adaptive_pooling(side, size):
    generator = torch.Generator().manual_seed(0)
    layer = build_aggregation("convap", 3, 0, {"out_channels": 3, "side": side})
    with torch.no_grad():
        layer.channel_pool.weight.copy_(torch.eye(3)[:, :, None, None])
        layer.channel_pool.bias.zero_()
        maps = torch.randn(2, 3, *size, generator=generator)
        expected = F.normalize(F.adaptive_avg_pool2d(maps, side).flatten(1))
        torch.testing.assert_close(layer(maps), expected)


@precisions
@pytest.mark.parametrize("name", ["mixvpr_a", "mixvpr_ratio2"])
def test_mixvpr_equals_the_public_code(name, dtype, tolerance):
    case = golden(name)
    cfg = case.meta["cfg"]
    names = ("out_channels", "out_rows", "mix_depth", "mlp_ratio")
    args = {key: cfg[key] for key in names} | {"height": cfg["H"], "width": cfg["W"]}
    layer = load(build_aggregation("mixvpr", cfg["C"], 0, args), case.weights(), "", dtype)
    check_descriptors(layer, case, ["x"], dtype, tolerance)
    mixed = layer.mix(tensor(case, "in.x", dtype).flatten(2))
    assert_close(mixed.detach(), case["mid.after_mix"], tolerance)


# SALAD and MegaLoc


def salad_of(case, dtype, **args):
    cfg = case.meta["cfg"]
    args |= {"clusters": cfg["m"], "cluster_dim": cfg["l"], "token_dim": cfg["g"]}
    args |= {"hidden": cfg["hidden"]}
    return load(build_aggregation("salad", cfg["C"], 0, args), case.weights(), "", dtype)


@precisions
@pytest.mark.parametrize("name", ["salad_a", "salad_b1"])
def test_salad_equals_the_public_code(name, dtype, tolerance):
    case = golden(name)
    layer = salad_of(case, dtype)
    check_descriptors(layer, case, ["x", "token"], dtype, tolerance)
    masses = layer.masses(tensor(case, "in.x", dtype)).detach()
    assert masses.shape[2:] == case["in.x"].shape[2:]
    assert_close(masses.flatten(2), case["mid.P"], tolerance)


@pytest.mark.parametrize("name", ["salad_a", "salad_b1"])
def test_the_dustbin_has_no_gradient_but_for_rounding(name):
    """Its row is the same number everywhere, which the first scaling of rows takes out."""
    case = golden(name)
    layer = salad_of(case, torch.float64)
    features = (tensor(case, "in.x", torch.float64), tensor(case, "in.token", torch.float64))
    layer(features).sum().backward()
    assert abs(layer.dust_bin.grad.item()) < 1e-12
    assert abs(case["grad.dust_bin_for_sum_loss"]) < 1e-12


def test_the_plan_equals_scalings_of_a_matrix_and_is_not_converged():
    """Three times in turn: rows to the masses of clusters, columns to 1."""
    case = golden("salad_a")
    layer = salad_of(case, torch.float64)
    maps = tensor(case, "in.x", torch.float64)
    with torch.no_grad():
        layer.score[3].weight.mul_(30)
        masses = layer.masses(maps).flatten(2)
        scores = layer.score(maps).flatten(2)
    num, places = scores.shape[1:]
    for image, scored in zip(masses, scores, strict=True):
        dust = torch.full((1, places), layer.dust_bin.item(), dtype=torch.float64)
        plan = torch.cat((scored, dust)).exp()
        wanted = torch.ones(num + 1, dtype=torch.float64)
        wanted[num] = places - num
        for _ in range(3):
            plan *= (wanted / plan.sum(1))[:, None]
            plan /= plan.sum(0)
        torch.testing.assert_close(image, plan[:num])
        assert (plan.sum(1) - wanted).abs().max() > 1e-3, "with more iterations it differs"


def test_dropout_is_before_the_relu_and_in_training_only():
    layer = build_aggregation("salad", 6, 0, {"clusters": 2, "hidden": 512, "dropout": 0.5})
    maps, token = torch.randn(1, 6, 3, 3), torch.randn(1, 6)
    kinds = [type(part).__name__ for part in layer.score]
    assert kinds == [type(part).__name__ for part in layer.cluster_features]
    assert kinds == ["Conv2d", "Dropout", "ReLU", "Conv2d"] and layer.score[1].p == 0.5
    assert (layer((maps, token)) - layer((maps, token))).abs().max() > 1e-4
    layer.eval()
    assert torch.equal(layer((maps, token)), layer((maps, token)))


def test_salad_without_a_class_token_is_its_clusters():
    case = golden("salad_a")
    both = salad_of(case, torch.float64)
    cfg = case.meta["cfg"]
    args = {"clusters": cfg["m"], "cluster_dim": cfg["l"], "token_dim": 0, "hidden": 512}
    maps_only = build_aggregation("salad", cfg["C"], 0, args).double().eval()
    assert not getattr(maps_only, "takes_class_token", False)
    maps, token = tensor(case, "in.x", torch.float64), tensor(case, "in.token", torch.float64)
    with torch.no_grad():
        state = both.state_dict()
        maps_only.load_state_dict({k: v for k, v in state.items() if "token_features" not in k})
        expected = F.normalize(both((maps, token))[:, cfg["g"] :])
        torch.testing.assert_close(maps_only(maps), expected, rtol=0, atol=1e-7)
        assert torch.equal(maps_only.masses(maps), both.masses(maps))
    assert maps_only.out_dim == cfg["m"] * cfg["l"]


def megaloc_of(case, dtype):
    cfg = case.meta["cfg"]
    backbone = make_dinov2(cfg["embed"], cfg["depth"], cfg["heads"])
    args = {key: cfg[key] for key in ("clusters", "cluster_dim", "token_dim")}
    layers = build_aggregation("salad", cfg["embed"], cfg["out"], args | {"hidden": cfg["mlp_dim"]})
    weights = case.weights()
    load(backbone, weights, "backbone.", dtype)
    aggregation = {
        key.removeprefix("aggregator.").removeprefix("agg."): value
        for key, value in weights.items()
        if key.startswith("aggregator.")
    }
    load(layers, aggregation, "", dtype)
    backbone.gives_class_token = True
    return GeoLocalizationNet(backbone, layers)


@precisions
def test_megaloc_is_salad_on_dinov2_and_a_linear_layer(dtype, tolerance):
    case = golden("megaloc_tiny_a")
    network = megaloc_of(case, dtype)
    images = tensor(case, "in.x", dtype, requires_grad=True)
    maps, tokens = network.feature_maps(images)
    assert_close(maps.detach(), case["mid.patch_features"], tolerance)
    assert_close(tokens.detach(), case["mid.cls"], tolerance)
    descriptors = network.aggregation((maps, tokens))
    assert_close(descriptors.detach(), case["out.descriptor"], tolerance)
    assert network.out_dim == 12
    (descriptors * tensor(case, "in.R", dtype)).sum().backward()
    assert_close(images.grad, case["grad.x"], 20 * tolerance)


def test_megaloc_on_images_resized_to_multiples_of_14():
    case = golden("megaloc_tiny_resize")
    size = case["mid.input_hw"].tolist()
    images = F.interpolate(
        tensor(case, "in.x", torch.float64), size, mode="bilinear", antialias=True
    )
    with torch.no_grad():
        maps, tokens = megaloc_of(case, torch.float64).feature_maps(images)
        descriptors = megaloc_of(case, torch.float64)(images)
    assert_close(maps, case["mid.patch_features"], 1e-7)
    assert_close(tokens, case["mid.cls"], 1e-7)
    assert_close(descriptors, case["out.descriptor"], 1e-6)


# BoQ


def boq_of(case, dtype):
    cfg = case.meta["cfg"]
    args = {"proj_channels": cfg["proj"], "num_queries": cfg["num_queries"]}
    args |= {"num_layers": cfg["num_layers"], "row_dim": cfg["row_dim"]}
    return load(build_aggregation("boq", cfg["C"], 0, args), case.weights(), "", dtype)


@precisions
@pytest.mark.parametrize("name", ["boq_a", "boq_one_layer"])
def test_boq_equals_the_public_code(name, dtype, tolerance):
    case = golden(name)
    layer = boq_of(case, dtype)
    check_descriptors(layer, case, ["x"], dtype, tolerance)
    assert_close(layer(tensor(case, "in.x", dtype)).detach(), case["out.eval"], 1e-5)
    with torch.no_grad():
        weights = layer.attentions(tensor(case, "in.x", dtype))
    assert len(weights) == case.meta["cfg"]["num_layers"]
    for number, one in enumerate(weights):
        assert_close(one, case[f"mid.attn{number}"], tolerance)


@pytest.mark.parametrize("channels", [128, 192])
def test_attention_of_several_heads_is_torchs(channels):
    """The golden cases have a single head."""
    torch.manual_seed(0)
    block = build_aggregation("boq", 3, 0, {"proj_channels": channels, "num_queries": 5}).boqs[0]
    heads, tokens = channels // 64, torch.randn(2, 7, channels)
    reference = torch.nn.TransformerEncoderLayer(
        channels, heads, 4 * channels, dropout=0.0, batch_first=True
    )
    reference.load_state_dict(block.encoder.state_dict())
    attention = torch.nn.MultiheadAttention(channels, heads, batch_first=True)
    attention.load_state_dict(block.cross_attn.state_dict())
    with torch.no_grad():
        encoded = reference(tokens)
        torch.testing.assert_close(block.encoder(tokens), encoded)
        queries = block.own_queries()
        gathered, weights = attention(queries.expand(2, -1, -1), encoded, encoded)
        torch.testing.assert_close(block(tokens)[1], block.norm_out(gathered))
        found = block.cross_attn.weights(queries, encoded).mean(1)
        torch.testing.assert_close(found, weights)


def test_boq_leaves_the_final_norm_of_dinov2_out():
    torch.manual_seed(0)
    args = {"proj_channels": 64, "num_queries": 4, "row_dim": 2}
    network = build_network("TinyDINOv2", None, "boq", "none", aggregation_args=args).eval()
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        before = network(images)
        network.backbone.norm.weight.fill_(0.0)
        assert torch.equal(network(images), before)
    frozen = {name for name, one in network.named_parameters() if not one.requires_grad}
    assert frozen == {"backbone.norm.weight", "backbone.norm.bias"}


# All of them

NETWORKS = {  # aggregation -> backbone, options; descriptors have 8 numbers by a linear layer, or N
    "convap": ("Tiny", {"out_channels": 4}, 16),
    "mixvpr": ("Tiny", {"out_channels": 4, "out_rows": 2, "height": 7, "width": 7}, 8),
    "salad": ("TinyDINOv2", {"clusters": 3, "cluster_dim": 4, "token_dim": 5, "hidden": 8}, 17),
    "boq": ("TinyDINOv2", {"proj_channels": 64, "num_queries": 4, "row_dim": 2}, 128),
}


@pytest.mark.parametrize("fc_output_dim", [0, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_descriptors_are_float32_of_unit_length_also_under_autocast(name, fc_output_dim):
    backbone, args, dim = NETWORKS[name]
    torch.manual_seed(0)
    network = build_network(backbone, fc_output_dim, name, "none", aggregation_args=args)
    images = torch.randn(3, 3, 64, 64)
    descriptors = network(images)
    assert descriptors.shape == (3, network.out_dim) == (3, fc_output_dim or dim)
    network.eval()
    with torch.no_grad():
        descriptors = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(images)
    for one in (descriptors, rounded):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
    assert 0 < (descriptors - rounded).abs().max() < 0.05
    assert (descriptors[0] - descriptors[1]).abs().max() > 0.005


@pytest.mark.parametrize("name", [*NETWORKS, "cls"])
def test_checkpoints_tell_the_network_and_inference_is_the_same(name, tmp_path):
    backbone, args, _ = NETWORKS.get(name, ("TinyDINOv2", {}, 16))
    torch.manual_seed(0)
    network = build_network(backbone, 8, name, "none", aggregation_args=args).eval()
    torch.save(network.state_dict(), tmp_path / "best_model.pth")
    loaded = load_network(tmp_path / "best_model.pth", train_all_layers=True).eval()
    assert loaded.architecture == network.architecture
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        descriptors = network(images)
        assert torch.equal(loaded(images), descriptors)
        torch.testing.assert_close(optimize(loaded)(images), descriptors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_parameters_learn(name):
    backbone, args, _ = NETWORKS[name]
    torch.manual_seed(0)
    network = build_network(backbone, 8, name, "none", aggregation_args=args).train()
    network(torch.randn(3, 3, 64, 64))[:, 0].sum().backward()
    for key, parameter in network.aggregation.named_parameters():
        assert parameter.grad is not None, key
        if not key.endswith(("bias", "dust_bin")):  # a softmax cancels those of keys
            assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("convap", {"side": 0}, "side=0: it must be at least 1"),
        ("mixvpr", {"mix_depth": 0}, "mix_depth=0: it must be at least 1"),
        ("mixvpr", {"height": -3}, "height=-3"),
        ("salad", {"clusters": 0}, "clusters=0"),
        ("salad", {"token_dim": -1}, "token_dim=-1: it must not be negative"),
        ("salad", {"dropout": 1.0}, "dropout=1.0: it must be in 0 to 1"),
        ("boq", {"proj_channels": 100}, "proj_channels=100: it must be a multiple of 64"),
        ("boq", {"num_layers": 0}, "num_layers=0"),
    ],
)
def test_options_out_of_range_are_sentences(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_aggregation(name, 16, 0, options)


def test_maps_that_do_not_fit_are_sentences():
    mixvpr = build_aggregation("mixvpr", 4, 0)
    with pytest.raises(ValueError, match=r"20 x 20 and 15 x 20\. Give images .*--image_size"):
        mixvpr(torch.randn(1, 4, 15, 20))
    salad = build_aggregation("salad", 4, 0, {"clusters": 20, "token_dim": 0})
    with pytest.raises(ValueError, match=r"among 20 clusters .* has 20\. .*clusters=10"):
        salad(torch.randn(1, 4, 4, 5))
    assert salad(torch.randn(1, 4, 3, 7)).isfinite().all()


def test_a_class_token_that_is_not_there_is_asked_for_with_a_sentence():
    with pytest.raises(
        ValueError, match="salad takes a class token .* Tiny gives none: .* token_dim=0"
    ):
        build_network("Tiny", aggregation="salad", backbone_weights="none")
    args = {"clusters": 3, "token_dim": 0}
    network = build_network("Tiny", None, "salad", "none", aggregation_args=args)
    assert network.out_dim == 3 * 128
