"""Layers between the feature map of a backbone and the descriptor."""

import torch
import torch.nn.functional as F
from torch import nn


class L2Norm(nn.Module):
    """Scale vectors along dimension 1 to unit length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [B, C, ...] along C, each location on its own; float32 also under autocast."""
        return F.normalize(x.float(), p=2.0, dim=1)


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
    """A pooling without parameters: its name in the state dict is all that tells it from others."""

    name = ""

    def get_extra_state(self) -> str:
        """Return the name, kept in checkpoints."""
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
    """For maps of one place, which are descriptors already."""

    name = "none"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, C, 1, 1] as it is; fails on larger maps."""
        return x.reshape(x.shape[0], x.shape[1], 1, 1)


class SeqPool(nn.Module):
    """Attention pooling of CCT: the mean of all places, weighted by a softmax over them."""

    def __init__(self, channels: int) -> None:
        """Make the layer that gives each place its logit."""
        super().__init__()
        self.attention = nn.Linear(channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool [B, C, h, w] to [B, C, 1, 1]."""
        batch, channels, _, _ = x.shape
        places = x.reshape(batch, channels, -1)
        weights = self.attention(places.transpose(1, 2)).softmax(dim=1)  # [B, h * w, 1]
        return (places @ weights).reshape(batch, channels, 1, 1)


POOLINGS = {"gem": GeM, "avg": AvgPool, "max": MaxPool, "seqpool": SeqPool, "none": NoPool}


def make_pooling(name: str, channels: int) -> nn.Module:
    """Make a pooling layer for maps of so many channels.

    Raises:
        ValueError: If the name is no key of POOLINGS.
    """
    if name not in POOLINGS:
        raise ValueError(f"Unknown pooling '{name}': choose from {', '.join(POOLINGS)}")
    return SeqPool(channels) if name == "seqpool" else POOLINGS[name]()
