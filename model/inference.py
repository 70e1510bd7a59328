"""Networks for inference only: the same descriptors, up to rounding, in less time.

Each BatchNorm goes into the convolution before it, and weights and images are laid out channels
last, which is how convolutions compute fastest, on CPUs and on GPUs. On a CPU, batches go through
in small passes.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.network import GeoLocalizationNet
from model.other_models import OtherModel

Model = Callable[[torch.Tensor], torch.Tensor]
_CHANNELS_LAST_DEVICES = ("cpu", "cuda")  # others compute in the layout that they choose
# On a CPU. The features of more pixels take blocks of memory that the C library (glibc, from 32 MB
# on) returns to the system: to allocate them for each layer took up to half of the time.
_PIXELS_PER_PASS = 512 * 512


def optimize(model: nn.Module) -> Model:
    """Return a faster model with the same descriptors, to 1e-5.

    Args:
        model: In evaluation mode, on the device where it is to compute; it is not changed, and
            the returned model shares no weights with it.

    Returns:
        A function of images, float32 [B, 3, H, W], of any sizes; the model itself if it is none of
        ours, since nothing is known of its parts.
    """
    network = model.model if isinstance(model, OtherModel) else model
    if not isinstance(network, GeoLocalizationNet):
        return model
    # Copied without gradients, which training may have left.
    weights = {
        id(weight): nn.Parameter(weight.detach().clone(), requires_grad=False)
        for weight in network.parameters()
    }
    network = copy.deepcopy(network, memo=weights)
    fold_batch_norms(network.backbone)
    device = next(network.parameters()).device
    return _ChannelsLast(network) if device.type in _CHANNELS_LAST_DEVICES else network


class _ChannelsLast(nn.Module):
    """A network whose weights and images are laid out with the channels of a pixel together."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        if images.device.type != "cpu":
            return self.network(images)
        num_pixels = images.shape[2] * images.shape[3]
        passes = images.split(max(_PIXELS_PER_PASS // num_pixels, 1))
        return torch.cat([self.network(part) for part in passes])


def fold_batch_norms(backbone: nn.Module) -> None:
    """Put every BatchNorm that follows a convolution into its weights, in place.

    Args:
        backbone: In evaluation mode.
    """
    for conv_name, norm_name in list(_find_pairs(backbone)):
        norm = backbone.get_submodule(norm_name)
        conv = fuse_conv_bn_eval(backbone.get_submodule(conv_name), norm)
        _replace(backbone, conv_name, conv.requires_grad_(False))
        _replace(backbone, norm_name, getattr(norm, "act", nn.Identity()))  # timm's also activate


def _find_pairs(backbone: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield names of convolutions, and of the BatchNorm that alone takes their output."""
    layers = dict(backbone.named_modules())
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in layers.values()):
        return
    for call in _Tracer().trace(backbone).nodes:
        if call.op == "call_module" and isinstance(layers[call.target], nn.BatchNorm2d):
            before = call.args[0]
            is_conv = before.op == "call_module" and isinstance(layers[before.target], nn.Conv2d)
            if is_conv and len(before.users) == 1:
                yield before.target, call.target


class _Tracer(fx.Tracer):
    """Traces all but convolutions and BatchNorms, of which timm has kinds of its own."""

    def is_leaf_module(self, layer: nn.Module, name: str) -> bool:
        is_ours = isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))
        return is_ours or super().is_leaf_module(layer, name)


def _replace(backbone: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own_name = name.rpartition(".")
    setattr(backbone.get_submodule(parent), own_name, layer)
