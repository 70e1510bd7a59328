"""Where images were taken: degrees to UTM metres, all images in one zone wherever that is sound.

Metres of two UTM zones cannot be compared, nor can those of two sides of the equator, where UTM
adds 10,000 km. So images of zones that touch are brought into the zone of most of them, and images
on both sides of the equator into the numbering of the side of most of them.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import utm

NUM_ZONES = 60
FALSE_NORTHING_M = 10_000_000  # what UTM adds to the north coordinate south of the equator
_BANDS = "CDEFGHJKLMNPQRSTUVWX"  # of 8 degrees from 80 degrees south on
_FIRST_BAND_CENTRE_DEG, _BAND_DEG = -76, 8
_BAND_TOLERANCE_DEG = 6  # half a band, and half of X, which has 12 degrees

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Positions:
    """Positions of images, columns of equal length.

    Attributes:
        east_m: UTM east. float64 [num_images].
        north_m: UTM north. float64 [num_images].
        zones: Zone numbers, 0 if not known. int64 [num_images].
        letters: Latitude bands, "" if not known. str [num_images].
        latitude_deg: NaN if not known. float64 [num_images].
        longitude_deg: NaN if not known. float64 [num_images].
    """

    east_m: np.ndarray
    north_m: np.ndarray
    zones: np.ndarray
    letters: np.ndarray
    latitude_deg: np.ndarray
    longitude_deg: np.ndarray


def project(
    latitude_deg: np.ndarray, longitude_deg: np.ndarray, zone: int | None = None
) -> Positions:
    """Project degrees to UTM.

    Args:
        latitude_deg: -80 to 84. float64 [num_images].
        longitude_deg: -180 to 180. float64 [num_images].
        zone: The zone to project to; by default that of most images, with the images of the zones
            that touch it. Images further away keep a zone of their own.

    Raises:
        ValueError: If images are more than one zone away from `zone`.
    """
    own_zones, letters = _find_zones(latitude_deg, longitude_deg)
    zones = _gather_zones(own_zones) if zone is None else _force_zone(own_zones, zone)
    east_m, north_m = np.empty(len(zones)), np.empty(len(zones))
    for number in np.unique(zones):
        inside = zones == number
        east_m[inside], north_m[inside] = _project_into(
            int(number), latitude_deg[inside], longitude_deg[inside]
        )
    return Positions(east_m, north_m, zones, letters, latitude_deg, longitude_deg)


def keep_utm(
    east_m: np.ndarray,
    north_m: np.ndarray,
    zones: np.ndarray,
    letters: np.ndarray,
    zone: int | None = None,
) -> Positions:
    """Take UTM coordinates as they are; re-project them only if they are of several zones.

    Args:
        east_m: float64 [num_images].
        north_m: float64 [num_images].
        zones: Zone numbers; 0 where it is not known, then any metres will do. int64 [num_images].
        letters: Latitude bands, "" where not known. str [num_images].
        zone: The zone to project to; the zone of the images whose zone is not known.

    Raises:
        ValueError: If a letter is not the band of its coordinates, or images must be re-projected
            and have no letter.
    """
    zones = np.where(zones == 0, zone or 0, zones)
    latitude_deg, longitude_deg = _to_degrees(east_m, north_m, zones, letters)
    _check_bands(letters, latitude_deg)
    is_one_grid = len(np.unique(2 * zones + (latitude_deg < 0))) == 1
    if is_one_grid and zone in (None, int(zones[0])):
        return Positions(east_m, north_m, zones, letters, latitude_deg, longitude_deg)
    if np.isnan(latitude_deg).any():
        raise ValueError(
            f"The UTM coordinates are of zones {_join(np.unique(zones))} and must be brought into "
            "one: give their zones with the letter of the latitude band, as in 32U"
        )
    return project(latitude_deg, longitude_deg, zone)


def _find_zones(
    latitude_deg: np.ndarray, longitude_deg: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return zone numbers and letters; both are the same all over a cell of 1 x 1 degrees."""
    cells = np.floor(latitude_deg) * 1000 + np.floor(longitude_deg)
    _, firsts, inverse = np.unique(cells, return_index=True, return_inverse=True)
    places = list(zip(latitude_deg[firsts].tolist(), longitude_deg[firsts].tolist(), strict=True))
    numbers = np.array([utm.latlon_to_zone_number(*place) for place in places])
    letters = np.array([utm.latitude_to_zone_letter(latitude) for latitude, _ in places])
    return numbers[inverse], letters[inverse]


