"""The network of CosPlace (paper, section 4.1): backbone, L2, pooling, linear, L2."""

import torch
from torch import nn

from model.backbones import build_backbone
from model.layers import POOLINGS, L2Norm


class GeoLocalizationNet(nn.Module):
    """Images [B, 3, H, W], ImageNet-normalised, to L2-normalised descriptors [B, fc_output_dim].

    Keys of the state dict are those of the published CosPlace checkpoints.
    """

    def __init__(self, backbone: nn.Module, fc_output_dim: int, pooling: str = "gem") -> None:
        """Put pooling and linear layer on a backbone.

        Args:
            backbone: Images to a map [B, C, h, w]; C is its attribute `out_channels`.
            fc_output_dim: Length of the descriptors.
            pooling: Key of POOLINGS.
        """
        super().__init__()
        self.backbone = backbone
        self.aggregation = nn.Sequential(
            L2Norm(),
            POOLINGS[pooling](),
            nn.Flatten(),
            nn.Linear(backbone.out_channels, fc_output_dim),
            L2Norm(),
        )
        self.out_dim = fc_output_dim
        self.architecture: dict[str, str | int] = {}  # names to build it by, if built by name

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return one descriptor per image, float32 also under autocast."""
        return self.aggregation(self.backbone(images)).float()


def build_network(
    backbone: str,
    fc_output_dim: int,
    pooling: str = "gem",
    backbone_weights: str = "imagenet",
    train_all_layers: bool = False,
) -> GeoLocalizationNet:
    """Make a network by names; see `build_backbone` for weights and freezing.

    Raises:
        ValueError: If a name is unknown, the length is not positive, or the weights do not fit.
        FileNotFoundError: If the weights cannot be had.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"Unknown pooling '{pooling}': choose from {', '.join(POOLINGS)}")
    if fc_output_dim < 1:
        raise ValueError(f"--fc_output_dim must be at least 1, it is {fc_output_dim}")
    body = build_backbone(backbone, backbone_weights, train_all_layers)
    network = GeoLocalizationNet(body, fc_output_dim, pooling)
    network.architecture = {
        "backbone": backbone,
        "pooling": pooling,
        "fc_output_dim": fc_output_dim,
    }
    return network
