"""Photos without positions, placed along GPX tracks by the times at which they were taken.

The few elements that count are read with the standard library; a document type is refused, so that
no entity is ever expanded.
"""

import datetime
import logging
import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.image_lists import list_images
from tools.convert.exif import (
    TimedGeotag,
    list_files,
    log_left_out,
    make_photos,
    read_timed_geotag,
)
from tools.convert.photos import Photos
from tools.convert.positions import parse_number
from tools.convert.times import PhotoTime, read_time

_COURSE_S = 5.0  # the course is that from so long before a photo to so long after it
_MIN_COURSE_M = 2.0  # who moves less stands still
_METRES_PER_DEGREE = 111_195.0
_GUESSES_S = 900.0 * np.array(sorted(range(-56, 57), key=abs))  # all time zones are among them
_MAX_OFFSET_S = 1e9  # 31 years
_UTC = datetime.timezone.utc
_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799  # of the years 1 and 9999

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlacementParams:
    """How photos are placed along a track."""

    time_offset_s: float = 0.0  # added to the times of the photos
    max_gap_s: float = 60.0  # between the two fixes around a photo
    photo_times: str = "exif"  # or "file": of the last change of the file
    heading_from_course: bool = False

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: If a value is out of its range.
        """
        if not abs(self.time_offset_s) <= _MAX_OFFSET_S:
            raise ValueError(f"--time_offset_s must be at most 1e9, not {self.time_offset_s}")
        if not 0 < self.max_gap_s < math.inf:
            raise ValueError(f"--max_gap_s must be more than 0, not {self.max_gap_s}")


@dataclass(frozen=True)
class Track:
    """Fixes in the order of their times, columns of equal length.

    Attributes:
        times_s: Since 1970, increasing. float64 [num_fixes].
        latitude_deg: float64 [num_fixes].
        longitude_deg: Without a jump at 180 degrees. float64 [num_fixes].
        height_m: NaN if unknown. float64 [num_fixes].
    """

    times_s: np.ndarray
    latitude_deg: np.ndarray
    longitude_deg: np.ndarray
    height_m: np.ndarray

    def gaps_s(self, times_s: np.ndarray) -> np.ndarray:
        """Return the time between the two fixes around each time, 0 at a fix.

        Args:
            times_s: NaN where unknown. float64 [num_images].

        Returns:
            Seconds; `inf` before the first fix and after the last one. float64 [num_images].
        """
        after = np.searchsorted(self.times_s, times_s, side="left")
        before = np.searchsorted(self.times_s, times_s, side="right") - 1
        is_inside = (before >= 0) & (after < len(self.times_s)) & np.isfinite(times_s)
        before, after = before * is_inside, after * is_inside
        return np.where(is_inside, self.times_s[after] - self.times_s[before], np.inf)

    def locate(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Interpolate latitude, longitude and height, three float64 [num_images]."""
        columns = (self.latitude_deg, self.longitude_deg, self.height_m)
        return tuple(np.interp(times_s, self.times_s, column) for column in columns)

    def courses_deg(self, times_s: np.ndarray, max_gap_s: float) -> np.ndarray:
        """Return the direction of movement, clockwise from north. float64 [num_images].

        NaN where nothing moves. Fixes beyond a gap do not count.
        """
        breaks = np.flatnonzero(np.diff(self.times_s) > max_gap_s)
        firsts_s = self.times_s[np.concatenate(([0], breaks + 1))]
        lasts_s = self.times_s[np.concatenate((breaks, [len(self.times_s) - 1]))]
        run = np.clip(np.searchsorted(firsts_s, times_s, side="right") - 1, 0, None)
        ends = np.stack((times_s - _COURSE_S, times_s + _COURSE_S))
        latitude_deg, longitude_deg, _ = self.locate(np.clip(ends, firsts_s[run], lasts_s[run]))
        north_m = _METRES_PER_DEGREE * (latitude_deg[1] - latitude_deg[0])
        scale = np.cos(np.radians(latitude_deg.mean(0)))
        east_m = _METRES_PER_DEGREE * scale * (longitude_deg[1] - longitude_deg[0])
        courses_deg = np.degrees(np.arctan2(east_m, north_m)) % 360
        return np.where(np.hypot(east_m, north_m) < _MIN_COURSE_M, np.nan, courses_deg)


