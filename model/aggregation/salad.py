"""SALAD: local descriptors shared out among clusters by optimal transport, and the class token.

SALAD (Izquierdo and Civera, CVPR 2024). Each of n locations has mass 1. Each of m clusters takes
mass 1, and a dustbin the n - m that are left. The plan P between them is what 3 Sinkhorn iterations
give, in logarithms, of the scores S, whose last row is the dustbin's, one learned number:

    u = log [1, ..., 1, n - m] - logsumexp over locations of (S + v),
    v = -logsumexp over clusters and dustbin of (S + u),          P = exp(S + u + v)

from v = 0 (the public code has masses that are n + m times smaller, and multiplies P by n + m). A
cluster is the sum of locations' features weighted by P, of unit length. The descriptor joins the
class token's own features and, dimension by dimension, those of all clusters. MegaLoc (Berton and
Masone, 2025) adds a linear layer. Keys of the state dict are those of the public code.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.pooling import at_least_float32, check_positive, linear_or_none


def salad(
    channels: int,
    fc_output_dim: int,
    clusters: int = 64,
    cluster_dim: int = 128,
    token_dim: int = 256,
    hidden: int = 512,
    dropout: float = 0.3,
) -> "_SALAD":
    """Make the layers, of maps and class tokens or, if `token_dim` is 0, of maps alone.

    Args:
        channels: Of the feature maps and of the class tokens.
        fc_output_dim: Length of the descriptors, by a linear layer; 0 for
            clusters * cluster_dim + token_dim.
        clusters: Their number; maps must have more locations.
        cluster_dim: Numbers of each cluster.
        token_dim: Numbers of the class token; 0: it is not used, for backbones without one.
        hidden: Numbers between the two layers of each projection.
        dropout: Probability at which hidden numbers of maps are zeroed in training, in 0 to 1.

    Raises:
        ValueError: If an option is out of its range.
    """
    check_positive({"clusters": clusters, "cluster_dim": cluster_dim, "hidden": hidden})
    if token_dim < 0:
        raise ValueError(f"--aggregation_args token_dim={token_dim}: it must not be negative")
    if not 0 <= dropout < 1:
        raise ValueError(f"--aggregation_args dropout={dropout}: it must be in 0 to 1, 1 excluded")
    kind = TokenSALAD if token_dim else MapSALAD
    return kind(channels, fc_output_dim, clusters, cluster_dim, token_dim, hidden, dropout)


class _SALAD(nn.Module):
    """What SALAD computes; see the two ways to call it."""

    def __init__(
        self,
        channels: int,
        fc_output_dim: int,
        clusters: int,
        cluster_dim: int,
        token_dim: int,
        hidden: int,
        dropout: float,
    ) -> None:
        """Make the layers, see `salad`."""
        super().__init__()
        self.clusters = clusters

        def of_maps(outputs: int) -> nn.Module:
            first, second = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, outputs, 1)
            return nn.Sequential(first, nn.Dropout(dropout), nn.ReLU(), second)

        if token_dim:
            first, second = nn.Linear(channels, hidden), nn.Linear(hidden, token_dim)
            self.token_features = nn.Sequential(first, nn.ReLU(), second)
        self.cluster_features, self.score = of_maps(cluster_dim), of_maps(clusters)
        self.dust_bin = nn.Parameter(torch.tensor(1.0))
        length = clusters * cluster_dim + token_dim
        self.linear = linear_or_none(length, fc_output_dim)
        self.has_linear = fc_output_dim > 0
        self.out_dim: int = fc_output_dim or length

    def join(self, clusters: torch.Tensor) -> torch.Tensor:
        """Scale [B, D] to unit length, through the linear layer if there is one."""
        descriptors = F.normalize(clusters)
        if not self.has_linear:
            return descriptors
        return F.normalize(at_least_float32(self.linear(descriptors)))

    def clusters_of(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the clusters of maps [B, C, h, w], [B, cluster_dim * clusters]."""
        masses = self.masses(maps).flatten(2).transpose(1, 2)  # [B, h * w, clusters]
        features = at_least_float32(self.cluster_features(maps).flatten(2))
        if torch.jit.is_scripting():
            gathered = torch.matmul(features, masses)
        else:
            with torch.autocast(maps.device.type, enabled=False):
                gathered = torch.matmul(features, masses)  # [B, cluster_dim, clusters]
        return F.normalize(gathered, dim=1).flatten(1)

    def masses(self, maps: torch.Tensor) -> torch.Tensor:
        """Return how much of each location a cluster takes, [B, clusters, h, w].

        They are 0 to 1; what is missing to 1 at a location is the dustbin's.

        Raises:
            ValueError: If maps have no more locations than there are clusters.
        """
        if not torch.jit.is_scripting():
            self.check_size(maps)
        scores = at_least_float32(self.score(maps))
        batch, num, height, width = scores.shape
        scores = scores.flatten(2)
        dust_bin = self.dust_bin.to(scores.dtype).expand(batch, 1, height * width)
        scores = torch.cat((scores, dust_bin), dim=1)  # [B, clusters + 1, h * w]
        left = torch.ones_like(scores[0, 0]).sum() - num  # of the mass; a tensor, for ONNX
        of_rows = torch.cat((torch.zeros_like(scores[0, :num, 0]), left.log()[None]))[:, None]
        v = torch.zeros_like(scores[:, :1])
        u = torch.zeros_like(scores[:, :, :1])
        for _ in range(3):  # exactly: published weights were trained with what these leave over
            u = of_rows - torch.logsumexp(scores + v, dim=2, keepdim=True)
            v = -torch.logsumexp(scores + u, dim=1, keepdim=True)
        plan = (scores + u + v).exp()
        return plan[:, :num].reshape(batch, num, height, width)

    def check_size(self, maps: torch.Tensor) -> None:
        """Raise a ValueError if maps have too few locations."""
        locations = maps.shape[2] * maps.shape[3]
        if locations <= self.clusters:
            raise ValueError(
                f"salad shares locations out among {self.clusters} clusters and needs more of "
                f"them: the map of these images has {locations}. Give larger images, or "
                f"--aggregation_args clusters={max(locations // 2, 1)}"
            )


class TokenSALAD(_SALAD):
    """Pairs of feature maps [B, C, h, w] and class tokens [B, C] to unit descriptors."""

    takes_class_token = True

    def forward(self, features: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Aggregate maps, plan and sums in float32 also under autocast; see `masses`."""
        maps, class_tokens = features
        token = F.normalize(at_least_float32(self.token_features(class_tokens)))
        return self.join(torch.cat((token, self.clusters_of(maps)), dim=1))


class MapSALAD(_SALAD):
    """Feature maps [B, C, h, w] to unit descriptors, without a class token."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Aggregate maps, plan and sums in float32 also under autocast; see `masses`."""
        return self.join(self.clusters_of(maps))
