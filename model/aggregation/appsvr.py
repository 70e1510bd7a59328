"""NetVLAD with attention to residuals: of locations, of regions, and of clusters.

APPSVR (Peng et al., ICCV 2021): the residuals of a location are weighed by shadows, as in SRALNet;
those of 21 overlapping regions by how salient the region is for the cluster; and the clusters by
weights. Its authors published no code: this is reconstructed from a later module of their group,
which has the same three parts.

With R_kr the sum of weighted residuals in region r, and u_kr its saliency, V_k = sum u_kr R_kr is a
sum over locations with the weights t_k = sum of the u_kr of the regions that a location is in. So
it takes the core of NetVLAD, and no tensor of residuals.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.pooling import window_of
from model.aggregation.sralnet import ShadowedVLAD, nearest_candidates


class APPSVR(ShadowedVLAD):
    """Feature maps [B, C, h, w] of any size to unit descriptors [B, out_dim]."""

    def __init__(
        self, channels: int, fc_output_dim: int, clusters: int = 64, shadows: int = 4
    ) -> None:
        """Make the layers, see `ShadowedVLAD`; assignments are by directions."""
        super().__init__(channels, fc_output_dim, clusters, shadows, vladv2=False)
        self.levels = [1, 2, 4]  # regions along a side
        self.conv_app = nn.ModuleList(
            nn.Conv2d(channels, clusters, 1, bias=False) for _ in self.levels
        )
        self.cluster_weights = nn.Parameter(torch.ones(clusters))

    def forward(self, maps: torch.Tensor, normalise: bool = True) -> torch.Tensor:
        """Aggregate maps, see `NetVLAD`; without `normalise` clusters are not weighed."""
        vlad = self.aggregate(maps, normalise)
        if not normalise:
            return vlad
        vlad = vlad * F.normalize(self.cluster_weights, dim=0).unsqueeze(1)
        return self.project(F.normalize(vlad.flatten(1)))

    def gates(self, maps: torch.Tensor) -> torch.Tensor | None:
        """Return the weights of locations, beta of the shadows times t, [B, K, h w]."""
        unit = F.normalize(maps)
        batch, _, height, width = maps.shape
        saliencies = []
        for level, conv in enumerate(self.conv_app):
            rows = regions_of(maps, height, self.levels[level])
            columns = regions_of(maps, width, self.levels[level])
            sums = torch.matmul(torch.matmul(rows, F.relu(conv(unit))), columns.transpose(0, 1))
            saliencies.append(sums.flatten(2))  # [B, K, level * level]
        saliency = F.normalize(torch.cat(saliencies, dim=2), dim=2)
        spread = torch.zeros(1, dtype=maps.dtype, device=maps.device)
        first = 0
        for num in self.levels:
            rows, columns = regions_of(maps, height, num), regions_of(maps, width, num)
            grid = saliency[:, :, first : first + num * num].reshape(batch, -1, num, num)
            first += num * num
            spread = spread + torch.matmul(torch.matmul(rows.transpose(0, 1), grid), columns)
        return self.beta(unit) * spread.flatten(2)

    @torch.no_grad()
    def set_shadows(self, candidates: torch.Tensor | None, alpha: float, seed: int) -> None:
        """Set the weights of shadows, regions and clusters.

        All shadows but the last are the candidates of the nearest directions, the last one is
        another cluster, at random.
        """
        directions = F.normalize(self.centroids.detach())
        if candidates is not None:
            candidates = F.normalize(candidates)
        nearest = nearest_candidates(directions, candidates, self.num_shadows - 1)
        clusters = len(directions)
        step = np.random.default_rng(seed).integers(1, clusters, size=clusters)
        self.copy_shadows(nearest, (np.arange(clusters) + step) % clusters, alpha)
        for conv in self.conv_app:
            conv.weight.copy_(directions[:, :, None, None])
        self.cluster_weights.fill_(1)

    @torch.no_grad()
    def copy_shadows(self, nearest: torch.Tensor, others: np.ndarray, alpha: float) -> None:
        """Set the weights of shadows to chosen ones.

        Args:
            nearest: Directions of all shadows but the last, [K, S - 1, C].
            others: The cluster that is the last shadow of each, [K].
            alpha: Of the clusters.
        """
        last = self.conv.weight[torch.from_numpy(others)].flatten(1)
        weight = torch.cat((alpha * nearest.to(last.device), last[:, None]), dim=1)
        self.conv_shadow.weight.copy_(weight.flatten(0, 1)[:, :, None, None])


def regions_of(like: torch.Tensor, size: int, num: int) -> torch.Tensor:
    """Return which locations along a side are in which window, 0 or 1, [num, size].

    Args:
        like: Has the type and device.
        size: Of the side.
        num: Number of windows, see `window_of`; those beside small maps are empty.
    """
    length, stride, padding = window_of(size, num)
    firsts = torch.arange(num, device=like.device).unsqueeze(1) * stride - padding
    places = torch.arange(size, device=like.device).unsqueeze(0)
    return ((places >= firsts) & (places < firsts + length)).to(like.dtype)
