"""NetVLAD by its authors: VGG16 of MatConvNet, NetVLAD and PCA-whitening (CVPR 2016).

The files Pitts30K_struct.mat and TokyoTM_struct.mat were written by MATLAB, with structures in
place of its objects, for hloc. Their images are grey levels minus a mean. The layers with weights
are, in order, 13 convolutions, NetVLAD, and the whitening as a convolution.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from model.backbones import INPUT_SCALINGS
from model.formats.content import NetworkContent

_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of VGG16, as torchvision counts
_SCALING = "vgg_caffe"
_MEAN_TOLERANCE = 0.5  # grey levels; pixels are rounded to 1


def read(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> NetworkContent | None:
    """Return what a file says about a network, see `model.formats.recognise`."""
    network = checkpoint.get("net")
    if not isinstance(network, Mapping):
        return None
    try:
        weights = [layer["weights"] for layer in network["layers"] if len(layer.get("weights", []))]
        colours = network["meta"]["normalization"]["averageImage"].float().reshape(-1, 3)
        tensors = _name_tensors(weights)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path} is not a NetVLAD network as the file Pitts30K_struct.mat ({reason})"
        ) from None
    _check_mean(colours, path)
    architecture: dict[str, Any] = {
        "backbone": "VGG16",
        "aggregation": "netvlad",
        "fc_output_dim": 0,
        "aggregation_args": {"clusters": len(tensors["aggregation.centroids"])},
        "input_scaling": _SCALING,
    }
    if "whitening.weight" in tensors:
        architecture |= {"whiten_dim": len(tensors["whitening.weight"]), "whiten_norm": "l2"}
    return NetworkContent(architecture, tensors)


def _check_mean(colours: torch.Tensor, path: str | os.PathLike) -> None:
    """Raise a ValueError if the pixels of the mean image, [N, 3], are not of the mean colour."""
    mean, _ = INPUT_SCALINGS[_SCALING]
    if (colours - torch.tensor(mean)).abs().max() > _MEAN_TOLERANCE:
        raise ValueError(
            f"{path} is for images minus {colours.mean(0).tolist()}, in grey levels; known is "
            f"{list(mean)}"
        )


def _name_tensors(weights: Sequence[Sequence[torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the tensors by our names and in our order of dimensions, which is reversed."""
    *convolutions, (assignment, opposite) = weights[: len(_CONVOLUTIONS) + 1]
    whitenings = weights[len(_CONVOLUTIONS) + 1 :]
    if len(whitenings) > 1:
        raise ValueError(f"{len(whitenings)} layers with weights after NetVLAD")
    tensors = {}
    for index, (kernel, bias) in zip(_CONVOLUTIONS, convolutions, strict=True):
        tensors[f"backbone.{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        tensors[f"backbone.{index}.bias"] = bias.flatten()
    channels, clusters = opposite.shape  # minus the centroids
    tensors["aggregation.conv.weight"] = assignment.T.reshape(clusters, channels, 1, 1)
    tensors["aggregation.centroids"] = -opposite.T.contiguous()
    for kernel, bias in whitenings:
        # MATLAB's VLAD vectors have the clusters of a channel together, ours the other way round.
        parts = kernel.reshape(channels, clusters, -1)
        tensors["whitening.weight"] = parts.permute(2, 1, 0).flatten(1)
        tensors["whitening.bias"] = bias.flatten()
    return tensors
