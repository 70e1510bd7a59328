"""Losses of tuples: a query, a positive and negatives (triplet, SARE, contrastive).

Each code base weights a tuple in its own way, see `REDUCTIONS`: that decides the gradients of SGD.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossParams:
    """A loss and its hyper-parameters; the defaults are those of the VGB benchmark."""

    loss: str = "triplet"  # a key of LOSSES
    margin: float = 0.1  # of triplet and contrastive, in the unit of the distance
    power: int = 1  # of the distance in the triplet loss: 1, or 2 as NetVLAD's authors
    similarity: str = "euclid"  # of SARE, a key of SIMILARITIES
    temperature: float = 0.07  # that dot products are divided by
    reduction: str = "triplets"  # a key of REDUCTIONS

    def __post_init__(self) -> None:
        """Check names and ranges."""
        tables = {"loss": LOSSES, "similarity": SIMILARITIES, "reduction": REDUCTIONS}
        for name, table in (tables | {"power": _DISTANCES}).items():
            if getattr(self, name) not in table:
                raise ValueError(
                    f"--{name} must be one of {', '.join(map(str, table))}, "
                    f"it is {getattr(self, name)}"
                )
        if not 0 <= self.margin < float("inf"):
            raise ValueError(f"--margin must be a number of at least 0, it is {self.margin}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"--temperature must be a number above 0, it is {self.temperature}")
        if self.similarity != "euclid" and not self.loss.startswith("sare"):
            raise ValueError(f"--similarity is of the SARE losses, --loss {self.loss} has none")
        if self.power != 1 and self.loss != "triplet":
            raise ValueError(f"--power is of the triplet loss, --loss {self.loss} has none")


class TupleStatistics(NamedTuple):
    """How hard tuples are; tensors of one number, on the device of the descriptors."""

    violating: Tensor  # share of negatives with d(q, n) < d(q, p) + margin, 0 to 1
    positive_distance: Tensor  # mean L2 distance of queries to their positives
    negative_distance: Tensor  # and to their negatives


def tuple_loss(params: LossParams, queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the loss of a batch of tuples, a scalar.

    Computed in float32 (float64 if the descriptors are) also under autocast.

    Args:
        params: Which loss.
        queries: [B, D], of any length: GeM of VGB is trained on descriptors of any length.
        positives: One of each query. [B, D].
        negatives: N of each query. [B, N, D].
    """
    terms = loss_terms(params, queries, positives, negatives)
    return REDUCTIONS[params.reduction](terms, *negatives.shape[:2])


def loss_terms(params: LossParams, queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return what `tuple_loss` adds up: the loss of each triplet, of each pair or of each tuple.

    Returns:
        [B, N] for triplet and sare_ind, [B, 1 + N] for contrastive (the positive first), [B, 1] for
        sare_joint.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return LOSSES[params.loss](params, *_columns(queries, positives, negatives))


@torch.no_grad()
def tuple_statistics(
    params: LossParams, queries: Tensor, positives: Tensor, negatives: Tensor
) -> TupleStatistics:
    """Return how hard tuples are, see `tuple_loss` for the arguments; without gradients.

    The margin is compared in the power of the loss, for losses without a margin as well, so that
    the share of one loss compares with that of another.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, positives, negatives = _columns(queries, positives, negatives)
        to_positive = F.pairwise_distance(queries, positives)  # [B, 1]
        to_negatives = F.pairwise_distance(queries, negatives)  # [B, N]
        limits = to_positive**params.power + params.margin
        violating = (to_negatives**params.power < limits).to(to_negatives.dtype)
        return TupleStatistics(violating.mean(), to_positive.mean(), to_negatives.mean())


def _columns(queries: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, ...]:
    """Return [B, 1, D], [B, 1, D] and [B, N, D], of float32 at least."""
    dtype = torch.promote_types(queries.dtype, torch.float32)
    return queries[:, None].to(dtype), positives[:, None].to(dtype), negatives.to(dtype)


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(-1)


# F.pairwise_distance adds 1e-6 to each difference, as torch's own triplet loss does.
_DISTANCES: Mapping[int, Callable[[Tensor, Tensor], Tensor]] = {
    1: F.pairwise_distance,
    2: _squared_distance,
}


def _triplet(params: LossParams, queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """max(0, d(q, p) - d(q, n) + margin), of distances or of their squares."""
    distance = _DISTANCES[params.power]
    return F.relu(distance(queries, positives) - distance(queries, negatives) + params.margin)


def _contrastive(
    params: LossParams, queries: Tensor, positives: Tensor, negatives: Tensor
) -> Tensor:
    """d(q, p)^2 / 2 and max(0, margin - d(q, n))^2 / 2 (Radenovic et al.)."""
    too_near = F.relu(params.margin - F.pairwise_distance(queries, negatives))
    return torch.cat((F.pairwise_distance(queries, positives), too_near), dim=1).square() / 2


def _sare_ind(params: LossParams, queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """-log of the probability of the positive against one negative at a time (Liu et al.)."""
    similarity = SIMILARITIES[params.similarity]
    positive = similarity(queries, positives, params.temperature)
    return F.softplus(similarity(queries, negatives, params.temperature) - positive)


def _sare_joint(
    params: LossParams, queries: Tensor, positives: Tensor, negatives: Tensor
) -> Tensor:
    """-log of the probability of the positive against all negatives together (Liu et al.)."""
    similarity = SIMILARITIES[params.similarity]
    images = torch.cat((positives, negatives), dim=1)
    return -similarity(queries, images, params.temperature).log_softmax(dim=1)[:, :1]


# The logarithms of the kernels of SARE's paper; the dot product is that of OpenIBL.
SIMILARITIES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "euclid": lambda a, b, _: -_squared_distance(a, b),
    "exponential": lambda a, b, _: -torch.linalg.vector_norm(a - b, dim=-1),
    "cauchy": lambda a, b, _: -_squared_distance(a, b).log1p(),
    "dot": lambda a, b, temperature: (a * b).sum(-1) / temperature,
}

LOSSES: Mapping[str, Callable[[LossParams, Tensor, Tensor, Tensor], Tensor]] = {
    "triplet": _triplet,
    "sare_ind": _sare_ind,
    "sare_joint": _sare_joint,
    "contrastive": _contrastive,
}

# Of terms, the number of tuples and of negatives each. VGB also divides sare_joint by all
# triplets, so that its gradients are those of OpenIBL divided by the number of negatives.
REDUCTIONS: Mapping[str, Callable[[Tensor, int, int], Tensor]] = {
    "triplets": lambda terms, tuples, negatives: terms.sum() / (tuples * negatives),  # VGB
    "mean": lambda terms, *_: terms.mean(),  # OpenIBL
    "sum": lambda terms, *_: terms.sum(),  # cirtorch
    "violating": lambda terms, *_: terms.sum() / (terms > 0).sum().clamp(min=1),  # NetVLAD
}
