"""DINOv2: ViT-S, B and L with patches of 14 pixels, as maps of their patches."""

from functools import partial

import torch
from torch import nn

from model.recipe import Recipe
from model.vit import PatchTransformer
from model.weights import download_weights

_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{0}14/dinov2_vit{0}14_pretrain.pth"


class DINOv2(PatchTransformer):
    """The patches after the last block and its normalisation.

    Images are resized so that their sides are the nearest multiples of 14 pixels, see
    `describe_patches`. The names of the tensors are those of the official files, also timm's.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to [B, C, h, w], about a 14th of their size."""
        _, patches = self.describe_patches(images)
        return patches


def _build(name: str) -> nn.Module:
    import timm  # here, so that those who use torchvision's backbones do not need it

    return DINOv2(timm.create_model(f"vit_{name}_patch14_dinov2", img_size=518, num_classes=0))


def _dinov2(name: str, out_channels: int) -> Recipe:
    return Recipe(
        whole=partial(_build, name),
        out_channels=out_channels,
        imagenet=partial(download_weights, _URL.format(name[0])),
        unused=("mask_token", "head."),
        image_size=224,
    )


DINOV2_S = _dinov2("small", 384)
DINOV2_B = _dinov2("base", 768)
DINOV2_L = _dinov2("large", 1024)
