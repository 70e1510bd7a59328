"""What all transformer backbones have in common."""

import pytest
import torch
import torch.nn.functional as F

from model.aggregation.pooling import GeM, NoPool, SeqPool
from model.backbones import BACKBONES, find_spec
from model.backbones.build import build_backbone
from model.backbones.transformers import resize_positions
from model.checkpoints import load_network
from model.network import build_network
from model.resizing import choose_resize

CNNS = [name for name, spec in BACKBONES.items() if spec.family.startswith("cnns:")]

EMBEDDINGS = {"patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed"}
CCT_EMBEDDINGS = {f"tokenizer.conv_layers.{i}.0.weight" for i in (0, 1)} | {"positional_emb"}
# name -> channels, pooling, descriptor length, image size, pixels between places, blocks
TRANSFORMERS = {
    "ViT_B16": (768, NoPool, 768, 224, None, 12),
    "CCT14_224": (384, SeqPool, 384, 224, 16, 14),
    "CCT14_384": (384, SeqPool, 384, 384, 16, 14),
    "DINOv2_S": (384, GeM, 512, 224, 14, 12),
    "DINOv2_B": (768, GeM, 512, 224, 14, 12),
    "DINOv2_L": (1024, GeM, 512, 224, 14, 24),
}
names = pytest.mark.parametrize("name", TRANSFORMERS)


def build_on_meta(name, **settings):
    with torch.device("meta"):
        return build_network(name, backbone_weights="none", **settings)


def images_on_meta(height, width):
    return torch.empty(2, 3, height, width, device="meta")


