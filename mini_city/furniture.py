"""Trees, poles, people, cars and fences: small things, drawn once for every process."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from mini_city.styles import BRIGHT_COLOURS
from mini_city.surfaces import Wall, Walls, box_corners
from mini_city.textures import GLASS, GLOW, Canvas, Rgb, Texture, darker

NUM_TREES, NUM_POLES, NUM_PEOPLE, NUM_FENCES = 10, 5, 12, 4
CAR_COLOURS = (
    (214, 216, 218), (168, 172, 176), (40, 42, 46), (96, 100, 106), (150, 30, 34), (34, 62, 120),
    (226, 222, 210), (70, 92, 70), (196, 160, 60), (110, 134, 160),
)  # fmt: skip
_BARK = (74, 60, 48)
_WALLS_PER_CAR = 8
_TYRE = (22, 22, 24)


@cache
def tree(variant: int, is_leafy: bool, px_per_m: float) -> Texture:
    """Draw a tree, 5 m wide and 6 to 9 m high; every third variant is evergreen."""
    rng = np.random.default_rng((101, variant))
    height_m, crown_m = rng.uniform(6, 9), rng.uniform(1.6, 2.4)
    canvas = Canvas(5, height_m, px_per_m)
    middle_m = height_m - crown_m
    canvas.line([(2.5, 0), (2.5 + rng.uniform(-0.2, 0.2), middle_m)], _BARK, 0.28)
    green = np.array((62, 96, 44)) + rng.uniform(-16, 24, 3)
    for _ in range(9):
        tip = (2.5 + rng.normal(0, 0.4 * crown_m), middle_m + rng.uniform(-0.6, 0.9) * crown_m)
        canvas.line([(2.5, middle_m - crown_m * 0.7), tip], _BARK, 0.1)
    num_leaves = 240 if is_leafy or variant % 3 == 0 else 0
    for _ in range(num_leaves):
        angle, radius = rng.uniform(0, 2 * np.pi), crown_m * rng.random() ** 0.6
        x_m, z_m = 2.5 + radius * np.cos(angle), middle_m + 1.1 * radius * np.sin(angle)
        size_m = rng.uniform(0.12, 0.34)
        shade = 0.75 + 0.3 * (z_m - middle_m) / crown_m + rng.normal(0, 0.1)
        canvas.ellipse(x_m - size_m, z_m - size_m, x_m + size_m, z_m + size_m, green * shade)
    return canvas.to_texture()


@cache
def pole(variant: int, px_per_m: float) -> Texture:
    """Draw a lamp, a traffic light, a traffic sign, a hydrant or a wooden mast."""
    height_m = (7.0, 4.0, 2.8, 0.9, 9.0)[variant]
    canvas = Canvas(2.4, height_m, px_per_m)
    colour = ((70, 84, 76), (50, 52, 54), (140, 142, 144), (200, 60, 40), (104, 84, 62))[variant]
    canvas.line([(1.2, 0), (1.2, height_m)], colour, 0.5 if variant == 3 else 0.16)
    if variant == 0:
        canvas.line([(1.2, height_m - 0.2), (2.2, height_m - 0.1)], colour, 0.1)
        canvas.ellipse(1.8, height_m - 0.4, 2.4, height_m - 0.1, (250, 240, 200), GLOW)
    elif variant == 1:
        canvas.rectangle(1.0, height_m - 1.1, 1.4, height_m, (30, 30, 30))
        for light, rgb in enumerate(((60, 200, 90), (230, 180, 40), (220, 40, 40))):
            z_m = height_m - 1.0 + 0.33 * light
            canvas.ellipse(1.1, z_m, 1.3, z_m + 0.22, rgb, GLOW)
    elif variant == 2:
        canvas.ellipse(0.85, height_m - 0.7, 1.55, height_m, (206, 40, 40))
        canvas.rectangle(0.95, height_m - 0.42, 1.45, height_m - 0.28, (240, 240, 240))
    elif variant == 4:
        canvas.line([(0.2, height_m - 0.8), (2.2, height_m - 0.8)], colour, 0.14)
    return canvas.to_texture()


@cache
def person(variant: int, px_per_m: float) -> Texture:
    """Draw a standing person, 1.55 to 1.9 m tall."""
    rng = np.random.default_rng((102, variant))
    height_m = rng.uniform(1.55, 1.9)
    canvas = Canvas(0.7, height_m, 2 * px_per_m)
    skin = (226 - 110 * rng.random()) * np.array((1, 0.8, 0.68))
    coat = np.array(BRIGHT_COLOURS[rng.integers(len(BRIGHT_COLOURS))]) * 0.8
    legs = rng.uniform(30, 110) * np.array((0.9, 0.95, 1.1))
    canvas.rectangle(0.2, 0, 0.33, 0.85, legs)
    canvas.rectangle(0.37, 0, 0.5, 0.85, legs)
    canvas.ellipse(0.1, 0.7, 0.6, height_m - 0.2, coat)
    canvas.ellipse(0.22, height_m - 0.32, 0.48, height_m, skin)
    canvas.ellipse(0.22, height_m - 0.14, 0.48, height_m, (50, 38, 32))
    return canvas.to_texture()


@cache
def fence(variant: int, px_per_m: float) -> Texture:
    """Draw 8 m of fence, to be seen through: wire, slats or railings."""
    canvas = Canvas(8, 1.9, 2 * px_per_m)
    rgb: Rgb = ((120, 124, 126), (230, 228, 220), (40, 44, 42), (128, 92, 60))[variant]
    gap_m, bar_m = ((0.3, 0.03), (0.3, 0.14), (0.22, 0.05), (0.4, 0.2))[variant]
    for x_m in np.arange(0, 8, gap_m):
        canvas.line([(x_m, 0), (x_m + (0.3 if variant == 0 else 0), 1.8)], rgb, bar_m)
    for z_m in (0.3, 1.6):
        canvas.line([(0, z_m), (8, z_m)], rgb, 0.07)
    return canvas.to_texture()


@cache
def _car_side(rgb: Rgb, is_van: bool, px_per_m: float) -> Texture:
    """Draw a car from the side, 4.5 x 1.5 m, or a van, 5 x 2.3 m."""
    length_m, height_m = (5.0, 2.3) if is_van else (4.5, 1.5)
    canvas = Canvas(length_m, height_m, px_per_m)
    belt_m = 0.55 * height_m
    canvas.rectangle(0.05, 0.25, length_m - 0.05, belt_m, rgb)
    rear_m = 0.05 if is_van else 0.5
    cabin = [(rear_m, belt_m), (rear_m + 0.3, height_m), (3.2, height_m), (3.8, belt_m)]
    canvas.polygon(cabin, rgb)
    inner = [(rear_m + 0.35, belt_m), (rear_m + 0.5, height_m - 0.15)]
    canvas.polygon([*inner, (3.1, height_m - 0.15), (3.55, belt_m)], (40, 46, 54), GLASS)
    canvas.rectangle(2.0, belt_m, 2.15, height_m - 0.1, rgb)
    if is_van:
        canvas.rectangle(0.1, 0.3, 2.6, height_m - 0.05, rgb)
    canvas.line([(0.1, 0.3), (length_m - 0.1, 0.3)], (30, 30, 32), 0.12)
    for axle_m in (0.9, length_m - 0.9):
        canvas.ellipse(axle_m - 0.34, 0, axle_m + 0.34, 0.68, _TYRE)
        canvas.ellipse(axle_m - 0.17, 0.17, axle_m + 0.17, 0.51, (150, 152, 154))
    return canvas.to_texture()


@cache
def _car_end(rgb: Rgb, is_van: bool, px_per_m: float) -> Texture:
    """Draw a car or a van from behind."""
    height_m = 2.3 if is_van else 1.5
    canvas = Canvas(1.8, height_m, px_per_m)
    canvas.rectangle(0, 0.25, 1.8, 0.62 * height_m, rgb)
    canvas.rectangle(0.15, 0.6 * height_m, 1.65, height_m, rgb)
    canvas.rectangle(0.25, 0.62 * height_m, 1.55, height_m - 0.12, (40, 46, 54), GLASS)
    canvas.rectangle(0.05, 0.6, 0.3, 0.85, (190, 40, 36), GLOW)
    canvas.rectangle(1.5, 0.6, 1.75, 0.85, (190, 40, 36), GLOW)
    canvas.rectangle(0.6, 0.4, 1.2, 0.55, (230, 230, 226))
    canvas.rectangle(0.1, 0, 0.4, 0.3, _TYRE)
    canvas.rectangle(1.4, 0, 1.7, 0.3, _TYRE)
    return canvas.to_texture()


@cache
def _car_roof(rgb: Rgb, px_per_m: float) -> Texture:
    """Return one colour: the far sides of a car represent its roof, seen from above."""
    canvas = Canvas(4.5, 1.5, px_per_m)
    canvas.rectangle(0, 0.3, 4.5, 1.5, darker(rgb, 0.9))
    return canvas.to_texture()


def car(
    centre_m: tuple[float, float], is_along_x: bool, colour: int, is_van: bool, px_per_m: float
) -> list[tuple[Wall, Texture]]:
    """Build a car around a point (x, y): its sides, and their insides as the roof."""
    length_m, height_m = (5.0, 2.3) if is_van else (4.5, 1.5)
    half_x, half_y = (length_m / 2, 0.9) if is_along_x else (0.9, length_m / 2)
    x_m, y_m = centre_m
    rgb = CAR_COLOURS[colour]
    side, end = _car_side(rgb, is_van, px_per_m), _car_end(rgb, is_van, px_per_m)
    box = box_corners(x_m - half_x, y_m - half_y, x_m + half_x, y_m + half_y)
    walls = []
    for index, (start, stop) in enumerate(box):
        is_side = (index % 2 == 0) == is_along_x
        walls.append((Wall(start, stop, 0, height_m), side if is_side else end))
        roof = Wall(stop, start, 0, height_m * 0.97, faces_up=True)
        walls.append((roof, _car_roof(rgb, px_per_m)))
    return walls


def without_cars_near(cars: Walls, x_m: float, y_m: float, radius_m: float) -> Walls:
    """Leave out the cars around a point; `cars` holds nothing else."""
    corners = cars.start_m.reshape(-1, _WALLS_PER_CAR, 2)
    is_far = np.hypot(*(corners.mean(axis=1) - (x_m, y_m)).T) > radius_m
    return cars.subset(np.flatnonzero(np.repeat(is_far, _WALLS_PER_CAR)))


def gather(pieces: Sequence[tuple[Wall, Texture]]) -> Walls:
    """Gather walls that have their textures at hand."""
    textures = [texture for _, texture in pieces]
    return Walls.gather([wall for wall, _ in pieces], textures.__getitem__)
