"""Aggregations: feature maps [B, channels, h, w] of a backbone to descriptors [B, out_dim].

An aggregation is one file of this package, or a part of one, and one line of AGGREGATIONS. Its
constructor takes `(channels, fc_output_dim)` and returns a module with the attribute `out_dim`, the
length of its descriptors; L2 and linear layers belong to the module itself. `fc_output_dim` is 0
where no linear layer is asked for. A module that starts from data, such as cluster centres, has a
method `initialise(local_descriptors)`, float32 [N, channels].

The table names constructors and does not import them: readers of names, such as the parser, do
without torch.
"""

import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

AGGREGATIONS = {  # name -> MODULE:CONSTRUCTOR of this package
    "gem": "pooling:gem",
    "gem_plain": "pooling:gem_plain",
    "avg": "pooling:average",
    "max": "pooling:maximum",
    "seqpool": "pooling:seqpool",
    "none": "pooling:none",
}
OF_VECTORS = ("none",)  # those for backbones whose map has one location, all others are for larger


def build_aggregation(name: str, channels: int, fc_output_dim: int) -> "nn.Module":
    """Build an aggregation.

    Args:
        name: Key of AGGREGATIONS.
        channels: Of the feature maps.
        fc_output_dim: Length of the descriptors, by a linear layer; 0 for no such layer.
    """
    return pkgutil.resolve_name(f"{__name__}.{AGGREGATIONS[name]}")(channels, fc_output_dim)


def check_aggregation(name: str, backbone: str, default: str) -> None:
    """Raise a ValueError if an aggregation is unknown, or does not fit the maps of a backbone.

    Args:
        name: Of the aggregation.
        backbone: Name of the backbone, for the error.
        default: The aggregation that the backbone has by default.
    """
    if name not in AGGREGATIONS:
        raise ValueError(f"Unknown aggregation '{name}': choose from {', '.join(AGGREGATIONS)}")
    if (name in OF_VECTORS) == (default in OF_VECTORS):
        return
    gives = "one vector" if default in OF_VECTORS else "a map of many locations"
    fitting = [key for key in AGGREGATIONS if (key in OF_VECTORS) == (default in OF_VECTORS)]
    raise ValueError(
        f"--aggregation {name}: {backbone} gives {gives} for an image: choose from "
        f"{', '.join(fitting)}"
    )
