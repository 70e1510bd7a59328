"""Networks: images to descriptors by backbone, aggregation and, for some, whitening."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from model.aggregation import AGGREGATIONS, Option, build_aggregation, check_aggregation
from model.backbones import find_spec
from model.backbones.build import build_backbone, load_pretrained_aggregation
from model.whitening import Whitening

IMAGE_SIZE = 512  # of training, in pixels, where the backbone has no size of its own


class GeoLocalizationNet(nn.Module):
    """Images [B, 3, H, W], ImageNet-normalised, to L2-normalised descriptors [B, out_dim].

    Keys of the state dict are those of the published CosPlace checkpoints. It also says the
    architecture, in torch's metadata, which torch.save writes and strict loading ignores.
    """

    def __init__(self, backbone: nn.Module, aggregation: nn.Module) -> None:
        """Join the parts of a network; a whitening may follow, see `add_whitening`.

        Args:
            backbone: Images to feature maps [B, C, h, w].
            aggregation: Feature maps to descriptors; their length is its attribute `out_dim`.
        """
        super().__init__()
        self.backbone = backbone
        self.aggregation = aggregation
        self.whitening: nn.Module = nn.Identity()
        self.out_dim: int = aggregation.out_dim
        self.image_size: int | None = None  # side of the images that the backbone is for; None: any
        self.architecture: dict[str, Any] = {}  # arguments of `build_network`, if it built it

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return one descriptor per image, float32 also under autocast."""
        return self.whitening(self.aggregation(self.backbone(images))).float()

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
    for prefix in ("", "module"):  # the latter if the network was in a DistributedDataParallel
        entry = metadata.get(prefix) if isinstance(metadata, Mapping) else None
        found = entry.get("architecture") if isinstance(entry, Mapping) else None
        if isinstance(found, Mapping) and found:
            return dict(found)
    return {}


def build_network(
    backbone: str,
    fc_output_dim: int | None = None,
    aggregation: str | None = None,
    backbone_weights: str = "imagenet",
    train_all_layers: bool = False,
    freeze_te: int = 0,
    whiten_dim: int | None = None,
    kept_dims: int | None = None,
    aggregation_args: Mapping[str, Option] | None = None,
    whiten_norm: str = "l2_eps",
) -> GeoLocalizationNet:
    """Build a network by names; see `build_backbone` for weights and freezing.

    Args:
        backbone: Key of BACKBONES.
        fc_output_dim: Length of the aggregation's descriptors; 0 for no linear layer, None for the
            default of the aggregation, or else of the backbone.
        aggregation: Key of AGGREGATIONS; None for the backbone's default.
        backbone_weights: "imagenet", "none" or a path.
        train_all_layers: Freeze no layer of a CNN.
        freeze_te: Freeze the embeddings and this number of blocks of a transformer.
        whiten_dim: Dimensions of a random whitening, the last layer; None for no such layer.
        kept_dims: Length of the whitened descriptors, see `Whitening`.
        aggregation_args: Options of the aggregation, see `build_aggregation`.
        whiten_norm: What the whitening ends with, see `Whitening`.

    Raises:
        ValueError: If a name is unknown, a length is out of range, the weights do not fit, or the
            parts do not go together.
        FileNotFoundError: If the weights cannot be downloaded.
    """
    architecture = choose_architecture(backbone, fc_output_dim, aggregation, aggregation_args)
    body = build_backbone(backbone, backbone_weights, train_all_layers, freeze_te)
    layers = _build_layers(**architecture)
    load_pretrained_aggregation(layers, backbone, backbone_weights)
    network = GeoLocalizationNet(body, layers)
    network.image_size = find_spec(backbone).image_size
    network.architecture = architecture
    if whiten_dim is not None:
        add_whitening(network, Whitening(layers.out_dim, whiten_dim, kept_dims, whiten_norm))
    return network


def choose_architecture(
    backbone: str,
    fc_output_dim: int | None = None,
    aggregation: str | None = None,
    aggregation_args: Mapping[str, Option] | None = None,
) -> dict[str, Any]:
    """Return the arguments of `build_network` with defaults where they are None.

    "aggregation_args" is there if it is not empty.

    Raises:
        ValueError: If there is no such network.
    """
    spec = find_spec(backbone)
    aggregation = spec.aggregation if aggregation is None else aggregation
    check_aggregation(aggregation, backbone, spec.aggregation)
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
        _build_layers(**architecture)
    return architecture


def _build_layers(
    backbone: str,
    aggregation: str,
    fc_output_dim: int,
    aggregation_args: Mapping[str, Option] | None = None,
) -> nn.Module:
    channels = find_spec(backbone).out_channels
    return build_aggregation(aggregation, channels, fc_output_dim, aggregation_args)


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


def choose_resize(
    asked: str | None, image_size: int | str | None, model: nn.Module | None = None
) -> str | None:
    """Return the rule by which test images are resized.

    Args:
        asked: --resize_test_imgs: a rule; "" for the shorter side to the training images'; None if
            the flag is not given.
        image_size: --image_size, a side or "HxW", None if the flag is not given.
        model: The network, whose `image_size` is that of its backbone; None if not known yet.

    Returns:
        "none", "480" (shorter side) or "480x640" (HxW); None: as the test set prescribes. Networks
        whose backbone has a size are tested at the size of the training images, if it is known.
    """
    own = getattr(model, "image_size", None)  # models of others have none
    if asked == "":
        return str(image_size or own or IMAGE_SIZE)
    if asked is None and own is not None:
        size = str(image_size or own)
        return size if "x" in size else f"{size}x{size}"
    return asked
