"""Networks: images to descriptors by backbone, aggregation and, for some, whitening."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from commons import IMAGENET_MEAN, IMAGENET_STD
from model.aggregation import AGGREGATIONS, Option, build_aggregation, check_aggregation
from model.backbones import BACKBONES, INPUT_SCALINGS, find_spec
from model.backbones.build import build_backbone, load_pretrained_aggregation
from model.backbones.transformers import PatchTransformer
from model.resizing import read_rule
from model.whitening import Whitening


class InputScaling(nn.Module):
    """The first layer of networks whose backbone is for images that are normalised otherwise.

    It has no tensors in the state dict.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Make the layer.

        Args:
            mean: Of the backbone's images, RGB, in grey levels from 0 to 255.
            std: The same, what they are divided by.
        """
        super().__init__()
        scales = [255 * s / t for s, t in zip(IMAGENET_STD, std, strict=True)]
        shifts = [(255 * m - n) / t for m, n, t in zip(IMAGENET_MEAN, mean, std, strict=True)]
        # On the CPU, also where a network is built on the meta device: files do not have them.
        for name, values in (("scale", scales), ("shift", shifts)):
            tensor = torch.tensor(values, device="cpu")[:, None, None]
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn ImageNet-normalised images [B, 3, H, W] into the backbone's."""
        return images * self.scale + self.shift


class GeoLocalizationNet(nn.Module):
    """Images [B, 3, H, W], ImageNet-normalised, to L2-normalised descriptors [B, out_dim].

    Keys of the state dict are those of the published CosPlace checkpoints. It also says the
    architecture, in torch's metadata, which torch.save writes and strict loading ignores.
    """

    def __init__(
        self,
        backbone: nn.Module,
        aggregation: nn.Module,
        input_scaling: nn.Module | None = None,
    ) -> None:
        """Join the parts of a network; a whitening may follow, see `add_whitening`.

        Args:
            backbone: Images to feature maps [B, C, h, w], or pairs of maps and class tokens.
            aggregation: What the backbone gives to descriptors; their length is its attribute
                `out_dim`.
            input_scaling: Images to those of the backbone; None: they are the same.
        """
        super().__init__()
        self.input_scaling = nn.Identity() if input_scaling is None else input_scaling
        self.backbone = backbone
        self.aggregation = aggregation
        self.whitening: nn.Module = nn.Identity()
        self.out_dim: int = aggregation.out_dim
        self.image_size: int | None = None  # side of the images that the backbone is for; None: any
        self.resize: str | None = None  # its own rule for test images, see `model.resizing`
        self.architecture: dict[str, Any] = {}  # arguments of `build_network`, if it built it

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return one descriptor per image, float32 also under autocast."""
        return self.whitening(self.aggregation(self.feature_maps(images))).float()

    def feature_maps(self, images: torch.Tensor):  # no type: TorchScript would want a single one
        """Return what the aggregation gets: maps [B, C, h, w].

        If the aggregation has `takes_class_token`, it is a pair of maps and class tokens [B, C].
        """
        return self.backbone(self.input_scaling(images))

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:
        """Return tensors by name, and the architecture in torch's metadata of the modules."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        state._metadata[prefix.removesuffix(".")]["architecture"] = dict(self.architecture)
        return state