def read_along_tracks(
    files: Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    params: PlacementParams,
    zone: int | None = None,
    skip_without_gps: bool = False,
) -> Photos:
    """Place the images of a folder along tracks.

    Args:
        files: GPX files.
        folder: Images, in sub-folders as well.
        params: How images are placed.
        zone: UTM zone to project to, see `project`.
        skip_without_gps: Leave out images that cannot be placed, instead of refusing them.

    Raises:
        FileNotFoundError: If a file or folder is missing, or has no images.
        ValueError: If a track cannot be read, or images cannot be placed.
    """
    track = read_tracks(files)
    paths = list_images(folder)
    log_left_out(paths, [file for file in files if paths.folder in Path(file).resolve().parents])
    geotags = {path: read_timed_geotag(path) for path in tqdm(paths, desc="EXIF", unit="img")}
    if params.photo_times == "file":
        for path, tag in geotags.items():
            geotags[path] = replace(tag, time=_time_of(os.stat(path).st_mtime))
    times_s = np.array([_seconds(tag.time) for tag in geotags.values()]) + params.time_offset_s
    gaps_s = track.gaps_s(times_s)
    is_placed = gaps_s <= params.max_gap_s
    if not is_placed.all():
        _refuse_or_warn(list(geotags), times_s, track, params, skip_without_gps)
    num_local = sum(tag.time is not None and tag.time.zone is None for tag in geotags.values())
    if num_local and not params.time_offset_s:
        _log.warning(
            f"The EXIF times of {num_local:,} images do not say their time zone and are taken as "
            "UTC (--time_offset_s)"
        )
    _log.info(f"The fixes around images are at most {gaps_s[is_placed].max():.0f} s apart")
    geotags = _place(geotags, times_s, track, params)
    kept = {path: geotags[path] for path, kept in zip(geotags, is_placed, strict=True) if kept}
    return make_photos(kept, zone)


def read_tracks(files: Sequence[str | os.PathLike]) -> Track:
    """Read the tracks of GPX files as one.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is no GPX, there are no times, or tracks cover the same time.
    """
    segments = [segment for file in files for segment in _read_segments(Path(file).resolve())]
    segments = sorted((one for one in segments if len(one)), key=lambda one: one[0, 0])
    if not segments:
        names = ", ".join(map(str, files))
        raise ValueError(f"{names}: no track with times (trkpt with time); routes have none")
    for one, following in zip(segments, segments[1:], strict=False):
        if following[0, 0] < one[-1, 0]:
            begin = _time_of(following[0, 0]).format()
            raise ValueError(f"Two tracks cover the same time, from {begin} (UTC) on: give one")
    fixes = np.concatenate(segments)
    fixes = fixes[np.unique(fixes[:, 0], return_index=True)[1]]
    times_s, latitude_deg, longitude_deg, height_m = fixes.T
    return Track(times_s, latitude_deg, np.unwrap(longitude_deg, period=360), height_m)


class _TreeWithoutEntities(ET.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise ValueError("it has a document type, as no GPX needs")


def _read_segments(file: Path) -> Iterator[np.ndarray]:
    """Yield the segments of a file: time, latitude, longitude, height. float64 [num_fixes, 4]."""
    num_timeless = num_zero = 0
    for segment in _children(_read_root(file), "trk", "trkseg"):
        fixes = []
        for point in _children(segment, "trkpt"):
            texts = {_name(child): (child.text or "").strip() for child in point}
            if not texts.get("time"):
                num_timeless += 1
                continue
            try:
                seconds = read_time(texts["time"]).epoch_s()
            except ValueError as error:
                raise ValueError(f"{file}, point {len(fixes) + 1} of a track: {error}") from None
            degrees = parse_number(point.get("lat", "")), parse_number(point.get("lon", ""))
            if degrees == (0, 0):  # of loggers that have no position yet
                num_zero += 1
                continue
            if not (-80 <= degrees[0] <= 84 and abs(degrees[1]) <= 180):
                place = f"({point.get('lat')}, {point.get('lon')})"
                raise ValueError(
                    f"{file}, point {len(fixes) + 1} of a track: it is at {place}, where UTM is "
                    "not defined"
                )
            fixes.append((seconds, *degrees, _height(texts.get("ele", ""))))
        yield np.array(sorted(fixes, key=lambda fix: fix[0])).reshape(-1, 4)
    if num_timeless:
        _log.warning(f"{file}: {num_timeless:,} points without a time are left out")
    if num_zero:
        _log.warning(f"{file}: {num_zero:,} points at 0, 0 are no positions and are left out")


def _read_root(file: Path) -> ET.Element:
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}")
    try:
        text = file.read_bytes().lstrip()  # empty lines before its declaration
        root = ET.fromstring(text, ET.XMLParser(target=_TreeWithoutEntities()))
    except (ET.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"{file} is no GPX: {error}") from None
    if _name(root) != "gpx":
        raise ValueError(f"{file} is no GPX: it holds {_name(root)}")
    return root


