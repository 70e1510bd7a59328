"""Draw the facades: every building has colours, windows, a ground floor and a roof of its own."""

import numpy as np

from mini_city.storefronts import draw_fixtures, draw_ground_floor
from mini_city.styles import BRIGHT_COLOURS, Style
from mini_city.textures import GLASS, GLOW, Canvas, Texture, darker

_FRAME_M = 0.14


def draw_facade(style: Style, width_m: float, px_per_m: float, signs: int) -> Texture:
    """Draw the front of a building.

    Args:
        style: The building.
        width_m: Width of the front.
        px_per_m: Resolution of the texture.
        signs: Which of the shops that came and went is there; 0 is the first one.
    """
    rng = np.random.default_rng((style.seed, round(width_m * 100)))
    canvas = Canvas(width_m, style.height_m, px_per_m)
    _draw_wall(canvas, style, rng)
    _draw_roof(canvas, style)
    _draw_ornaments(canvas, style, rng)
    for floor in range(1, style.num_floors):
        _draw_floor(canvas, style, style.ground_m + (floor - 1) * style.floor_m, rng)
    draw_fixtures(canvas, style, rng)
    draw_ground_floor(canvas, style, rng, signs)
    canvas.grain(rng, patch_m=1.5, strength=0.08)
    canvas.grain(rng, patch_m=0.25, strength=0.05)
    return canvas.to_texture()


def draw_flank(style: Style, width_m: float, px_per_m: float) -> Texture:
    """Draw a side wall: bare, with a few small windows, sometimes painted over."""
    rng = np.random.default_rng((style.seed, 7, round(width_m * 100)))
    canvas = Canvas(width_m, style.eaves_m, px_per_m)
    _draw_wall(canvas, style, rng)
    if rng.random() < 0.2:
        draw_mural(canvas, (1.0, 1.5, width_m - 1, style.eaves_m - 1), rng)
    for x_m in rng.uniform(0.3, width_m - 0.3, 2):  # drain pipes
        canvas.line([(x_m, 0), (x_m, style.eaves_m)], darker(style.wall_rgb, 0.6), 0.12)
    for _ in range(rng.integers(2, 9)):
        x_m, z_m = rng.uniform(1, width_m - 1), rng.uniform(2, style.eaves_m - 1)
        canvas.rectangle(x_m - 0.1, z_m - 0.1, x_m + 0.9, z_m + 1.2, style.trim_rgb)
        canvas.rectangle(x_m, z_m, x_m + 0.8, z_m + 1.1, (58, 66, 74), GLASS)
    canvas.grain(rng, patch_m=2.5, strength=0.12)
    return canvas.to_texture()


def draw_bay(style: Style, width_m: float, px_per_m: float) -> Texture:
    """Draw one side of a bay window: as high as the upper floors, a window on each."""
    height_m = style.eaves_m - style.ground_m
    canvas = Canvas(width_m, height_m, px_per_m)
    canvas.rectangle(0, 0, width_m, height_m, style.wall_rgb)
    for floor in range(style.num_floors - 1):
        low_m = floor * style.floor_m
        canvas.rectangle(0, low_m, width_m, low_m + 0.3, style.trim_rgb)
        margin_m = 0.14 * width_m
        high_m = low_m + 0.85 * style.floor_m
        canvas.rectangle(margin_m / 2, low_m + 0.7, width_m - margin_m / 2, high_m, style.trim_rgb)
        box = (margin_m, low_m + 0.82, width_m - margin_m, high_m - 0.12)
        canvas.rectangle(*box, (62, 72, 84), GLASS)
        if width_m > 1:
            canvas.line([(width_m / 2, box[1]), (width_m / 2, box[3])], style.trim_rgb, 0.1)
    canvas.rectangle(0, height_m - 0.3, width_m, height_m, style.trim_rgb)
    return canvas.to_texture()


def draw_mural(
    canvas: Canvas, box_m: tuple[float, float, float, float], rng: np.random.Generator
) -> None:
    """Paint big shapes in bright colours between the corners (x0, z0, x1, z1)."""
    x0, z0, x1, z1 = box_m
    canvas.rectangle(*box_m, BRIGHT_COLOURS[rng.integers(len(BRIGHT_COLOURS))])
    for _ in range(9):
        size_x, size_z = rng.uniform(0.15, 0.5, 2) * (x1 - x0, z1 - z0)
        left, bottom = rng.uniform(x0, x1 - size_x), rng.uniform(z0, z1 - size_z)
        shape = canvas.ellipse if rng.random() < 0.6 else canvas.rectangle
        colour = BRIGHT_COLOURS[rng.integers(len(BRIGHT_COLOURS))]
        shape(left, bottom, left + size_x, bottom + size_z, colour)