def _gather_zones(own_zones: np.ndarray) -> np.ndarray:
    """Move images into the zone next to theirs, if most images are there."""
    zones, counts = np.unique(own_zones, return_counts=True)
    targets: dict[int, int] = {}
    for zone in zones[np.argsort(-counts, kind="stable")].tolist():
        if zone not in targets:
            for near in zones[_zones_apart(zones, zone) <= 1].tolist():
                targets.setdefault(near, zone)
    for zone, count in zip(zones.tolist(), counts.tolist(), strict=True):
        if targets[zone] != zone:
            _log.info(f"{count:,} images of UTM zone {zone} are projected to zone {targets[zone]}")
    kept = sorted(set(targets.values()))
    if len(kept) > 1:
        _log.warning(
            f"The images lie in UTM zones that are far apart and keep them ({_join(kept)}): "
            "distances between zones are not known, so convert them to folders of their own"
        )
    return np.array([targets[zone] for zone in zones.tolist()])[np.searchsorted(zones, own_zones)]


def _force_zone(own_zones: np.ndarray, zone: int) -> np.ndarray:
    far = own_zones[_zones_apart(own_zones, zone) > 1]
    if len(far):
        raise ValueError(
            f"--zone {zone}: {len(far):,} images lie in UTM zones {_join(np.unique(far))}, more "
            "than one away, where metres of that zone are wrong"
        )
    return np.full(len(own_zones), zone)


def _zones_apart(zones: np.ndarray, zone: int) -> np.ndarray:
    """Return how many zones apart others are, around the globe: 60 and 1 are neighbours."""
    half = NUM_ZONES // 2
    return np.abs((zones - zone + half) % NUM_ZONES - half)


def _project_into(
    zone: int, latitude_deg: np.ndarray, longitude_deg: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return east and north of one zone, all numbered as on the side of the equator of most."""
    south = latitude_deg < 0
    east_m, north_m = np.empty(len(south)), np.empty(len(south))
    for side in (south, ~south):
        if side.any():
            east_m[side], north_m[side], *_ = utm.from_latlon(
                latitude_deg[side], longitude_deg[side], force_zone_number=zone
            )
    if south.mean() > 0.5:
        north_m[~south] += FALSE_NORTHING_M
    else:
        north_m[south] -= FALSE_NORTHING_M
    return east_m, north_m


def _to_degrees(
    east_m: np.ndarray, north_m: np.ndarray, zones: np.ndarray, letters: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return latitude and longitude, NaN where the side of the equator is not known."""
    latitude_deg, longitude_deg = np.full((2, len(east_m)), np.nan)
    known, is_northern = (zones > 0) & (letters != ""), letters >= "N"
    for zone in np.unique(zones[known]):
        for northern in (True, False):
            inside = known & (zones == zone) & (is_northern == northern)
            if inside.any():
                latitude_deg[inside], longitude_deg[inside] = utm.to_latlon(
                    east_m[inside], north_m[inside], int(zone), northern=northern
                )
    return latitude_deg, longitude_deg


def _check_bands(letters: np.ndarray, latitude_deg: np.ndarray) -> None:
    """Refuse letters that mean north and south instead of the band: S is a northern band."""
    numbers = np.array([_BANDS.find(letter) if letter else 0 for letter in letters.tolist()])
    centres_deg = _FIRST_BAND_CENTRE_DEG + _BAND_DEG * numbers
    wrong = np.abs(latitude_deg - centres_deg) > _BAND_TOLERANCE_DEG
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"The zone letters of {int(wrong.sum()):,} images do not fit their UTM north: with "
            f"'{letters[first]}', the first one lies at latitude {latitude_deg[first]:.1f}. The "
            "letter is that of the latitude band (32U), not N or S for a side of the equator; "
            "leave it out if in doubt"
        )


def _join(zones: Iterable[int]) -> str:
    return ", ".join(str(int(zone)) for zone in zones)
