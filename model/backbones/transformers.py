"""Transformer backbones with timm's blocks: ViT-B/16 and DINOv2; and the base of all of them.

timm's blocks can be exported to ONNX, torchvision's cannot. timm has no pooler, the last linear
layer and tanh of ViT-B/16: it is here.
"""

import re
from collections.abc import Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.jit import Final

from model.backbones.pretrained import Pretrained, Weights, download_weights

_VIT_URL = "https://huggingface.co/google/vit-base-patch16-224-in21k/resolve/main/model.safetensors"
_DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{0}14/dinov2_vit{0}14_pretrain.pth"
_HUB_NAMES = (  # of Hugging Face, before and since transformers 5 -> ours
    (r"^vit\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layer|layers)\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^pooler\.dense\.", "pooler."),
)


class Transformer(nn.Module):
    """A backbone whose `blocks`, an nn.Sequential, see all places of an image as tokens at once.

    Tokens stay inside: out comes a map [B, out_channels, h, w], as of any backbone.
    """

    def embeddings(self) -> Iterable[nn.Parameter]:
        """Return the parameters before the first block."""
        raise NotImplementedError

    def freeze(self, num_blocks: int) -> None:
        """Train neither the embeddings nor the first blocks."""
        for parameter in (*self.embeddings(), *self.blocks[:num_blocks].parameters()):
            parameter.requires_grad_(False)


def resize_positions(
    positions: torch.Tensor,
    side: int,
    height: int,
    width: int,
    mode: str,
    offset: float = 0.0,
) -> torch.Tensor:
    """Fit the positional embedding of a square grid to another grid.

    Args:
        positions: Row by row, [1, side * side, C].
        side: Of the square grid.
        height: Of the other grid.
        width: Of the other grid.
        mode: "bilinear" or "bicubic".
        offset: Added to height and width where they are divided by the side, for the scale.

    Returns:
        [1, height * width, C], `positions` themselves if the grids are the same.
    """
    if height == side and width == side:
        return positions
    if mode == "bilinear":
        grid = positions.transpose(1, 2).reshape(1, -1, side, side)
        grid = F.interpolate(grid, [height, width], mode=mode, align_corners=False)
        return grid.reshape(1, -1, height * width).transpose(1, 2)
    grid = _resize_bicubic(positions.reshape(side, side, -1), height, offset)
    grid = _resize_bicubic(grid.transpose(0, 1), width, offset).transpose(0, 1)
    return grid.reshape(1, height * width, -1)


def _resize_bicubic(table: torch.Tensor, size: int, offset: float) -> torch.Tensor:
    """Resize the first dimension, [side, n, C] to [size, n, C], by four neighbours each.

    F.interpolate takes such scales too, but cannot be exported with them to ONNX, and its gradients
    are not deterministic on CUDA.
    """
    side, columns, channels = table.shape
    step = side / (size + offset)
    centres = (torch.arange(size, device=table.device).to(table.dtype) + 0.5) * step - 0.5
    taps = centres.floor()[:, None] + torch.arange(-1, 3, device=table.device)  # [size, 4]
    d = (centres[:, None] - taps).abs()
    near = (1.25 * d - 2.25) * d * d + 1  # Keys' kernel, a = -0.75 as everywhere in torch
    far = ((3.75 - 0.75 * d) * d - 6) * d + 3
    weights = torch.where(d <= 1, near, far)[:, :, None]
    rows = table.index_select(0, taps.flatten().long().clamp(0, side - 1))
    return (rows.reshape(size, 4, -1) * weights).sum(1).reshape(size, columns, channels)


