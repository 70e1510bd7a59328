"""Regions of UTM zones that do not touch, side by side for drawing."""

from dataclasses import dataclass

import numpy as np

from datasets.positions import REGION_GAP_M


@dataclass(frozen=True)
class Layout:
    """How the regions of some positions are moved next to each other, from west to east.

    The first region stays where it is, the others stand on its southern edge.
    """

    numbers: np.ndarray  # of the regions, ascending. float64 [num_regions]
    shifts_m: np.ndarray  # float64 [num_regions, 2]

    def move(self, positions_m: np.ndarray) -> np.ndarray:
        """Return positions, of these regions, as they are drawn; NaN stays. float64 [n, 2]."""
        indices = np.searchsorted(self.numbers, number_regions(positions_m))
        return positions_m + self.shifts_m[np.minimum(indices, len(self.numbers) - 1)]


def number_regions(positions_m: np.ndarray) -> np.ndarray:
    """Return the number of the region that each position is in; NaN for NaN. float64 [n]."""
    return np.rint(positions_m[:, 0] / REGION_GAP_M)


def lay_out(positions_m: np.ndarray, gap_m: float = 0.0) -> Layout:
    """Lay out the regions of positions.

    Args:
        positions_m: East and north; some may be NaN. float64 [n, 2].
        gap_m: Least distance between regions; a tenth of their widths and heights if that is more.
    """
    positions_m = positions_m[np.isfinite(positions_m).all(axis=1)]
    regions = number_regions(positions_m)
    numbers = np.unique(regions)
    parts = [positions_m[regions == number] for number in numbers]
    corners_m = np.array([part.min(axis=0) for part in parts]).reshape(-1, 2)
    sizes_m = np.array([part.max(axis=0) for part in parts]).reshape(-1, 2) - corners_m
    gap_m = max(gap_m, 0.1 * sizes_m.max(initial=0))
    shifts_m = np.zeros_like(corners_m)
    for number in range(1, len(numbers)):
        before = number - 1
        edge_m = corners_m[before, 0] + shifts_m[before, 0] + sizes_m[before, 0]
        shifts_m[number] = (edge_m + gap_m, corners_m[0, 1]) - corners_m[number]
    return Layout(numbers, shifts_m)
