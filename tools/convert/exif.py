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
from tqdm import tqdm

from datasets.geotags import Geotag, read_geotag
from datasets.image_lists import ImagePaths, describe_left_out, list_images, walk_images
from tools.convert.photos import Photos
from tools.convert.positions import parse_number, project
from tools.convert.records import parse_json, read_text
from tools.convert.times import PhotoTime, read_time

_NUM_SHOWN = 20
NUM_COMPARED = 50  # photos whose EXIF is compared with a table
FAR_M = 1000  # such positions are of other places
_SIDE_FILE = ".supplemental-metadata"  # and .json; Takeout cuts names, and older ones lack this
_SIDE_FILE_LENGTH = 46  # of the name before .json

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TimedGeotag(Geotag):
    """A geotag with its time, None if unknown or if the camera's clock was never set."""

    time: PhotoTime | None = None


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
    geotags = {
        path: read_timed_geotag(path, hemisphere) for path in tqdm(paths, desc="EXIF", unit="img")
    }
    if num_assumed := sum(tag.lacks_hemisphere for tag in geotags.values()) if hemisphere else 0:
        _log.warning(f"{num_assumed:,} images do not say their hemisphere: {hemisphere} is assumed")
    log_left_out(paths, _read_side_files(geotags))
    _check_positions(geotags, paths.folder, skip_without_gps)
    geotags = {path: geotag for path, geotag in geotags.items() if geotag.has_position}
    return make_photos(geotags, zone)


def make_photos(geotags: Mapping[str, TimedGeotag], zone: int | None) -> Photos:
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


def read_timed_geotag(path: str | os.PathLike, hemisphere: str = "") -> TimedGeotag:
    """Read a geotag and its time, see `read_geotag`."""
    tag, time = read_geotag(path, hemisphere), None
    for text in tag.time_texts:
        with contextlib.suppress(ValueError):
            time = read_time(text)
            break
    return TimedGeotag(**vars(tag), time=time)


def _read_side_files(geotags: dict[str, TimedGeotag]) -> list[str]:
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


def _complete(tag: TimedGeotag, content: Mapping[str, object]) -> TimedGeotag:
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


def _check_positions(geotags: dict[str, TimedGeotag], folder: os.PathLike, skip: bool) -> None:
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
