"""Render a panorama: columns are azimuths, rows are elevation angles.

Everything is upright, so each column of a surface lies at one distance: per column there is one
ray, and per pixel one height and one texel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from mini_city.conditions import Conditions
from mini_city.frame import SUN_ON_GROUND, Camera, Frame
from mini_city.surfaces import Billboard, Walls
from mini_city.textures import GLASS, GLOW, NOTHING, Texture

_VIEW_RANGE_M = 260.0  # of solid walls
_DETAIL_RANGE_M = 90.0  # of small things
_SUN_ON_BILLBOARDS = 0.5
_SKY_REFLECTION = 0.3  # of a window
_LAMP_GLOW = np.array((120, 96, 48), np.float32)


@dataclass(frozen=True)
class Scene:
    """The surroundings of a camera.

    Attributes:
        walls: Buildings, cars, fences.
        billboards: Trees, poles, people.
        ground: A map of the ground, north up.
        ground_corner_m: Lower left corner of that map (x, y).
        conditions: Light and season.
        sun_deg: Azimuth of the sun in the street frame, clockwise from the y axis.
        skyline_deg: Elevation of the hills on the horizon for each degree of azimuth. [360]
    """

    walls: Sequence[Walls]
    billboards: Sequence[Billboard]
    ground: Texture
    ground_corner_m: tuple[float, float]
    conditions: Conditions
    sun_deg: float
    skyline_deg: np.ndarray


def render(scene: Scene, camera: Camera) -> np.ndarray:
    """Render a scene as seen by a camera.

    Returns:
        The image, uint8 [num_rows, num_columns, 3].
    """
    frame = Frame(camera)
    frame.paint_ground(scene.ground, scene.ground_corner_m)
    sun = np.radians(scene.sun_deg)
    for walls in scene.walls:
        _paint_walls(frame, walls, np.array((np.sin(sun), np.cos(sun))))
    for billboard in scene.billboards:
        _paint_billboard(frame, billboard)
    return _develop(frame, scene.conditions, scene.skyline_deg)


def _paint_walls(frame: Frame, walls: Walls, sun: np.ndarray) -> None:
    """Paint the walls that face the camera, the nearest first."""
    starts = walls.start_m - frame.camera.position_m
    ends = walls.end_m - frame.camera.position_m
    edges = ends - starts
    lengths = np.hypot(*edges.T)
    areas = starts[:, 0] * edges[:, 1] - starts[:, 1] * edges[:, 0]  # < 0: seen from its front
    nearest_at = np.clip(-(starts * edges).sum(axis=1) / lengths**2, 0, 1)
    nearest_m = np.hypot(*(starts + nearest_at[:, None] * edges).T)
    azimuths = np.arctan2(starts[:, 0], starts[:, 1])
    spans = (np.arctan2(ends[:, 0], ends[:, 1]) - azimuths) % (2 * np.pi)
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1) / lengths[:, None]
    sunlight = np.where(walls.faces_up, SUN_ON_GROUND, np.maximum(normals @ sun, 0))
    ranges_m = np.where(walls.solid_m > 0, _VIEW_RANGE_M, _DETAIL_RANGE_M)
    seen = np.flatnonzero((areas < 0) & (nearest_m < ranges_m) & (nearest_m > 0.2))
    for wall in seen[np.argsort(nearest_m[seen], kind="stable")]:
        for columns in frame.column_ranges(azimuths[wall], spans[wall]):
            rays = frame.rays[:, columns]
            start, edge = starts[wall], edges[wall]
            turn = rays[0] * edge[1] - rays[1] * edge[0]
            distances_m = areas[wall] / turn
            top_m = walls.top_m[wall] - frame.camera.height_m
            if frame.is_hidden(columns, distances_m, top_m):
                continue
            texture = walls.texture_of(wall)
            share = (rays[1] * start[0] - rays[0] * start[1]) / turn
            heights_m = (walls.bottom_m[wall] - frame.camera.height_m, top_m)
            along_m = share * texture.width_m
            frame.paint(columns, distances_m, along_m, heights_m, texture, sunlight[wall])
            if walls.solid_m[wall]:
                solid_m = walls.solid_m[wall] - frame.camera.height_m
                frame.hide_behind(columns, distances_m, solid_m)


def _paint_billboard(frame: Frame, billboard: Billboard) -> None:
    """Paint a picture at right angles to the line of sight."""
    x_m, y_m = billboard.x_m - frame.camera.x_m, billboard.y_m - frame.camera.y_m
    distance_m = np.hypot(x_m, y_m)
    if distance_m < 0.5 or distance_m > _DETAIL_RANGE_M:
        return
    texture, scale = billboard.texture, billboard.scale
    half = np.arctan2(texture.width_m * scale / 2, distance_m)
    azimuth = np.arctan2(x_m, y_m)
    heights_m = (-frame.camera.height_m, texture.height_m * scale - frame.camera.height_m)
    for columns in frame.column_ranges(azimuth - half, 2 * half):
        distances_m = np.full(columns.stop - columns.start, distance_m)
        if frame.is_hidden(columns, distances_m, heights_m[1]):
            continue
        offsets = np.angle(np.exp(1j * (frame.azimuths[columns] - azimuth)))
        along_m = texture.width_m / 2 + np.tan(offsets) * distance_m / scale
        frame.paint(columns, distances_m, along_m, heights_m, texture, _SUN_ON_BILLBOARDS)


def _develop(frame: Frame, conditions: Conditions, skyline_deg: np.ndarray) -> np.ndarray:
    """Turn texels into colours under the light of the day, with haze and sky.

    Args:
        frame: Texels, distances and sunlight.
        conditions: Light and weather.
        skyline_deg: Elevation of the hills on the horizon for each degree of azimuth. [360]

    Returns:
        The image, uint8 [H, W, 3].
    """
    texels = frame.texels.view(np.uint8).reshape(*frame.texels.shape, 4)
    colours, materials = texels[..., :3], texels[..., 3]
    haze = np.asarray(conditions.horizon_rgb, np.float32)
    sun = np.asarray(conditions.sun_rgb, np.float32)
    light = frame.sunlight[..., None] * sun + np.asarray(conditions.ambient_rgb, np.float32)
    image = colours * light
    glass = np.nonzero(materials == GLASS)
    reflection = _SKY_REFLECTION * np.asarray(conditions.zenith_rgb, np.float32)
    image[glass] = (1 - _SKY_REFLECTION) * image[glass] + reflection
    if conditions.is_night:
        glow = np.nonzero(materials == GLOW)
        image[glow] = 0.7 * colours[glow] + _LAMP_GLOW
    clarity = np.exp(frame.distances_m * np.float32(-1 / conditions.haze_m))[..., None]
    image = haze + (image - haze) * clarity
    np.copyto(image, _sky(frame, conditions, skyline_deg), where=materials[..., None] == NOTHING)
    return np.clip(image, 0, 255).astype(np.uint8)


def _sky(frame: Frame, conditions: Conditions, skyline_deg: np.ndarray) -> np.ndarray:
    """Return the sky with its clouds and the hills below it, float32 [H, W, 3]."""
    elevations_deg = np.degrees(frame.elevations)
    whole_deg = np.degrees(frame.azimuths).astype(np.int32) % 360
    zenith = np.asarray(conditions.zenith_rgb, np.float32)
    horizon = np.asarray(conditions.horizon_rgb, np.float32)
    blend = np.clip(elevations_deg / 50, 0, 1)[:, None, None].astype(np.float32) ** 0.6
    clouds = _cloud_map(conditions.sky_seed)[np.clip(elevations_deg, 0, 89).astype(np.int32)]
    cover = np.clip((clouds[:, whole_deg] - 1 + conditions.cloudiness) * 4, 0, 1)[..., None]
    sky = horizon + (zenith - horizon) * blend
    sky = sky + (1.08 * horizon - sky) * (0.8 * cover)
    hills = elevations_deg[:, None] < skyline_deg[whole_deg]
    np.copyto(sky, 0.72 * horizon + 0.1 * zenith, where=hills[..., None])
    return sky


@lru_cache(maxsize=64)
def _cloud_map(seed: int) -> np.ndarray:
    """Return smooth noise in 0-1 for each degree of elevation and azimuth, float32 [90, 360]."""
    rng = np.random.default_rng(seed)
    total = np.zeros((90, 360), np.float32)
    for num_rows, weight in ((6, 0.6), (18, 0.4)):
        noise = np.tile(rng.random((num_rows, 2 * num_rows), np.float32), 3)  # no seam at north
        noise = Image.fromarray(noise).resize((3 * 360, 90), Image.Resampling.BICUBIC)
        total += weight * np.asarray(noise)[:, 360:720]
    return total
