"""Photos of a folder with the positions in their EXIF, or in Google Takeout's JSON beside them."""

import contextlib
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from datasets.image_lists import ImagePaths, describe_left_out, list_images, walk_images
from datasets.images import FORMATS, errors_naming, open_file
from tools.convert.photos import Photos
from tools.convert.positions import parse_number, project
from tools.convert.records import parse_json, read_text
from tools.convert.times import PhotoTime, read_time

_NUM_SHOWN = 20
NUM_COMPARED = 50  # photos whose EXIF is compared with a table
FAR_M = 1000  # such positions are of other places
_SIDE_FILE = ".supplemental-metadata"  # and .json; Takeout cuts names, and older ones lack this
_SIDE_FILE_LENGTH = 46  # of the name before .json
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
    time: PhotoTime | None
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
    geotags = {path: read_geotag(path, hemisphere) for path in tqdm(paths, desc="EXIF", unit="img")}
    if num_assumed := sum(tag.lacks_hemisphere for tag in geotags.values()) if hemisphere else 0:
        _log.warning(f"{num_assumed:,} images do not say their hemisphere: {hemisphere} is assumed")
    log_left_out(paths, _read_side_files(geotags))
    _check_positions(geotags, paths.folder, skip_without_gps)
    geotags = {path: geotag for path, geotag in geotags.items() if geotag.has_position}
    return make_photos(geotags, zone)


def make_photos(geotags: Mapping[str, Geotag], zone: int | None) -> Photos:
    """Make photos of files with geotags, all with positions; see `project` for the zone."""
    tags = list(geotags.values())
    if num_magnetic := sum(tag.is_heading_magnetic for tag in tags):
        _log.warning(
            f"The headings of {num_magnetic:,} images are relative to magnetic north, not corrected"
        )
    heading_deg = np.array([tag.heading_deg for tag in tags])
    if num_impossible := int((np.abs(heading_deg) > 360).sum()):
        _log.warning(f"{num_impossible:,} headings beyond 360 degrees are left out")
        heading_deg[np.abs(heading_deg) > 360] = np.nan
    unknown, empty = np.full(len(tags), np.nan), [""] * len(tags)
    return Photos(
        files=list(geotags),
        positions=project(
            np.array([tag.latitude_deg for tag in tags]),
            np.array([tag.longitude_deg for tag in tags]),
            zone,
        ),
        heading_deg=heading_deg,
        pitch_deg=unknown,
        roll_deg=unknown,
        height_m=np.array([tag.height_m for tag in tags]),
        pano_ids=empty,
        timestamps=[tag.time.format() if tag.time else "" for tag in tags],
        notes=empty,
    )


