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
from model.formats.content import NetworkContent
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


def read(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> NetworkContent | None:
    """Return what a file says about a network, see `model.formats.recognise`."""
    meta, state = checkpoint.get("meta"), checkpoint.get("state_dict")
    if "state_dict" not in checkpoint or not isinstance(meta, Mapping):
        return None
    if "architecture" not in meta:
        return None
    architecture = {
        "backbone": _check_meta(meta, path),
        "aggregation": "gem_plain",
        "fc_output_dim": 0,
        "whiten_dim": LANDMARK_DIM,
    }
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} has no state dict")
    # No descriptor depends on the counters, and files older than PyTorch 0.4.1 have none.
    layers = (name.rpartition(".") for name in state if isinstance(name, str))
    counters = {
        f"{layer}.num_batches_tracked": torch.tensor(0)
        for layer, _, tensor in layers
        if tensor == "running_mean"
    }
    return NetworkContent(architecture, counters | dict(state), _PREFIXES)


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
