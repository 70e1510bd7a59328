"""Positions of photos: degrees to UTM metres, all photos in one zone where that is sound.

Metres of two UTM zones cannot be compared, nor can those of two sides of the equator, where UTM
adds 10,000 km. So photos in zones that touch are projected to the zone of most of them, and photos
on both sides of the equator are counted as on the side of most of them.
"""

import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import utm

from datasets.positions import choose_zones, to_degrees, to_utm, zones_apart

_BANDS = "CDEFGHJKLMNPQRSTUVWX"  # of 8 degrees from 80 degrees south on
_FIRST_BAND_CENTRE_DEG, _BAND_DEG = -76, 8
_BAND_TOLERANCE_DEG = 6  # half a band, and half of X, which has 12 degrees
_MIDDLE_DEG, _REACH_DEG = 2, 82  # UTM is defined from -80 to 84 degrees
_SIDE = "[NSEW]|north|south|east|west"
_ANGLE = re.compile(  # 48°51'24.00"N, N 48 51.4, 48:51:24, 33.8688S
    rf"""(?P<before>{_SIDE})?\s*(?P<sign>[-+]?)\s*
    (?:(\d+(?:\.\d*)?)\s*°?
    |(\d+)(?:\s*[°:]\s*|\s+)(\d+(?:\.\d*)?)\s*'?
    |(\d+)(?:\s*[°:]\s*|\s+)(\d+)(?:\s*[':]\s*|\s+)(\d+(?:\.\d*)?)\s*(?:"|'')?)
    \s*(?P<after>{_SIDE})?""",
    re.IGNORECASE | re.VERBOSE,
)
_MARKS = str.maketrans(  # at the end bytes of Windows, Mac and DOS, kept by surrogateescape
    "−º˚’′”″´\udcb0\udcba\udc92\udc94\udcb4\udca1\udcf8", "-°°''\"\"'°°'\"'°°"
)
_DEGREES = re.compile(r"(?<=\d)\s*(?:degrees|deg|d)(?![a-z])", re.IGNORECASE)
_MINUTES = re.compile(r"(?<=\d)\s*m(?:in)?\s*(?:([\d.]+)\s*s(?:ec)?)?", re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotoPositions:
    """Positions of photos, columns of equal length.

    Attributes:
        east_m: UTM east. float64 [num_images].
        north_m: UTM north. float64 [num_images].
        zones: Zone numbers, 0 if unknown. int64 [num_images].
        letters: Latitude bands, "" if unknown. str [num_images].
        latitude_deg: NaN if unknown. float64 [num_images].
        longitude_deg: NaN if unknown. float64 [num_images].
    """

    east_m: np.ndarray
    north_m: np.ndarray
    zones: np.ndarray
    letters: np.ndarray
    latitude_deg: np.ndarray
    longitude_deg: np.ndarray


def parse_number(text: str) -> float:
    """Read a number with a decimal point, or with a decimal comma; NaN if it is none."""
    text = text.strip().translate(_MARKS).removesuffix("°")
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return math.nan


def parse_angle(text: str, sides: str = "NSEW") -> float:
    """Read degrees, or degrees, minutes and seconds.

    Args:
        text: With a sign, or before or after it the side: S and W are negative. As exiftool writes
            it, too: 48 deg 51' 24.00" N.
        sides: The letters that may stand there, in upper case.

    Returns:
        Degrees; NaN if it is no angle.
    """
    if not math.isnan(number := parse_number(text)):
        return number
    text = text.strip().translate(_MARKS)
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    text = _MINUTES.sub(r"'\1", _DEGREES.sub("°", text))
    if (match := _ANGLE.fullmatch(text)) is None or (match["before"] and match["after"]):
        return math.nan
    side = (match["before"] or match["after"] or "")[:1].upper()
    parts = [float(part) for part in match.group(*range(3, 9)) if part is not None]
    is_negative = side in tuple("SW") or match["sign"] == "-"
    if max(parts[1:], default=0) >= 60 or side not in tuple(sides) + ("",):
        return math.nan
    if match["sign"] == "-" and side in tuple("NE"):
        return math.nan
    value = sum(part / 60**power for power, part in enumerate(parts))
    return -value if is_negative else value


def project(
    latitude_deg: np.ndarray, longitude_deg: np.ndarray, zone: int | None = None
) -> PhotoPositions:
    """Project degrees to UTM.

    Args:
        latitude_deg: -80 to 84. float64 [num_images].
        longitude_deg: -180 to 180. float64 [num_images].
        zone: The zone to project to; by default that of most images, which takes the images of its
            neighbours. Images further away stay in a zone of their own.

    Raises:
        ValueError: If images are more than one zone away from `zone`.
    """
    own_zones, letters = find_zones(latitude_deg, longitude_deg)
    zones = _choose_zones(own_zones) if zone is None else _force_zone(own_zones, zone)
    is_northern = latitude_deg >= 0
    for number in np.unique(zones):  # numbered as on the side of the equator of most
        inside = zones == number
        is_northern[inside] = is_northern[inside].mean() >= 0.5
    east_m, north_m = to_utm(latitude_deg, longitude_deg, zones, is_northern)
    return PhotoPositions(east_m, north_m, zones, letters, latitude_deg, longitude_deg)


def keep_utm(
    east_m: np.ndarray,
    north_m: np.ndarray,
    zones: np.ndarray,
    letters: np.ndarray,
    zone: int | None = None,
    are_sides: np.ndarray | bool = False,
) -> PhotoPositions:
    """Keep UTM coordinates; project them only if they are of several zones.

    Args:
        east_m: float64 [num_images].
        north_m: float64 [num_images].
        zones: Zone numbers; 0 where unknown, then metres of any grid will do. int64 [num_images].
        letters: Latitude bands, "" where unknown. str [num_images].
        zone: The zone to project to; also the zone of the images whose zone is unknown.
        are_sides: Whether letters are N and S for the sides of the equator. bool [num_images].

    Raises:
        ValueError: If a letter is not the band of its coordinates, or images must be projected and
            have no letter.
    """
    zones = np.where(zones == 0, zone or 0, zones)
    latitude_deg, longitude_deg = np.full((2, len(east_m)), np.nan)
    known = (zones > 0) & (letters != "")
    is_northern = np.where(are_sides, letters == "N", letters >= "N")
    latitude_deg[known], longitude_deg[known] = to_degrees(
        east_m[known], north_m[known], zones[known], is_northern[known]
    )
    _check_bands(np.where(are_sides, "", letters), latitude_deg)
    if (are_sides := known & are_sides).any():
        if (np.abs(latitude_deg[are_sides] - _MIDDLE_DEG) > _REACH_DEG).any():
            raise ValueError(
                "UTM north of some images is that of no place north (N) or south (S) of the "
                "equator, as --zone_letters hemisphere says: correct the letters"
            )
        letters = letters.copy()
        letters[are_sides] = find_zones(latitude_deg[are_sides], longitude_deg[are_sides])[1]
    is_one_grid = len(np.unique(2 * zones + (latitude_deg < 0))) == 1
    if is_one_grid and zone in (None, int(zones[0])):
        return PhotoPositions(east_m, north_m, zones, letters, latitude_deg, longitude_deg)
    if np.isnan(latitude_deg).any():
        raise ValueError(
            f"The UTM coordinates are of zones {_join(np.unique(zones))} and must be brought into "
            "one: give their zones with the letter of the latitude band, as in 32U"
        )
    return project(latitude_deg, longitude_deg, zone)


def find_zones(
    latitude_deg: np.ndarray, longitude_deg: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers and letters of the UTM zones that places lie in.

    Both are the same all over a cell of 1 x 1 degrees.

    Returns:
        int64 [num_images] and str [num_images].
    """
    cells = np.floor(latitude_deg) * 1000 + np.floor(longitude_deg)
    _, firsts, inverse = np.unique(cells, return_index=True, return_inverse=True)
    places = list(zip(latitude_deg[firsts].tolist(), longitude_deg[firsts].tolist(), strict=True))
    numbers = np.array([utm.latlon_to_zone_number(*place) for place in places], np.int64)
    letters = np.array([utm.latitude_to_zone_letter(latitude) for latitude, _ in places], str)
    return numbers[inverse], letters[inverse]


def _choose_zones(own_zones: np.ndarray) -> np.ndarray:
    zones, notes = choose_zones(own_zones)
    for note in notes:
        _log.info(note)
    if len(kept := np.unique(zones)) > 1:
        _log.warning(
            f"The images lie in UTM zones that are far apart and keep them ({_join(kept)}): "
            "distances between zones are not known, so convert them to folders of their own"
        )
    return zones


def _force_zone(own_zones: np.ndarray, zone: int) -> np.ndarray:
    far = own_zones[zones_apart(own_zones, zone) > 1]
    if len(far):
        raise ValueError(
            f"--zone {zone}: {len(far):,} images lie in UTM zones {_join(np.unique(far))}, more "
            "than one away, where metres of that zone are wrong"
        )
    return np.full(len(own_zones), zone)


def _check_bands(letters: np.ndarray, latitude_deg: np.ndarray) -> None:
    """Refuse letters that mean north and south instead of the band: S is a northern band."""
    numbers = np.array([_BANDS.find(letter) if letter else 0 for letter in letters.tolist()])
    centres_deg = _FIRST_BAND_CENTRE_DEG + _BAND_DEG * numbers
    wrong = (np.abs(latitude_deg - centres_deg) > _BAND_TOLERANCE_DEG) & (letters != "")
    may_be_sides = np.isin(letters, ("N", "S")).all()
    if wrong.any():
        first = int(wrong.argmax())
        remedy = "correct it, or leave it out"
        if may_be_sides:
            remedy = "if N and S are the sides of the equator, say --zone_letters hemisphere"
        raise ValueError(
            f"The zone letters of {int(wrong.sum()):,} images do not fit their UTM north: with "
            f"'{letters[first]}', the first one lies at latitude {latitude_deg[first]:.1f}. The "
            f"letter is that of the latitude band (32U): {remedy}"
        )
    if may_be_sides and (letters == "S").any():
        _log.warning(
            "The zone letters S are read as the latitude band from 32 to 40 degrees north; if they "
            "are the southern hemisphere, say --zone_letters hemisphere"
        )


def _join(zones: Iterable[int]) -> str:
    return ", ".join(str(int(zone)) for zone in zones)
