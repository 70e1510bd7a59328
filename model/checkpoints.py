"""Networks out of checkpoints, ours and the published ones."""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.backbones import BACKBONES
from model.checkpoint_files import read_checkpoint
from model.layers import POOLINGS
from model.network import GeoLocalizationNet, build_network

_WRAPPERS = ("model_state_dict", "state_dict")
_PLAIN_POOLING = "aggregation.1._extra_state"
_LEARNED_POOLINGS = {"aggregation.1.p": "gem", "aggregation.1.attention.weight": "seqpool"}
_LINEAR = "aggregation.3."


def load_network(
    path: str | os.PathLike, train_all_layers: bool = False, freeze_te: int = 0
) -> GeoLocalizationNet:
    """Make the network that a checkpoint was saved from, with its weights, on the CPU.

    Backbone, pooling and descriptor length are read off the tensors: nothing else is needed, and
    nothing is downloaded. Accepted are published CosPlace checkpoints, our `best_model.pth` and
    `last_checkpoint.pth`, and either with a `module.` prefix.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not such a checkpoint.
    """
    return network_of(read_checkpoint(path), path, train_all_layers, freeze_te)


def network_of(
    checkpoint: dict[str, Any],
    path: str | os.PathLike,
    train_all_layers: bool = False,
    freeze_te: int = 0,
) -> GeoLocalizationNet:
    """Do what `load_network` does with a checkpoint that was read from `path` already."""
    state = network_state(checkpoint, path)
    backbone = _recognise_backbone(state, path)
    pooling = _recognise_pooling(state, path)
    dim = _recognise_dim(state, path)
    with torch.device("meta"):
        network = build_network(backbone, dim, pooling, "none", train_all_layers, freeze_te)
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a CosPlace network with {backbone}: {error}") from None
    if network.image_size is not None:
        network.image_size = _trained_size(checkpoint, path, backbone) or network.image_size
    return network.float()


def _trained_size(
    checkpoint: Mapping[str, Any], path: str | os.PathLike, backbone: str
) -> int | None:
    """Return --image_size of the training, if the checkpoint or args.json beside it tell it."""
    flags = checkpoint.get("args")
    file = Path(path).with_name("args.json")
    if not isinstance(flags, Mapping) and file.is_file():
        try:
            flags = json.loads(file.read_bytes())
        except ValueError:  # another program's
            flags = None
    if not isinstance(flags, Mapping) or flags.get("backbone") != backbone:
        return None
    size = flags.get("image_size")
    return size if isinstance(size, int) and size > 0 else None


def network_state(checkpoint: dict[str, Any], path: str | os.PathLike) -> dict[str, Any]:
    """Return the network's state dict out of a checkpoint, without `module.` prefixes.

    Raises:
        ValueError: If there is none.
    """
    state = next((checkpoint[key] for key in _WRAPPERS if key in checkpoint), checkpoint)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path} holds no state dict")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if not any(key.startswith("backbone.") for key in state):
        raise ValueError(f"{path} holds no CosPlace network: no key begins with 'backbone.'")
    return state


def _recognise_backbone(state: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Return the name of the backbone whose tensors are those of the state dict."""
    prefix = "backbone."
    shapes = {
        key.removeprefix(prefix): tensor.shape
        for key, tensor in state.items()
        if key.startswith(prefix) and isinstance(tensor, torch.Tensor)
    }
    untried = []
    for name in BACKBONES:
        try:
            expected = _shapes_of(name)
        except ImportError as error:  # torch.hub users need not have timm
            untried.append(f"{name} was not tried: {error}")
            continue
        if shapes == expected:
            return name
    notes = f" ({'; '.join(untried)})" if untried else ""
    raise ValueError(f"{path} has a backbone that is none of {', '.join(BACKBONES)}{notes}")


@functools.cache
def _shapes_of(backbone: str) -> dict[str, torch.Size]:
    recipe = BACKBONES[backbone]
    with torch.device("meta"):
        state = recipe.cut(recipe.whole()).state_dict()
    return {key: tensor.shape for key, tensor in state.items()}


def _recognise_pooling(state: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Return the name of the pooling, which its tensors tell, or else its name in the state."""
    learned = (name for key, name in _LEARNED_POOLINGS.items() if key in state)
    pooling = state.get(_PLAIN_POOLING, next(learned, None))
    if not isinstance(pooling, str) or pooling not in POOLINGS:
        raise ValueError(f"{path} has no pooling of a CosPlace network: {', '.join(POOLINGS)}")
    return pooling


def _recognise_dim(state: Mapping[str, Any], path: str | os.PathLike) -> int:
    """Return the length of what the linear layer gives; 0 if there is none."""
    if not any(key.startswith(_LINEAR) for key in state):
        return 0
    weight = state.get(f"{_LINEAR}weight")
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or len(weight) == 0:
        raise ValueError(f"{path} has no linear layer: {_LINEAR}weight is not a matrix")
    return len(weight)
