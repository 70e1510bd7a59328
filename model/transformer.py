"""What the transformer backbones share."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn


class Transformer(nn.Module):
    """A backbone whose `blocks`, an nn.Sequential, see all places of an image as tokens at once.

    Tokens stay inside: out comes a map [B, out_channels, h, w], as of any backbone.
    """

    def embeddings(self) -> Iterable[nn.Parameter]:
        """Return the parameters before the first block."""
        raise NotImplementedError

    def freeze(self, num_blocks: int) -> None:
        """Train neither the embeddings nor the first blocks.

        Raises:
            ValueError: If there are fewer blocks.
        """
        if num_blocks > len(self.blocks):
            raise ValueError(f"--freeze_te {num_blocks}: there are {len(self.blocks)} blocks")
        for parameter in (*self.embeddings(), *self.blocks[:num_blocks].parameters()):
            parameter.requires_grad_(False)


def resize_positions(
    positions: torch.Tensor, side: int, height: int, width: int, mode: str
) -> torch.Tensor:
    """Fit the positional embedding of a square grid to another grid.

    Args:
        positions: Row by row, [1, side * side, C].
        side: Of the square grid.
        height: Of the other grid.
        width: Of the other grid.
        mode: "bilinear" or "bicubic".

    Returns:
        [1, height * width, C], `positions` themselves if the grids are the same.
    """
    if height == side and width == side:
        return positions
    grid = positions.transpose(1, 2).reshape(1, -1, side, side)
    grid = F.interpolate(grid, [height, width], mode=mode, align_corners=False)
    return grid.reshape(1, -1, height * width).transpose(1, 2)
