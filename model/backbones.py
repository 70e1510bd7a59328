"""Backbones: images [B, 3, H, W] to feature maps [B, out_channels, h, w].

State-dict keys of the CNNs are those of the published CosPlace checkpoints: the torchvision network
as a plain sequence of its layers, cut before the last pooling.
"""

import os

import torch
from torch import nn

from model.cct import CCT14_224, CCT14_384
from model.cnns import CNNS
from model.dinov2 import DINOV2_B, DINOV2_L, DINOV2_S
from model.layers import SeqPool
from model.recipe import Recipe, Weights
from model.transformer import Transformer
from model.vit import VIT_B16
from model.weights import read_weights

BACKBONES = CNNS | {
    "ViT_B16": VIT_B16,
    "CCT14_224": CCT14_224,
    "CCT14_384": CCT14_384,
    "DINOv2_S": DINOV2_S,
    "DINOv2_B": DINOV2_B,
    "DINOv2_L": DINOV2_L,
}


def find_recipe(name: str) -> Recipe:
    """Return what the table says about a backbone.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in BACKBONES:
        raise ValueError(f"Unknown backbone '{name}': choose from {', '.join(BACKBONES)}")
    return BACKBONES[name]


def build_backbone(
    name: str,
    weights: str | os.PathLike = "imagenet",
    train_all_layers: bool = False,
    freeze_te: int = 0,
    pooling: nn.Module | None = None,
) -> nn.Module:
    """Make a backbone.

    Args:
        name: Key of BACKBONES.
        weights: "imagenet" (torchvision's IMAGENET1K_V1, or what a transformer was pretrained on;
            downloaded if it is not in the hub's cache), "none" (random), or the path of a state
            dict of the whole pretrained network.
        train_all_layers: Leave all layers of a CNN trainable. By default the first ones are frozen
            as in the paper; only their gradients: BatchNorm statistics keep moving in training
            mode. Of a transformer all are trained anyway.
        freeze_te: Freeze the embeddings and so many first blocks of a transformer; 0 freezes none.
        pooling: What follows the backbone: a SeqPool gets its weights, too, if the backbone was
            pretrained with one.

    Returns:
        The backbone: [B, 3, H, W] to [B, out_channels, h, w], with attribute `out_channels`.

    Raises:
        ValueError: If the name is unknown, the weights do not fit, or there is no such freezing.
        FileNotFoundError: If the weights are not there, and cannot be downloaded.
    """
    recipe = find_recipe(name)
    whole = recipe.whole()
    tensors = whole.state_dict(keep_vars=True)
    backbone = recipe.cut(whole)
    _freeze(backbone, recipe, name, train_all_layers, freeze_te)
    if os.fspath(weights) != "none":
        tensors = _used_tensors(tensors, backbone)
        if recipe.seqpool and isinstance(pooling, SeqPool):
            parts = pooling.attention.state_dict(keep_vars=True)
            tensors |= {recipe.seqpool + part: tensor for part, tensor in parts.items()}
        state = recipe.imagenet() if weights == "imagenet" else _read_weights(weights)
        state = recipe.translate(state) if recipe.translate else state
        _load(tensors, state, recipe.unused, what=f"The weights '{weights}' for {name}")
    backbone.out_channels = recipe.out_channels
    return backbone


def _freeze(
    backbone: nn.Module, recipe: Recipe, name: str, train_all_layers: bool, freeze_te: int
) -> None:
    if freeze_te and not isinstance(backbone, Transformer):
        raise ValueError(
            f"--freeze_te {freeze_te} freezes blocks of a transformer, {name} is none: its first "
            "layers are frozen as in the paper, or none with --train_all_layers"
        )
    if freeze_te and train_all_layers:
        raise ValueError(f"--freeze_te {freeze_te} and --train_all_layers: give one of them")
    if freeze_te:
        backbone.freeze(freeze_te)
    if not train_all_layers:
        for layer in recipe.frozen(backbone):
            layer.requires_grad_(False)


def _used_tensors(tensors: dict[str, torch.Tensor], backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Return those tensors of a whole network that are its backbone's; its head may differ."""
    used = {id(tensor) for tensor in backbone.state_dict(keep_vars=True).values()}
    return {name: tensor for name, tensor in tensors.items() if id(tensor) in used}


def _load(
    tensors: dict[str, torch.Tensor], state: Weights, unused: tuple[str, ...] | None, what: str
) -> None:
    """Copy weights into tensors by their names.

    Args:
        tensors: Where to, by name.
        state: The weights; all tensors must be there.
        unused: See `Recipe`.
        what: The weights in words, for errors.
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
        raise ValueError(f"--backbone_weights: {path} holds no state dict: names must be texts")
    return weights
