"""Geotags: position, direction, altitude and time in the EXIF of photos."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import ExifTags, Image

from datasets.images import FORMATS, errors_naming, open_file

_GPS = ExifTags.GPS


@dataclass(frozen=True)
class Geotag:
    """Fields of the EXIF of a photo; NaN or empty if absent."""

    latitude_deg: float
    longitude_deg: float
    heading_deg: float  # of the middle of the photo
    is_heading_magnetic: bool
    height_m: float  # above the sea
    time_texts: tuple[str, ...]  # of the exposure, the most exact form first
    lacks_hemisphere: bool = False  # it has degrees, and not whether north or south, east or west

    @property
    def has_position(self) -> bool:
        """Whether there is a valid position; cameras write 0, 0 before they have one."""
        is_valid = -80 <= self.latitude_deg <= 84 and -180 <= self.longitude_deg <= 180
        return is_valid and (self.latitude_deg, self.longitude_deg) != (0, 0)


def read_geotag(path: str | os.PathLike, hemisphere: str = "") -> Geotag:
    """Read position, direction, altitude and time from the EXIF of one image.

    Args:
        path: The image.
        hemisphere: "NE", "NW", "SE" or "SW": assumed where EXIF does not say it; "" for none.

    Raises:
        ValueError: If the file is no image that can be read.
    """
    with (
        errors_naming(path),
        open_file(path) as file,
        Image.open(file, formats=FORMATS) as image,
    ):
        exif = image.getexif()
        gps, details = exif.get_ifd(ExifTags.IFD.GPSInfo), exif.get_ifd(ExifTags.IFD.Exif)
    refs = [_text(gps.get(tag)).upper() for tag in (_GPS.GPSLatitudeRef, _GPS.GPSLongitudeRef)]
    latitude_ref, longitude_ref = (
        ref[:1] or hemisphere[at : at + 1] for at, ref in enumerate(refs)
    )
    below_sea = gps.get(_GPS.GPSAltitudeRef) in (1, b"\x01")
    return Geotag(
        latitude_deg=_degrees(gps.get(_GPS.GPSLatitude), latitude_ref, "NS"),
        longitude_deg=_degrees(gps.get(_GPS.GPSLongitude), longitude_ref, "EW"),
        heading_deg=_number(gps.get(_GPS.GPSImgDirection)),
        is_heading_magnetic=_text(gps.get(_GPS.GPSImgDirectionRef)) == "M",
        height_m=_number(gps.get(_GPS.GPSAltitude)) * (-1 if below_sea else 1),
        time_texts=_read_time_texts(details),
        lacks_hemisphere=_GPS.GPSLatitude in gps and not all(refs),
    )


def _degrees(value: object, letter: str, letters: str) -> float:
    """Return an angle of degrees, minutes and seconds; NaN if its letter is none of two.

    Also if minutes or seconds are above 60, which rounding may give.
    """
    parts = [_number(part) for part in (value if isinstance(value, tuple) else (value,))]
    sign = {letters[0]: 1, letters[1]: -1}.get(letter, math.nan)
    if any(part > 60 for part in parts[1:]):
        return math.nan
    return sign * sum(part / 60**power for power, part in enumerate(parts))


def _number(value: object) -> float:
    """Return a number of EXIF, NaN if it is none; 0/0 means unknown."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return value.strip("\0 ") if isinstance(value, str) else ""


def _read_time_texts(details: Mapping[int, object]) -> tuple[str, ...]:
    names = ("DateTimeOriginal", "SubsecTimeOriginal", "OffsetTimeOriginal")
    text, fraction, offset = (_text(details.get(ExifTags.Base[name])) for name in names)
    fraction = f".{fraction}" if fraction.isdecimal() else ""
    return f"{text}{fraction}{offset}", text
