"""Contextual reweighting: NetVLAD whose assignments are gated by a learned mask of the map.

Kim, Dunn and Frahm, CVPR 2017. Training starts from a trained NetVLAD, whose keys the state dict
has, and `crn.*`, those of the deep visual geo-localization benchmark ("VGB"). Where VGB differs
from the original, both are there by option; VGB's is the default, and the paper's row.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.netvlad import NetVLAD

_FILTERS = {3: 32, 5: 32, 7: 20}  # side of a context filter -> number of its channels
_UPSAMPLINGS = ("bilinear", "deconvolution")
_MASK_INPUTS = ("unit", "raw")


class CRN(NetVLAD):
    """Feature maps [B, C, h, w] of any size to unit descriptors [B, out_dim]."""

    def __init__(
        self,
        channels: int,
        fc_output_dim: int,
        clusters: int = 64,
        mask_input: str = "unit",
        upsampling: str = "bilinear",
    ) -> None:
        """Make the layers.

        Args:
            channels: Of the feature maps, C.
            fc_output_dim: Length of the descriptors, by a linear layer; 0 for clusters * C.
            clusters: Number of centroids, at least 2.
            mask_input: What the mask is computed from: "unit", the locations scaled to unit length,
                or "raw", the maps as they are, as in the original.
            upsampling: How the mask gets the size of the map: "bilinear" interpolation, or a fixed
                bilinear "deconvolution" as in the original, which gives its rim .75 of that, and
                its corners .5625.

        Raises:
            ValueError: If an option is out of range.
        """
        super().__init__(channels, fc_output_dim, clusters)
        for name, value, choices in (
            ("mask_input", mask_input, _MASK_INPUTS),
            ("upsampling", upsampling, _UPSAMPLINGS),
        ):
            if value not in choices:
                raise ValueError(
                    f"--aggregation_args {name}={value}: choose from {', '.join(choices)}"
                )
        self.of_unit_locations = mask_input == "unit"
        self.crn = ContextMask(channels, upsampling == "deconvolution")

    def gates(self, maps: torch.Tensor) -> torch.Tensor | None:
        """Return the mask, [B, 1, h w], of which all clusters have the same."""
        maps = F.normalize(maps) if self.of_unit_locations else maps
        return self.crn(maps).to(maps.dtype).flatten(2)


class ContextMask(nn.Module):
    """Maps [B, C, h, w] to masks [B, 1, h, w], not negative; h and w are at least 2."""

    def __init__(self, channels: int, by_deconvolution: bool) -> None:
        """Make the context filters, and the sum of what they give, which is not trained."""
        super().__init__()
        self.by_deconvolution = by_deconvolution
        self.filter_3_3, self.filter_5_5, self.filter_7_7 = (
            nn.Conv2d(channels, num, side, padding=side // 2) for side, num in _FILTERS.items()
        )
        self.acc_w = nn.Conv2d(sum(_FILTERS.values()), 1, 1)
        for layer in (self.filter_3_3, self.filter_5_5, self.filter_7_7):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.ones_(self.acc_w.weight)
        nn.init.zeros_(self.acc_w.bias)
        self.acc_w.requires_grad_(False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the mask of each map."""
        height, width = maps.shape[2], maps.shape[3]
        # Averages at the rim are of the locations inside the map.
        half = F.avg_pool2d(maps, 3, stride=2, ceil_mode=True)
        context = [self.filter_3_3(half), self.filter_5_5(half), self.filter_7_7(half)]
        mask = F.relu(self.acc_w(F.relu(torch.cat(context, dim=1))))
        if not self.by_deconvolution:
            return F.interpolate(mask, (height, width), mode="bilinear", align_corners=False)
        # It interpolates toward zeros around the mask.
        mask = F.pad(mask, [1, 1, 1, 1])
        size = (2 * mask.shape[2], 2 * mask.shape[3])
        mask = F.interpolate(mask, size, mode="bilinear", align_corners=False)
        return mask[:, :, 2 : 2 + height, 2 : 2 + width]
