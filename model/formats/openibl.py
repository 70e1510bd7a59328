"""Files of OpenIBL: VGG16 with NetVLAD, trained with triplets, SARE or SFRS (Ge et al., ECCV 2020).

The released vgg16_netvlad.pth, of SFRS, ends with a PCA-whitening. Checkpoints of a training,
model_best.pth.tar, are without it; OpenIBL writes it into a file beside them when it tests,
pca_params_model_best.h5, which is read with them if it is there. Its trainings start from the
clusters in vgg16_pitts_64_desc_cen.hdf5.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import commons
from model.checkpoint_files import read_checkpoint
from model.formats.content import NetworkContent, count_rows, find_state, name_tensors

_PREFIXES = {
    "backbone.": "base_model.base.",
    "aggregation.": "net_vlad.",
    "whitening.": "pca_layer.",
}
_WEIGHT, _BIAS = "pca_layer.weight", "pca_layer.bias"


def read(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> NetworkContent | None:
    """Return what a file says about a network, see `model.formats.recognise`."""
    state = find_state(checkpoint)
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        return None
    tensors, facts = name_tensors(state), {}
    if not any(name.startswith(("base_model.", "net_vlad.")) for name in tensors):
        return None
    architecture: dict[str, Any] = {
        "backbone": "VGG16",
        "aggregation": "netvlad",
        "fc_output_dim": 0,
        "aggregation_args": {"clusters": count_rows(tensors, "net_vlad.centroids", path)},
        "input_scaling": "vgg_caffe",
    }
    beside = Path(path).with_name(f"pca_params_{Path(path).name.partition('.')[0]}.h5")
    if _WEIGHT not in tensors and beside.is_file():
        tensors |= _read_whitening(beside)
        facts = {"whitening_file": str(beside), "whitening_sha256": commons.sha256_of(beside)}
        logging.info(f"The whitening of {path} is in {beside}")
    if _WEIGHT in tensors:
        architecture |= {
            "whiten_dim": count_rows(tensors, _WEIGHT, path),
            "whiten_norm": "l2",
        }
        if tensors[_WEIGHT].shape[2:] == (1, 1):  # a convolution
            tensors[_WEIGHT] = tensors[_WEIGHT].flatten(1)
    return NetworkContent(architecture, tensors, _PREFIXES, facts)


def _read_whitening(path: Path) -> dict[str, torch.Tensor]:
    """Read principal axes [D, dim], variances [dim] and the mean [D, 1]; return a layer's weights.

    Raises:
        ValueError: If it is not such a file, or h5py is not installed.
    """
    arrays = read_checkpoint(path)
    try:
        axes, variances, mean = (arrays[name].float() for name in ("U", "lams", "mu"))
        weight = (axes / variances.flatten().sqrt()).T.contiguous()
        return {_WEIGHT: weight, _BIAS: -(weight @ mean.flatten())}
    except (KeyError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path} is no whitening by OpenIBL, which has U, lams and mu ({reason}): move it away "
            "to read the network without"
        ) from None


def start_from_clusters(aggregation: nn.Module, path: str | os.PathLike) -> None:
    """Give a NetVLAD the centroids [K, C] of a file, and alpha by its local descriptors [N, C].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no file of clusters, or they do not fit.
    """
    if not hasattr(aggregation, "set_centroids"):
        raise ValueError("--cluster_file goes with --aggregation netvlad or crn")
    arrays, needed = read_checkpoint(path), list(aggregation.centroids.shape)
    found = [list(getattr(arrays.get(name), "shape", [])) for name in ("centroids", "descriptors")]
    if found[0] != needed or len(found[1]) != 2 or found[1][1] != needed[1]:
        raise ValueError(
            f"--cluster_file {path}: the network needs centroids {needed} and descriptors "
            f"[N, {needed[1]}], the file has {found[0]} and {found[1]}"
        )
    descriptors = F.normalize(arrays["descriptors"].float())
    aggregation.set_centroids(arrays["centroids"].float(), descriptors)