@names
@pytest.mark.parametrize("size", [(224, 224), (32, 32), (65, 97)])
def test_maps_and_descriptors_at_any_size(name, size):
    channels, _, dim, _, stride, _ = TRANSFORMERS[name]
    network = build_on_meta(name).eval()
    places = (1, 1)
    if name.startswith("CCT"):  # strides that round up
        places = tuple(-(-side // stride) for side in size)
    elif stride is not None:  # to the nearest
        places = tuple(round(side / stride) for side in size)
    assert network.backbone(images_on_meta(*size)).shape == (2, channels, *places)
    assert network(images_on_meta(*size)).shape == (2, dim)
    assert network.backbone.out_channels == channels and network.out_dim == dim


@names
def test_defaults_of_the_backbone(name):
    channels, pooling, dim, image_size, _, _ = TRANSFORMERS[name]
    network = build_on_meta(name)
    assert type(network.aggregation[1]) is pooling and network.image_size == image_size
    has_linear = dim != channels
    assert ("aggregation.3.weight" in network.state_dict()) == has_linear
    expected = {"ViT_B16": "none", "CCT14_224": "seqpool", "CCT14_384": "seqpool"}.get(name, "gem")
    assert network.architecture == {
        "backbone": name,
        "aggregation": expected,
        "fc_output_dim": dim if has_linear else 0,
    }


@names
@pytest.mark.parametrize("num_blocks", [0, 1, 3])
def test_gradients_reach_all_that_is_trained_and_nothing_frozen(name, num_blocks):
    network = build_on_meta(name, freeze_te=num_blocks).train()
    network(images_on_meta(64, 64)).sum().backward()
    embeddings = CCT_EMBEDDINGS if name.startswith("CCT") else EMBEDDINGS
    first = tuple(f"backbone.blocks.{i}." for i in range(num_blocks))
    frozen = {f"backbone.{key}" for key in embeddings} if num_blocks else set()
    parameters = dict(network.named_parameters())
    assert frozen <= set(parameters)
    frozen |= {key for key in parameters if num_blocks and key.startswith(first)}
    assert {key for key, parameter in parameters.items() if not parameter.requires_grad} == frozen
    assert {key for key, parameter in parameters.items() if parameter.grad is None} == frozen


@names
def test_only_the_last_blocks_and_what_follows_are_trained(name):
    network = build_on_meta(name, train_last_blocks=2).train()
    network(images_on_meta(64, 64)).sum().backward()
    num_blocks = TRANSFORMERS[name][5]
    last = (f"backbone.blocks.{num_blocks - 2}.", f"backbone.blocks.{num_blocks - 1}.")
    last += ("backbone.norm.", "backbone.pooler.", "aggregation.")
    parameters = dict(network.named_parameters())
    trained = {key for key in parameters if key.startswith(last)}
    assert len(trained) > 4
    assert {key for key, parameter in parameters.items() if parameter.requires_grad} == trained
    assert {key for key, parameter in parameters.items() if parameter.grad is not None} == trained


def test_gradients_are_not_zero_and_frozen_weights_stay():
    torch.manual_seed(0)
    network = build_network("CCT14_224", backbone_weights="none", freeze_te=2).train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1.0)
    network(torch.randn(2, 3, 64, 64))[:, 0].sum().backward()
    optimizer.step()
    frozen = ("backbone.tokenizer.", "backbone.positional_emb", "backbone.blocks.0.")
    frozen += ("backbone.blocks.1.",)
    for key, tensor in network.state_dict().items():
        change = (tensor - before[key]).abs().max()
        if key.startswith(frozen):
            assert change == 0, key
        elif key == "aggregation.1.attention.bias":  # the softmax cancels it, but for rounding
            assert change < 1e-6, key
        else:
            assert change > 1e-5, key


@names
def test_checkpoints_tell_the_network(name, tmp_path):
    """Tensors of one number each: what matters are keys and shapes."""
    network = build_on_meta(name)
    state = {
        key: torch.tensor(float(number)).expand(value.shape) if torch.is_tensor(value) else value
        for number, (key, value) in enumerate(network.state_dict().items())
    }
    torch.save(state, tmp_path / "best_model.pth")
    loaded = load_network(tmp_path / "best_model.pth", freeze_te=1)
    assert loaded.architecture == network.architecture
    assert (loaded.out_dim, loaded.image_size) == (network.out_dim, network.image_size)
    assert not loaded.backbone.blocks[0].norm1.weight.requires_grad
    assert set(loaded.state_dict()) == set(state)
    for key, value in loaded.state_dict().items():
        same = torch.equal(value, state[key]) if torch.is_tensor(value) else value == state[key]
        assert same, key


@pytest.mark.parametrize("settings", [{}, {"aggregation": "gem", "fc_output_dim": 24}], ids=str)
def test_a_saved_network_gives_the_same_descriptors(settings, tmp_path):
    torch.manual_seed(0)
    network = build_network("CCT14_224", backbone_weights="none", **settings).eval()
    torch.save(network.state_dict(), tmp_path / "best_model.pth")
    loaded = load_network(tmp_path / "best_model.pth").eval()
    images = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        descriptors = network(images)
        assert torch.equal(loaded(images), descriptors)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("pooling", ["gem", "avg", "max", "seqpool"])
def test_cnns_without_a_linear_layer(pooling, tmp_path):
    torch.manual_seed(0)
    network = build_network("ResNet18", 0, pooling, "none").eval()
    torch.save(network.state_dict(), tmp_path / "best_model.pth")
    loaded = load_network(tmp_path / "best_model.pth").eval()
    assert loaded.architecture == {
        "backbone": "ResNet18",
        "aggregation": pooling,
        "fc_output_dim": 0,
    }
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = network.backbone(images)
        if pooling != "seqpool":
            maps = maps / maps.norm(dim=1, keepdim=True)
        expected = network.aggregation[1](maps)[:, :, 0, 0]
        expected = expected / expected.norm(dim=1, keepdim=True)
        descriptors = loaded(images)
    assert descriptors.shape == (2, 512) and loaded.out_dim == 512
    torch.testing.assert_close(descriptors, expected)


def test_cnns_have_the_defaults_of_the_paper():
    assert {(s.aggregation, s.fc_output_dim, s.image_size) for s in map(find_spec, CNNS)} == {
        ("gem", 512, None)
    }


def test_seqpool_is_a_mean_weighted_by_a_softmax():
    torch.manual_seed(0)
    pooling, maps = SeqPool(5), torch.randn(2, 5, 3, 4)
    weight, bias = pooling.attention.weight[0], pooling.attention.bias
    with torch.no_grad():
        pooled = pooling(maps)
        for number in range(2):
            places = [maps[number, :, y, x] for y in range(3) for x in range(4)]
            exponentials = [torch.exp(place @ weight + bias) for place in places]
            total = sum(exponentials)
            expected = sum(e / total * p for e, p in zip(exponentials, places, strict=True))
            torch.testing.assert_close(pooled[number, :, 0, 0], expected)


def test_no_pooling_is_for_maps_of_one_location():
    maps = torch.randn(2, 5, 1, 1)
    assert torch.equal(NoPool()(maps), maps)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        NoPool()(torch.randn(2, 5, 1, 2))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_positions_are_untouched_on_the_native_grid_only(mode):
    positions = torch.randn(1, 9, 4)
    assert resize_positions(positions, 3, 3, 3, mode) is positions
    assert resize_positions(positions, 3, 1, 9, mode).shape == (1, 9, 4)
    ramp = torch.arange(3.0).repeat(3)[None, :, None]  # each row 0, 1, 2
    wide = resize_positions(ramp, 3, 2, 6, mode).reshape(2, 6)
    torch.testing.assert_close(wide[0], wide[1])
    assert (wide[0].diff() >= 0).all() and wide[0].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("size", [(4, 9), (12, 3), (1, 2)])
def test_bicubic_positions_equal_an_interpolation_with_their_scales(size, offset):
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(1, 25, 3, generator=generator, dtype=torch.float64)
    grid = positions.transpose(1, 2).reshape(1, 3, 5, 5)
    scales = [(side + offset) / 5 for side in size]
    expected = F.interpolate(grid, scale_factor=scales, mode="bicubic")
    assert expected.shape[2:] == size
    resized = resize_positions(positions, 5, *size, "bicubic", offset)
    torch.testing.assert_close(resized, expected.flatten(2).transpose(1, 2))


# What does not go together


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ResNet18", {"freeze_te": 2}, "--freeze_te 2 freezes blocks .* ResNet18 is none"),
        ("EfficientNet_Lite0", {"freeze_te": 1}, "EfficientNet_Lite0 is none"),
        ("CCT14_224", {"freeze_te": 15}, "--freeze_te 15: there are 14 blocks"),
        ("CCT14_224", {"freeze_te": 1, "train_all_layers": True}, "give one of them"),
        ("ResNet18", {"train_last_blocks": 2}, "ResNet18 is none: give --train_last_blocks 0. Its"),
        ("CCT14_224", {"train_last_blocks": 15}, "--train_last_blocks 15: there are 14 blocks"),
        (
            "CCT14_224",
            {"train_last_blocks": 1, "train_all_layers": True},
            "--train_last_blocks 1 and --train_all_layers: give one of them",
        ),
        (
            "DINOv2_S",
            {"train_last_blocks": 4, "freeze_te": 8},
            "--freeze_te 8 and --train_last_blocks 4: give one of them, and 0 for what a method",
        ),
        (
            "ResNet18",
            {"aggregation": "none"},
            "none: ResNet18 gives a map of many locations",
        ),
        (
            "DINOv2_S",
            {"aggregation": "none"},
            "none: DINOv2_S gives a map .* choose from gem",
        ),
        (
            "ViT_B16",
            {"aggregation": "gem"},
            "gem: ViT_B16 gives one vector .* choose from none",
        ),
        ("CCT14_224", {"fc_output_dim": -1}, "--fc_output_dim must not be negative, it is -1"),
        ("CCT14_224", {"aggregation": "nothing"}, "Unknown aggregation 'nothing'"),
    ],
)
def test_contradictions_are_sentences(name, settings, message):
    with pytest.raises(ValueError, match=message):
        build_on_meta(name, **settings)


