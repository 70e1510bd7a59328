"""Where images were taken, as their names say: zones, places, extent, latitude against UTM."""

from dataclasses import dataclass

import numpy as np
import utm

EQUATOR_NORTH_M = 10_000_000.0  # UTM north of the equator, as counted in the southern hemisphere
_EAST_RANGE_M = (100_000, 1_000_000)  # of any place on Earth, generously
_NAMES_PER_BLOCK = 1 << 17


@dataclass(frozen=True)
class Positions:
    """UTM positions of all images, NaN where a name has none.

    Attributes:
        east_m: float64 [num_images].
        north_m: float64 [num_images].
        zone: UTM zone with hemisphere: 10 is zone 10 north, -10 is zone 10 south, 0 is unknown.
            int64 [num_images].
    """

    east_m: np.ndarray
    north_m: np.ndarray
    zone: np.ndarray

    @property
    def is_known(self) -> np.ndarray:
        """Whether an image has a position. bool [num_images]."""
        return np.isfinite(self.east_m) & np.isfinite(self.north_m)


@dataclass(frozen=True)
class Zone:
    """The images of one UTM zone and hemisphere."""

    number: int  # 10 is zone 10 north, -10 is zone 10 south, 0 is unknown
    num_images: int
    num_places: int  # distinct positions
    extent_m: tuple[float, float]  # east-west, north-south

    @property
    def name(self) -> str:
        """What to call the zone."""
        return name_zone(self.number)


def make_zones(zone_number: np.ndarray, zone_letter: np.ndarray) -> np.ndarray:
    """Combine zone number and latitude band: 10 S is 10, 56 J is -56, no number is 0.

    Args:
        zone_number: NaN where there is none. float64 [num_images].
        zone_letter: C to M is south of the equator, N to X north. S1 [num_images].

    Returns:
        int64 [num_images].
    """
    number = np.where((zone_number >= 1) & (zone_number <= 60), zone_number, 0)
    letter = zone_letter.view(np.uint8) & 0xDF  # upper case
    is_south = (letter >= ord("C")) & (letter <= ord("M"))
    return np.where(is_south, -number, number).astype(np.int64)


def name_zone(zone: int) -> str:
    """Return the zone and hemisphere of a number from `make_zones`."""
    if zone == 0:
        return "without a zone"
    return f"zone {abs(zone)} {'north' if zone > 0 else 'south'}"


def measure_zones(positions: Positions) -> tuple[Zone, ...]:
    """Count images and places of each zone, the one with most images first."""
    zones = []
    for zone in np.unique(positions.zone[positions.is_known]):
        inside = positions.is_known & (positions.zone == zone)
        east_m, north_m = positions.east_m[inside], positions.north_m[inside]
        extent_m = (float(np.ptp(east_m)), float(np.ptp(north_m)))
        num_places = len(np.unique(east_m + 1j * north_m))
        zones.append(Zone(int(zone), int(inside.sum()), num_places, extent_m))
    return tuple(sorted(zones, key=lambda zone: -zone.num_images))


def find_impossible(positions: Positions) -> np.ndarray:
    """Return the images whose coordinates are those of no place on Earth. int64 [num_found]."""
    east_m, north_m = positions.east_m, positions.north_m
    low, high = _EAST_RANGE_M
    possible = (east_m >= low) & (east_m < high) & (north_m >= 0) & (north_m <= EQUATOR_NORTH_M)
    return np.flatnonzero(positions.is_known & ~possible)


def look_like_degrees(positions: Positions) -> bool:
    """Tell whether the UTM fields rather hold latitude and longitude, in either order."""
    known = positions.is_known
    if not known.any():
        return False
    first, second = abs(positions.east_m[known]), abs(positions.north_m[known])
    fractional = (np.mod(first, 1) != 0).any() and (np.mod(second, 1) != 0).any()
    return bool(fractional and max(first.max(), second.max()) <= 180)


def measure_contradictions(
    positions: Positions, latitude_deg: np.ndarray, longitude_deg: np.ndarray
) -> np.ndarray:
    """Return how far latitude and longitude are from the UTM position of the same name.

    Args:
        positions: UTM positions. An unknown zone is taken from latitude and longitude.
        latitude_deg: NaN where there is none. float64 [num_images].
        longitude_deg: NaN where there is none. float64 [num_images].

    Returns:
        Metres; NaN where either is missing, inf where they are those of no place in a UTM zone.
        float64 [num_images].
    """
    distances_m = np.full(len(latitude_deg), np.nan)
    both = positions.is_known & np.isfinite(latitude_deg) & np.isfinite(longitude_deg)
    possible = (latitude_deg >= -80) & (latitude_deg <= 84) & (abs(longitude_deg) <= 180)
    distances_m[both & ~possible] = np.inf
    (found,) = np.nonzero(both & possible)
    for first in range(0, len(found), _NAMES_PER_BLOCK):  # bounds the memory
        block = found[first : first + _NAMES_PER_BLOCK]
        latitude, longitude = latitude_deg[block], longitude_deg[block]
        numbers = abs(positions.zone[block])
        unknown = numbers == 0
        numbers[unknown] = _natural_zones(latitude[unknown], longitude[unknown])
        east_m, north_m = _project(latitude, longitude, numbers)
        distances_m[block] = np.hypot(
            positions.east_m[block] - east_m, positions.north_m[block] - north_m
        )
    return distances_m


def _natural_zones(latitude_deg: np.ndarray, longitude_deg: np.ndarray) -> np.ndarray:
    """Return the zone numbers of places; zones change at whole degrees only. int64 [N]."""
    corners = np.floor(np.stack((latitude_deg, longitude_deg), axis=1))
    cells, inverse = np.unique(corners, axis=0, return_inverse=True)
    numbers = [utm.latlon_to_zone_number(lat + 0.5, lon + 0.5) for lat, lon in cells.tolist()]
    return np.array(numbers, np.int64)[inverse.reshape(-1)]


def _project(
    latitude_deg: np.ndarray, longitude_deg: np.ndarray, zone_numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Project places into given zones, each into its own hemisphere. Two float64 [N], metres."""
    east_m, north_m = np.empty(len(latitude_deg)), np.empty(len(latitude_deg))
    keys = zone_numbers * 2 + (latitude_deg < 0)  # utm projects one zone and one hemisphere a call
    for key in np.unique(keys):
        inside = keys == key
        east_m[inside], north_m[inside], *_ = utm.from_latlon(
            latitude_deg[inside], longitude_deg[inside], force_zone_number=int(key // 2)
        )
    return east_m, north_m
