"""MixVPR and Conv-AP: local descriptors projected, and few vectors of them kept.

Conv-AP (Ali-bey et al., GSV-Cities, Neurocomputing 2022) projects each location and averages over
the cells of a small grid. MixVPR (Ali-bey et al., WACV 2023) lets every channel, a vector over all
locations, pass through a cascade of residual blocks, x + W2 max(W1 LN(x) + b1, 0) + b2, then
projects the channels, then the locations. Both flatten [channels, cells or rows] to the descriptor,
in this order. Keys of the state dicts are those of the public code.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.pooling import at_least_float32, check_positive, linear_or_none


class ConvAP(nn.Module):
    """Feature maps [B, C, h, w] of any size to unit descriptors [B, out_dim]."""

    def __init__(
        self, channels: int, fc_output_dim: int, out_channels: int = 1024, side: int = 2
    ) -> None:
        """Make the layers.

        Args:
            channels: Of the feature maps.
            fc_output_dim: Length of the descriptors, by a linear layer; 0 for
                out_channels * side^2.
            out_channels: That locations are projected to.
            side: Cells of the grid, along each side of the map.

        Raises:
            ValueError: If an option is below 1.
        """
        super().__init__()
        check_positive({"out_channels": out_channels, "side": side})
        self.side = side
        self.channel_pool = nn.Conv2d(channels, out_channels, 1)
        self.linear = linear_or_none(out_channels * side**2, fc_output_dim)
        self.out_dim = fc_output_dim or out_channels * side**2

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Aggregate maps, averaged in float32 also under autocast."""
        maps = at_least_float32(self.channel_pool(maps))
        height, width = maps.shape[2], maps.shape[3]
        cells = []  # not adaptive_avg_pool2d: ONNX has it for maps of one size
        for row in range(self.side):
            first, end = row * height // self.side, _end_of_cell(row, height, self.side)
            band = maps[:, :, first:end].mean(2)
            for column in range(self.side):
                first, end = column * width // self.side, _end_of_cell(column, width, self.side)
                cells.append(band[:, :, first:end].mean(2))
        pooled = torch.stack(cells, dim=2).flatten(1)  # [B, out_channels * side^2]
        return F.normalize(at_least_float32(self.linear(pooled)))


def _end_of_cell(index: int, size: int, num: int) -> int:
    return ((index + 1) * size + num - 1) // num  # rounded up


class MixVPR(nn.Module):
    """Feature maps [B, C, height, width], all of this one size, to unit descriptors."""

    def __init__(
        self,
        channels: int,
        fc_output_dim: int,
        out_channels: int = 1024,
        out_rows: int = 4,
        mix_depth: int = 4,
        mlp_ratio: int = 1,
        height: int = 20,
        width: int = 20,
    ) -> None:
        """Make the layers.

        Args:
            channels: Of the feature maps.
            fc_output_dim: Length of the descriptors, by a linear layer; 0 for
                out_channels * out_rows.
            out_channels: That channels are projected to.
            out_rows: That locations are projected to.
            mix_depth: Number of blocks.
            mlp_ratio: Hidden numbers of a block, as a multiple of those of the locations.
            height: Of the maps; 20 for images of 320 pixels and a stride of 16.
            width: The same.

        Raises:
            ValueError: If an option is below 1.
        """
        super().__init__()
        check_positive({"out_channels": out_channels, "out_rows": out_rows})
        check_positive({"mix_depth": mix_depth, "mlp_ratio": mlp_ratio})
        check_positive({"height": height, "width": width})
        self.map_size = (height, width)
        locations = height * width
        self.mix = nn.Sequential(*(_Mixer(locations, mlp_ratio) for _ in range(mix_depth)))
        self.channel_proj = nn.Linear(channels, out_channels)
        self.row_proj = nn.Linear(locations, out_rows)
        self.linear = linear_or_none(out_channels * out_rows, fc_output_dim)
        self.out_dim = fc_output_dim or out_channels * out_rows

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Aggregate maps.

        Raises:
            ValueError: If they have another size.
        """
        if not torch.jit.is_scripting():
            self.check_size(maps)
        rows = self.mix(maps.flatten(2))  # [B, C, locations]
        rows = self.channel_proj(rows.transpose(1, 2)).transpose(1, 2)
        pooled = at_least_float32(self.row_proj(rows)).flatten(1)  # each channel's rows together
        return F.normalize(at_least_float32(self.linear(pooled)))

    def check_size(self, maps: torch.Tensor) -> None:
        """Raise a ValueError if maps have another size than its own."""
        if tuple(maps.shape[2:]) != self.map_size:
            sizes = " and ".join(
                "{} x {}".format(*size) for size in (self.map_size, maps.shape[2:])
            )
            raise ValueError(
                f"mixvpr mixes the locations of maps of one size: its own and that of these images "
                f"are {sizes}. Give images of the size that it is for (--image_size in training, "
                "--resize_test_imgs HxW in tests), or train another one with --aggregation_args "
                "height=... width=..."
            )


class _Mixer(nn.Module):
    def __init__(self, locations: int, mlp_ratio: int) -> None:
        super().__init__()
        hidden = locations * mlp_ratio
        first, second = nn.Linear(locations, hidden), nn.Linear(hidden, locations)
        for layer in (first, second):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.mix = nn.Sequential(nn.LayerNorm(locations), first, nn.ReLU(), second)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows + self.mix(rows)