def test_train_all_layers_is_what_transformers_do_anyway():
    network = build_on_meta("CCT14_224", train_all_layers=True)
    assert all(parameter.requires_grad for parameter in network.parameters())


# Where weights come from


URLS = {
    "ViT_B16": "https://huggingface.co/google/vit-base-patch16-224-in21k/resolve/main/"
    "model.safetensors",
    "CCT14_224": "https://shi-labs.com/projects/cct/checkpoints/pretrained/"
    "cct_14_7x2_224_imagenet.pth",
    "CCT14_384": "https://shi-labs.com/projects/cct/checkpoints/finetuned/"
    "cct_14_7x2_384_imagenet.pth",
    **{
        f"DINOv2_{kind.upper()}": "https://dl.fbaipublicfiles.com/dinov2/"
        f"dinov2_vit{kind}14/dinov2_vit{kind}14_pretrain.pth"
        for kind in "sbl"
    },
}


@names
def test_a_failed_download_names_the_url_and_the_alternatives(name, tmp_path, monkeypatch):
    def no_network(url, *_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with torch.device("meta"), pytest.raises(FileNotFoundError) as error:
        build_backbone(name)
    for text in (URLS[name], "no route", "--backbone_weights PATH", "none", str(tmp_path)):
        assert text in str(error.value)
    assert not list((tmp_path / "checkpoints").iterdir())


# The size of test images


@pytest.mark.parametrize(
    ("asked", "image_size", "own", "expected"),
    [
        (None, None, None, None),
        (None, 64, None, None),
        ("", None, None, "512"),
        ("", 48, None, "48"),
        ("480", 48, None, "480"),
        ("none", None, None, "none"),
        (None, None, 224, "224x224"),
        (None, 64, 224, "64x64"),
        ("", None, 224, "224"),
        ("", 64, 224, "64"),
        ("none", 64, 224, "none"),
        ("64x64", None, 224, "64x64"),
    ],
)
def test_test_images_have_the_size_of_the_backbone_unless_flags_say(
    asked, image_size, own, expected
):
    model = build_network("ResNet18", 8, backbone_weights="none")
    model.image_size = own
    assert choose_resize(asked, image_size, model) == expected
    if own is None:
        assert choose_resize(asked, image_size, torch.nn.Identity()) == expected
        assert choose_resize(asked, image_size) == expected
