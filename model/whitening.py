"""Whitening: the last layer of some networks, a linear map fitted to descriptors of images.

Descriptors become shorter, and dimensions in which all images vary weigh less. There are three
kinds, of the mean and the principal axes of the descriptors of training images, axes in order of
falling variance:

pca          projection on the axes, as sklearn's PCA; not normalised again (the deep visual
             geo-localization benchmark)
pca_whiten   the same, each divided by its standard deviation, then L2 (NetVLAD, OpenIBL)
pca_power    divided by its variance to the power a / 2 only, a = 0.5, from descriptors that are not
             centred, then L2 (APANet)
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.pooling import ADDED_EPS

NORMS = {"l2": 0.0, "l2_eps": ADDED_EPS, "none": None}  # name -> what is added to the length
EIGENVALUE_FLOOR = 1e-9
FLOORS = {"clamp": np.maximum, "add": np.add}  # OpenIBL's; that of the MATLAB code of NetVLAD
DEFAULT_POWER = 0.5  # of pca_power
_NUMBERS_PER_BLOCK = 1 << 24  # float64, 128 MB


class WhiteningKind(NamedTuple):
    """A row of WHITENINGS."""

    power: float | None  # of the variance, to divide by its square root; None: as asked for
    is_centred: bool
    norm: str  # key of NORMS


WHITENINGS = {
    "pca": WhiteningKind(0.0, True, "none"),
    "pca_whiten": WhiteningKind(1.0, True, "l2"),
    "pca_power": WhiteningKind(None, False, "l2"),
}


class Whitening(nn.Linear):
    """A linear map, the first dimensions of its result, then L2 in most cases.

    Dimensions are kept from the first: whitenings have theirs in order of falling variance.
    """

    def __init__(
        self, in_dim: int, whiten_dim: int, kept_dims: int | None = None, norm: str = "l2_eps"
    ) -> None:
        """Make a layer with random weights, which are to be loaded or fitted.

        Args:
            in_dim: Length of the descriptors that come in.
            whiten_dim: Number of whitened dimensions, rows of the matrix.
            kept_dims: Length of the descriptors that go out; None for all whitened dimensions.
            norm: Key of NORMS: "l2" divides by the length; "l2_eps" by the length + 1e-6, as
                networks for landmark retrieval do; "none" leaves the length.

        Raises:
            ValueError: If there are fewer dimensions than are to be kept, or no such norm.
        """
        super().__init__(in_dim, whiten_dim)
        self.out_dim = whiten_dim if kept_dims is None else kept_dims
        if not 1 <= self.out_dim <= whiten_dim:
            raise ValueError(f"The whitening has 1 to {whiten_dim} dimensions, not {self.out_dim}")
        if norm not in NORMS:
            raise ValueError(f"Unknown whiten_norm '{norm}': choose from {', '.join(NORMS)}")
        self.norm, self.added_eps = norm, NORMS[norm]

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Whiten [B, in_dim] to [B, out_dim], in the type of the weights also under autocast."""
        weight, bias = self.weight[: self.out_dim], self.bias[: self.out_dim]
        whitened = F.linear(descriptors.to(weight.dtype), weight, bias).to(weight.dtype)
        if self.added_eps is None:
            return whitened
        length = torch.linalg.vector_norm(whitened, dim=1, keepdim=True)
        return whitened / (length + self.added_eps).clamp(min=1e-12)

    def arguments(self) -> dict[str, int | str]:
        """Return the arguments of `build_network` for such a layer, without those of default."""
        found: dict[str, int | str] = {"whiten_dim": self.out_features}
        if self.out_dim != self.out_features:
            found["kept_dims"] = self.out_dim
        if self.norm != "l2_eps":
            found["whiten_norm"] = self.norm
        return found


