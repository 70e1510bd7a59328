"""Sizes of a mini city, and the presets."""

from dataclasses import dataclass

SPOT_SPACING_M = 20 / 20**0.5  # 4.47 m; five spots make one grid step
GRID_STEP_M = 5 * SPOT_SPACING_M  # 22.36 m: two 10 m cells along one UTM axis, one along the other


@dataclass(frozen=True)
class DistrictParams:
    """Size of one district and how often it is driven.

    Attributes:
        block_columns: Width of each block between two street axes, in grid steps of 22.36 m.
        block_rows: Depth of each block, in grid steps.
        visits: Fewest and most panoramas at one spot, each in another year.
        num_spots: Number of spots driven, in order; None: all.
    """

    block_columns: tuple[int, ...]
    block_rows: tuple[int, ...]
    visits: tuple[int, int]
    num_spots: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        blocks = self.block_columns + self.block_rows
        if not (self.block_columns and self.block_rows) or min(blocks) < 3:
            raise ValueError(f"Every block needs at least 3 grid steps (67 m), not {blocks}")
        if not 1 <= self.visits[0] <= self.visits[1]:
            raise ValueError(f"visits are (fewest, most), at least 1, not {self.visits}")
        if self.num_spots is not None and self.num_spots < 1:
            raise ValueError(f"num_spots must be at least 1, it is {self.num_spots}")


@dataclass(frozen=True)
class CityParams:
    """Sizes of the data set.

    Attributes:
        train: The district of the training images.
        val: The district of the validation images.
        test: The district of the test images.
        num_val_queries: Hand-held photos of the val district, as hard as queries_v1.
        num_queries_v1: Hand-held photos of the test district.
        num_queries_v2: Clear photos of the test district with their 6-DoF poses.
        image_size_px: Side of the square crops.
        years: First and last year of the panoramas.
    """

    train: DistrictParams
    val: DistrictParams
    test: DistrictParams
    num_val_queries: int
    num_queries_v1: int
    num_queries_v2: int
    image_size_px: int
    years: tuple[int, int] = (2009, 2021)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.image_size_px < 32:
            raise ValueError(f"image_size_px must be at least 32, it is {self.image_size_px}")
        for name in ("num_val_queries", "num_queries_v1", "num_queries_v2"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")
        num_years = self.years[1] - self.years[0] + 1
        most_visits = max(district.visits[1] for district in (self.train, self.val, self.test))
        if num_years < most_visits:
            raise ValueError(f"{num_years} years are too few for {most_visits} visits to a spot")

    @property
    def texture_px_per_m(self) -> float:
        """Resolution of the facades: one texel a pixel at 10 m or so."""
        return min(32.0, max(8.0, self.image_size_px / 8))


PRESETS = {
    "tiny": CityParams(
        train=DistrictParams(block_columns=(3,), block_rows=(3,), visits=(7, 7), num_spots=14),
        val=DistrictParams(block_columns=(3,), block_rows=(3,), visits=(1, 1), num_spots=6),
        test=DistrictParams(block_columns=(3,), block_rows=(3,), visits=(1, 1), num_spots=12),
        num_val_queries=10,
        num_queries_v1=10,
        num_queries_v2=10,
        image_size_px=64,
    ),
    "small": CityParams(
        train=DistrictParams(block_columns=(3, 5), block_rows=(3,), visits=(6, 6)),
        val=DistrictParams(block_columns=(3,), block_rows=(3,), visits=(1, 1), num_spots=16),
        test=DistrictParams(block_columns=(3,), block_rows=(3,), visits=(1, 2), num_spots=24),
        num_val_queries=50,
        num_queries_v1=60,
        num_queries_v2=60,
        image_size_px=64,
    ),
    "demo": CityParams(
        train=DistrictParams(block_columns=(3, 5, 5, 3), block_rows=(5, 5), visits=(6, 6)),
        val=DistrictParams(block_columns=(5,), block_rows=(3,), visits=(1, 1)),
        test=DistrictParams(block_columns=(4, 3), block_rows=(3, 3), visits=(1, 2)),
        num_val_queries=200,
        num_queries_v1=200,
        num_queries_v2=200,
        image_size_px=128,
    ),
    "large": CityParams(
        train=DistrictParams(
            block_columns=(3, 5, 4, 3, 5), block_rows=(4, 3, 5, 4), visits=(8, 10)
        ),
        val=DistrictParams(block_columns=(5, 4), block_rows=(3, 4), visits=(1, 2)),
        test=DistrictParams(block_columns=(3, 5, 4), block_rows=(4, 3, 4), visits=(1, 2)),
        num_val_queries=500,
        num_queries_v1=500,
        num_queries_v2=500,
        image_size_px=512,
    ),
}
