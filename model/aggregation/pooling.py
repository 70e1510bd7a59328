"""Aggregation by pooling: a vector per image, a linear layer if asked for, L2.

Keys of the state dicts are those of the published CosPlace checkpoints: `1.p` is the exponent of
GeM, `3.weight` and `3.bias` are the linear layer, which is missing where there is none.
"""

import torch
import torch.nn.functional as F
from torch import nn

ADDED_EPS = 1e-6  # of the L2 in networks for landmark retrieval
_L2 = {  # option of GeM: L2 of each location before the pooling, and of the descriptor at the end
    "both": (True, True),
    "before_pool": (True, False),
    "after_pool": (False, True),
    "none": (False, False),
}


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float32, or unchanged if it is float64; for sums under autocast."""
    return x if x.dtype == torch.float64 else x.float()


def linear_or_none(inputs: int, outputs: int) -> nn.Module:
    """Return a linear layer; one that changes nothing if `outputs` is 0."""
    return nn.Linear(inputs, outputs) if outputs else nn.Identity()


def check_positive(options: dict[str, int]) -> None:
    """Raise a ValueError if one of the options of an aggregation is below 1."""
    for name, value in options.items():
        if value < 1:
            raise ValueError(f"--aggregation_args {name}={value}: it must be at least 1")


class L2Norm(nn.Module):
    """Scale vectors along dimension 1 to unit length."""

    def __init__(self, added_eps: float = 0.0) -> None:
        """Make the layer.

        Args:
            added_eps: Added to the length that vectors are divided by.
        """
        super().__init__()
        self.added_eps = added_eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [B, C, ...] along C, each location on its own; float32 also under autocast."""
        x = x.float()
        if self.added_eps > 0:
            return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + self.added_eps)
        return F.normalize(x, p=2.0, dim=1)


class GeM(nn.Module):
    """Generalised mean pooling, (mean of max(x, eps)^p)^(1/p) per channel, with a learnable p."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        """Start at exponent p; values below eps count as eps."""
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * p)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool [B, C, h, w] to [B, C, 1, 1], in float32 also under autocast."""
        powers = x.float().clamp(min=self.eps).pow(self.p)
        return powers.mean((2, 3), keepdim=True).pow(1.0 / self.p)


class _PlainPooling(nn.Module):
    """A pooling without parameters: its name in the state dict distinguishes it from others."""

    name = ""

    def get_extra_state(self) -> str:
        """Return the name, which checkpoints have."""
        return self.name

    def set_extra_state(self, state: str) -> None:
        """Refuse the checkpoint of another pooling."""
        if state != self.name:
            raise ValueError(f"The checkpoint's pooling is {state}, the network's is {self.name}")


class AvgPool(_PlainPooling):
    """Average pooling."""

    name = "avg"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool [B, C, h, w] to [B, C, 1, 1]."""
        return x.mean((2, 3), keepdim=True)


class MaxPool(_PlainPooling):
    """Max pooling."""

    name = "max"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool [B, C, h, w] to [B, C, 1, 1]."""
        return x.amax((2, 3), keepdim=True)


class NoPool(_PlainPooling):
    """For maps of one location, which are descriptors already."""

    name = "none"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, C, 1, 1] unchanged; fails on larger maps."""
        return x.reshape(x.shape[0], x.shape[1], 1, 1)


class SeqPool(nn.Module):
    """Attention pooling of CCT: the mean over all locations, weighted by a softmax over them."""

    def __init__(self, channels: int) -> None:
        """Make the layer that gives each location its logit."""
        super().__init__()
        self.attention = nn.Linear(channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool [B, C, h, w] to [B, C, 1, 1]."""
        batch, channels, _, _ = x.shape
        locations = x.reshape(batch, channels, -1)
        weights = self.attention(locations.transpose(1, 2)).softmax(dim=1)  # [B, h * w, 1]
        return (locations @ weights).reshape(batch, channels, 1, 1)


class ClassToken(nn.Module):
    """The class token of a transformer, linear if asked for, L2; the map is not used."""

    takes_class_token = True

    def __init__(self, channels: int, fc_output_dim: int) -> None:
        """Make the layers; descriptors have `fc_output_dim` numbers, or `channels` if it is 0."""
        super().__init__()
        self.linear = linear_or_none(channels, fc_output_dim)
        self.l2 = L2Norm()
        self.out_dim: int = fc_output_dim or channels

    def forward(self, features: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Turn maps [B, C, h, w] and class tokens [B, C] into descriptors [B, out_dim]."""
        return self.l2(self.linear(features[1]))


def window_of(size: int, num: int) -> tuple[int, int, int]:
    """Return length, stride and padding before of windows along one side of a map.

    They overlap by half and cover the side; the first begins `padding` before it. The rule of
    APANet and APPSVR.

    Args:
        size: Of the side.
        num: Number of windows.
    """
    length = (2 * size + num) // (num + 1)  # both divisions round up
    stride = (size + num) // (num + 1)
    return length, stride, ((num - 1) * stride + length - size) // 2


def gem(channels: int, fc_output_dim: int, l2: str = "both") -> nn.Module:
    """L2, GeM, linear, L2: the aggregation of CosPlace (paper, section 4.1).

    Args:
        channels: Of the feature maps.
        fc_output_dim: Length of the descriptors; 0 for no linear layer.
        l2: Which of the two L2 there are: "both", or "before_pool", "after_pool" or "none" as in
            the deep visual geo-localization benchmark, whose GeM has "before_pool" by default.

    Raises:
        ValueError: If `l2` is none of these.
    """
    if l2 not in _L2:
        raise ValueError(f"--aggregation_args l2={l2}: choose from {', '.join(_L2)}")
    first, last = (L2Norm() if there else nn.Identity() for there in _L2[l2])
    return _join([first, GeM()], channels, fc_output_dim, last)


def gem_plain(channels: int, fc_output_dim: int) -> nn.Module:
    """GeM, linear, L2, as in networks for landmark retrieval (Radenovic et al.).

    Its tensors have other names than those of `gem`, `0.p` and `2.weight`: it lacks the first L2.
    """
    return _join([GeM()], channels, fc_output_dim, L2Norm(ADDED_EPS))


def average(channels: int, fc_output_dim: int) -> nn.Module:
    """L2, average pooling, linear, L2 (paper, Table 1)."""
    return _join([L2Norm(), AvgPool()], channels, fc_output_dim)


def maximum(channels: int, fc_output_dim: int) -> nn.Module:
    """L2, max pooling, linear, L2 (paper, Table 1)."""
    return _join([L2Norm(), MaxPool()], channels, fc_output_dim)


# The next two follow transformers, which were pretrained with the scale of their features.


def seqpool(channels: int, fc_output_dim: int) -> nn.Module:
    """Attention pooling, linear, L2: of CCT."""
    return _join([nn.Identity(), SeqPool(channels)], channels, fc_output_dim)


def none(channels: int, fc_output_dim: int) -> nn.Module:
    """Linear, L2: for a backbone that gives one vector, ViT."""
    return _join([nn.Identity(), NoPool()], channels, fc_output_dim)


def _join(
    first: list[nn.Module], channels: int, fc_output_dim: int, last: nn.Module | None = None
) -> nn.Module:
    """Join a pooling, with the layer before it, to a linear layer and an L2."""
    linear = [nn.Linear(channels, fc_output_dim)] if fc_output_dim else []
    layers = nn.Sequential(*first, nn.Flatten(), *linear, last or L2Norm())
    layers.out_dim = fc_output_dim or channels
    return layers
