"""Photos of a folder with the positions in their EXIF."""

import logging
import math
import os
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from datasets.image_lists import list_images
from datasets.images import FORMATS, errors_naming, open_file
from tools.convert.photos import Photos
from tools.convert.positions import project
from tools.convert.times import format_timestamp

_NUM_SHOWN = 20
_GPS = ExifTags.GPS

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Geotag:
    """Fields of the EXIF of a photo; NaN or empty if absent."""

    latitude_deg: float
    longitude_deg: float
    heading_deg: float  # of the middle of the photo
    is_heading_magnetic: bool
    height_m: float  # above the sea
    timestamp: str
    lacks_hemisphere: bool = False  # it has degrees, and not whether north or south, east or west

    @property
    def has_position(self) -> bool:
        """Whether there is a valid position; cameras write 0, 0 before they have one."""
        is_valid = -80 <= self.latitude_deg <= 84 and -180 <= self.longitude_deg <= 180
        return is_valid and (self.latitude_deg, self.longitude_deg) != (0, 0)


def read_exif(
    folder: str | os.PathLike,
    zone: int | None = None,
    skip_without_gps: bool = False,
    hemisphere: str = "",
) -> Photos:
    """Read the EXIF of all images of a folder.

    Args:
        folder: Images, in sub-folders as well.
        zone: UTM zone to project to, see `project`.
        skip_without_gps: Leave out images without a position, instead of refusing them.
        hemisphere: "NE", "NW", "SE" or "SW": that of images whose EXIF does not say it.

    Raises:
        FileNotFoundError: If the folder is missing or has no images.
        ValueError: If an image cannot be read or has no position.
    """
    paths = list_images(folder)
    if paths.left_out:
        _log.warning(paths.left_out)
    geotags = {path: read_geotag(path, hemisphere) for path in tqdm(paths, desc="EXIF", unit="img")}
    if num_assumed := sum(tag.lacks_hemisphere for tag in geotags.values()) if hemisphere else 0:
        _log.warning(f"{num_assumed:,} images do not say their hemisphere: {hemisphere} is assumed")
    _check_positions(geotags, paths.folder, skip_without_gps)
    geotags = {path: geotag for path, geotag in geotags.items() if geotag.has_position}
    tags = list(geotags.values())
    if num_magnetic := sum(tag.is_heading_magnetic for tag in tags):
        _log.warning(
            f"The headings of {num_magnetic:,} images are relative to magnetic north, not corrected"
        )
    unknown, empty = np.full(len(tags), np.nan), [""] * len(tags)
    return Photos(
        files=list(geotags),
        positions=project(
            np.array([tag.latitude_deg for tag in tags]),
            np.array([tag.longitude_deg for tag in tags]),
            zone,
        ),
        heading_deg=np.array([tag.heading_deg for tag in tags]),
        pitch_deg=unknown,
        roll_deg=unknown,
        height_m=np.array([tag.height_m for tag in tags]),
        pano_ids=empty,
        timestamps=[tag.timestamp for tag in tags],
        notes=empty,
    )


def read_geotag(path: str | os.PathLike, hemisphere: str = "") -> Geotag:
    """Read position, direction, altitude and time from the EXIF of one image, see `read_exif`.

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
    latitude_ref, longitude_ref = (
        _text(gps.get(tag)).upper() or hemisphere[at : at + 1]
        for at, tag in enumerate((_GPS.GPSLatitudeRef, _GPS.GPSLongitudeRef))
    )
    below_sea = gps.get(_GPS.GPSAltitudeRef) in (1, b"\x01")
    return Geotag(
        latitude_deg=_degrees(gps.get(_GPS.GPSLatitude), latitude_ref, "NS"),
        longitude_deg=_degrees(gps.get(_GPS.GPSLongitude), longitude_ref, "EW"),
        heading_deg=_number(gps.get(_GPS.GPSImgDirection)),
        is_heading_magnetic=_text(gps.get(_GPS.GPSImgDirectionRef)) == "M",
        height_m=_number(gps.get(_GPS.GPSAltitude)) * (-1 if below_sea else 1),
        timestamp=_timestamp(_text(details.get(ExifTags.Base.DateTimeOriginal))),
        lacks_hemisphere=_GPS.GPSLatitude in gps
        and not {_GPS.GPSLatitudeRef, _GPS.GPSLongitudeRef} <= gps.keys(),
    )


def _degrees(value: object, letter: str, letters: str) -> float:
    """Return an angle of degrees, minutes and seconds; NaN if its letter is none of two."""
    parts = value if isinstance(value, tuple) else (value,)
    sign = {letters[0]: 1, letters[1]: -1}.get(letter, math.nan)
    return sign * sum(_number(part) / 60**power for power, part in enumerate(parts))


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


def _timestamp(text: str) -> str:
    try:
        return format_timestamp(text)
    except ValueError:  # the clock of the camera was never set: 0000:00:00 00:00:00
        return ""


def _check_positions(geotags: dict[str, Geotag], folder: os.PathLike, skip: bool) -> None:
    without = [path for path, geotag in geotags.items() if not geotag.has_position]
    if not without:
        return
    listed = "".join(f"\n  {path}" for path in without[:_NUM_SHOWN])
    if len(without) > _NUM_SHOWN:
        listed += f"\n  and {len(without) - _NUM_SHOWN:,} more"
    message = f"{len(without):,} of {len(geotags):,} images of {folder} have no GPS position"
    if num_lacking := sum(geotags[path].lacks_hemisphere for path in without):
        message += (
            f" ({num_lacking:,} have degrees without GPSLatitudeRef or GPSLongitudeRef: say "
            "--hemisphere NE, NW, SE or SW)"
        )
    if len(without) == len(geotags):
        raise ValueError(f"{message}:{listed}")
    if not skip:
        raise ValueError(
            f"{message}; nothing was written. Leave them out with --skip_without_gps:{listed}"
        )
    _log.warning(f"{message} and are left out:{listed}")
