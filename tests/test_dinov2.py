"""DINOv2 against timm's own forward pass."""

import pytest
import timm
import torch
import torch.nn.functional as F

from model.backbones.build import build_backbone


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


def maps_of_timm(state, images):
    """Run timm's network of the images' size, with an embedding resized to it."""
    size = images.shape[2:]
    grid = (size[0] // 14, size[1] // 14)
    network = timm.create_model("vit_small_patch14_dinov2", img_size=tuple(size), num_classes=0)
    square = state["pos_embed"][:, 1:].transpose(1, 2).reshape(1, 384, 37, 37)
    if grid != (37, 37):
        square = F.interpolate(square, grid, mode="bicubic")
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
