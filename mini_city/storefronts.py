"""Draw ground floors: doors, garages, shops with signs and awnings, pipes and stairs."""

import numpy as np

from mini_city.styles import BRIGHT_COLOURS, Style
from mini_city.textures import GLASS, GLOW, Canvas, Rgb, darker

_DARK = (38, 36, 38)
_WHITE = (240, 238, 230)


def draw_ground_floor(canvas: Canvas, style: Style, rng: np.random.Generator, signs: int) -> None:
    """Draw the ground floor over a finished wall.

    Args:
        canvas: The front of the building.
        style: The building.
        rng: Source of permanent features.
        signs: Which of its shops is there; 0 is the first one.
    """
    width = canvas.width_m
    if style.ground_floor == "shop":
        _draw_shop(canvas, style, rng, np.random.default_rng((style.seed, 11, signs)))
    elif style.ground_floor == "garage":
        garage_m = min(3.4, width * 0.45)
        left_m = 0.7 if rng.random() < 0.5 else width - garage_m - 0.7
        _draw_garage(canvas, style, left_m, garage_m)
        _draw_door(canvas, style, width - 2 if left_m < width / 2 else 0.9, 0.6)
    elif style.ground_floor == "arcade":
        _draw_arcade(canvas, style)
    else:
        door_m = rng.uniform(0.8, width - 2.2)
        _draw_door(canvas, style, door_m, 1.2 if style.ground_floor == "porch" else 0.1)
        for left_m in np.arange(0.8, width - 1.6, 2.6):
            if abs(left_m - door_m) > 2:
                top_m = style.ground_m - 0.6
                canvas.rectangle(left_m - 0.15, 1, left_m + 1.45, top_m, style.trim_rgb)
                canvas.rectangle(left_m, 1.15, left_m + 1.3, top_m - 0.15, (50, 56, 64), GLASS)


