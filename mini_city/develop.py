"""Develop a frame: turn texels into colours under the light of the day, with haze and sky."""

from functools import lru_cache

import numpy as np
from PIL import Image

from mini_city.conditions import Conditions
from mini_city.frame import Frame
from mini_city.textures import GLASS, GLOW, NOTHING

_SKY_REFLECTION = 0.3  # of a window
_LAMP_GLOW = np.array((120, 96, 48), np.float32)


def develop(frame: Frame, conditions: Conditions, skyline_deg: np.ndarray) -> np.ndarray:
    """Turn texels, distances and sunlight into colours.

    Args:
        frame: What is seen.
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
