"""Files of MixVPR, Conv-AP, SALAD, CliqueMining, BoQ and MegaLoc.

Their code descends from that of GSV-Cities (Ali-bey et al., 2022): a `backbone`, with a ResNet or a
DINOv2 inside, and an `aggregator`. The files are state dicts, CliqueMining's is a checkpoint of
Lightning, MegaLoc's is .safetensors. Which network a file has, its tensors tell; options that leave
no trace in tensors are those of the published networks: Conv-AP's grid of 2 x 2 cells, and the
dropout. The rules for test images are those of `model.published`.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from model.backbones import BACKBONES
from model.formats.content import (
    NetworkContent,
    count_rows,
    find_state,
    name_tensors,
    recognise_backbone,
)
from model.published import rule_of

_OURS, _THEIRS = "aggregation.", "aggregator."
_UNUSED = ("mask_token",)  # of DINOv2's training
_RESNETS, _DINOV2 = (
    tuple(name for name in BACKBONES if name.startswith(family)) for family in ("ResNet", "DINOv2")
)
_RESNET_LAYERS = {"0.": "conv1.", "1.": "bn1."} | {f"{i + 3}.": f"layer{i}." for i in range(1, 5)}


class _Body(NamedTuple):
    """How a file names the tensors of its backbone."""

    tensor: str  # by which it is known
    backbones: tuple[str, ...]
    inside: str  # what stands before the names of the backbone's own layers
    layers: Mapping[str, str] = {"": ""}  # beginnings of our names -> of those


_BODIES = (
    _Body("backbone.model.conv1.weight", _RESNETS, "backbone.model.", _RESNET_LAYERS),
    _Body("backbone.net.0.weight", _RESNETS, "backbone.net."),  # BoQ
    _Body("backbone.model.cls_token", _DINOV2, "backbone.model."),  # SALAD, MegaLoc at first
    _Body("backbone.dino.cls_token", _DINOV2, "backbone.dino."),  # BoQ
    _Body("backbone.cls_token", _DINOV2, "backbone."),  # MegaLoc
)


class _Tensors:
    """The tensors of an aggregator, whose sizes are its options."""

    def __init__(self, tensors: Mapping[str, Any], path: str | os.PathLike) -> None:
        self.tensors, self.path = tensors, path

    def size(self, name: str, dim: int = 0) -> int:
        """Return a size of a tensor; a ValueError if that has no two dimensions, or no number."""
        name = _THEIRS + name
        count_rows(self.tensors, name, self.path)
        if self.tensors[name].numel() == 0:
            raise ValueError(f"{self.path} cannot be a network: its {name} is empty")
        return self.tensors[name].shape[dim]

    def count(self, name: str) -> int:
        """Return how many tensors have a name with a number in it, which counts from 0."""
        count = 0
        while _THEIRS + name.format(count) in self.tensors:
            count += 1
        return count


def _mixvpr(of: _Tensors) -> dict[str, Any]:
    locations, mixed = of.size("row_proj.weight", 1), of.size("mix.0.mix.1.weight")
    side = math.isqrt(locations)
    if side**2 != locations:
        raise ValueError(f"{of.path} is for maps of {locations} locations, which are no square")
    return {
        "out_channels": of.size("channel_proj.weight"),
        "out_rows": of.size("row_proj.weight"),
        "mix_depth": of.count("mix.{}.mix.1.weight"),
        "mlp_ratio": mixed // locations,
        "height": side,
        "width": side,
    }


def _convap(of: _Tensors) -> dict[str, Any]:
    return {"out_channels": of.size("channel_pool.weight")}


def _salad(of: _Tensors, inside: str = "") -> dict[str, Any]:
    return {
        "clusters": of.size(f"{inside}score.3.weight"),
        "cluster_dim": of.size(f"{inside}cluster_features.3.weight"),
        "token_dim": of.size(f"{inside}token_features.2.weight"),
        "hidden": of.size(f"{inside}score.0.weight"),
    }


def _megaloc(of: _Tensors) -> dict[str, Any]:
    return _salad(of, "agg.")


def _boq(of: _Tensors) -> dict[str, Any]:
    return {
        "proj_channels": of.size("proj_c.weight"),
        "num_queries": of.size("boqs.0.queries", 1),
        "num_layers": of.count("boqs.{}.queries"),
        "row_dim": of.size("fc.weight"),
    }


class _Aggregator(NamedTuple):
    """An aggregator."""

    tensor: str  # by which it is known
    family: str  # of the published network, see `rule_of`
    aggregation: str  # key of AGGREGATIONS
    read_options: Callable[[_Tensors], dict[str, Any]]


_AGGREGATORS = (
    _Aggregator("mix.0.mix.0.weight", "mixvpr", "mixvpr", _mixvpr),
    _Aggregator("channel_pool.weight", "convap", "convap", _convap),
    _Aggregator("dust_bin", "salad", "salad", _salad),
    _Aggregator("agg.dust_bin", "megaloc", "salad", _megaloc),
    _Aggregator("proj_c.weight", "boq", "boq", _boq),
)


def read(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> NetworkContent | None:
    """Return what a file says about a network, see `model.formats.recognise`."""
    state = find_state(checkpoint)
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        return None
    tensors = name_tensors(state)
    if not any(name.startswith(_THEIRS) for name in tensors):
        return None
    aggregator = next((one for one in _AGGREGATORS if _THEIRS + one.tensor in tensors), None)
    body = next((one for one in _BODIES if one.tensor in tensors), None)
    if aggregator is None or body is None:
        known = "a ResNet or DINOv2" if aggregator else "MixVPR, Conv-AP, SALAD, BoQ or MegaLoc"
        part = "backbone" if aggregator else "aggregator"
        raise ValueError(f"{path} has {part}.* tensors, but not those of {known}")
    for name in _UNUSED:
        tensors.pop(body.inside + name, None)
    prefixes = {f"backbone.{ours}": body.inside + it for ours, it in body.layers.items()}
    backbone = recognise_backbone(_rename(tensors, prefixes), path, body.backbones)
    architecture = {
        "backbone": backbone,
        "aggregation": aggregator.aggregation,
        "fc_output_dim": 0,
        "aggregation_args": aggregator.read_options(_Tensors(tensors, path)),
        "resize": rule_of(aggregator.family, backbone),
    }
    if aggregator.family == "megaloc":
        architecture["fc_output_dim"] = count_rows(tensors, f"{_THEIRS}linear.weight", path)
        prefixes |= {f"{_OURS}linear.": f"{_THEIRS}linear.", _OURS: f"{_THEIRS}agg."}
    return NetworkContent(architecture, tensors, {**prefixes, _OURS: prefixes.get(_OURS, _THEIRS)})


def _rename(
    tensors: Mapping[str, torch.Tensor], prefixes: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Return the tensors of a backbone by our names."""
    return {
        ours + name.removeprefix(theirs): tensor
        for ours, theirs in prefixes.items()
        for name, tensor in tensors.items()
        if name.startswith(theirs)
    }
