"""Render a panorama: columns are azimuths, rows are elevation angles.

Everything is upright, so each column of a surface lies at one distance: per column there is one
ray, and per pixel only the height is left to compute and one texel to look up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mini_city.conditions import Conditions
from mini_city.develop import develop
from mini_city.frame import SUN_ON_GROUND, Camera, Frame
from mini_city.surfaces import Billboard, Walls
from mini_city.textures import Texture

_VIEW_RANGE_M = 260.0  # of solid walls
_DETAIL_RANGE_M = 90.0  # of whatever is small
_SUN_ON_BILLBOARDS = 0.5


@dataclass(frozen=True)
class Scene:
    """All that a camera may see.

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
    """Render what a camera sees.

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
    return develop(frame, scene.conditions, scene.skyline_deg)


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
