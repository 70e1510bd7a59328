"""Networks trained for landmark retrieval by Radenovic, Tolias and Chum (paper, Table 4).

ResNet -> GeM -> L2 -> whitening, a linear layer 2048 -> 2048 trained with the rest -> L2. The files
are those of their toolbox cnnimageretrieval-pytorch, "networks with whitening learned end-to-end":
a state dict, and `meta`, which tells how the network is built. Its ResNets are torchvision's (those
of Caffe, which training started from, have the strides elsewhere: the files were trained, and are
used in the paper, with torchvision's).

Fewer than 2048 dimensions are not published, they are an extra of ours: the first ones of the
whitened vector, normalised again. The whitening was initialised with its rows in order of falling
variance, and its authors shorten descriptors in this way; training may have changed the order.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from commons import IMAGENET_MEAN, IMAGENET_STD
from model.backbones import build_backbone
from model.checkpoint_files import read_checkpoint
from model.layers import GeM
from model.published import LANDMARK_DIM

_BACKBONES = {"resnet50": "ResNet50", "resnet101": "ResNet101"}  # `meta`'s names -> ours
_META = {  # what `meta` has to say, and what it means if it says nothing
    "pooling": ("gem", None),
    "whitening": (True, False),
    "local_whitening": (False, False),
    "regional": (False, False),
    "outputdim": (LANDMARK_DIM, LANDMARK_DIM),
}
_EPS = 1e-6  # of both normalisations


class LandmarkNet(nn.Module):
    """Images [B, 3, H, W], ImageNet-normalised, to L2-normalised descriptors [B, dim]."""

    def __init__(self, backbone: nn.Module, dim: int = LANDMARK_DIM) -> None:
        """Put pooling and whitening on a backbone.

        Args:
            backbone: Images to a map [B, 2048, h, w].
            dim: So many of the whitened dimensions make the descriptor, the first ones.

        Raises:
            ValueError: If there are not so many.
        """
        super().__init__()
        if not 1 <= dim <= LANDMARK_DIM:
            raise ValueError(f"A landmark network has 1 to {LANDMARK_DIM} dimensions, not {dim}")
        self.backbone = backbone
        self.pool = GeM()
        self.whiten = nn.Linear(LANDMARK_DIM, LANDMARK_DIM)
        self.out_dim = dim
        self.architecture: dict[str, str | int] = {}  # as GeoLocalizationNet

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return one descriptor per image, float32 also under autocast."""
        pooled = self.pool(self.backbone(images)).flatten(1)  # [B, 2048]
        return _normalise(self.whiten(_normalise(pooled))[:, : self.out_dim])


def load_landmark_network(path: str | os.PathLike, dim: int = LANDMARK_DIM) -> LandmarkNet:
    """Make the network of a file, with its weights, on the CPU; code in the file is not run.

    Args:
        path: The file; it has to be whole: no tensor may be missing or be left over.
        dim: Length of the descriptors, see the top of this file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not such a network.
    """
    return landmark_network_of(read_checkpoint(path), path, dim)


def is_landmark_checkpoint(checkpoint: Mapping[str, Any]) -> bool:
    """Tell whether the content of a file is in the format of cnnimageretrieval-pytorch."""
    meta = checkpoint.get("meta")
    return "state_dict" in checkpoint and isinstance(meta, Mapping) and "architecture" in meta


def landmark_network_of(
    checkpoint: Mapping[str, Any], path: str | os.PathLike, dim: int = LANDMARK_DIM
) -> LandmarkNet:
    """Do what `load_landmark_network` does with a checkpoint that was read from `path` already."""
    if not is_landmark_checkpoint(checkpoint):
        raise ValueError(
            f"{path} is no landmark network: they have a 'state_dict', and a 'meta' with the "
            "'architecture'"
        )
    backbone = _check_meta(checkpoint["meta"], path)
    with torch.device("meta"):
        network = LandmarkNet(build_backbone(backbone, "none", train_all_layers=True), dim)
    state = _rename(checkpoint["state_dict"], network.state_dict(), path)
    network.load_state_dict(state, strict=True, assign=True)
    network.architecture = {"backbone": backbone, "pooling": "gem", "fc_output_dim": dim}
    if dim < LANDMARK_DIM:
        network.architecture["kept_dims"] = dim  # the file alone does not tell the descriptors
    return network.float()


def _check_meta(meta: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Return the name of the backbone; raise a ValueError if the network is another kind."""
    architecture = meta["architecture"]
    if not isinstance(architecture, str) or architecture not in _BACKBONES:
        raise ValueError(
            f"{path} has the architecture {architecture}; known are {', '.join(_BACKBONES)}"
        )
    for name, (needed, default) in _META.items():
        found = meta.get(name, default)
        if not isinstance(found, (str, int)) or found != needed:
            raise ValueError(
                f"{path} is another kind of network: its '{name}' is {found}, needed is {needed}, "
                "as in the published files *-gem-w-*.pth"
            )
    for name, needed in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        if not _are_close(meta.get(name), needed):
            raise ValueError(
                f"{path} is for images of {name} {meta.get(name)}; images are normalised by "
                f"ImageNet's, {list(needed)}"
            )
    return _BACKBONES[architecture]


def _are_close(found: Any, needed: tuple[float, ...]) -> bool:
    try:
        numbers = [float(value) for value in found]
    except (TypeError, ValueError, RuntimeError):  # no sequence, or not of numbers
        return False
    return len(numbers) == len(needed) and all(
        math.isclose(a, b, abs_tol=1e-6) for a, b in zip(numbers, needed, strict=True)
    )


def _rename(
    state: Any, expected: Mapping[str, torch.Tensor], path: str | os.PathLike
) -> dict[str, torch.Tensor]:
    """Return the tensors of a file under the names of our network.

    Raises:
        ValueError: If one is missing, is left over, or has another shape.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} has no state dict")
    names = {_name_in_file(name): name for name in expected}
    # No descriptor depends on the counters, and files older than PyTorch 0.4.1 have none.
    counters = {name: torch.tensor(0) for name in names if name.endswith(".num_batches_tracked")}
    tensors = counters | dict(state)
    faults = [f"{name} is left over" for name in tensors if name not in names]
    for name, our_name in names.items():
        needed = _describe(expected[our_name])
        if name not in tensors:
            faults.append(f"{name} is missing")
        elif _describe(tensors[name]) != needed:
            faults.append(f"{name} is {_describe(tensors[name])}, not {needed}")
    if faults:
        raise ValueError(
            f"{path} has not the tensors of its architecture ({len(faults)} differ): {faults[0]}"
        )
    return {our_name: tensors[name] for name, our_name in names.items()}


def _name_in_file(name: str) -> str:
    is_of_backbone = name.startswith("backbone.")
    return f"features.{name.removeprefix('backbone.')}" if is_of_backbone else name


def _describe(tensor: Any) -> str:
    """Return kind and shape; the precision may differ."""
    if not isinstance(tensor, torch.Tensor):
        return f"a {type(tensor).__name__}"
    return f"{'a float' if tensor.is_floating_point() else 'an integer'} {list(tensor.shape)}"


def _normalise(vectors: torch.Tensor) -> torch.Tensor:
    """Scale vectors [B, D] to unit length, in float32; the authors add eps to the length."""
    vectors = vectors.float()
    return vectors / (vectors.norm(dim=1, keepdim=True) + _EPS)
