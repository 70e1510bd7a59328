"""State dicts with the names of CosPlace: ours, the released ones, and those of the benchmark.

Ours say their architecture. Others are recognised by their tensors: the released files of CosPlace,
older ones of ours, and files of the deep visual geo-localization benchmark ("VGB", CVPR 2022),
whose networks have the same backbones and other names in the aggregation.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from model.formats.content import (
    NetworkContent,
    count_rows,
    find_state,
    name_tensors,
    recognise_backbone,
)
from model.network import architecture_of

_PLAIN_POOLINGS = ("avg", "max", "none")  # without tensors; in their place is the name
_NAME = "1._extra_state"


class _Layout(NamedTuple):
    """An aggregation in files that do not say their architecture."""

    tensors: tuple[str, ...]  # by which it is known; their names after "aggregation.", as all here
    aggregation: str  # key of AGGREGATIONS
    args: dict[str, str] = {}  # its options; the name of a tensor is for the number of its rows
    linear: str = "3."  # beginning of the names of the linear layer, where there is one
    whitening: str = ""  # the same of a whitening
    renamed: dict[str, str] = {}  # beginnings of names in the network -> in the file


_LAYOUTS = (  # the first one counts whose tensors are all there
    _Layout(("1.p", "3.bias"), "gem"),  # the released files of CosPlace
    _Layout(("1.attention.weight",), "seqpool"),
    # GeM of VGB, by its --l2 and --fc_output_dim: unit descriptors with the latter only, and where
    # L2 comes last. Files do not say whether an L2 is after the pooling or nowhere; it is rare.
    _Layout(("1.p",), "gem", {"l2": "before_pool"}),
    _Layout(("0.p",), "gem", {"l2": "after_pool"}, renamed={"1.": "0."}),
    _Layout(("0.1.p",), "gem", linear="1.", renamed={"1.": "0.1.", "3.": "1."}),
    _Layout(("0.0.p",), "gem_plain", linear="-", whitening="1.", renamed={"0.": "0.0."}),
    # NetVLAD and CRN of VGB
    _Layout(("crn.acc_w.weight", "centroids"), "crn", {"clusters": "centroids"}),
    _Layout(("centroids",), "netvlad", {"clusters": "centroids"}),
)


def read(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> NetworkContent:
    """Return what a file says about a network, see `model.formats.recognise`.

    Raises:
        ValueError: If it has no state dict, or one that is not of a known network.
    """
    state = find_state(checkpoint)
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{path} holds no state dict")
    tensors, flags = name_tensors(state), checkpoint.get("args")
    if not any(name.startswith("backbone.") for name in tensors):
        raise ValueError(
            f"{path} holds no network of ours, and none in a format that is known: no name of a "
            "tensor begins with 'backbone.'"
        )
    if architecture := architecture_of(state):
        return NetworkContent(architecture, tensors, flags=flags)
    backbone = recognise_backbone(tensors, path)
    parts = {
        name.removeprefix("aggregation."): tensor
        for name, tensor in tensors.items()
        if name.startswith("aggregation.")
    }
    layout = _recognise_layout(parts, path)
    architecture = {"backbone": backbone, "aggregation": layout.aggregation, "fc_output_dim": 0}
    if layout.args:
        architecture["aggregation_args"] = {
            name: count_rows(tensors, f"aggregation.{value}", path) if value in parts else value
            for name, value in layout.args.items()
        }
    for argument, layer in (("fc_output_dim", layout.linear), ("whiten_dim", layout.whitening)):
        if layer and any(name.startswith(layer) for name in parts):
            architecture[argument] = count_rows(tensors, f"aggregation.{layer}weight", path)
    prefixes = {f"aggregation.{ours}": f"aggregation.{it}" for ours, it in layout.renamed.items()}
    if layout.whitening:
        prefixes["whitening."] = f"aggregation.{layout.whitening}"
    return NetworkContent(architecture, tensors, prefixes, flags=flags)


def _recognise_layout(parts: Mapping[str, Any], path: str | os.PathLike) -> _Layout:
    """Return the layout of an aggregation: by its tensors, or by its name if it has none."""
    plain = [_Layout((_NAME,), name) for name in _PLAIN_POOLINGS if parts.get(_NAME) == name]
    learned = [layout for layout in _LAYOUTS if all(name in parts for name in layout.tensors)]
    if (layout := next(iter(plain if _NAME in parts else learned), None)) is None:
        names = dict.fromkeys([*(layout.aggregation for layout in _LAYOUTS), *_PLAIN_POOLINGS])
        raise ValueError(
            f"{path} has no aggregation of a published network, {', '.join(names)}, and does not "
            "say its architecture"
        )
    return layout
