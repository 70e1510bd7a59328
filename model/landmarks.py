"""Files of networks trained for landmark retrieval by Radenovic, Tolias and Chum (Table 4).

ResNet -> GeM -> L2 -> whitening, a linear layer 2048 -> 2048 trained with the rest -> L2. The files
are those of their toolbox cnnimageretrieval-pytorch, "networks with whitening learned end-to-end":
a state dict, and `meta`, which says how the network is built. Its ResNets are torchvision's (those
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

from commons import IMAGENET_MEAN, IMAGENET_STD
from model.checkpoints import load_strictly
from model.network import GeoLocalizationNet, build_network
from model.published import LANDMARK_DIM

_BACKBONES = {"resnet50": "ResNet50", "resnet101": "ResNet101"}  # `meta`'s names -> ours
_PREFIXES = {"backbone.": "features.", "aggregation.0.": "pool.", "whitening.": "whiten."}
_META = {  # entry of `meta`: (the value needed, the value if it is missing)
    "pooling": ("gem", None),
    "whitening": (True, False),
    "local_whitening": (False, False),
    "regional": (False, False),
    "outputdim": (LANDMARK_DIM, LANDMARK_DIM),
}


def is_landmark_checkpoint(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether the content of a file has the format of cnnimageretrieval-pytorch."""
    meta = checkpoint.get("meta")
    return "state_dict" in checkpoint and isinstance(meta, Mapping) and "architecture" in meta


def landmark_network_of(
    checkpoint: Mapping[str, Any], path: str | os.PathLike, dim: int = LANDMARK_DIM
) -> GeoLocalizationNet:
    """Build the network of a file, with its weights, on the CPU.

    Args:
        checkpoint: Content of the file; no tensor may be missing or be left over.
        path: Of the file, for errors.
        dim: Length of the descriptors, see the top of this file.

    Raises:
        ValueError: If it is not such a network.
    """
    if not is_landmark_checkpoint(checkpoint):
        raise ValueError(
            f"{path} is no landmark network: they have a 'state_dict', and a 'meta' with the "
            "'architecture'"
        )
    backbone, state = _check_meta(checkpoint["meta"], path), checkpoint["state_dict"]
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} has no state dict")
    with torch.device("meta"):
        network = build_network(
            backbone,
            fc_output_dim=0,
            aggregation="gem_plain",
            backbone_weights="none",
            train_all_layers=True,
            whiten_dim=LANDMARK_DIM,
            kept_dims=None if dim == LANDMARK_DIM else dim,
        )
    names = {name: _name_in_file(name) for name in network.state_dict()}
    # No descriptor depends on the counters, and files older than PyTorch 0.4.1 have none.
    counters = {
        name: torch.tensor(0) for name in names.values() if name.endswith(".num_batches_tracked")
    }
    load_strictly(network, counters | dict(state), path, names)
    return network


def _name_in_file(name: str) -> str:
    prefix = next(ours for ours in _PREFIXES if name.startswith(ours))
    return _PREFIXES[prefix] + name.removeprefix(prefix)


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
