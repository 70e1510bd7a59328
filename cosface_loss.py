"""The CosFace head (Large Margin Cosine Loss), one per group of classes."""

import torch
from torch import nn


class MarginCosineProduct(nn.Module):
    """Logits s(cos(theta) - m) for the true class and s cos(theta) for the others.

    theta is the angle between a descriptor and the weight of a class. The paper sets m = 0.40;
    s = 30 is the published code's.
    """

    def __init__(
        self, in_features: int, out_features: int, s: float = 30.0, m: float = 0.40
    ) -> None:
        """Make one weight per class.

        Args:
            in_features: Length of the descriptors.
            out_features: Number of classes of the group.
            s: Scale of the logits.
            m: Margin, in cosine.
        """
        super().__init__()
        self.s = s
        self.m = m
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, descriptors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the logits for a cross-entropy loss.

        Args:
            descriptors: [B, in_features], of any length and float type.
            labels: Class of each descriptor, 0 to out_features - 1. int64 [B].

        Returns:
            [B, out_features], of the type of the weights: float32 by default.
        """
        similarities = cosines(descriptors, self.weight)
        margins = torch.zeros_like(similarities).scatter_(1, labels[:, None], self.m)
        return self.s * (similarities - margins)


def cosines(descriptors: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each descriptor and each weight.

    In the type of the weight also under autocast: half precision resolves cosines to 1e-3.

    Args:
        descriptors: [B, D], of any length and float type.
        weight: One row per class. float32 or float64 [C, D].

    Returns:
        Of the type of the weight, [B, C].
    """
    with torch.autocast(descriptors.device.type, enabled=False):
        descriptors = descriptors.to(weight.dtype)
        norms = descriptors.norm(dim=1, keepdim=True) * weight.norm(dim=1)  # [B, C]
        return descriptors @ weight.T / norms.clamp(min=1e-8)
