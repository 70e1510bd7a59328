"""Networks from checkpoints, ours and the published ones."""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.aggregation import AGGREGATIONS, Option, build_aggregation, check_aggregation
from model.backbones import BACKBONES
from model.backbones.build import find_pretrained
from model.checkpoint_files import read_checkpoint
from model.network import GeoLocalizationNet, architecture_of, build_network, remove_whitening

_WRAPPERS = ("model_state_dict", "state_dict")
# What files that say no architecture may have, all of them published or older than this module.
_PLAIN_POOLING = "aggregation.1._extra_state"
_LEARNED_POOLINGS = {"aggregation.1.p": "gem", "aggregation.1.attention.weight": "seqpool"}
_POOLINGS = ("gem", "avg", "max", "seqpool", "none")
_LINEAR = "aggregation.3."


def load_network(
    path: str | os.PathLike, train_all_layers: bool = False, freeze_te: int = 0
) -> GeoLocalizationNet:
    """Build the network that a checkpoint was saved from, with its weights, on the CPU.

    State dicts of our networks say the architecture. In other files, published ones and our older
    ones, backbone, aggregation and descriptor length are recognised by the tensors. Nothing else is
    needed, and nothing is downloaded. Accepted are published CosPlace checkpoints, our
    `best_model.pth` and `last_checkpoint.pth`, and either with a `module.` prefix.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not such a checkpoint.
    """
    return network_of(read_checkpoint(path), path, train_all_layers, freeze_te)


def network_of(
    checkpoint: Mapping[str, Any],
    path: str | os.PathLike,
    train_all_layers: bool = False,
    freeze_te: int = 0,
) -> GeoLocalizationNet:
    """Do what `load_network` does with a checkpoint that was read from `path` already."""
    state = _find_state(checkpoint, path)
    tensors = {name.removeprefix("module."): value for name, value in state.items()}
    architecture = architecture_of(state) or _recognise(tensors, path)
    freezing = {"train_all_layers": train_all_layers, "freeze_te": freeze_te}
    try:
        with torch.device("meta"):
            network = build_network(**architecture, backbone_weights="none", **freezing)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} has no known architecture, {architecture}: {reason}") from None
    load_strictly(network, tensors, path)
    if network.image_size is not None:
        network.image_size = (
            _trained_size(checkpoint, path, architecture["backbone"]) or network.image_size
        )
    return network


def start_network(
    path: str | os.PathLike,
    aggregation: str | None = None,
    aggregation_args: Mapping[str, Option] | None = None,
    train_all_layers: bool = False,
    freeze_te: int = 0,
) -> GeoLocalizationNet:
    """Build the network that a training starts from: that of a checkpoint, without its whitening.

    Where the aggregation that is asked for extends the checkpoint's, such as CRN extends NetVLAD,
    it gets the checkpoint's tensors, and its own are random.

    Args:
        path: Of the checkpoint, see `load_network`.
        aggregation: Key of AGGREGATIONS; None for the checkpoint's.
        aggregation_args: Options of the aggregation; those that are missing are the checkpoint's.
        train_all_layers: See `build_network`; so is `freeze_te`.
        freeze_te: Number of blocks.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not such a checkpoint, or has another aggregation.
    """
    network = remove_whitening(load_network(path, train_all_layers, freeze_te))
    found = network.architecture["aggregation"]
    aggregation = aggregation or found
    check_aggregation(aggregation, network.architecture["backbone"], found)
    first = AGGREGATIONS[aggregation].extends
    if found not in (aggregation, first):
        raise ValueError(
            f"{path} has the aggregation {found}: --aggregation {aggregation} starts from a "
            f"network with {f'{first} or ' if first else ''}{aggregation}"
        )
    args = network.architecture.get("aggregation_args", {}) | (aggregation_args or {})
    names = (aggregation, network.backbone.out_channels, network.architecture["fc_output_dim"])
    layers, tensors = build_aggregation(*names, args), network.aggregation.state_dict()
    try:
        layers.load_state_dict(tensors, strict=aggregation == found)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not have the tensors of {aggregation} with --aggregation_args {args}: "
            f"{' '.join(str(error).split())}"
        ) from None
    network.aggregation, network.out_dim = layers, layers.out_dim
    network.architecture |= {"aggregation": aggregation} | (
        {"aggregation_args": args} if args else {}
    )
    return network


