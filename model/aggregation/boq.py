"""BoQ: learned queries that gather from a map by attention, once after each of a few encoders.

BoQ (Ali-bey et al., CVPR 2024). Maps are projected to tokens x. Of each of the blocks in turn

    x = Encoder(x),    q = LN(q + attention(q, q)),    out = LN(attention(q, x))

with its own queries q. The outs of all blocks, one after the other, are projected along the queries
to `row_dim` numbers a channel, which are the descriptor, channel by channel, of unit length. The
attention of the queries to each other depends on no image and is computed once for a batch. Keys of
the state dict are those of the public code.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.pooling import at_least_float32, check_positive, linear_or_none

_HEAD_DIM = 64


class BoQ(nn.Module):
    """Feature maps [B, C, h, w] of any size to unit descriptors [B, out_dim]."""

    takes_final_norm = False  # of DINOv2: the published networks are trained without it

    def __init__(
        self,
        channels: int,
        fc_output_dim: int,
        proj_channels: int = 512,
        num_queries: int = 64,
        num_layers: int = 2,
        row_dim: int = 32,
    ) -> None:
        """Make the layers.

        Args:
            channels: Of the feature maps.
            fc_output_dim: Length of the descriptors, by a linear layer; 0 for
                proj_channels * row_dim.
            proj_channels: Of tokens and queries; a multiple of 64, of which each is a head.
            num_queries: Of each block.
            num_layers: Number of blocks.
            row_dim: Numbers of each channel in the descriptor.

        Raises:
            ValueError: If an option is out of its range.
        """
        super().__init__()
        check_positive({"num_queries": num_queries, "num_layers": num_layers, "row_dim": row_dim})
        if proj_channels < _HEAD_DIM or proj_channels % _HEAD_DIM:
            raise ValueError(
                f"--aggregation_args proj_channels={proj_channels}: it must be a multiple of "
                f"{_HEAD_DIM}, the numbers of an attention head"
            )
        self.proj_c = nn.Conv2d(channels, proj_channels, 3, padding=1)
        self.norm_input = nn.LayerNorm(proj_channels)
        blocks = (_QueryBlock(proj_channels, num_queries) for _ in range(num_layers))
        self.boqs = nn.ModuleList(blocks)
        self.fc = nn.Linear(num_layers * num_queries, row_dim)
        self.linear = linear_or_none(proj_channels * row_dim, fc_output_dim)
        self.has_linear = fc_output_dim > 0
        self.out_dim = fc_output_dim or proj_channels * row_dim

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Aggregate maps, lengths in float32 also under autocast."""
        tokens = self._tokens(maps)
        gathered = []
        for block in self.boqs:
            tokens, found = block(tokens)
            gathered.append(found)
        rows = self.fc(torch.cat(gathered, dim=1).transpose(1, 2))  # [B, proj_channels, row_dim]
        descriptors = F.normalize(at_least_float32(rows).flatten(1))
        if not self.has_linear:
            return descriptors
        return F.normalize(at_least_float32(self.linear(descriptors)))

    def attentions(self, maps: torch.Tensor) -> list[torch.Tensor]:
        """Return where queries look: of each block [B, queries, h * w], sums over a map are 1."""
        tokens, weights = self._tokens(maps), []
        for block in self.boqs:
            tokens, queries = block.encoder(tokens), block.own_queries()
            weights.append(block.cross_attn.weights(queries, tokens).mean(1))
        return [one.expand(len(maps), -1, -1) for one in weights]

    def _tokens(self, maps: torch.Tensor) -> torch.Tensor:
        return self.norm_input(self.proj_c(maps).flatten(2).transpose(1, 2))


class _QueryBlock(nn.Module):
    def __init__(self, channels: int, num_queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, num_queries, channels))
        self.encoder = _TokenEncoder(channels)
        self.self_attn = _ExportableAttention(channels, channels // _HEAD_DIM)
        self.norm_q = nn.LayerNorm(channels)
        self.cross_attn = _ExportableAttention(channels, channels // _HEAD_DIM)
        self.norm_out = nn.LayerNorm(channels)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoded tokens, for the next block, and what the queries gather."""
        tokens = self.encoder(tokens)
        return tokens, self.norm_out(self.cross_attn(self.own_queries(), tokens))

    def own_queries(self) -> torch.Tensor:
        """Return the queries after their attention to each other, [1, queries, C]."""
        return self.norm_q(self.queries + self.self_attn(self.queries, self.queries))


class _TokenEncoder(nn.Module):
    """A transformer's block that normalises after each sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.self_attn = _ExportableAttention(channels, channels // _HEAD_DIM)
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.norm1(tokens + self.self_attn(tokens, tokens))
        return self.norm2(tokens + self.linear2(torch.relu(self.linear1(tokens))))


class _ExportableAttention(nn.MultiheadAttention):
    """Queries [1 or B, q, C] on tokens [B, n, C]; torch's forward cannot be exported to ONNX."""

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        query, key = self._heads_of(queries, 0), self._heads_of(tokens, 1)
        query = query.expand(key.shape[0], -1, -1, -1)
        mixed = F.scaled_dot_product_attention(query, key, self._heads_of(tokens, 2))
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def weights(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return how much each query takes of each token, [B, heads, q, n]."""
        query, key = self._heads_of(queries, 0), self._heads_of(tokens, 1)
        return (query @ key.mT / self.head_dim**0.5).softmax(dim=3)

    def _heads_of(self, tokens: torch.Tensor, part: int) -> torch.Tensor:
        """Project to queries, keys or values, part 0 to 2: [B, heads, n, C / heads]."""
        first, end = part * self.embed_dim, (part + 1) * self.embed_dim
        projected = F.linear(tokens, self.in_proj_weight[first:end], self.in_proj_bias[first:end])
        batch, length, _ = projected.shape
        return projected.reshape(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
