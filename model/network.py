"""The network of CosPlace (paper, section 4.1): backbone, L2, pooling, linear, L2."""

import torch
from torch import nn

from model.backbones import build_backbone, find_recipe
from model.layers import L2Norm, NoPool, SeqPool, make_pooling

IMAGE_SIZE = 512  # of training, in pixels, where the backbone has no size of its own


class GeoLocalizationNet(nn.Module):
    """Images [B, 3, H, W], ImageNet-normalised, to L2-normalised descriptors [B, out_dim].

    Keys of the state dict are those of the published CosPlace checkpoints. Without a linear layer
    there is no `aggregation.3.*`.
    """

    def __init__(
        self, backbone: nn.Module, fc_output_dim: int, pooling: str | nn.Module = "gem"
    ) -> None:
        """Put pooling and linear layer on a backbone.

        Args:
            backbone: Images to a map [B, C, h, w]; C is its attribute `out_channels`.
            fc_output_dim: Length of the descriptors; 0 for C, without a linear layer.
            pooling: Key of POOLINGS, or such a layer.
        """
        super().__init__()
        channels = backbone.out_channels
        if isinstance(pooling, str):
            pooling = make_pooling(pooling, channels)
        # These two follow transformers, which were pretrained with the scale of their features.
        is_scaled = not isinstance(pooling, (SeqPool, NoPool))
        self.backbone = backbone
        self.aggregation = nn.Sequential(
            L2Norm() if is_scaled else nn.Identity(),
            pooling,
            nn.Flatten(),
            *([nn.Linear(channels, fc_output_dim)] if fc_output_dim else []),
            L2Norm(),
        )
        self.out_dim = fc_output_dim or channels
        self.image_size: int | None = None  # side of the images that the backbone is for; None: any
        self.architecture: dict[str, str | int] = {}  # names to build it by, if built by name

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return one descriptor per image, float32 also under autocast."""
        return self.aggregation(self.backbone(images)).float()


def build_network(
    backbone: str,
    fc_output_dim: int | None = None,
    pooling: str | None = None,
    backbone_weights: str = "imagenet",
    train_all_layers: bool = False,
    freeze_te: int = 0,
) -> GeoLocalizationNet:
    """Make a network by names; see `build_backbone` for weights and freezing.

    Args:
        backbone: Key of BACKBONES.
        fc_output_dim: Length of the descriptors; 0 for no linear layer, None for the backbone's
            default.
        pooling: Key of POOLINGS; None for the backbone's default.
        backbone_weights: "imagenet", "none" or a path.
        train_all_layers: Freeze no layer of a CNN.
        freeze_te: Freeze so many blocks of a transformer.

    Raises:
        ValueError: If a name is unknown, the length is negative, the weights do not fit, or the
            parts do not go together.
        FileNotFoundError: If the weights cannot be had.
    """
    recipe = find_recipe(backbone)
    pooling = recipe.pooling if pooling is None else pooling
    fc_output_dim = recipe.fc_output_dim if fc_output_dim is None else fc_output_dim
    layer = make_pooling(pooling, recipe.out_channels)
    if pooling == "none" and recipe.pooling != "none":
        raise ValueError(
            f"--pooling none: the map of {backbone} has many places, and a descriptor is one vector"
        )
    if pooling != "none" and recipe.pooling == "none":
        raise ValueError(f"--pooling {pooling}: {backbone} gives one vector, to be left as it is")
    if fc_output_dim < 0:
        raise ValueError(f"--fc_output_dim must not be negative, it is {fc_output_dim}")
    body = build_backbone(backbone, backbone_weights, train_all_layers, freeze_te, layer)
    network = GeoLocalizationNet(body, fc_output_dim, layer)
    network.image_size = recipe.image_size
    network.architecture = {
        "backbone": backbone,
        "pooling": pooling,
        "fc_output_dim": fc_output_dim,
    }
    return network


def choose_resize(
    asked: str | None, image_size: int | None, model: nn.Module | None = None
) -> str | None:
    """Return the rule by which test images are resized.

    Args:
        asked: --resize_test_imgs: a rule; "" for the shorter side to the training images'; None if
            the flag is not given.
        image_size: --image_size, None if the flag is not given.
        model: The network, whose `image_size` is that of its backbone; None if not known yet.

    Returns:
        "none", "480" (shorter side) or "480x640" (HxW); None: as the test set prescribes. Networks
        whose backbone has a size are tested at the size of the training images, if it is known.
    """
    own = getattr(model, "image_size", None)  # models that are not ours have none
    if asked == "":
        return str(image_size or own or IMAGE_SIZE)
    if asked is None and own is not None:
        side = image_size or own
        return f"{side}x{side}"
    return asked