def architecture_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the architecture that a state dict of a network of ours says; {} for others.

    A copy of such a state dict into a plain dict has lost it.
    """
    metadata = getattr(state, "_metadata", None)  # of a file: it may be anything
    entries = metadata.values() if isinstance(metadata, Mapping) else ()
    for entry in entries:  # of the network itself, or as part of a DistributedDataParallel
        found = entry.get("architecture") if isinstance(entry, Mapping) else None
        if isinstance(found, Mapping) and found:
            return dict(found)
    return {}


def build_network(
    backbone: str,
    fc_output_dim: int | None = None,
    aggregation: str | None = None,
    backbone_weights: str = "imagenet",
    *,
    whiten_dim: int | None = None,
    kept_dims: int | None = None,
    aggregation_args: Mapping[str, Option] | None = None,
    whiten_norm: str = "l2_eps",
    input_scaling: str | None = None,
    resize: str | None = None,
    **freezing: bool | int,
) -> GeoLocalizationNet:
    """Build a network by names; see `build_backbone` for weights and freezing.

    Args:
        backbone: Key of BACKBONES.
        fc_output_dim: Length of the aggregation's descriptors; 0 for no linear layer, None for the
            default of the aggregation, or else of the backbone.
        aggregation: Key of AGGREGATIONS; None for the backbone's default.
        backbone_weights: "imagenet", "none" or a path.
        whiten_dim: Dimensions of a random whitening, the last layer; None for no such layer.
        kept_dims: Length of the whitened descriptors, see `Whitening`.
        aggregation_args: Options of the aggregation, see `build_aggregation`.
        whiten_norm: What the whitening ends with, see `Whitening`.
        input_scaling: Key of INPUT_SCALINGS, of the weights of the backbone; None for "imagenet".
        resize: The network's own rule for test images, see `model.resizing`; None for none.
        freezing: `train_all_layers`, `freeze_te` and `train_last_blocks`: which layers of the
            backbone are not trained.

    Raises:
        ValueError: If a name is unknown, a length is out of range, the weights do not fit, or the
            parts do not go together.
        FileNotFoundError: If the weights cannot be downloaded.
    """
    architecture = choose_architecture(
        backbone, fc_output_dim, aggregation, aggregation_args, input_scaling, resize
    )
    body = build_backbone(backbone, backbone_weights, **freezing)
    spec = find_spec(backbone)
    names = (architecture["aggregation"], spec.out_channels, architecture["fc_output_dim"])
    layers = build_aggregation(*names, aggregation_args)
    load_pretrained_aggregation(layers, backbone, backbone_weights)
    if getattr(layers, "takes_class_token", False):
        body.gives_class_token = True
    if not getattr(layers, "takes_final_norm", True) and isinstance(body, PatchTransformer):
        body.skip_norm()
    scaling = INPUT_SCALINGS[architecture.get("input_scaling", "imagenet")]
    network = GeoLocalizationNet(body, layers, InputScaling(*scaling) if scaling else None)
    network.image_size, network.resize = spec.image_size, resize
    network.architecture = architecture
    if whiten_dim is not None:
        add_whitening(network, Whitening(layers.out_dim, whiten_dim, kept_dims, whiten_norm))
    return network


def choose_architecture(
    backbone: str,
    fc_output_dim: int | None = None,
    aggregation: str | None = None,
    aggregation_args: Mapping[str, Option] | None = None,
    input_scaling: str | None = None,
    resize: str | None = None,
) -> dict[str, Any]:
    """Return the arguments of `build_network` with defaults where they are None.

    "aggregation_args" is there if it is not empty, "input_scaling" if it is not "imagenet",
    "resize" if the network has a rule of its own.

    Raises:
        ValueError: If there is no such network.
    """
    spec = find_spec(backbone)
    aggregation = spec.aggregation if aggregation is None else aggregation
    check_aggregation(aggregation, backbone, spec.aggregation)
    if input_scaling not in (None, *INPUT_SCALINGS):
        raise ValueError(
            f"Unknown --input_scaling '{input_scaling}': choose from {', '.join(INPUT_SCALINGS)}"
        )
    own_dim = AGGREGATIONS[aggregation].fc_output_dim
    dims = [dim for dim in (fc_output_dim, own_dim, spec.fc_output_dim) if dim is not None]
    if dims[0] < 0:
        raise ValueError(f"--fc_output_dim must not be negative, it is {dims[0]}")
    architecture: dict[str, Any] = {
        "backbone": backbone,
        "aggregation": aggregation,
        "fc_output_dim": dims[0],
    }
    if aggregation_args:
        architecture["aggregation_args"] = dict(aggregation_args)
    with torch.device("meta"):  # options are checked where they are used
        layers = build_aggregation(aggregation, spec.out_channels, dims[0], aggregation_args)
    if getattr(layers, "takes_class_token", False) and not spec.class_token:
        having = ", ".join(name for name, other in BACKBONES.items() if other.class_token)
        without = ", or --aggregation_args token_dim=0" if aggregation == "salad" else ""
        raise ValueError(
            f"--aggregation {aggregation} takes a class token beside the map, and {backbone} gives "
            f"none: choose a backbone of {having}{without}"
        )
    if INPUT_SCALINGS.get(input_scaling):
        architecture["input_scaling"] = input_scaling
    if resize is not None:
        read_rule(resize)
        architecture["resize"] = resize
    return architecture


def keep_rule(network: GeoLocalizationNet, resize: str | None) -> None:
    """Give a network its own rule for test images, in place; None takes it away."""
    network.resize = resize
    network.architecture.pop("resize", None)
    if resize is not None:
        network.architecture["resize"] = resize


def add_whitening(network: GeoLocalizationNet, whitening: Whitening) -> GeoLocalizationNet:
    """Make a whitening the last layer of a network, in place; return the network.

    Raises:
        ValueError: If the network has one, see `remove_whitening`, or descriptors of another length
            than the whitening takes.
    """
    if has_whitening(network):
        raise ValueError("The network has a whitening already: remove that first")
    if network.out_dim != whitening.in_features:
        raise ValueError(
            f"The network's descriptors have {network.out_dim} numbers, the whitening takes "
            f"{whitening.in_features}"
        )
    device = next(network.parameters()).device
    network.whitening, network.out_dim = whitening.to(device), whitening.out_dim
    network.architecture |= whitening.arguments()
    return network


def remove_whitening(network: GeoLocalizationNet) -> GeoLocalizationNet:
    """Take the last layer of a network away, in place, if it is a whitening; return the network."""
    if has_whitening(network):
        for name in network.whitening.arguments():
            network.architecture.pop(name, None)
        network.whitening, network.out_dim = nn.Identity(), network.aggregation.out_dim
    return network


def has_whitening(network: GeoLocalizationNet) -> bool:
    """Tell whether the last layer of a network is a whitening."""
    return isinstance(network.whitening, Whitening)