def draw_fixtures(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    """Draw fire escapes, ivy, pipes and flags over the upper floors."""
    width, low, high = canvas.width_m, style.ground_m, style.eaves_m
    if "escape" in style.ornaments:
        left_m = rng.uniform(0.5, max(0.6, width - 4))
        for floor in range(1, style.num_floors):
            z_m = low + (floor - 1) * style.floor_m + 0.4
            canvas.rectangle(left_m, z_m - 0.15, left_m + 3.2, z_m, _DARK)
            canvas.line([(left_m, z_m + 1), (left_m + 3.2, z_m + 1)], _DARK, 0.1)
            if floor < style.num_floors - 1:
                canvas.line([(left_m + 0.3, z_m), (left_m + 2.8, z_m + style.floor_m)], _DARK, 0.2)
    if "ivy" in style.ornaments:
        left_m, spread_m = rng.uniform(0, width * 0.7), width * rng.uniform(0.15, 0.35)
        for _ in range(60):
            z_m = high * rng.random() ** 1.3
            x_m = left_m + spread_m * rng.random() * (1 - 0.5 * z_m / high)
            green = (40 + rng.uniform(0, 30), 84 + rng.uniform(0, 40), 40)
            canvas.ellipse(x_m - 0.5, z_m - 0.4, x_m + 0.5, z_m + 0.4, green)
    if "flag" in style.ornaments:
        x_m = rng.uniform(0.3, width - 1.2)
        canvas.rectangle(x_m, low + 0.3, x_m + 0.8, high - 0.4, style.accent_rgb)
        canvas.rectangle(x_m, low + 1, x_m + 0.8, low + 1.5, _WHITE)


def draw_sign(
    canvas: Canvas,
    box_m: tuple[float, float, float, float],
    colours: tuple[Rgb, Rgb],
    rng: np.random.Generator,
) -> None:
    """Write a name in block letters of 3 x 5 random squares between the corners (x0, z0, x1, z1).

    Args:
        canvas: Where to write.
        box_m: Corners of the board, in metres.
        colours: Of the board and of the letters.
        rng: Source of the name.
    """
    x0, z0, x1, z1 = box_m
    board, ink = colours
    canvas.rectangle(*box_m, board, GLOW)
    dot_m = (z1 - z0) * 0.15
    num_letters = max(1, min(int(rng.integers(3, 9)), int((x1 - x0 - dot_m) / (4 * dot_m))))
    left_m = (x0 + x1) / 2 - num_letters * 2 * dot_m
    for letter in range(num_letters):
        for row, column in np.argwhere(rng.random((5, 3)) < 0.62):
            x_m = left_m + (4 * letter + column) * dot_m
            z_m = z0 + (0.8 + row) * dot_m
            canvas.rectangle(x_m, z_m, x_m + dot_m, z_m + dot_m, ink, GLOW)


def _draw_shop(
    canvas: Canvas, style: Style, rng: np.random.Generator, tenant: np.random.Generator
) -> None:
    """Draw show windows, a door, an awning and a sign; the tenant picks colours and name."""
    width, top = canvas.width_m, style.ground_m
    board, ink, awning = (BRIGHT_COLOURS[index] for index in tenant.permutation(10)[:3])
    canvas.rectangle(0.3, 0, width - 0.3, top - 0.2, style.trim_rgb)
    num_panes = max(2, int(width / rng.uniform(1.8, 3.2)))
    pane_m = (width - 1) / num_panes
    door = int(rng.integers(num_panes))
    goods = tenant.uniform(60, 220, (num_panes, 3))
    for pane in range(num_panes):
        left_m = 0.5 + pane * pane_m + 0.1
        right_m, low_m = left_m + pane_m - 0.2, 0.1 if pane == door else 0.7
        canvas.rectangle(left_m, low_m, right_m, top - 1.1, (44, 50, 56), GLOW)
        if pane == door:
            canvas.rectangle(left_m + 0.1, 0.1, right_m - 0.1, 1.0, style.accent_rgb)
        else:
            canvas.rectangle(left_m + 0.2, 0.7, right_m - 0.3, 1.4, goods[pane], GLOW)
    if tenant.random() < 0.65:
        stripe_m = tenant.uniform(0.4, 1.2)
        for index, x_m in enumerate(np.arange(0.2, width - 0.3, stripe_m)):
            colour = awning if index % 2 else _WHITE
            right_m = min(x_m + stripe_m, width - 0.2)
            canvas.rectangle(x_m, top - 1.5, right_m, top - 0.85, colour)
    draw_sign(canvas, (0.4, top - 0.9, width - 0.4, top - 0.1), (board, ink), tenant)


def _draw_garage(canvas: Canvas, style: Style, left_m: float, width_m: float) -> None:
    """Draw a panelled garage door."""
    top_m = style.ground_m - 0.7
    canvas.rectangle(left_m - 0.2, 0, left_m + width_m + 0.2, top_m + 0.2, style.trim_rgb)
    panel = darker(style.accent_rgb, 0.82)
    canvas.rectangle(left_m, 0, left_m + width_m, top_m, panel)
    for z_m in np.linspace(0, top_m, 5)[1:-1]:
        canvas.line([(left_m, z_m), (left_m + width_m, z_m)], _DARK, 0.06)


def _draw_door(canvas: Canvas, style: Style, left_m: float, step_m: float) -> None:
    """Draw a door above `step_m` of stairs."""
    top_m = style.ground_m - 0.5
    for stair in range(int(step_m / 0.2)):
        grey = 120 + 24 * (stair % 2)
        canvas.rectangle(
            left_m - 0.5, 0.2 * stair, left_m + 1.7, 0.2 * stair + 0.2, (grey, grey, grey)
        )
    canvas.rectangle(left_m - 0.25, step_m, left_m + 1.45, top_m, style.trim_rgb)
    canvas.rectangle(left_m, step_m, left_m + 1.2, top_m - 0.6, style.accent_rgb)
    canvas.rectangle(left_m, top_m - 0.5, left_m + 1.2, top_m - 0.15, (70, 74, 78), GLOW)


def _draw_arcade(canvas: Canvas, style: Style) -> None:
    """Draw a row of arches."""
    num_arches = max(2, round(canvas.width_m / 3))
    arch_m = canvas.width_m / num_arches
    spring_m = style.ground_m - 0.3 - 0.4 * arch_m
    canvas.rectangle(0, 0, canvas.width_m, style.ground_m, style.trim_rgb)
    for arch in range(num_arches):
        left_m, right_m = arch * arch_m + 0.35, (arch + 1) * arch_m - 0.35
        canvas.ellipse(left_m, spring_m - 1, right_m, style.ground_m - 0.25, _DARK, GLASS)
        canvas.rectangle(left_m, 0, right_m, spring_m, _DARK, GLASS)
