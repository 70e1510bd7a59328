"""What makes each building an individual: colours, material, windows, ground floor and roof."""

from dataclasses import dataclass, replace

import numpy as np

WALL_COLOURS = (
    (226, 217, 200), (201, 178, 140), (163, 84, 64), (128, 62, 52), (186, 104, 78), (222, 186, 96),
    (214, 150, 118), (139, 165, 186), (92, 122, 152), (148, 172, 140), (96, 128, 100),
    (206, 160, 172), (172, 138, 170), (150, 148, 146), (104, 102, 104), (84, 70, 62),
    (236, 232, 226), (190, 196, 200), (224, 204, 150), (70, 92, 112), (160, 60, 70), (206, 120, 60),
)  # fmt: skip
TRIM_COLOURS = (
    (244, 240, 232), (236, 228, 208), (60, 56, 58), (92, 52, 42), (40, 64, 60), (208, 196, 170),
    (120, 40, 40), (52, 66, 96), (232, 210, 140),
)  # fmt: skip
BRIGHT_COLOURS = (
    (204, 38, 44), (28, 110, 66), (24, 72, 150), (236, 178, 32), (228, 104, 28), (110, 44, 120),
    (20, 140, 150), (240, 236, 226), (36, 34, 38), (214, 84, 130),
)  # fmt: skip
GROUND_FLOORS = ("shop", "shop", "garage", "porch", "flat", "arcade")
ROOF_HEIGHTS_M = {
    "parapet": 0.5, "cornice": 0.9, "gable": 2.6, "stepped": 1.6, "mansard": 2.6, "round": 2.0
}  # fmt: skip
MATERIALS = ("brick", "plaster", "boards", "concrete", "plaster", "boards")
WINDOWS = ("plain", "arched", "wide", "sash", "grid", "round_top", "slit")
BAYS = ((), (), (), (), (0.12, 0.88), (0.15,), (0.85,), (0.5,))  # where on the front, 0-1


@dataclass(frozen=True)
class Style:
    """Look of one building; lengths in metres, colours 0-255."""

    seed: int
    wall_rgb: tuple[float, ...]
    trim_rgb: tuple[float, ...]
    accent_rgb: tuple[float, ...]
    material: str
    num_floors: int
    ground_m: float
    floor_m: float
    roof_m: float
    roof: str
    ground_floor: str
    window: str
    bay_m: float
    window_width: float
    window_height: float
    bays: tuple[float, ...]
    bay_width_m: float
    ornaments: frozenset[str]

    @property
    def eaves_m(self) -> float:
        """Height up to which the building is solid, whatever its roof line."""
        return self.ground_m + self.floor_m * (self.num_floors - 1)

    @property
    def height_m(self) -> float:
        """Height of the highest point of the roof line."""
        return self.eaves_m + self.roof_m


def draw_style(rng: np.random.Generator, is_landmark: bool) -> Style:
    """Invent a building."""
    ornaments = {"bands": 0.4, "corners": 0.25, "shutters": 0.2, "sills": 0.5, "stripes": 0.12}
    ornaments |= {"escape": 0.18, "ivy": 0.12, "mural": 0.06, "balconies": 0.18, "flag": 0.1}
    roof = str(rng.choice(list(ROOF_HEIGHTS_M), p=(0.15, 0.25, 0.15, 0.15, 0.15, 0.15)))
    wall = np.array(WALL_COLOURS[rng.integers(len(WALL_COLOURS))]) + rng.normal(0, 9, 3)
    return Style(
        seed=int(rng.integers(1 << 31)),
        wall_rgb=tuple(np.clip(wall, 30, 245)),
        trim_rgb=TRIM_COLOURS[rng.integers(len(TRIM_COLOURS))],
        accent_rgb=BRIGHT_COLOURS[rng.integers(len(BRIGHT_COLOURS))],
        material=str(rng.choice(MATERIALS)),
        num_floors=int(rng.integers(5, 8)) if is_landmark else int(rng.choice((2, 2, 3, 3, 3, 4))),
        ground_m=rng.uniform(3.1, 4.4),
        floor_m=rng.uniform(2.8, 3.7),
        roof_m=ROOF_HEIGHTS_M[roof] * rng.uniform(0.8, 1.3),
        roof=roof,
        ground_floor=str(rng.choice(GROUND_FLOORS)),
        window=str(rng.choice(WINDOWS)),
        bay_m=rng.uniform(1.9, 4.2),
        window_width=rng.uniform(0.35, 0.72),
        window_height=rng.uniform(0.45, 0.72),
        bays=BAYS[rng.integers(len(BAYS))],
        bay_width_m=rng.uniform(1.9, 2.9),
        ornaments=frozenset(name for name, chance in ornaments.items() if rng.random() < chance),
    )


def repaint(style: Style) -> Style:
    """Return the same building in another colour."""
    rng = np.random.default_rng((style.seed, 3))
    wall_rgb = WALL_COLOURS[rng.integers(len(WALL_COLOURS))]
    return replace(style, wall_rgb=tuple(map(float, wall_rgb)))
