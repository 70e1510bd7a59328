"""What a file says about a network, and what readers of formats share."""

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from model.backbones import BACKBONES
from model.backbones.build import find_pretrained
from model.network import GeoLocalizationNet

_WRAPPERS = (  # entries of checkpoints that hold a state dict
    *("model_state_dict", "state_dict", "state_dict_ema", "model_ema", "ema", "model"),
    *("network", "module"),
)
_MAX_WRAPPED = 3
_COUNTS = ("n_averaged",)  # of torch's AveragedModel, beside the names with its prefix
# Before all names, also in combination: of parallel training, torch.compile, and modules around.
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone_net.")


@dataclass(frozen=True)
class NetworkContent:
    """What a file says about a network."""

    architecture: Mapping[str, Any]  # arguments of `build_network`
    tensors: Mapping[str, Any]  # by their names in the file
    # Beginnings of names in the network -> in the file, where they differ; the first that fits.
    prefixes: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)  # of a second file that belongs to it
    flags: Any = None  # of the training, where the file has some

    def name_in_file(self, name: str) -> str:
        """Return the name in the file of a tensor of the network."""
        for ours, theirs in self.prefixes.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        return name


def load_strictly(
    network: GeoLocalizationNet, content: NetworkContent, path: str | os.PathLike
) -> None:
    """Give a network on the meta device the tensors of a file, as float32.

    Args:
        network: Gets the tensors themselves, no copies.
        content: Of the file.
        path: Of the file, for errors.

    Raises:
        ValueError: If one is missing, is left over, or has another shape; or is an integer where a
            float is needed, or the other way round.
    """
    expected, state = network.state_dict(), content.tensors
    names = {name: content.name_in_file(name) for name in expected}
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
    kind = "a float" if tensor.is_floating_point() else "an integer"
    return f"{'a complex number' if tensor.is_complex() else kind} {list(tensor.shape)}"


def find_state(checkpoint: Mapping[str, Any]) -> Any:
    """Return the entry of a checkpoint that should be a state dict, or the checkpoint itself.

    Entries may be in others, as {"ema": {"module": ...}}.
    """
    state = checkpoint
    for _ in range(_MAX_WRAPPED):
        entries = [state.get(key) for key in _WRAPPERS]
        state = next((entry for entry in entries if isinstance(entry, Mapping)), state)
    return state


def name_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict without the beginnings that all names share, such as `module.`."""
    tensors = {name: tensor for name, tensor in state.items() if name not in _COUNTS}
    while prefix := next((p for p in _PREFIXES if _all_begin_with(tensors, p)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _all_begin_with(names: Iterable[str], prefix: str) -> bool:
    names = list(names)
    return bool(names) and all(name.startswith(prefix) for name in names)


def count_rows(tensors: Mapping[str, Any], name: str, path: str | os.PathLike) -> int:
    """Return the first size of a tensor of two or more dimensions.

    Raises:
        ValueError: If there is no such tensor.
    """
    tensor = tensors.get(name)
    if not isinstance(tensor, torch.Tensor) or tensor.ndim < 2 or len(tensor) == 0:
        raise ValueError(f"{path} cannot be a network: its {name} is not a matrix")
    return len(tensor)


def recognise_backbone(
    state: Mapping[str, Any], path: str | os.PathLike, names: Iterable[str] = tuple(BACKBONES)
) -> str:
    """Return the name of the backbone whose tensors are those of a state dict.

    Args:
        state: Tensors by our names; only those that begin with "backbone." count.
        path: Of the file, for errors.
        names: Of the backbones that it may be.

    Raises:
        ValueError: If it is none of them.
    """
    prefix = "backbone."
    shapes = {
        key.removeprefix(prefix): tensor.shape
        for key, tensor in state.items()
        if key.startswith(prefix) and isinstance(tensor, torch.Tensor)
    }
    untried = []
    for name in names:
        try:
            expected = _shapes_of(name)
        except ImportError as error:  # torch.hub users need not have timm
            untried.append(f"{name} was not tried: {error}")
            continue
        if shapes == expected:
            return name
    notes = f" ({'; '.join(untried)})" if untried else ""
    raise ValueError(f"{path} has a backbone that is none of {', '.join(names)}{notes}")


@functools.cache
def _shapes_of(backbone: str) -> dict[str, torch.Size]:
    pretrained = find_pretrained(backbone)
    with torch.device("meta"):
        state = pretrained.cut(pretrained.whole()).state_dict()
    return {key: tensor.shape for key, tensor in state.items()}