def pack_whitening(whitening: Whitening, model: str, identity: str) -> dict[str, Any]:
    """Return the content of a file that holds only the whitening of a model.

    Networks of ours are saved with theirs; a model made by code of others cannot be.

    Args:
        whitening: The layer.
        model: Spec of the model that it was fitted to.
        identity: See `model.other_models.identify`.
    """
    of = {"model": model, "identity": identity}
    return {"whitening_of": of, **whitening.arguments(), "state_dict": whitening.state_dict()}


def is_whitening_file(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a file is that of `pack_whitening`."""
    of = content.get("whitening_of")
    return isinstance(of, Mapping) and {"model", "identity"} <= of.keys()


def unpack_whitening(content: Mapping[str, Any], path: str | os.PathLike) -> Whitening:
    """Return the frozen layer in the content of a file.

    Raises:
        ValueError: If there is none.
    """
    try:
        if not is_whitening_file(content):
            raise KeyError("whitening_of")
        options = {name: content[name] for name in ("kept_dims", "whiten_norm") if name in content}
        options["norm"] = options.pop("whiten_norm", "l2_eps")
        with torch.device("meta"):
            in_dim = content["state_dict"]["weight"].shape[1]
            whitening = Whitening(in_dim, content["whiten_dim"], **options)
        whitening.load_state_dict(content["state_dict"], assign=True)
        return whitening.float().requires_grad_(False)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path} holds no whitening, such as python -m tools.whiten fits ({reason})"
        ) from None


@dataclass(frozen=True)
class WhiteningParams:
    """What a whitening is fitted for, see the top of this file."""

    kind: str = "pca_whiten"  # key of WHITENINGS
    dim: int = 512  # whitened dimensions
    kept_dims: int | None = None  # length of the descriptors, the first dimensions; None: all
    power: float | None = None  # a of pca_power; None: 0.5
    norm: str | None = None  # key of NORMS; None: that of the kind
    is_centred: bool | None = None  # whether the mean is subtracted; None: as the kind does
    floor: str = "clamp"  # key of FLOORS: variances below 1e-9 count as that, or it is added to all

    def __post_init__(self) -> None:
        """Raise a ValueError if a value is out of its range."""
        for what, name, names in (
            ("whitening", self.kind, WHITENINGS),
            ("norm of a whitening", self.norm, [None, *NORMS]),
            ("floor of variances", self.floor, FLOORS),
        ):
            if name not in names:
                choices = ", ".join(filter(None, names))
                raise ValueError(f"Unknown {what} '{name}': choose from {choices}")
        if self.dim < 1:
            raise ValueError(f"A whitening has at least 1 dimension, not {self.dim}")
        if self.kept_dims is not None and not 1 <= self.kept_dims <= self.dim:
            raise ValueError(
                f"{self.kept_dims:,} dimensions cannot be kept of a whitening to {self.dim:,}"
            )
        if self.power is not None and WHITENINGS[self.kind].power is not None:
            raise ValueError(f"A power goes with pca_power, not with {self.kind}")


class PrincipalAxes(NamedTuple):
    """The axes along which descriptors vary most."""

    mean: np.ndarray  # of the descriptors. float64 [D]
    axes: np.ndarray  # unit rows, by falling variance. [dim, D], float64 where descriptors are, or
    # else float32
    variances: np.ndarray  # along the axes, falling. float64 [dim]
    total_variance: float  # along all axes

    @property
    def explained(self) -> float:
        """Share of the variance that lies along the axes, 0 to 1."""
        return float(self.variances.sum() / max(self.total_variance, np.finfo(float).tiny))


def check_dims(dim: int, num_images: int, in_dim: int | None = None) -> None:
    """Raise a ValueError if images or their descriptors do not have so many dimensions.

    Args:
        dim: Number of whitened dimensions.
        num_images: How many images there are to fit to.
        in_dim: Length of their descriptors; None if not known yet.
    """
    if num_images < 2:
        raise ValueError(f"A whitening is fitted to 2 images or more, not to {num_images}")
    if dim > num_images - 1:
        raise ValueError(
            f"No whitening to {dim:,} dimensions: {num_images:,} images span {num_images - 1:,} "
            "around their mean; take more images, or fewer dimensions"
        )
    if in_dim is not None and dim > in_dim:
        raise ValueError(
            f"No whitening to {dim:,} dimensions: the descriptors have {in_dim:,}; take at most "
            "as many"
        )


def principal_axes(descriptors: np.ndarray, dim: int) -> PrincipalAxes:
    """Find the mean and the principal axes of descriptors, in float64 throughout.

    The eigenvectors are those of the covariance [D, D], or, where there are fewer images than
    dimensions, of the scalar products of the images [N, N]. Beside the descriptors, which are read
    in blocks, memory takes 8 bytes for each of these numbers, and for each of the axes. 10,000
    descriptors of 32,768 numbers fit into 4 GB.

    Args:
        descriptors: float16, float32 or float64 [N, D], in memory or mapped from a file.
        dim: Number of axes, at most N - 1 and at most D.

    Raises:
        ValueError: If there are not so many axes, or a number is not finite.
    """
    from scipy.linalg import blas, eigh  # here, as users of torch.hub may lack it

    num_images, in_dim = descriptors.shape
    check_dims(dim, num_images, in_dim)
    mean = np.mean(descriptors, axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise ValueError("A whitening is fitted to finite descriptors, some of these are not")
    is_dual = num_images < in_dim
    size = min(num_images, in_dim)
    scatter = np.zeros((size, size), order="F")
    for _, block in _centred_blocks(descriptors, mean, is_dual):
        scatter = blas.dsyrk(1.0, block.T, 1.0, scatter, lower=1, overwrite_c=1)
    total = float(scatter.trace())
    largest = (size - dim, size - 1)
    eigenvalues, vectors = eigh(
        scatter, lower=True, overwrite_a=True, check_finite=False, subset_by_index=largest
    )
    del scatter
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    has_variance = eigenvalues > size * np.finfo(np.float64).eps * eigenvalues[0]
    if not has_variance.all():
        logging.warning(
            f"The descriptors of {num_images:,} images vary along {has_variance.sum():,} "
            f"dimensions only: the other {(~has_variance).sum():,} of the whitening mean nothing"
        )
    dtype = np.float64 if descriptors.dtype == np.float64 else np.float32
    if is_dual:
        axes = np.empty((dim, in_dim), dtype)
        vectors = vectors / np.sqrt(np.where(has_variance, eigenvalues, np.inf))
        for columns, block in _centred_blocks(descriptors, mean, is_dual):
            axes[:, columns] = (block @ vectors).T
    else:
        axes = vectors.T.astype(dtype, order="C")
    scale = 1 / (num_images - 1)
    return PrincipalAxes(mean, axes, np.maximum(eigenvalues, 0) * scale, total * scale)


def _centred_blocks(
    descriptors: np.ndarray, mean: np.ndarray, is_dual: bool
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of rows [n, D] or, transposed, of columns [d, N], with the mean subtracted."""
    along, across = descriptors.shape[:: -1 if is_dual else 1]
    step = max(_NUMBERS_PER_BLOCK // across, 1)
    for first in range(0, along, step):
        part = slice(first, first + step)
        block = descriptors[:, part].T if is_dual else descriptors[part]
        block = np.array(block, np.float64, order="C")
        block -= mean[part, None] if is_dual else mean
        yield part, block


def fit_whitening(
    descriptors: np.ndarray, kind: str, dim: int, kept_dims: int | None = None, **options: Any
) -> Whitening:
    """Fit a whitening to descriptors; see `principal_axes` and `whitening_along`.

    Args:
        descriptors: Of training images. float16, float32 or float64 [N, D], may be mapped.
        kind: Key of WHITENINGS.
        dim: Number of whitened dimensions, at most N - 1 and at most D.
        kept_dims: Length of the whitened descriptors, the first dimensions; None for all.
        options: Further fields of WhiteningParams.

    Returns:
        A frozen layer; float64 if the descriptors are, else float32.

    Raises:
        ValueError: If there are not so many dimensions, or an option is out of its range.
    """
    params = WhiteningParams(kind, dim, kept_dims, **options)
    return whitening_along(principal_axes(descriptors, dim), params)


def whitening_along(principal: PrincipalAxes, params: WhiteningParams) -> Whitening:
    """Make a whitening, see the top of this file, out of mean and axes.

    y = diag(variances^(-a / 2)) axes (x - mean); golden cases pca_primal_a and pca_dual_a.

    Args:
        principal: Of the descriptors of training images, with as many axes as dimensions.
        params: Of the whitening.

    Returns:
        A frozen layer, of the type of the axes.
    """
    kind = WHITENINGS[params.kind]
    powers = (kind.power, params.power, DEFAULT_POWER)
    power = next(a for a in powers if a is not None)
    scale = FLOORS[params.floor](principal.variances, EIGENVALUE_FLOOR) ** (-power / 2)
    weight = principal.axes * scale[:, None].astype(principal.axes.dtype)
    is_centred = kind.is_centred if params.is_centred is None else params.is_centred
    mean = principal.mean if is_centred else np.zeros_like(principal.mean)
    return _layer_of(weight, mean, params.kept_dims, params.norm or kind.norm)


def fit_learned_whitening(
    descriptors: np.ndarray,
    queries: np.ndarray,
    positives: np.ndarray,
    dim: int,
    kept_dims: int | None = None,
    norm: str = "l2_eps",
) -> Whitening:
    """Fit a whitening to pairs of images of one place: their differences get unit covariance.

    Then come the principal axes of all descriptors. Mikolajczyk and Matas, in the form of Radenovic
    et al. (cnnimageretrieval-pytorch); golden case whiten_cirtorch_a.

    Args:
        descriptors: float [N, D].
        queries: Rows of one image of each pair; their mean is subtracted. int [P].
        positives: Rows of the other one. int [P].
        dim: Number of whitened dimensions, at most N - 1 and at most D.
        kept_dims: Length of the whitened descriptors, the first dimensions; None for all.
        norm: Key of NORMS.

    Returns:
        A frozen layer, float64.

    Raises:
        ValueError: If there are not so many dimensions, or the pairs do not differ along all.
    """
    from scipy.linalg import LinAlgError, cholesky, eigh, solve_triangular

    check_dims(dim, *descriptors.shape)
    descriptors = descriptors.astype(np.float64)
    mean = descriptors[queries].mean(axis=0)
    differences = descriptors[queries] - descriptors[positives]
    try:
        root = cholesky(differences.T @ differences / len(differences), lower=True)
    except LinAlgError:
        raise ValueError(
            f"The {len(differences):,} pairs do not differ along all {len(mean):,} dimensions of "
            "the descriptors: a learned whitening needs more pairs than dimensions"
        ) from None
    spread = solve_triangular(root, (descriptors - mean).T, lower=True)  # [D, N]
    _, vectors = eigh(spread @ spread.T)
    weight = solve_triangular(root, vectors[:, ::-1][:, :dim], lower=True, trans="T").T
    return _layer_of(weight, mean, kept_dims, norm)


def _layer_of(weight: np.ndarray, mean: np.ndarray, kept_dims: int | None, norm: str) -> Whitening:
    """Return the frozen layer y = weight (x - mean), of the type of the weights."""
    rows = np.array_split(weight, -(-weight.size // _NUMBERS_PER_BLOCK))
    bias = -np.concatenate([part.astype(np.float64) @ mean for part in rows])
    with torch.device("meta"):
        layer = Whitening(*weight.shape[::-1], kept_dims, norm)
    tensors = {"weight": weight, "bias": bias.astype(weight.dtype)}
    layer.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, assign=True)
    return layer.requires_grad_(False)
