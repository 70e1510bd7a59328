"""What the table of backbones says about each of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

Weights = dict[str, torch.Tensor]


def _unchanged(module: nn.Module) -> nn.Module:
    return module


def _no_layers(backbone: nn.Module) -> Iterable[nn.Module]:
    return ()


@dataclass(frozen=True)
class Recipe:
    """How a backbone is made out of the whole network that was pretrained, and what it needs."""

    whole: Callable[[], nn.Module]  # random; the names of its tensors are those of `imagenet`
    out_channels: int
    imagenet: Callable[[], Weights]  # the weights that "imagenet" stands for, as their file is
    cut: Callable[[nn.Module], nn.Module] = _unchanged  # whole -> up to the last feature map
    frozen: Callable[[nn.Module], Iterable[nn.Module]] = _no_layers  # by default, as in the paper
    translate: Callable[[Weights], Weights] | None = None  # names in files -> those of `whole`
    unused: tuple[str, ...] | None = None  # else, files may only have more if names begin so
    seqpool: str = ""  # prefix of the weights of a SeqPool among the pretrained ones, if any
    pooling: str = "gem"  # this and the next two hold unless flags say otherwise
    fc_output_dim: int = 512  # 0: no linear layer
    image_size: int | None = None  # side in pixels of training and test images; None: any size