def load_strictly(
    network: GeoLocalizationNet,
    state: Mapping[str, Any],
    path: str | os.PathLike,
    names: Mapping[str, str] | None = None,
) -> None:
    """Give a network on the meta device the tensors of a file, as float32.

    Args:
        network: Gets the tensors themselves, no copies.
        state: Tensors by name.
        path: The file that they are from.
        names: Names in the network -> names in the file; None if they are the same.

    Raises:
        ValueError: If one is missing, is left over, or has another shape; or is an integer where a
            float is needed, or the other way round.
    """
    expected = network.state_dict()
    names = names or {name: name for name in expected}
    faults = [f"{name} is left over" for name in state if name not in set(names.values())]
    for name, in_file in names.items():
        needed = _describe(expected[name])
        if in_file not in state:
            faults.append(f"{in_file} is missing")
        elif _describe(state[in_file]) != needed:
            faults.append(f"{in_file} is {_describe(state[in_file])}, not {needed}")
    if faults:
        raise ValueError(
            f"{path} does not have the tensors of its architecture, {network.architecture} "
            f"({len(faults)} differ): {'; '.join(faults[:3])}"
        )
    state = {name: state[in_file] for name, in_file in names.items()}
    network.load_state_dict(state, strict=True, assign=True)
    network.float()


def _describe(tensor: Any) -> str:
    """Return kind and shape; the precision may differ."""
    if not isinstance(tensor, torch.Tensor):
        return f"a {type(tensor).__name__}"
    return f"{'a float' if tensor.is_floating_point() else 'an integer'} {list(tensor.shape)}"


def _find_state(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> Mapping[str, Any]:
    """Return the network's state dict in a checkpoint.

    Raises:
        ValueError: If there is none.
    """
    state = next((checkpoint[key] for key in _WRAPPERS if key in checkpoint), checkpoint)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path} holds no state dict")
    if not any(key.removeprefix("module.").startswith("backbone.") for key in state):
        raise ValueError(f"{path} holds no CosPlace network: no key begins with 'backbone.'")
    return state


def _trained_size(
    checkpoint: Mapping[str, Any], path: str | os.PathLike, backbone: str
) -> int | None:
    """Return --image_size of the training, if the checkpoint or args.json beside it says it."""
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


def _recognise(state: Mapping[str, Any], path: str | os.PathLike) -> dict[str, Any]:
    """Return the architecture whose tensors are those of a state dict that does not say it."""
    return {
        "backbone": _recognise_backbone(state, path),
        "aggregation": _recognise_pooling(state, path),
        "fc_output_dim": _recognise_dim(state, path),
    }


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
    pretrained = find_pretrained(backbone)
    with torch.device("meta"):
        state = pretrained.cut(pretrained.whole()).state_dict()
    return {key: tensor.shape for key, tensor in state.items()}


def _recognise_pooling(state: Mapping[str, Any], path: str | os.PathLike) -> str:
    """Return the name of the pooling: by its tensors, or the name in the state if it has none."""
    learned = (name for key, name in _LEARNED_POOLINGS.items() if key in state)
    pooling = state.get(_PLAIN_POOLING, next(learned, None))
    if not isinstance(pooling, str) or pooling not in _POOLINGS:
        raise ValueError(
            f"{path} has no aggregation of a published network, {', '.join(_POOLINGS)}, and does "
            "not say its architecture"
        )
    return pooling


def _recognise_dim(state: Mapping[str, Any], path: str | os.PathLike) -> int:
    """Return the length of the linear layer's output; 0 if there is no such layer."""
    if not any(key.startswith(_LINEAR) for key in state):
        return 0
    weight = state.get(f"{_LINEAR}weight")
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or len(weight) == 0:
        raise ValueError(f"{path} has no linear layer: {_LINEAR}weight is not a matrix")
    return len(weight)
