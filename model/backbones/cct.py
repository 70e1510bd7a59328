"""CCT-14/7x2, the compact convolutional transformer, as a map of its tokens.

Two convolutions make tokens out of an image, 14 blocks follow. In a block the first sum is
normalised before the second, unlike in other transformers.
"""

from collections.abc import Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from model.backbones.pretrained import Pretrained, Weights, download_weights
from model.backbones.transformers import Transformer, resize_positions

CHANNELS, NUM_HEADS, NUM_BLOCKS, MLP_RATIO = 384, 6, 14, 3
ATTENTION_DROPOUT, STOCHASTIC_DEPTH = 0.1, 0.1
STRIDE = 16  # pixels between tokens
_URL = "https://shi-labs.com/projects/cct/checkpoints/"
_FILES = {
    224: "pretrained/cct_14_7x2_224_imagenet.pth",
    384: "finetuned/cct_14_7x2_384_imagenet.pth",
}
_POSITIONS = "positional_emb"


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads: int = NUM_HEADS
        self.dropout: float = ATTENTION_DROPOUT
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS, bias=False)
        self.proj = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, length, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, length, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, C / heads]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, channels))


class _Block(nn.Module):
    def __init__(self, stochastic_depth: float) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(CHANNELS)
        self.self_attn = _Attention()
        self.norm1 = nn.LayerNorm(CHANNELS)
        self.linear1 = nn.Linear(CHANNELS, MLP_RATIO * CHANNELS)
        self.linear2 = nn.Linear(MLP_RATIO * CHANNELS, CHANNELS)
        self.skip = StochasticDepth(stochastic_depth, "row")

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.norm1(tokens + self.skip(self.self_attn(self.pre_norm(tokens))))
        return tokens + self.skip(self.linear2(F.gelu(self.linear1(tokens))))


class CCT(Transformer):
    """CCT-14/7x2 up to the normalisation after its last block.

    The names of the tensors are those of the official files, without `classifier.`.
    """

    def __init__(self, image_size: int) -> None:
        """Make a random network whose positional embedding is for images of one size, in pixels."""
        super().__init__()
        self.tokenizer = nn.Sequential()
        self.tokenizer.add_module(
            "conv_layers", nn.Sequential(_tokenizer_layer(3, 64), _tokenizer_layer(64, CHANNELS))
        )
        self.grid_side: int = image_size // STRIDE
        self.positional_emb = nn.Parameter(torch.empty(1, self.grid_side**2, CHANNELS))
        rates = torch.linspace(0, STOCHASTIC_DEPTH, NUM_BLOCKS, device="cpu").tolist()
        self.blocks = nn.Sequential(*map(_Block, rates))
        self.norm = nn.LayerNorm(CHANNELS)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.positional_emb, std=0.2)

    def embeddings(self) -> Iterable[nn.Parameter]:
        """Return the parameters before the first block."""
        return self.positional_emb, *self.tokenizer.parameters()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, 3, H, W] to [B, 384, h, w], a 16th of their size.

        The positional embedding is resized where the map is not the native one (bilinear).
        """
        maps = self.tokenizer(images)
        batch, channels, height, width = maps.shape
        tokens = maps.flatten(2).transpose(1, 2) + resize_positions(
            self.positional_emb, self.grid_side, height, width, "bilinear"
        )
        tokens = self.norm(self.blocks(tokens))  # [B, h * w, 384]
        return tokens.transpose(1, 2).reshape(batch, channels, height, width)


def _tokenizer_layer(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=7, stride=2, padding=3, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _translate(weights: Weights, grid_side: int) -> Weights:
    """Drop `classifier.` from the names; fit the positional embedding of another image size."""
    weights = {name.removeprefix("classifier."): tensor for name, tensor in weights.items()}
    positions = weights.get(_POSITIONS)
    if isinstance(positions, torch.Tensor) and positions.ndim == 3 and len(positions) == 1:
        side = round(positions.shape[1] ** 0.5)
        if side > 0 and side**2 == positions.shape[1]:
            weights[_POSITIONS] = resize_positions(
                positions.float(), side, grid_side, grid_side, "bilinear"
            )
    return weights


def cct14(variant: str) -> Pretrained:
    """CCT-14/7x2 for images of 224 or 384 pixels, pretrained with sequence pooling."""
    image_size = int(variant)
    return Pretrained(
        whole=partial(CCT, image_size),
        imagenet=partial(download_weights, _URL + _FILES[image_size]),
        translate=partial(_translate, grid_side=image_size // STRIDE),
        unused=("attention_pool.", "fc."),
        aggregation={"attention_pool.": "1.attention."},
    )