def _children(element: ET.Element, *names: str) -> Iterator[ET.Element]:
    """Yield the descendants along names, in any namespace: GPX 1.0 and 1.1 differ in it."""
    for child in element:
        if _name(child) == names[0]:
            yield from _children(child, *names[1:]) if names[1:] else (child,)


def _name(element: ET.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _height(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _place(
    geotags: Mapping[str, TimedGeotag], times_s: np.ndarray, track: Track, params: PlacementParams
) -> dict[str, TimedGeotag]:
    """Return geotags with the positions of the track; their times are UTC then."""
    latitude_deg, longitude_deg, height_m = track.locate(times_s)
    longitude_deg = (longitude_deg + 180) % 360 - 180
    courses_deg = track.courses_deg(times_s, params.max_gap_s)
    placed = {}
    for number, (path, tag) in enumerate(geotags.items()):
        if params.heading_from_course:
            tag = replace(tag, heading_deg=courses_deg[number], is_heading_magnetic=False)
        placed[path] = replace(
            tag,
            latitude_deg=latitude_deg[number],
            longitude_deg=longitude_deg[number],
            height_m=height_m[number],
            time=_time_of(times_s[number]),
        )
    return placed


def _refuse_or_warn(
    files: Sequence[str], times_s: np.ndarray, track: Track, params: PlacementParams, skip: bool
) -> None:
    """Say which images cannot be placed and why, as an error unless they may be skipped."""
    gaps_s = track.gaps_s(times_s)
    is_placed = gaps_s <= params.max_gap_s
    num_timeless, num_outside = np.isnan(times_s).sum(), np.isinf(gaps_s).sum()
    num_outside -= num_timeless
    parts = {
        "without a time in their EXIF (--photo_times file takes that of the file)": num_timeless,
        "before the track or after it": num_outside,
        f"in gaps longer than {params.max_gap_s:g} s (--max_gap_s)": (
            (~is_placed).sum() - num_timeless - num_outside
        ),
    }
    reasons = ", ".join(f"{num:,} {reason}" for reason, num in parts.items() if num)
    message = f"{(~is_placed).sum():,} of {len(files):,} images are not on the track: {reasons}."
    known_s = times_s[np.isfinite(times_s)]
    if len(known_s):
        first, last, begin, end = (
            _time_of(moment).format()
            for moment in (known_s.min(), known_s.max(), track.times_s[0], track.times_s[-1])
        )
        message += f" The track is from {begin} to {end}, the images from {first} to {last} (UTC)."
    counts = [(track.gaps_s(known_s + guess) <= params.max_gap_s).sum() for guess in _GUESSES_S]
    if max(counts) > is_placed.sum():
        best = params.time_offset_s + _GUESSES_S[int(np.argmax(counts))]
        message += f" With --time_offset_s {best:g}, {max(counts):,} would be on it."
    unplaced = [file for file, placed in zip(files, is_placed, strict=True) if not placed]
    listed = list_files(unplaced)
    if not is_placed.any():
        raise ValueError(f"{message}{listed}")
    if not skip:
        raise ValueError(
            f"{message} Nothing was written; --skip_without_gps leaves them out:{listed}"
        )
    _log.warning(f"{message} They are left out:{listed}")


def _seconds(time: PhotoTime | None) -> float:
    return math.nan if time is None else time.epoch_s()


def _time_of(seconds: float) -> PhotoTime | None:
    if not math.isfinite(seconds):
        return None
    seconds = min(max(float(seconds), _FIRST_S), _LAST_S)
    moment = datetime.datetime(1970, 1, 1, tzinfo=_UTC) + datetime.timedelta(seconds=seconds)
    return PhotoTime(tuple(moment.timetuple()[:6]), moment.microsecond / 1e6, _UTC)
