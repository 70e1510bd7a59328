"""DINOv2 against timm's own forward pass."""

import itertools
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from golden_cases import assert_close, golden
from tiny_backbone import make_dinov2

from model.backbones.build import build_backbone
from model.network import build_network
from reports.heat_maps import class_token_attention


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return an official file of ViT-S, and its content."""
    torch.manual_seed(0)
    state = timm.create_model("vit_small_patch14_dinov2", img_size=518, num_classes=0).state_dict()
    state = {key: torch.randn_like(tensor) * 0.05 for key, tensor in state.items()}
    assert "blocks.0.ls1.gamma" in state and state["pos_embed"].shape == (1, 1370, 384)
    scales = [key for key in state if "norm" in key or key.endswith(".gamma")]
    state |= {key: state[key] + 1 for key in scales if not key.endswith(".bias")}
    path = tmp_path_factory.mktemp("dinov2") / "dinov2_vits14_pretrain.pth"
    torch.save(state | {"mask_token": torch.zeros(1, 384)}, path)
    return path, state


@pytest.fixture(scope="module")
def backbone(weights):
    return build_backbone("DINOv2_S", weights[0]).eval()


def positions_by_hand(table, grid):
    """Resize a table [1, C, s, s] by the bicubic kernel, with scales (side + 0.1) / s."""

    def kernel(x):  # Keys' with a = -0.75
        x = abs(x)
        near = 1.25 * x**3 - 2.25 * x**2 + 1
        far = -0.75 * x**3 + 3.75 * x**2 - 6 * x + 3
        return near if x <= 1 else far if x < 2 else 0.0

    side = table.shape[2]
    for dim, places in enumerate(grid, start=2):
        weights = torch.zeros(places, side, dtype=torch.float64)
        for i in range(places):
            at = (i + 0.5) * side / (places + 0.1) - 0.5
            for j in range(math.floor(at) - 1, math.floor(at) + 3):
                weights[i, min(max(j, 0), side - 1)] += kernel(at - j)
        table = torch.tensordot(table, weights.to(table.dtype), ([dim], [1])).movedim(-1, dim)
    return table


def maps_of_timm(state, images):
    """Run timm's network of the images' size, with an embedding resized to it."""
    size = images.shape[2:]
    grid = (size[0] // 14, size[1] // 14)
    network = timm.create_model("vit_small_patch14_dinov2", img_size=tuple(size), num_classes=0)
    square = state["pos_embed"][:, 1:].transpose(1, 2).reshape(1, 384, 37, 37)
    if grid != (37, 37):
        square = positions_by_hand(square, grid)
    positions = torch.cat((state["pos_embed"][:, :1], square.flatten(2).transpose(1, 2)), 1)
    network.load_state_dict(state | {"pos_embed": positions})
    with torch.no_grad():
        tokens = network.eval().forward_features(images)  # [B, 1 + h * w, 384]
    return tokens[:, 1:].reshape(len(images), *grid, 384).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(518, 518), (70, 112), (224, 224)])
def test_maps_are_timms_patches_after_the_norm(backbone, weights, size):
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = backbone(images)
    expected = maps_of_timm(weights[1], images)
    assert expected.std((2, 3)).mean() > 0.1, "nothing to tell apart"
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "nearest"), [((64, 64), (70, 70)), ((76, 90), (70, 84)), ((63, 62), (70, 56))]
)
def test_other_sizes_are_resized_to_the_nearest_multiples(backbone, size, nearest):
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    resized = F.interpolate(images, nearest, mode="bilinear")
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), backbone(resized), rtol=0, atol=0)


def test_files_of_timm_and_of_the_authors_are_the_same(backbone, weights, tmp_path):
    torch.save(weights[1], tmp_path / "timm.pth")  # without mask_token
    loaded = build_backbone("DINOv2_S", tmp_path / "timm.pth").state_dict()
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(loaded[key], tensor) and torch.equal(weights[1][key], tensor), key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.3.ls1.gamma": None}, r"DINOv2_S lack 1 of 174 .*'blocks\.3\.ls1\.gamma'"),
        ({"pos_embed": torch.zeros(1, 257, 384)}, "lack 1 .*'pos_embed'"),
        ({"register_tokens": torch.zeros(1, 4, 384)}, "another network: .*'register_tokens'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_other_tensors_are_refused_by_name(weights, tmp_path, changes, message):
    state = {k: v for k, v in (weights[1] | changes).items() if v is not None}
    torch.save(state, tmp_path / "weights.pth")
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build_backbone("DINOv2_S", tmp_path / "weights.pth")


def test_weights_of_a_larger_one_do_not_fit(weights):
    with torch.device("meta"), pytest.raises(ValueError, match="for DINOv2_B lack "):
        build_backbone("DINOv2_B", weights[0])


# Against the wrappers of SALAD and BoQ, which resize the positional table in float32


@pytest.fixture
def case():
    return golden("dinov2_wrappers_a")


def tiny_of(case):
    """Return a DINOv2 with the weights of a case, in float64."""
    backbone = make_dinov2(case.meta["cfg"]["E"], case.meta["cfg"]["depth"], num_heads=2).double()
    weights = {key: torch.as_tensor(value) for key, value in case.weights().items()}
    assert weights.pop("mask_token").shape == (1, 12)
    backbone.load_state_dict(weights)
    return backbone


def test_class_tokens_and_maps_are_those_of_salads_wrapper(case):
    backbone, images = tiny_of(case), torch.as_tensor(case["in.x"]).double()
    backbone.gives_class_token = True
    backbone.freeze(1)  # of 3 blocks
    maps, class_tokens = backbone(images)
    assert_close(maps.detach(), case["out.salad_features"], 1e-7)
    assert_close(class_tokens.detach(), case["out.salad_token"], 1e-7)
    (maps * torch.as_tensor(case["in.R"])).sum().add(class_tokens.sum()).backward()
    parameters = dict(backbone.named_parameters())
    for name in case.names("grad."):
        assert_close(parameters[name].grad, case[f"grad.{name}"], 1e-7)
    is_none = {name: bool(case[f"grad_is_none.{name}"]) for name in case.names("grad_is_none.")}
    assert set(is_none.values()) == {True, False}
    assert {name: parameters[name].grad is None for name in is_none} == is_none


def test_without_its_norm_maps_are_those_of_boqs_wrapper(case):
    backbone = tiny_of(case)
    backbone.skip_norm()
    maps = backbone(torch.as_tensor(case["in.x"]).double()).detach()
    assert_close(maps, case["out.boq_features_no_norm"], 1e-7)
    assert (maps - torch.as_tensor(case["out.salad_features"])).abs().max() > 0.1
    assert not backbone.norm.weight.requires_grad and "norm.weight" in backbone.state_dict()


def test_nothing_of_frozen_blocks_is_kept_for_gradients(case):
    images, kept = torch.as_tensor(case["in.x"]).double(), []
    for num_frozen in range(4):
        backbone, sizes = tiny_of(case), []
        backbone.freeze(num_frozen)

        def count(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            backbone(images)
        kept.append(sum(sizes))
    blocks = [more - fewer for more, fewer in itertools.pairwise(kept)]
    assert blocks[0] == blocks[1] > 10 * kept[3] and blocks[2] > 0.9 * blocks[1]


def test_the_attention_of_the_class_token_is_that_of_the_last_block(case):
    backbone, images = tiny_of(case).eval(), torch.as_tensor(case["in.x"]).double()
    seen = []
    attention = backbone.blocks[2].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda layer, given, got: seen.append(got))
    with torch.no_grad():
        found = class_token_attention(backbone, images)
        backbone(images)
    (weights,) = seen  # [1, heads, 1 + h * w, 1 + h * w]
    assert found.shape == (1, 3, 4) and found.std() > 1e-3
    torch.testing.assert_close(found.flatten(1), weights[:, :, 0, 1:].mean(1))


def test_the_descriptor_of_cls_is_the_class_token():
    torch.manual_seed(0)
    network = build_network("TinyDINOv2", aggregation="cls", backbone_weights="none").eval()
    reduced = build_network("TinyDINOv2", 5, "cls", "none").eval()
    reduced.backbone.load_state_dict(network.backbone.state_dict())
    images = torch.randn(3, 3, 56, 70)
    with torch.no_grad():
        tokens = network.backbone.extract_patches(images)[0]
        expected = tokens / tokens.square().sum(1, keepdim=True).sqrt()
        torch.testing.assert_close(network(images), expected)
        linear = reduced.aggregation.linear
        expected = F.normalize(tokens @ linear.weight.T + linear.bias)
        torch.testing.assert_close(reduced(images), expected)
    assert (network.out_dim, reduced.out_dim) == (16, 5)
    assert network.architecture == {
        "backbone": "TinyDINOv2",
        "aggregation": "cls",
        "fc_output_dim": 0,
    }


@pytest.mark.parametrize("name", ["ResNet18", "CCT14_224", "Tiny"])
def test_backbones_without_a_class_token_are_refused(name):
    with torch.device("meta"), pytest.raises(ValueError, match=f"{name} gives none: .* DINOv2_S"):
        build_network(name, aggregation="cls", backbone_weights="none")