class PatchTransformer(Transformer):
    """Square patches of an image and a class token, through the blocks of a timm ViT."""

    applies_norm: Final[bool]  # whether the last normalisation is part of the features
    positions_offset: Final[float]  # see `resize_positions`

    def __init__(self, vit: nn.Module) -> None:
        """Take over the parts of a timm VisionTransformer, under the same names."""
        super().__init__()
        self.patch_embed = nn.Sequential()
        self.patch_embed.add_module("proj", vit.patch_embed.proj)
        self.cls_token = vit.cls_token
        self.pos_embed = vit.pos_embed
        self.blocks = vit.blocks
        self.norm = vit.norm
        self.patch_side: int = vit.patch_embed.proj.kernel_size[0]
        self.grid_side: int = vit.patch_embed.grid_size[0]
        self.applies_norm = True
        self.positions_offset = 0.0

    def skip_norm(self) -> None:
        """Give features without the last normalisation, which is then not trained either."""
        self.applies_norm = False
        self.norm.requires_grad_(False)

    def embeddings(self) -> Iterable[nn.Parameter]:
        """Return the parameters before the first block."""
        return self.cls_token, self.pos_embed, *self.patch_embed.parameters()

    def extract_patches(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class tokens [B, C] and maps of patches [B, C, h, w] after the last block.

        They are normalised unless `skip_norm` was called.

        Sides that are no multiples of the patches' are resized to the nearest one (bilinear, not
        antialiased: the change is small, and exported files could not do it). The positional
        embedding is resized where the grid is not the native one (bicubic).
        """
        tokens, height, width = self.embed(images)
        tokens = self.blocks(tokens)  # [B, 1 + h * w, C]
        if self.applies_norm:
            tokens = self.norm(tokens)
        batch, _, channels = tokens.shape
        maps = tokens[:, 1:].transpose(1, 2).reshape(batch, channels, height, width)
        return tokens[:, 0], maps

    def embed(self, images: torch.Tensor) -> tuple[torch.Tensor, int, int]:
        """Return what the blocks get, [B, 1 + h * w, C], and height and width of the map."""
        patches = self.patch_embed(self._fit(images))
        batch, _, height, width = patches.shape
        positions = resize_positions(
            *(self.pos_embed[:, 1:], self.grid_side, height, width, "bicubic"),
            self.positions_offset,
        )
        class_token = self.cls_token + self.pos_embed[:, :1]
        tokens = torch.cat(
            (
                class_token.expand(batch, -1, -1),
                patches.flatten(2).transpose(1, 2) + positions,
            ),
            dim=1,
        )
        return tokens, height, width

    def _fit(self, images: torch.Tensor) -> torch.Tensor:
        side = self.patch_side
        height = max((images.shape[2] + side // 2) // side, 1) * side
        width = max((images.shape[3] + side // 2) // side, 1) * side
        if height == images.shape[2] and width == images.shape[3]:
            return images
        return F.interpolate(images, [height, width], mode="bilinear", align_corners=False)


class ClassTokenViT(PatchTransformer):
    """The class token through the pooler that was pretrained with it: a map of one place."""

    def __init__(self, vit: nn.Module) -> None:
        """Add a pooler to a timm VisionTransformer."""
        super().__init__(vit)
        channels = vit.cls_token.shape[2]
        self.pooler = nn.Linear(channels, channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to [B, C, 1, 1], values in -1 to 1."""
        class_tokens, _ = self.extract_patches(images)
        return torch.tanh(self.pooler(class_tokens))[:, :, None, None]


class DINOv2(PatchTransformer):
    """The patches after the last block and its normalisation, with the class token if asked for.

    Images are resized so that their sides are the nearest multiples of 14 pixels, see
    `extract_patches`. The names of the tensors are those of the official files, also timm's.
    """

    gives_class_token: Final[bool]  # beside the map

    def __init__(self, vit: nn.Module) -> None:
        """Take over the parts of a timm VisionTransformer; see `gives_class_token`."""
        super().__init__(vit)
        self.gives_class_token = False
        self.positions_offset = 0.1  # as the released code: the networks were trained with it

    def forward(self, images: torch.Tensor):  # of one type at a time: TorchScript
        """Map images [B, 3, H, W] to [B, C, h, w], about a 14th of their size.

        Returns:
            The map; if `gives_class_token`, a pair of the map and class tokens [B, C].
        """
        class_tokens, patches = self.extract_patches(images)
        if self.gives_class_token:
            return patches, class_tokens
        return patches


def vit(variant: str) -> Pretrained:
    """The class token of ViT-B/16, pretrained on ImageNet-21k."""
    return Pretrained(
        whole=partial(_build_vit, variant),
        imagenet=partial(download_weights, _VIT_URL, "vit-base-patch16-224-in21k.safetensors"),
        translate=_translate,
        unused=("classifier.", "embeddings.mask_token"),
    )


def _build_vit(variant: str) -> nn.Module:
    import timm  # here: torchvision's backbones work without it

    norm = partial(nn.LayerNorm, eps=1e-12)
    return ClassTokenViT(timm.create_model(variant, num_classes=0, norm_layer=norm))


def _translate(weights: Weights) -> Weights:
    """Give the tensors of a Hugging Face ViT our names; query, key and value become one."""
    renamed: Weights = {}
    for name, tensor in weights.items():
        for pattern, ours in _HUB_NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    for name in [name for name in renamed if ".attn.q." in name]:
        parts = [renamed.pop(name.replace(".attn.q.", f".attn.{part}."), None) for part in "qkv"]
        shapes = {part.shape if isinstance(part, torch.Tensor) else None for part in parts}
        if len(shapes) == 1 and shapes.isdisjoint([None, torch.Size()]):
            renamed[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)
    return renamed


def dinov2(variant: str) -> Pretrained:
    """The patches of DINOv2 with 14 x 14 pixels: variant small, base or large."""
    return Pretrained(
        whole=partial(_build_dinov2, variant),
        imagenet=partial(download_weights, _DINOV2_URL.format(variant[0])),
        unused=("mask_token", "head."),
    )


def _build_dinov2(variant: str) -> nn.Module:
    import timm  # here: torchvision's backbones work without it

    return DINOv2(timm.create_model(f"vit_{variant}_patch14_dinov2", img_size=518, num_classes=0))