def _draw_wall(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    """Fill the solid part of the wall with its material."""
    width, top = canvas.width_m, min(style.eaves_m, canvas.height_m)
    canvas.rectangle(0, 0, width, top, style.wall_rgb)
    if style.material == "concrete":
        for z_m in np.arange(0, top, style.floor_m):
            canvas.line([(0, z_m), (width, z_m)], darker(style.wall_rgb, 0.75), 0.08)
        for x_m in np.arange(0, width, style.bay_m):
            canvas.line([(x_m, 0), (x_m, top)], darker(style.wall_rgb, 0.8), 0.06)
    elif style.material != "plaster":
        course_m = 0.28 if style.material == "boards" else 0.2
        for z_m in np.arange(0, top, course_m):
            shade = rng.uniform(0.8, 0.95) if style.material == "brick" else 0.84
            canvas.line([(0, z_m), (width, z_m)], darker(style.wall_rgb, shade), 0.07)
    if style.material == "brick":
        canvas.grain(rng, patch_m=0.35, strength=0.12)


def _draw_roof(canvas: Canvas, style: Style) -> None:
    """Draw the roof line above the eaves."""
    width, low, high = canvas.width_m, style.eaves_m, canvas.height_m
    middle = (low + high) / 2
    if style.roof == "gable":
        canvas.polygon([(0, low), (width / 2, high), (width, low)], style.wall_rgb)
        canvas.line([(0, low), (width / 2, high - 0.1), (width, low)], style.trim_rgb, 0.35)
        half = 0.09 * width
        canvas.ellipse(width / 2 - half, low + 0.3, width / 2 + half, middle, (50, 58, 66), GLASS)
    elif style.roof == "stepped":
        for step in range(3):
            inset, top = 0.17 * width * step, low + (high - low) * (step + 1) / 3
            canvas.rectangle(inset, low, width - inset, top, style.wall_rgb)
            canvas.rectangle(inset, top - 0.2, width - inset, top, style.trim_rgb)
    elif style.roof == "round":
        canvas.rectangle(0, low, width, middle, style.wall_rgb)
        canvas.ellipse(width * 0.2, low - (high - low) / 2, width * 0.8, high, style.trim_rgb)
        canvas.ellipse(
            width * 0.25, low - (high - low) / 2, width * 0.75, high - 0.3, style.wall_rgb
        )
    elif style.roof == "mansard":
        slate = darker(style.trim_rgb, 0.45)
        canvas.polygon([(0, low), (0.5, high), (width - 0.5, high), (width, low)], slate)
        for x_m in np.arange(style.bay_m / 2, width - 0.6, style.bay_m):
            canvas.rectangle(x_m - 0.6, low, x_m + 0.6, high - 0.5, style.wall_rgb)
            canvas.rectangle(x_m - 0.4, low + 0.2, x_m + 0.4, high - 0.8, (52, 60, 70), GLASS)
    else:
        canvas.rectangle(0, low, width, high, style.wall_rgb)
        canvas.rectangle(0, high - 0.25, width, high, style.trim_rgb)
    if style.roof == "cornice":
        canvas.rectangle(0, low + 0.1, width, high, style.trim_rgb)
        canvas.rectangle(0, low, width, low + 0.12, darker(style.trim_rgb, 0.5))
        for x_m in np.arange(0.2, width, 0.7):
            canvas.rectangle(x_m, low + 0.1, x_m + 0.25, middle, darker(style.trim_rgb, 0.65))


def _draw_ornaments(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    """Draw fixtures below the windows."""
    width, top = canvas.width_m, style.eaves_m
    if "stripes" in style.ornaments:
        for x_m in np.arange(0, width, 2 * style.bay_m):
            canvas.rectangle(x_m, 0, x_m + style.bay_m, top, darker(style.wall_rgb, 0.78))
    if "bands" in style.ornaments:
        for floor in range(style.num_floors):
            z_m = style.ground_m + floor * style.floor_m
            canvas.rectangle(0, z_m - 0.2, width, z_m + 0.05, style.trim_rgb)
    if "corners" in style.ornaments:
        for row, z_m in enumerate(np.arange(0, top - 0.5, 0.5)):
            length = 0.7 if row % 2 else 0.45
            canvas.rectangle(0, z_m, length, z_m + 0.42, style.trim_rgb)
            canvas.rectangle(width - length, z_m, width, z_m + 0.42, style.trim_rgb)
    if "mural" in style.ornaments:
        draw_mural(canvas, (0.5, style.ground_m, width - 0.5, top - 0.3), rng)


def _draw_floor(canvas: Canvas, style: Style, floor_z_m: float, rng: np.random.Generator) -> None:
    """Draw the windows of one upper floor."""
    num_bays = max(1, round((canvas.width_m - 0.8) / style.bay_m))
    bay_m = (canvas.width_m - 0.8) / num_bays
    width_m = bay_m * (0.86 if style.window == "wide" else style.window_width)
    width_m = 0.5 if style.window == "slit" else width_m
    height_m = style.floor_m * style.window_height
    bottom_m = floor_z_m + (style.floor_m - height_m) * 0.55
    for bay in range(num_bays):
        left_m = 0.4 + bay * bay_m + (bay_m - width_m) / 2
        box = (left_m, bottom_m, left_m + width_m, bottom_m + height_m)
        _draw_window(canvas, style, box, rng)
    if "balconies" in style.ornaments:
        rail = darker(style.trim_rgb, 0.6)
        left_m = 0.4 + bay_m * int(rng.integers(num_bays))
        canvas.rectangle(left_m, bottom_m - 0.15, left_m + bay_m, bottom_m, rail)
        canvas.line([(left_m, bottom_m + 0.8), (left_m + bay_m, bottom_m + 0.8)], rail, 0.1)
        for x_m in np.arange(left_m, left_m + bay_m, 0.3):
            canvas.line([(x_m, bottom_m), (x_m, bottom_m + 0.8)], rail, 0.05)


def _draw_window(
    canvas: Canvas,
    style: Style,
    box_m: tuple[float, float, float, float],
    rng: np.random.Generator,
) -> None:
    """Draw one window between the corners (x0, z0, x1, z1)."""
    x0, z0, x1, z1 = box_m
    middle_x, middle_z = (x0 + x1) / 2, (z0 + z1) / 2
    material = GLOW if rng.random() < 0.3 else GLASS  # lit at night
    glass = np.array((48, 56, 66)) + rng.uniform(0, 46)
    arch_m = 0.0
    if style.window in ("arched", "round_top"):
        arch_m = (x1 - x0) / 2 if style.window == "round_top" else 0.35
        canvas.ellipse(x0 - _FRAME_M, z1 - arch_m, x1 + _FRAME_M, z1 + arch_m, style.trim_rgb)
    canvas.rectangle(x0 - _FRAME_M, z0 - _FRAME_M, x1 + _FRAME_M, z1 + _FRAME_M, style.trim_rgb)
    if arch_m:
        canvas.ellipse(x0, z1 - arch_m + 0.1, x1, z1 + arch_m - 0.1, glass, material)
    canvas.rectangle(x0, z0, x1, z1, glass, material)
    if rng.random() < 0.3:  # curtains
        canvas.rectangle(x0, middle_z, x1, z1, rng.uniform(120, 235) * np.array((1, 0.96, 0.9)))
    if style.window in ("sash", "arched", "grid"):
        canvas.line([(x0, middle_z), (x1, middle_z)], style.trim_rgb, 0.08)
    if style.window in ("grid", "wide", "round_top"):
        for x_m in np.linspace(x0, x1, 4)[1:-1] if style.window != "round_top" else (middle_x,):
            canvas.line([(x_m, z0), (x_m, z1)], style.trim_rgb, 0.08)
    if "sills" in style.ornaments:
        canvas.rectangle(x0 - 0.25, z0 - 0.3, x1 + 0.25, z0 - 0.08, darker(style.trim_rgb, 0.8))
    if "shutters" in style.ornaments:
        for left in (x0 - 0.5, x1 + 0.1):
            canvas.rectangle(left, z0, left + 0.4, z1, darker(style.accent_rgb, 0.7))
