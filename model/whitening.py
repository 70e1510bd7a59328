"""Whitening: the optional last layer of a network, a linear map of descriptors, then L2."""

import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.pooling import ADDED_EPS, L2Norm


class Whitening(nn.Linear):
    """Map descriptors by a matrix with bias, keep the first dimensions, normalise them.

    Dimensions are kept from the first: whitenings have theirs in order of falling variance.
    """

    def __init__(self, in_dim: int, whiten_dim: int, kept_dims: int | None = None) -> None:
        """Make a layer with random weights, which are to be loaded or fitted.

        Args:
            in_dim: Length of the descriptors that come in.
            whiten_dim: Number of whitened dimensions, rows of the matrix.
            kept_dims: Length of the descriptors that go out; None for all whitened dimensions.

        Raises:
            ValueError: If there are fewer dimensions than are to be kept.
        """
        super().__init__(in_dim, whiten_dim)
        self.out_dim = whiten_dim if kept_dims is None else kept_dims
        if not 1 <= self.out_dim <= whiten_dim:
            raise ValueError(f"The whitening has 1 to {whiten_dim} dimensions, not {self.out_dim}")
        self.normalise = L2Norm(ADDED_EPS)

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Whiten [B, in_dim] to [B, out_dim], of unit length, float32 also under autocast."""
        whitened = F.linear(descriptors, self.weight, self.bias)
        return self.normalise(whitened[:, : self.out_dim])
