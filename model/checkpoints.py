"""Networks from checkpoints, ours and the published ones."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.aggregation import AGGREGATIONS, Option, build_aggregation, check_aggregation
from model.backbones.build import FreezingError
from model.checkpoint_files import read_checkpoint
from model.formats import recognise
from model.formats.content import NetworkContent, load_strictly
from model.network import GeoLocalizationNet, build_network, remove_whitening


def load_network(path: str | os.PathLike, **freezing: bool | int) -> GeoLocalizationNet:
    """Build the network that a checkpoint was saved from, with its weights, on the CPU.

    State dicts of our networks say the architecture. In other files, published ones and our older
    ones, backbone, aggregation and descriptor length are recognised by the tensors. Nothing else is
    needed, and nothing is downloaded. Accepted are our `best_model.pth` and `last_checkpoint.pth`,
    the published files of `model.formats`, and any with a `module.` prefix.

    Args:
        path: Of the file.
        freezing: See `build_network`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not such a checkpoint.
    """
    return network_of(read_checkpoint(path), path, **freezing)


def network_of(
    checkpoint: Mapping[str, Any], path: str | os.PathLike, **freezing: bool | int
) -> GeoLocalizationNet:
    """Do what `load_network` does with a checkpoint that was read from `path` already."""
    return network_with(recognise(checkpoint, path), path, **freezing)


def network_with(
    content: NetworkContent,
    path: str | os.PathLike,
    kept_dims: int | None = None,
    **freezing: bool | int,
) -> GeoLocalizationNet:
    """Build the network of a file, with its weights, on the CPU.

    Args:
        content: What the file says; no tensor may be missing or be left over.
        path: Of the file, for errors.
        kept_dims: Length of the descriptors, the first dimensions of the whitening; None for those
            that the file says.
        freezing: See `build_network`.

    Raises:
        ValueError: If it is not such a network.
    """
    architecture = dict(content.architecture)
    if kept_dims is not None:
        architecture["kept_dims"] = kept_dims
    try:
        with torch.device("meta"):
            network = build_network(**architecture, backbone_weights="none", **freezing)
    except FreezingError as error:
        raise ValueError(f"{path}: {error}") from None
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} has no known architecture, {architecture}: {reason}") from None
    load_strictly(network, content, path)
    if network.image_size is not None or hasattr(network.aggregation, "map_size"):
        trained = _trained_size(content.flags, path, network.architecture["backbone"])
        network.image_size = trained or network.image_size
    return network


def start_network(
    path: str | os.PathLike,
    aggregation: str | None = None,
    aggregation_args: Mapping[str, Option] | None = None,
    **freezing: bool | int,
) -> GeoLocalizationNet:
    """Build the network that a training starts from: that of a checkpoint, without its whitening.

    Where the aggregation that is asked for extends the checkpoint's, such as CRN extends NetVLAD,
    it gets the checkpoint's tensors, and its own are random.

    Args:
        path: Of the checkpoint, see `load_network`.
        aggregation: Key of AGGREGATIONS; None for the checkpoint's.
        aggregation_args: Options of the aggregation; those that are missing are the checkpoint's.
        freezing: See `build_network`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not such a checkpoint, or has another aggregation.
    """
    network = remove_whitening(load_network(path, **freezing))
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


def _trained_size(flags: Any, path: str | os.PathLike, backbone: str) -> int | None:
    """Return --image_size of the training, if the checkpoint or args.json beside it says it."""
    file = Path(path).with_name("args.json")
    if not isinstance(flags, Mapping) and file.is_file():
        try:
            flags = json.loads(file.read_bytes())
        except (ValueError, RecursionError):  # another program's
            flags = None
    if not isinstance(flags, Mapping) or flags.get("backbone") != backbone:
        return None
    size = flags.get("image_size")
    return size if isinstance(size, int) and size > 0 else None
