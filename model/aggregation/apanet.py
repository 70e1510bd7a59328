"""Attention-aware pyramid aggregation: maxima of 120 regions, added up by attention.

APANet (Zhu et al., ACM Multimedia 2018; the authors' MATLAB code). Regions are the overlapping
windows of grids of 2, 4, 6 and 8 a side. Each is scored by its direction; where two blocks of
attention are cascaded, the scores of the second depend on what the first gathered:

    single:  F = mean tanh(v0 r' + b0) r        cascade:  G = mean (v0 r' + b0) r,
    with r' = r / |r|                           v1 = tanh(W G' + b),  F = mean (v1 r') r

The descriptor is F / |F|; power whitening follows it, see `model.whitening`.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.pooling import at_least_float32, linear_or_none, window_of

_BLOCKS = ("cascade", "single")


class APANet(nn.Module):
    """Feature maps [B, C, h, w] of any size to unit descriptors [B, out_dim]."""

    def __init__(self, channels: int, fc_output_dim: int, attention: str = "cascade") -> None:
        """Make the layers.

        Args:
            channels: Of the feature maps.
            fc_output_dim: Length of the descriptors, by a linear layer; 0 for C.
            attention: "cascade" or "single", see the top of this file.

        Raises:
            ValueError: If `attention` is neither.
        """
        super().__init__()
        if attention not in _BLOCKS:
            raise ValueError(
                f"--aggregation_args attention={attention}: choose from {', '.join(_BLOCKS)}"
            )
        self.grids = [2, 4, 6, 8]
        self.score = nn.Linear(channels, 1)
        self.context = nn.Linear(channels, channels) if attention == "cascade" else nn.Identity()
        self.is_cascade = attention == "cascade"
        for layer in (self.score, self.context):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.linear = linear_or_none(channels, fc_output_dim)
        self.out_dim = fc_output_dim or channels

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Aggregate maps, the maxima in float32 also under autocast."""
        maps = at_least_float32(maps)
        regions = torch.cat([grid_maxima(maps, num) for num in self.grids], dim=1)  # [B, 120, C]
        unit = F.normalize(regions, dim=2)
        scores = self.score(unit)  # [B, 120, 1]
        if self.is_cascade:
            gathered = F.normalize((scores * regions).mean(1))
            scores = torch.matmul(unit, torch.tanh(self.context(gathered)).unsqueeze(2))
        else:
            scores = torch.tanh(scores)
        descriptors = F.normalize((scores.to(maps.dtype) * regions).mean(1))
        return F.normalize(self.linear(descriptors).to(maps.dtype))


def grid_maxima(maps: torch.Tensor, num: int) -> torch.Tensor:
    """Return the maxima of num x num windows of maps [B, C, h, w], [B, num * num, C].

    Windows overlap by half, see `window_of`, and are cut at the border: padding never wins. On
    maps so small that a window lies beside them, it has the nearest row or column. Rows come
    first, as in the original.
    """
    height, width = maps.shape[2], maps.shape[3]
    rows = []
    length, stride, padding = window_of(height, num)
    for window in range(num):
        first = min(max(window * stride - padding, 0), height - 1)
        end = max(window * stride - padding + length, first + 1)
        rows.append(maps[:, :, first:end].amax(2))  # [B, C, w]
    bands = torch.stack(rows, dim=1)  # [B, num, C, w]
    columns = []
    length, stride, padding = window_of(width, num)
    for window in range(num):
        first = min(max(window * stride - padding, 0), width - 1)
        end = max(window * stride - padding + length, first + 1)
        columns.append(bands[:, :, :, first:end].amax(3))  # [B, num, C]
    return torch.cat(columns, dim=1)
