"""Build a backbone: random or with weights, its first layers frozen."""

import os
import pkgutil
from collections.abc import Mapping

import torch
from torch import nn

from model.backbones import find_spec
from model.backbones.pretrained import Pretrained, Weights, read_weights
from model.backbones.transformers import Transformer


class FreezingError(ValueError):
    """Blocks are to be frozen that a backbone does not have."""


def find_pretrained(name: str) -> Pretrained:
    """Return the pretrained network that a backbone is cut from.

    Args:
        name: Key of BACKBONES.

    Raises:
        ValueError: If the name is unknown.
    """
    spec = find_spec(name)
    return pkgutil.resolve_name(f"model.backbones.{spec.family}")(spec.variant)


def build_backbone(
    name: str,
    weights: str | os.PathLike = "imagenet",
    train_all_layers: bool = False,
    freeze_te: int = 0,
    train_last_blocks: int = 0,
) -> nn.Module:
    """Build a backbone.

    State-dict keys of the CNNs are those of the published CosPlace checkpoints: the torchvision
    network as a plain sequence of its layers, cut before the last pooling.

    Args:
        name: Key of BACKBONES.
        weights: "imagenet" (torchvision's IMAGENET1K_V1, or what a transformer was pretrained on;
            downloaded if it is not in the hub's cache), "none" (random), or the path of a state
            dict of the whole pretrained network, or of a network of ours or CosPlace's, whose
            backbone is taken.
        train_all_layers: Leave all layers of a CNN trainable. By default the first ones are frozen
            as in the paper; only their gradients: BatchNorm statistics still move in training mode.
            All layers of a transformer are trained anyway.
        freeze_te: Freeze the embeddings and this number of first blocks of a transformer; 0: none.
        train_last_blocks: Of a transformer, train only this number of last blocks and what follows
            them; 0: all. Frozen layers come first, so that nothing of them is kept for gradients.

    Returns:
        The backbone: [B, 3, H, W] to [B, out_channels, h, w], with attribute `out_channels`.

    Raises:
        ValueError: If the name is unknown, the weights do not fit, or there is no such freezing.
        FileNotFoundError: If the weights are not there, and cannot be downloaded.
    """
    pretrained = find_pretrained(name)
    whole = pretrained.whole()
    tensors = whole.state_dict(keep_vars=True)
    backbone = pretrained.cut(whole)
    _check_freezing(backbone, name, train_all_layers, freeze_te, train_last_blocks)
    if freeze_te or train_last_blocks:
        backbone.freeze(freeze_te or len(backbone.blocks) - train_last_blocks)
    if not train_all_layers:
        for layer in pretrained.frozen(backbone):
            layer.requires_grad_(False)
    if os.fspath(weights) != "none":
        state, what = _find_weights(pretrained, name, weights)
        own = _backbone_of_network(state)
        if own:
            _load(backbone.state_dict(keep_vars=True), own, (), what)
        else:
            _load(_used_tensors(tensors, backbone), state, pretrained.unused, what)
    backbone.out_channels = find_spec(name).out_channels
    return backbone


def load_pretrained_aggregation(
    aggregation: nn.Module, name: str, weights: str | os.PathLike
) -> None:
    """Load the weights of an aggregation, if the backbone was pretrained with the same layers.

    Args:
        aggregation: Follows the backbone.
        name: Of the backbone.
        weights: Of the backbone, see `build_backbone`.

    Raises:
        ValueError: If the weights do not fit.
    """
    pretrained = find_pretrained(name)
    tensors = {
        in_file + key.removeprefix(ours): tensor
        for in_file, ours in pretrained.aggregation.items()
        for key, tensor in aggregation.state_dict(keep_vars=True).items()
        if key.startswith(ours)
    }
    if tensors and os.fspath(weights) != "none":
        state, what = _find_weights(pretrained, name, weights)
        if not _backbone_of_network(state):
            _load(tensors, state, None, what)


def _find_weights(
    pretrained: Pretrained, name: str, weights: str | os.PathLike
) -> tuple[Weights, str]:
    """Return weights under our names, and a description of them."""
    state = pretrained.imagenet() if weights == "imagenet" else _read_weights(weights)
    if pretrained.translate and not _backbone_of_network(state):
        state = pretrained.translate(state)
    return state, f"The weights '{weights}' for {name}"


def _backbone_of_network(state: Weights) -> Weights:
    """Return the backbone of a network's file, by its own names; {} if the file is of no network.

    A network is a state dict with a backbone and an aggregation, or a checkpoint of a training.
    """
    state = state.get("model_state_dict", state)
    if not isinstance(state, Mapping):
        return {}
    names = {name: str(name).removeprefix("module.") for name in state}
    if not any(name.startswith("aggregation.") for name in names.values()):
        return {}
    return {
        ours.removeprefix("backbone."): state[name]
        for name, ours in names.items()
        if ours.startswith("backbone.")
    }


def _check_freezing(
    backbone: nn.Module, name: str, train_all_layers: bool, freeze_te: int, train_last_blocks: int
) -> None:
    numbers = {"--freeze_te": freeze_te, "--train_last_blocks": train_last_blocks}
    asked = {flag: number for flag, number in numbers.items() if number}
    given = [f"{flag} {number}" for flag, number in asked.items()]
    if given and not isinstance(backbone, Transformer):
        raise FreezingError(
            f"{given[0]} freezes blocks of a transformer, {name} is none: give {next(iter(asked))} "
            "0. Its first layers are frozen as in the paper, or none with --train_all_layers"
        )
    given += ["--train_all_layers"] * train_all_layers
    if asked and len(given) > 1:
        raise FreezingError(
            f"{' and '.join(given)}: give one of them, and 0 for what a method has by default"
        )
    for flag, number in asked.items():
        if number > len(backbone.blocks):
            raise FreezingError(f"{flag} {number}: there are {len(backbone.blocks)} blocks")


def _used_tensors(tensors: dict[str, torch.Tensor], backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a whole network that its backbone uses; its head may differ."""
    used = {id(tensor) for tensor in backbone.state_dict(keep_vars=True).values()}
    return {name: tensor for name, tensor in tensors.items() if id(tensor) in used}


def _load(
    tensors: dict[str, torch.Tensor], state: Weights, unused: tuple[str, ...] | None, what: str
) -> None:
    """Copy weights into tensors by their names.

    Args:
        tensors: Destinations by name.
        state: The weights; no tensor may be missing.
        unused: See `Pretrained`.
        what: Description of the weights, for errors.
    """
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        # Files older than PyTorch 0.4.1, torchvision's ResNets V1 among them, have no counters.
        if name in state or not name.endswith(".num_batches_tracked")
    }
    misfits = [
        name
        for name, tensor in tensors.items()
        if getattr(state.get(name), "shape", None) != tensor.shape
    ]
    if misfits:
        raise ValueError(
            f"{what} lack {len(misfits)} of {len(tensors)} tensors, or have them in other shapes, "
            f"for example '{misfits[0]}'"
        )
    if unused is not None:
        others = [name for name in state if name not in tensors and not name.startswith(unused)]
        if others:
            raise ValueError(f"{what} are of another network: there is also '{others[0]}'")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(state[name])


def _read_weights(path: str | os.PathLike) -> Weights:
    try:
        weights = read_weights(path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"--backbone_weights: {error}") from None
    if not all(isinstance(name, str) for name in weights):
        raise ValueError(f"--backbone_weights: {path} holds no state dict: names must be strings")
    return weights
