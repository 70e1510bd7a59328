"""Aggregations: feature maps [B, channels, h, w] of a backbone to descriptors [B, out_dim].

An aggregation is one file of this package, or a part of one, and one line of AGGREGATIONS. Its
constructor takes `(channels, fc_output_dim)`, and what it lets users choose as further arguments
with defaults, which `--aggregation_args` sets; it returns a module with the attribute `out_dim`,
the length of its descriptors. L2 and linear layers belong to the module itself. `fc_output_dim` is
0 where no linear layer is asked for. A module that starts from data, such as cluster centres, has a
method `initialise(local_descriptors, seed)`, float32 [N, channels].

A module with the attribute `takes_class_token` that is true gets a pair, maps and class tokens
[B, channels], of the backbones that have one. `takes_final_norm` that is false: the last
normalisation of DINOv2 is left out. `map_size`, height and width: it is for maps of this size only.
`check_size(maps)` raises a ValueError for maps that it cannot take: trainings begin with it.

The table names constructors and does not import them: readers of names, such as the parser, do
without torch.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

Option = int | float | str | bool


@dataclass(frozen=True)
class AggregationSpec:
    """How to build an aggregation, and what is known of it before it is built."""

    constructor: str  # MODULE:CONSTRUCTOR of this package
    fc_output_dim: int | None = None  # default of the linear layer; None: that of the backbone
    of_vectors: bool = False  # for backbones whose map has one location; all others are for larger
    takes_labels: bool = False  # whether it can start from labels of local descriptors
    extends: str = ""  # the aggregation whose tensors it has, beside more; training starts from it


AGGREGATIONS = {
    "gem": AggregationSpec("pooling:gem"),
    "gem_plain": AggregationSpec("pooling:gem_plain"),
    "avg": AggregationSpec("pooling:average"),
    "max": AggregationSpec("pooling:maximum"),
    "seqpool": AggregationSpec("pooling:seqpool"),
    "none": AggregationSpec("pooling:none", of_vectors=True),
    "cls": AggregationSpec("pooling:ClassToken", fc_output_dim=0),
    "convap": AggregationSpec("mixvpr:ConvAP", fc_output_dim=0),
    "mixvpr": AggregationSpec("mixvpr:MixVPR", fc_output_dim=0),
    "salad": AggregationSpec("salad:salad", fc_output_dim=0),
    "boq": AggregationSpec("boq:BoQ", fc_output_dim=0),
    "netvlad": AggregationSpec("netvlad:NetVLAD", fc_output_dim=0),
    "crn": AggregationSpec("crn:CRN", fc_output_dim=0, extends="netvlad"),
    "sralnet": AggregationSpec("sralnet:SRALNet", fc_output_dim=0, takes_labels=True),
    "appsvr": AggregationSpec("appsvr:APPSVR", fc_output_dim=0, takes_labels=True),
    "apanet": AggregationSpec("apanet:APANet", fc_output_dim=0),
}


def build_aggregation(
    name: str, channels: int, fc_output_dim: int, args: Mapping[str, Option] | None = None
) -> "nn.Module":
    """Build an aggregation.

    Args:
        name: Key of AGGREGATIONS.
        channels: Of the feature maps.
        fc_output_dim: Length of the descriptors, by a linear layer; 0 for no such layer.
        args: Options of the aggregation by name; those missing have their defaults.

    Raises:
        ValueError: If it has no such option, or an option has another type or is out of range.
    """
    constructor = _constructor_of(name)
    args = dict(args or {})
    _check_options(name, args, options_of(constructor))
    return constructor(channels, fc_output_dim, **args)


def options_of(constructor: Callable[..., "nn.Module"]) -> dict[str, Option]:
    """Return the options that an aggregation has, with their defaults."""
    parameters = inspect.signature(constructor).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def _constructor_of(name: str) -> Callable[..., "nn.Module"]:
    return pkgutil.resolve_name(f"{__name__}.{AGGREGATIONS[name].constructor}")


def _check_options(name: str, args: Mapping[str, Option], defaults: Mapping[str, Option]) -> None:
    for key, value in args.items():
        if key not in defaults:
            listed = ", ".join(f"{option}={default}" for option, default in defaults.items())
            has = f"its options and their defaults are {listed}" if listed else "it has no options"
            raise ValueError(f"--aggregation_args: '{key}' is no option of {name}; {has}")
        needed = type(defaults[key])
        if type(value) is not needed and not (needed is float and type(value) is int):
            raise ValueError(
                f"--aggregation_args {key}={value}: {name} needs a value like {defaults[key]}, "
                f"the default; this one is {type(value).__name__}, not {needed.__name__}"
            )


def check_aggregation(name: str, backbone: str, default: str) -> None:
    """Raise a ValueError if an aggregation is unknown, or does not fit the maps of a backbone.

    Args:
        name: Of the aggregation.
        backbone: Name of the backbone, for the error.
        default: The aggregation that the backbone has by default.
    """
    if name not in AGGREGATIONS:
        raise ValueError(f"Unknown aggregation '{name}': choose from {', '.join(AGGREGATIONS)}")
    of_vectors = AGGREGATIONS[default].of_vectors
    if AGGREGATIONS[name].of_vectors == of_vectors:
        return
    gives = "one vector" if of_vectors else "a map of many locations"
    fitting = [key for key, spec in AGGREGATIONS.items() if spec.of_vectors == of_vectors]
    raise ValueError(
        f"--aggregation {name}: {backbone} gives {gives} for an image: choose from "
        f"{', '.join(fitting)}"
    )
