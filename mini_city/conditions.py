"""The light and the season in which a picture is taken."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SUN_AZIMUTHS_DEG = (80, 280)  # morning in the east to evening in the west
_NOON_SUN, _EVENING_SUN = (0.67, 0.64, 0.59), (0.5, 0.4, 0.29)
_CLEAR_AMBIENT, _OVERCAST_AMBIENT = (0.53, 0.55, 0.59), (0.8, 0.83, 0.85)
_CLEAR_ZENITH, _OVERCAST_ZENITH = (70, 118, 190), (168, 174, 184)
_CLEAR_HORIZON, _OVERCAST_HORIZON = (190, 206, 226), (206, 208, 212)
_EVENING = (1, 0.94, 0.84)  # tint of the horizon


@dataclass(frozen=True)
class Conditions:
    """Light, weather and season; colours are gains on lit surfaces, 1 is neutral.

    Attributes:
        year: Decides which paint and which shop signs are there.
        month: 1-12; trees have no leaves in winter.
        sun_azimuth_deg: Clockwise from north.
        sun_rgb: Light on a wall that faces the sun, on top of the ambient light.
        ambient_rgb: Light from everywhere.
        zenith_rgb: Colour of the sky above, 0-255.
        horizon_rgb: Colour of the sky at the horizon and of the haze, 0-255.
        cloudiness: Share of the sky that is covered, 0-1.
        haze_m: Distance at which 63 % of the light comes from the haze.
        sky_seed: Picks the clouds.
        is_night: Whether windows and signs glow.
    """

    year: int
    month: int
    sun_azimuth_deg: float
    sun_rgb: tuple[float, ...]
    ambient_rgb: tuple[float, ...]
    zenith_rgb: tuple[float, ...]
    horizon_rgb: tuple[float, ...]
    cloudiness: float
    haze_m: float
    sky_seed: int
    is_night: bool = False

    @property
    def is_leafy(self) -> bool:
        """Whether deciduous trees have leaves."""
        return 4 <= self.month <= 11


def draw_daylight(rng: np.random.Generator, year: int) -> Conditions:
    """Draw the light of a day: sunny, hazy or overcast, from noon's white to evening's orange."""
    clouds = float(rng.beta(0.8, 0.9))
    lowness = rng.random() ** 2  # 0 at noon, 1 at sunset
    exposure = rng.uniform(0.8, 1.18)
    temperature = rng.normal(0, 0.045)
    balance = exposure * np.array((1 + temperature, 1.0, 1 - temperature))
    sun = (1 - clouds) * _mix(_NOON_SUN, _EVENING_SUN, lowness)
    ambient = _mix(_CLEAR_AMBIENT, _OVERCAST_AMBIENT, clouds) * (1 - 0.15 * lowness)
    zenith = _mix(_CLEAR_ZENITH, _OVERCAST_ZENITH, clouds)
    horizon = _mix(_CLEAR_HORIZON, _OVERCAST_HORIZON, clouds) * _mix((1, 1, 1), _EVENING, lowness)
    return Conditions(
        year=year,
        month=int(rng.integers(1, 13)),
        sun_azimuth_deg=rng.uniform(*_SUN_AZIMUTHS_DEG),
        sun_rgb=tuple(sun * balance),
        ambient_rgb=tuple(ambient * balance),
        zenith_rgb=tuple(zenith * balance),
        horizon_rgb=tuple(horizon * balance),
        cloudiness=clouds,
        haze_m=rng.uniform(220, 700),
        sky_seed=int(rng.integers(1 << 16)),
    )


def draw_night(rng: np.random.Generator, year: int) -> Conditions:
    """Draw a night under street lamps: warm, dark, with glowing windows and signs."""
    brightness = rng.uniform(0.4, 0.62)
    return Conditions(
        year=year,
        month=int(rng.integers(1, 13)),
        sun_azimuth_deg=0.0,
        sun_rgb=(0.0, 0.0, 0.0),
        ambient_rgb=tuple(brightness * np.array((1.12, 0.92, 0.7))),
        zenith_rgb=(10.0, 13.0, 26.0),
        horizon_rgb=(44.0, 38.0, 40.0),
        cloudiness=0.3,
        haze_m=400.0,
        sky_seed=int(rng.integers(1 << 16)),
        is_night=True,
    )


def _mix(first: Sequence[float], second: Sequence[float], share: float) -> np.ndarray:
    """Go from the first colour (share 0) to the second (share 1)."""
    return (1 - share) * np.array(first) + share * np.array(second)