def compare_with_exif(photos: Photos) -> None:
    """Compare positions with those in the EXIF of some of the photos, where they have any.

    Raises:
        ValueError: If latitudes and longitudes are swapped.
    """
    positions = photos.positions
    step = max(1, len(photos.files) // NUM_COMPARED)
    found = []
    for number in range(0, len(photos.files), step):
        with contextlib.suppress(OSError, ValueError):  # it is said when the image is read
            tag = read_geotag(photos.files[number])
            if tag.has_position and not tag.lacks_hemisphere:
                given = positions.latitude_deg[number], positions.longitude_deg[number]
                there = tag.latitude_deg, tag.longitude_deg
                found.append((_distance_m(given, there), _distance_m(given[::-1], there)))
    found = [pair for pair in found if np.isfinite(pair).all()]
    if not found:
        return
    distance_m, swapped_m = np.median(np.array(found), axis=0)
    if swapped_m < FAR_M < distance_m:
        raise ValueError(
            f"Latitudes and longitudes are swapped: by the EXIF of {len(found):,} photos they are "
            f"{distance_m / 1000:,.0f} km off, swapped {swapped_m:,.0f} m. Give the headers by "
            "--columns lat=...,lon=..."
        )
    if distance_m > FAR_M:
        _log.warning(
            f"By the EXIF of {len(found):,} photos, positions are {distance_m / 1000:,.1f} km off "
            "(median): are they those of these files?"
        )


def _distance_m(first_deg: tuple[float, float], second_deg: tuple[float, float]) -> float:
    """Return the distance of two places, (latitude, longitude), on a sphere."""
    (north, east), (other_north, other_east) = np.radians(first_deg), np.radians(second_deg)
    along = math.sin((north - other_north) / 2) ** 2
    across = math.cos(north) * math.cos(other_north) * math.sin((east - other_east) / 2) ** 2
    return 2 * 6_371_000 * math.asin(math.sqrt(min(1.0, max(0.0, along + across))))


def list_files(files: Sequence[str]) -> str:
    """Return files as lines of an error or warning, at most 20."""
    listed = "".join(f"\n  {file}" for file in files[:_NUM_SHOWN])
    num_more = len(files) - _NUM_SHOWN
    return f"{listed}\n  and {num_more:,} more" if num_more > 0 else listed


def log_left_out(paths: ImagePaths, used: Iterable[str | os.PathLike]) -> None:
    """Log what a folder has beside its images, and beside files that were used otherwise."""
    left_out = paths.left_out
    endings = Counter(Path(file).suffix.lower() for file in used)
    if left_out and endings:
        left_out = describe_left_out(paths.folder, walk_images(paths.folder)[1] - endings)
    if left_out:
        _log.warning(left_out)


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
        time=_read_time(details),
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


def _read_time(details: Mapping[int, object]) -> PhotoTime | None:
    """Return the time of an exposure; None also if the clock of the camera was never set."""
    names = ("DateTimeOriginal", "SubsecTimeOriginal", "OffsetTimeOriginal")
    text, fraction, offset = (_text(details.get(ExifTags.Base[name])) for name in names)
    fraction = f".{fraction}" if fraction.isdecimal() else ""
    for form in (f"{text}{fraction}{offset}", text):
        try:
            return read_time(form)
        except ValueError:
            continue
    return None


def _read_side_files(geotags: dict[str, Geotag]) -> list[str]:
    """Complete geotags by Google Takeout's JSON files; return the files that were read."""
    files, num_positions, num_times = [], 0, 0
    for path, tag in geotags.items():
        if tag.has_position and tag.time or not (file := _find_side_file(path)):
            continue
        content = parse_json(read_text(Path(file)), Path(file))
        files.append(file)
        geotags[path] = _complete(tag, content if isinstance(content, dict) else {})
        num_positions += geotags[path].has_position and not tag.has_position
        num_times += geotags[path].time is not None and tag.time is None
    if files:
        _log.info(
            f"{num_positions:,} positions and {num_times:,} times are those of Google Takeout's "
            f".json files, for images whose EXIF has none"
        )
    return files


def _complete(tag: Geotag, content: Mapping[str, object]) -> Geotag:
    """Add position and time of a JSON file of Takeout; 0, 0 is no position there."""
    for name in ("geoData", "geoDataExif"):
        place = content.get(name)
        if tag.has_position or not isinstance(place, dict):
            continue
        latitude_deg, longitude_deg, height_m = (
            parse_number(str(place.get(key))) for key in ("latitude", "longitude", "altitude")
        )
        moved = replace(tag, latitude_deg=latitude_deg, longitude_deg=longitude_deg)
        if moved.has_position:
            tag = replace(moved, height_m=height_m or math.nan, lacks_hemisphere=False)
    taken = content.get("photoTakenTime")
    if tag.time is None and isinstance(taken, dict):
        with contextlib.suppress(ValueError):
            tag = replace(tag, time=read_time(str(taken.get("timestamp"))))
    return tag


def _find_side_file(path: str) -> str:
    """Return the JSON file that Takeout wrote beside an image; "" if there is none.

    That of a.jpg is a.jpg.json or a.jpg.supplemental-metadata.json, both cut; that of a(1).jpg is
    a.jpg(1).json.
    """
    stem, ending = os.path.splitext(os.path.basename(path))
    tries = [(f"{stem}{ending}", "")]
    if match := re.fullmatch(r"(.*)(\(\d+\))", stem, re.DOTALL):
        tries.append((f"{match[1]}{ending}", match[2]))
    if stem.endswith("-edited"):
        tries.append((f"{stem.removesuffix('-edited')}{ending}", ""))
    for name, number in tries:
        full = (name + _SIDE_FILE)[:_SIDE_FILE_LENGTH]
        for length in range(len(full), min(len(name), _SIDE_FILE_LENGTH) - 1, -1):
            file = os.path.join(os.path.dirname(path), f"{full[:length]}{number}.json")
            if os.path.isfile(file):
                return file
    return ""


def _check_positions(geotags: dict[str, Geotag], folder: os.PathLike, skip: bool) -> None:
    without = [path for path, geotag in geotags.items() if not geotag.has_position]
    if not without:
        return
    listed = list_files(without)
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
