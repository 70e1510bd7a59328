"""NetVLAD: sums of residuals to learned centroids, by soft assignment of each location.

With local descriptors f, of unit length, centroids c and assignments a_k = softmax_k(w_k f + b_k):

    V_k = sum over locations of a_k (f - c_k) = A f - (sum of A) c_k,    A = a, or a gated (see CRN)

which takes matrix products of [K, h w] by [h w, C] and no tensor [B, K, C, h w]. Each V_k is scaled
to unit length, then all of them together (Arandjelovic et al., CVPR 2016). Keys of the state dict
are those of the deep visual geo-localization benchmark ("VGB") and of OpenIBL: `centroids` [K, C],
`conv.weight` [K, C, 1, 1].
"""

import math
from collections.abc import Callable, Iterable

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.pooling import at_least_float32, linear_or_none

_EPS = 1e-12  # of lengths that vectors are divided by
_PIECES = 8  # a batch is computed in so many pieces, one after the other, which bounds its memory
_KMEANS_ITERATIONS = 100
_LEFT = 0.01  # share of the second best cluster in the initial assignments


class NetVLAD(nn.Module):
    """Feature maps [B, C, h, w] of any size to unit descriptors [B, out_dim]."""

    def __init__(
        self, channels: int, fc_output_dim: int, clusters: int = 64, vladv2: bool = False
    ) -> None:
        """Make the layers, random until `initialise` or a checkpoint gives them weights.

        Args:
            channels: Of the feature maps, C.
            fc_output_dim: Length of the descriptors, by a linear layer; 0 for clusters * C.
            clusters: Number of centroids, K, at least 2.
            vladv2: Assign by distances to the centroids, w = 2 alpha c and b = -alpha |c|^2,
                instead of their directions, w = alpha c / |c|, without b.

        Raises:
            ValueError: If there are fewer than 2 clusters.
        """
        super().__init__()
        if clusters < 2:
            raise ValueError(f"--aggregation_args clusters={clusters}: needed are 2 at least")
        self.vladv2 = vladv2
        self.conv = nn.Conv2d(channels, clusters, 1, bias=vladv2)
        self.centroids = nn.Parameter(F.normalize(torch.randn(clusters, channels)))
        vlad_dim = clusters * channels
        self.linear = linear_or_none(vlad_dim, fc_output_dim)
        self.has_linear = fc_output_dim > 0
        self.out_dim = fc_output_dim or vlad_dim

    def forward(self, maps: torch.Tensor, normalise: bool = True) -> torch.Tensor:
        """Aggregate maps, in float32 also under autocast.

        Args:
            maps: [B, C, h, w]; each location is scaled to unit length first.
            normalise: False for the residuals V themselves, [B, K, C]. Those of parts of a map add
                up to those of the map.
        """
        vlad = self.aggregate(maps, normalise)
        return self.project(vlad.flatten(1)) if normalise else vlad

    def aggregate(self, maps: torch.Tensor, normalise: bool) -> torch.Tensor:
        """Return residuals [B, K, C], normalised if asked for, before a linear layer."""
        maps = at_least_float32(maps)
        weight, locations = self.conv.weight.flatten(1), maps.flatten(2)
        if torch.jit.is_scripting():
            vlad = _vlad(locations, weight, self.conv.bias, self.centroids, self.gates(maps))
            if normalise:
                vlad = F.normalize(F.normalize(vlad, dim=2).flatten(1)).reshape(vlad.shape)
            return vlad
        with torch.autocast(maps.device.type, enabled=False):
            gates = self.gates(maps)
            parts = (locations, weight, self.conv.bias, self.centroids, gates, normalise)
            return _InPieces.apply(*parts)

    def project(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Apply the linear layer to unit descriptors, if there is one."""
        if not self.has_linear:
            return descriptors
        return F.normalize(self.linear(descriptors).to(descriptors.dtype))

    def gates(self, maps: torch.Tensor) -> torch.Tensor | None:
        """Return factors of the assignments, [B, 1 or K, h w]; None if there are none."""
        return None

    def initialise(self, local_descriptors: torch.Tensor, seed: int) -> None:
        """Start from k-means of local descriptors, see `draw_local_descriptors`.

        Args:
            local_descriptors: float32 [N, C], of unit length.
            seed: Of k-means.

        Raises:
            ValueError: If there are fewer descriptors than clusters, or all are equal.
        """
        self.set_centroids(
            find_centroids(local_descriptors, len(self.centroids), seed), local_descriptors
        )

    @torch.no_grad()
    def set_centroids(self, centroids: torch.Tensor, local_descriptors: torch.Tensor) -> float:
        """Set centroids, and the assignments' weights by alpha.

        With alpha, the second best cluster of a descriptor is on average assigned 0.01 times what
        the best one is. The rule is that of Arandjelovic et al. for both kinds of weights.

        Args:
            centroids: [K, C].
            local_descriptors: [N, C], of unit length.

        Returns:
            alpha.

        Raises:
            ValueError: If the two best clusters are equally good for all descriptors.
        """
        if self.vladv2:  # the best cluster is the nearest centroid, else that of the best direction
            weight, bias = 2 * centroids, -centroids.square().sum(1)
        else:
            weight, bias = F.normalize(centroids), torch.zeros(len(centroids))
        best = (local_descriptors @ weight.T + bias).topk(2).values
        gap = (best[:, 0] - best[:, 1]).mean(dtype=torch.float64).item()
        if not gap > 0:
            raise ValueError(
                "The local descriptors do not differ, so that no clusters can be found in them: "
                "are there images, and has the backbone weights (--backbone_weights)?"
            )
        alpha = -math.log(_LEFT) / gap
        self.conv.weight.copy_(alpha * weight[:, :, None, None])
        if self.conv.bias is not None:
            self.conv.bias.copy_(alpha * bias)
        self.centroids.copy_(centroids)
        return alpha


def find_centroids(local_descriptors: torch.Tensor, clusters: int, seed: int) -> torch.Tensor:
    """Return the centroids of k-means, float32 [clusters, C].

    All descriptors are used. VGB's call of faiss draws 256 for each cluster of them, OpenIBL's of
    scikit-learn takes all; both iterate 100 times.

    Args:
        local_descriptors: float32 [N, C].
        clusters: Number of centroids.
        seed: Of the random start.

    Raises:
        ValueError: If there are fewer descriptors than clusters.
    """
    points = np.ascontiguousarray(local_descriptors.cpu().numpy(), np.float32)
    if len(points) < clusters:
        raise ValueError(
            f"--aggregation_args clusters={clusters}: there are only {len(points)} local "
            "descriptors to find clusters in; lower it, or train on more or larger images"
        )
    kmeans = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=_KMEANS_ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    kmeans.train(points)
    return torch.from_numpy(kmeans.centroids)


@torch.no_grad()
def draw_local_descriptors(
    network: nn.Module,
    batches: Iterable[torch.Tensor],
    per_image: int = 100,
    seed: int = 0,
    labels_of: Callable[[int, torch.Size], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return local descriptors at random locations of images, to initialise an aggregation with.

    NetVLAD, VGB and OpenIBL draw 100 of each of 500 training images.

    Args:
        network: Its `feature_maps` are computed in evaluation mode, on the device it is on.
        batches: Images [B, 3, H, W], ImageNet-normalised; sizes may differ from batch to batch.
        per_image: Locations of an image; of smaller maps, all.
        seed: Of the locations.
        labels_of: Number of an image, and height and width of its map, to labels int64 [h, w].

    Returns:
        float32 [N, C], of unit length, on the CPU; and their labels, int64 [N], or None.

    Raises:
        ValueError: If there are no images.
    """
    rng, drawn, labels = np.random.default_rng(seed), [], []
    device, modes = next(network.parameters()).device, [one.training for one in network.modules()]
    network.eval()
    for images in batches:
        for maps in network.feature_maps(images.to(device)):
            locations = maps.flatten(1)  # [C, h w]
            num_locations = locations.shape[1]
            chosen = rng.choice(num_locations, min(per_image, num_locations), replace=False)
            descriptors = locations[:, torch.from_numpy(chosen).to(device)].T.float()
            if labels_of is not None:
                labels.append(labels_of(len(drawn), maps.shape[1:]).flatten()[chosen])
            drawn.append(F.normalize(descriptors).cpu())
    for layer, was_training in zip(network.modules(), modes, strict=True):
        layer.training = was_training
    if not drawn:
        raise ValueError("There are no images to draw local descriptors from")
    return torch.cat(drawn), torch.cat(labels) if labels else None


def _assign(
    locations: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return assignments and logits without bias [B, K, n], and 1 / length of locations [B, 1, n].

    The scaled locations themselves are never made: they are as large as the maps.
    """
    lengths = torch.linalg.vector_norm(locations, dim=1, keepdim=True)
    scales = torch.where(lengths > 1e-12, 1 / lengths, torch.zeros_like(lengths))
    products = torch.bmm(weight.expand(len(locations), -1, -1), locations).mul_(scales)
    logits = products if bias is None else products + bias[:, None]
    return logits.softmax(1), products, scales


def _vlad(
    locations: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    centroids: torch.Tensor,
    gates: torch.Tensor | None,
) -> torch.Tensor:
    """Return V, see the top of this file, for locations [B, C, n] of any lengths."""
    assigned, _, scales = _assign(locations, weight, bias)
    assigned = assigned if gates is None else assigned * gates
    sums = assigned.sum(2, keepdim=True)
    return torch.bmm(assigned * scales, locations.transpose(1, 2)) - sums * centroids


class _InPieces(torch.autograd.Function):
    """Computes V, normalised if asked for, in pieces of the batch.

    Only inputs and output are kept for the gradient, which computes the assignments again: one of
    its five matrix products. Beside inputs, outputs and their gradients neither direction needs
    more memory at once than assignments [B, K, h w] take, for 5 images or more, see
    `benchmarks.netvlad`.
    """

    @staticmethod
    def forward(ctx, locations, weight, bias, centroids, gates, normalise):  # noqa: ANN001, ANN205
        """Return V [B, K, C]; `locations` [B, C, n], `gates` [B, 1 or K, n] or None."""
        vlad = locations.new_empty(len(locations), *centroids.shape)
        for piece in _pieces(locations):
            part = None if gates is None else gates[piece]
            vlad[piece] = _vlad(locations[piece], weight, bias, centroids, part)
        scales = None
        if normalise:
            lengths = torch.linalg.vector_norm(vlad, dim=2, keepdim=True)
            num_filled = (lengths > _EPS).to(vlad.dtype).sum(1, keepdim=True).clamp(min=1)
            # Vectors of length 0 stay so, and have no gradient.
            scales = torch.where(lengths > _EPS, 1 / (lengths * num_filled.sqrt()), 0)
            vlad.mul_(scales)
        ctx.save_for_backward(locations, weight, bias, centroids, gates, vlad, scales)
        return vlad

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # noqa: ANN001, ANN205
        """Return the gradients of the inputs."""
        locations, weight, bias, centroids, gates, vlad, scales = ctx.saved_tensors
        grad_locations, grad_weight = torch.empty_like(locations), torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        grad_centroids = torch.zeros_like(centroids)
        grad_gates = None if gates is None else torch.empty_like(gates)
        for piece in _pieces(locations):
            x, grad_vlad = locations[piece], grad[piece]
            if scales is not None:  # the part of the gradient across V_k; V_k's length is fixed
                unit, scale = vlad[piece], scales[piece]
                lengths = (unit * unit).sum(2, keepdim=True).clamp(min=_EPS)
                along = (unit * grad_vlad).sum(2, keepdim=True) / lengths
                grad_vlad = scale * (grad_vlad - along * unit)
            assigned, products, length_scales = _assign(x, weight, bias)
            gated = assigned if gates is None else assigned * gates[piece]
            grad_centroids -= (gated.sum(2, keepdim=True) * grad_vlad).sum(0)
            # In place from here on: three tensors [b, K, n] are there at once, four with gates.
            of_centroids = (grad_vlad * centroids).sum(2, keepdim=True)  # [b, K, 1]
            grad_gated = torch.bmm(grad_vlad, x).mul_(length_scales).sub_(of_centroids)
            grad_logits = grad_gated.mul_(assigned)
            if gates is not None:
                is_one = gates.shape[1] == 1
                grad_gates[piece] = grad_logits.sum(1, keepdim=True) if is_one else grad_logits
                grad_logits.mul_(gates[piece])
            total = grad_logits.sum(1, keepdim=True)
            grad_logits.addcmul_(assigned, total, value=-1)
            if bias is not None:
                grad_bias += grad_logits.sum((0, 2))
            # Of the locations x = |x| f: the part of f's gradient across f.
            along = total + torch.bmm(of_centroids.mT, gated)
            along += products.mul_(grad_logits).sum(1, keepdim=True)
            grad_x = torch.bmm(grad_vlad.mT, gated, out=grad_locations[piece])
            grad_x.baddbmm_(weight.T.expand(len(x), -1, -1), grad_logits)
            grad_x.addcmul_(x, along.mul_(length_scales), value=-1).mul_(length_scales)
            grad_weight.addbmm_(grad_logits.mul_(length_scales), x.mT)
        return grad_locations, grad_weight, grad_bias, grad_centroids, grad_gates, None


def _pieces(batch: torch.Tensor) -> list[slice]:
    """Return slices of a batch."""
    size = -(-len(batch) // _PIECES) or 1
    return [slice(first, first + size) for first in range(0, len(batch), size)]
