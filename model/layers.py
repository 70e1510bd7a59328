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


POOLINGS = {"gem": GeM, "avg": AvgPool, "max": MaxPool}
