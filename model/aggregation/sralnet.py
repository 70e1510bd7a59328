"""NetVLAD whose clusters have shadows: what looks like people, vehicles or sky counts less.

SRALNet (Peng et al., ICRA 2021). Each cluster has shadow centroids beside its own, and a location's
residual is weighed by the share that the own centroid has among them:

    beta_k = exp(l_k) / (exp(l_k) + sum over shadows of exp(l_kj))
    V_k = sum over locations of a_k beta_k (f - c_k)

with logits l of the same form as NetVLAD's. Its authors published no code: this is reconstructed
from a later paper that restates it, and from a public port whose known faults are left out (biases
of squared norms, beta multiplied).
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.netvlad import NetVLAD, find_centroids

# Classes of Cityscapes by their training ids, for `initialise`.
STATIC = (0, 2, 3, 5, 6, 7, 8)  # road, building, wall, pole, traffic light and sign, vegetation
MOVING = (10, 11, 12, 13, 14, 15, 16, 17, 18)  # sky, person, rider, car and other vehicles


class ShadowedVLAD(NetVLAD):
    """NetVLAD with shadow centroids; feature maps [B, C, h, w] to unit descriptors [B, out_dim]."""

    def __init__(
        self, channels: int, fc_output_dim: int, clusters: int, shadows: int, vladv2: bool
    ) -> None:
        """Make the layers; see `NetVLAD`.

        Args:
            channels: Of the feature maps.
            fc_output_dim: Length of the descriptors, by a linear layer; 0 for clusters * channels.
            clusters: Number of clusters, K.
            shadows: Number of shadows of each, S.
            vladv2: Kind of the assignments of both.

        Raises:
            ValueError: If there are fewer than 2 clusters, or no shadows.
        """
        super().__init__(channels, fc_output_dim, clusters, vladv2)
        if shadows < 1:
            raise ValueError(f"--aggregation_args shadows={shadows}: needed is 1 at least")
        self.num_shadows = shadows
        self.conv_shadow = nn.Conv2d(channels, clusters * shadows, 1, bias=vladv2)  # row k * S + s

    def gates(self, maps: torch.Tensor) -> torch.Tensor | None:
        """Return beta, [B, K, h w]."""
        return self.beta(F.normalize(maps))

    def beta(self, unit: torch.Tensor) -> torch.Tensor:
        """Return the own centroids' shares, [B, K, h w], of maps with locations of unit length."""
        own, shadows = self.conv(unit).flatten(2), self.conv_shadow(unit).flatten(2)
        batch, clusters, locations = own.shape
        shadows = shadows.reshape(batch, clusters, -1, locations)
        return torch.sigmoid(own - shadows.logsumexp(2))

    def initialise(
        self, local_descriptors: torch.Tensor, seed: int, labels: torch.Tensor | None = None
    ) -> None:
        """Start from clusters of what stands still, and shadows of what moves.

        Args:
            local_descriptors: float32 [N, C], of unit length.
            seed: Of k-means and of random choices.
            labels: int64 [N], the training ids of Cityscapes; None if nothing is known of the
                descriptors: clusters are of all of them then, and have each other as shadows.

        Raises:
            ValueError: If there are fewer descriptors than clusters, fewer candidates than shadows,
                or all descriptors are equal.
        """
        standing = local_descriptors
        if labels is not None:
            standing = local_descriptors[torch.isin(labels, torch.tensor(STATIC))]
        centroids = find_centroids(standing, len(self.centroids), seed)
        alpha = self.set_centroids(centroids, standing)
        moving = None if labels is None else means_of_moving(local_descriptors, labels)
        self.set_shadows(moving, alpha, seed)

    def set_shadows(self, candidates: torch.Tensor | None, alpha: float, seed: int) -> None:
        """Set the weights of the shadows.

        Args:
            candidates: Centres of what moves, [n, C]; None: the other centroids.
            alpha: Of the clusters.
            seed: Of random choices.
        """
        raise NotImplementedError


class SRALNet(ShadowedVLAD):
    """The shadows are the nearest candidates."""

    def __init__(
        self, channels: int, fc_output_dim: int, clusters: int = 64, shadows: int = 4
    ) -> None:
        """Make the layers, see `ShadowedVLAD`."""
        super().__init__(channels, fc_output_dim, clusters, shadows, vladv2=True)

    @torch.no_grad()
    def set_shadows(self, candidates: torch.Tensor | None, alpha: float, seed: int) -> None:
        """Set the weights of the shadows, w = 2 alpha s and b = -alpha |s|^2."""
        nearest = nearest_candidates(self.centroids, candidates, self.num_shadows).flatten(0, 1)
        self.conv_shadow.weight.copy_(2 * alpha * nearest[:, :, None, None])
        self.conv_shadow.bias.copy_(-alpha * nearest.square().sum(1))


def means_of_moving(local_descriptors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean descriptor of each class that moves and occurs, [n, C]."""
    found = [local_descriptors[labels == label] for label in MOVING]
    means = [descriptors.mean(0) for descriptors in found if len(descriptors)]
    return torch.stack(means) if means else local_descriptors[:0]


def nearest_candidates(
    centroids: torch.Tensor, candidates: torch.Tensor | None, num: int
) -> torch.Tensor:
    """Return the candidates that are nearest to each centroid, nearest first, [K, num, C].

    Args:
        centroids: [K, C].
        candidates: [n, C]; None: the other centroids.
        num: Number for each.

    Raises:
        ValueError: If there are fewer candidates.
    """
    centroids = centroids.detach()
    others = centroids if candidates is None else candidates.to(centroids.device)
    num_candidates = len(others) - (candidates is None)
    if num_candidates < num:
        kind = "other clusters" if candidates is None else "classes that move in the labels given"
        raise ValueError(
            f"--aggregation_args shadows: {num} candidates are needed, there are {num_candidates} "
            f"{kind}: lower it"
        )
    distances = (centroids[:, None] - others[None]).square().sum(2)  # [K, n]
    if candidates is None:
        distances.fill_diagonal_(torch.inf)
    return others[distances.topk(num, largest=False).indices]
