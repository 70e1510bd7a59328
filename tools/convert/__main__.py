"""Command line of the conversion.

python -m tools.convert csv photos.csv --out city/database
python -m tools.convert exif photos --out city/queries --mode symlink
python -m tools.convert mapillary mapillary_image_description.json --out city/database
python -m tools.convert geojson photos.geojson --out city/database
python -m tools.convert gpx track.gpx --images photos --time_offset_s -7200 --out city/queries
python -m tools.convert panoramas panoramas --out city/train --jobs 8
"""

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import commons
from command_line import CommandLine
from datasets.image_lists import list_images
from datasets.positions import NUM_ZONES
from machine import num_usable_cores
from tools.convert.exif import compare_with_exif, read_exif
from tools.convert.panoramas import CropParams, crop_panoramas
from tools.convert.photos import MODES, Photos, check_free, format_names, write_images
from tools.convert.records import READERS
from tools.convert.table import ALIASES, read_table
from tools.convert.tracks import PlacementParams, read_along_tracks

_DESCRIPTION = """Give photos the '@' file names of SF-XL, which hold the position of each:
@UTM_east@UTM_north@zone@letter@latitude@longitude@pano_id@tile@heading@pitch@roll@height@timestamp@note@.jpg

A conversion that stops leaves nothing behind. See also: python -m tools.convert csv --help"""
_CSV = """Photos listed in a CSV file with their latitudes and longitudes:

  path,lat,lon,heading,timestamp
  walk1/IMG_1.jpg,55.70584,13.19321,270,2024-05-01T12:30:00

Needed are path, lat and lon, in WGS 84: 55.70584, 55,70584, 55° 42' 21.02" N, or WKT in place of
both. Or utm_east, utm_north and zone (32, 32U with the latitude band, EPSG:32632), which are kept.
All others are optional: heading, pitch and roll in degrees, height in metres, timestamp (20240501,
ISO 8601, as EXIF has it, day.month.year, seconds or milliseconds since 1970), pano_id (else the
file's name without its extension), note. Separated by commas, semicolons or tabs. A wrong line or a
missing image stops the conversion before it writes anything; a time that cannot be read is left
out. Accepted headers (also of exiftool -csv, Mapillary and QGIS):
{aliases}
"""
_MAPILLARY = """Photos of Mapillary: mapillary_image_description.json of mapillary_tools, or images
of API v4 as JSON (id, geometry or computed_geometry, compass_angle, captured_at), whose files are
named by their id. Computed positions and angles are preferred. Times are UTC.
"""
_GEOJSON = """Photos that are point features in degrees, with a property for the file (path,
filename, image, photo...). Properties have the names of the columns of csv.
"""
_EXIF = """Photos of a folder and its sub-folders, with the latitudes and longitudes of their EXIF.
Direction (GPSImgDirection), altitude and DateTimeOriginal are used where present. Position and time
of Google Takeout's .json files beside the photos complete EXIF that has none.
"""
_GPX = """Photos of a folder and its sub-folders, placed along tracks by their times. A position is
interpolated between the fix before a photo and the one after it; photos before the track, after it
and in its gaps have none. EXIF without a time zone is taken as UTC: for a camera on local time of
UTC+2 say --time_offset_s -7200. Times in the names are UTC.
"""
_COMMON = """
Images in neighbouring UTM zones are projected to the zone of most of them. Headings are copied.
Images whose fields are all equal get a number after their pano_id: none is lost.
"""
_PANORAMAS = """Cut 360-degree panoramas into crops as SF-XL does. Panoramas have '@' names with a
heading, which csv and exif give them. A crop is a square of 512 of 3328 pixels of the width, 55
degrees; there are 12, one every 30 degrees. Of panoramas of 3328 x 512 all rows are used; of those
twice as wide as high (3328 x 1664) the upper 512 and the lower 640 rows are left out; other sizes
in proportion. Nothing is undistorted.

Headings are clockwise from north: 90 is east, and x grows clockwise. The heading of a panorama is
that of its centre; the heading of a crop is that of its leftmost column: 0, 30, ..., 330.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the sub-commands."""
    args = parse_arguments(argv)
    folder = Path(args.out).resolve()
    check_free(folder)
    if args.source == "panoramas":
        with commons.usage_errors():
            params = commons.from_flags(CropParams, vars(args))
        convert_panoramas(args.input, folder, params, args.jobs, args.skip_unreadable)
    else:
        if args.source in READERS:
            photos = read_table(
                *(args.input, args.columns, args.images, args.zone, args.source),
                args.skip_without_gps,
                args.zone_letters,
            )
        elif args.source == "gpx":
            with commons.usage_errors():
                params = commons.from_flags(PlacementParams, vars(args))
            images = args.images or os.path.dirname(args.input[0]) or "."
            photos = read_along_tracks(args.input, images, params, args.zone, args.skip_without_gps)
        else:
            photos = read_exif(args.input, args.zone, args.skip_without_gps, args.hemisphere)
        if args.source != "exif":
            compare_with_exif(photos)
        write_images(photos.files, format_names(photos), folder, args.mode)
        logging.info(f"{describe(photos)}\nThey are in {folder} ({args.mode})")
        has_headings = np.isfinite(photos.heading_deg).all()
    purpose = "training" if args.source == "panoramas" or has_headings else "evaluation"
    logging.info(f"Next: python -m tools.check {folder} --for {purpose}")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    cli = CommandLine(
        prog="python -m tools.convert",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sources = cli.add_subparsers(dest="source", required=True, metavar="SOURCE")
    aliases = "\n".join(f"  {field}: {names}" for field, names in ALIASES.items())
    tables = [
        _add_source(sources, name, "FILE", summary, description + _COMMON)
        for name, summary, description in (
            ("csv", "photos listed with positions", _CSV.format(aliases=aliases)),
            ("mapillary", "photos described by Mapillary's JSON", _MAPILLARY),
            ("geojson", "photos that are points of GeoJSON", _GEOJSON),
        )
    ]
    for table in tables:
        _add_table_flags(table)
    exif = _add_source(sources, "exif", "FOLDER", "photos with GPS in their EXIF", _EXIF + _COMMON)
    exif.add_argument(
        "--hemisphere",
        choices=("NE", "NW", "SE", "SW"),
        default="",
        help="of photos whose EXIF has degrees without their letters",
    )
    gpx = _add_gpx(sources)
    for source in (*tables, exif, gpx):
        source.add_argument(
            "--skip_without_gps", action="store_true", help="leave out photos without a position"
        )
        source.add_argument(
            "--mode",
            choices=MODES,
            default="copy",
            help="copy or link the images; links take no space (default copy)",
        )
        source.add_argument(
            "--zone",
            type=_parse_zone,
            metavar="N",
            help="project all to this UTM zone",
        )
    _add_panoramas(sources)
    return cli.parse_args(argv)


def convert_panoramas(
    source: str, folder: Path, params: CropParams, jobs: int, skip_unreadable: bool
) -> None:
    """Cut the panoramas of a folder and log their count."""
    paths = list_images(source)
    if paths.left_out:
        logging.warning(paths.left_out)
    problems = crop_panoramas(paths, folder, params, jobs, skip_unreadable)
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:3])
        logging.warning(f"{len(problems):,} panoramas were left out:{shown}")
    num_cut, num_crops = len(paths) - len(problems), len(list_images(folder))
    logging.info(f"{num_crops:,} crops of {num_cut:,} panoramas are in {folder}")


def describe(photos: Photos) -> str:
    """Return the counts of images per UTM zone, of headings and of times."""
    zones, counts = np.unique(photos.positions.zones, return_counts=True)
    places = ", ".join(
        f"{count:,} in UTM zone {zone}" if zone else f"{count:,} without a UTM zone"
        for zone, count in zip(zones, counts, strict=True)
    )
    num_headings = int(np.isfinite(photos.heading_deg).sum())
    num_times = sum(bool(timestamp) for timestamp in photos.timestamps)
    has_all = num_headings == len(photos.files)
    needed = "" if has_all else ": evaluate and localize with them; training needs all"
    extent = describe_extent(photos.positions.latitude_deg, photos.positions.longitude_deg)
    return (
        f"{commons.plural(len(photos.files), 'image')}: {places}\nPlaces: {extent}\n"
        f"{num_headings:,} of {len(photos.files):,} have a heading{needed}. "
        f"{num_times:,} have a time"
    )


def describe_extent(latitude_deg: np.ndarray, longitude_deg: np.ndarray) -> str:
    """Return the range of places, as "55.69 to 55.71 N, 13.18 to 13.21 E"; NaN are left out."""
    if not np.isfinite(latitude_deg).any():
        return "latitudes and longitudes are unknown"
    ranges = []
    for degrees, sides in ((latitude_deg, "NS"), (longitude_deg, "EW")):
        low, high = np.nanmin(degrees), np.nanmax(degrees)
        if low < 0 < high:
            ranges.append(f"{-low:.2f} {sides[1]} to {high:.2f} {sides[0]}")
        else:
            near, far = sorted((abs(low), abs(high)))
            ranges.append(f"{near:.2f} to {far:.2f} {sides[int(low < 0)]}")
    return ", ".join(ranges)


def _add_source(
    sources: argparse._SubParsersAction, name: str, metavar: str, summary: str, description: str
) -> argparse.ArgumentParser:
    cli = sources.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    cli.add_argument("input", metavar=metavar, nargs="+" if name == "gpx" else None)
    cli.add_argument("--out", required=True, metavar="FOLDER", help="where to write; must be empty")
    return cli


def _add_table_flags(table: argparse.ArgumentParser) -> None:
    table.add_argument(
        "--images", metavar="FOLDER", help="what paths are relative to (default: where FILE is)"
    )
    table.add_argument(
        "--columns",
        type=_parse_columns,
        default={},
        metavar="path=file,lat=y",
        help="headers of the fields; if FILE has no header, column indices: path=0,lat=1,lon=2; "
        "nothing after = ignores a field: height=",
    )
    table.add_argument(
        "--zone_letters",
        choices=("band", "hemisphere"),
        default="",
        help="what N and S after a UTM zone mean (default: latitude bands, where that fits)",
    )


def _add_gpx(sources: argparse._SubParsersAction) -> argparse.ArgumentParser:
    cli = _add_source(sources, "gpx", "TRACK", "photos by time along GPX tracks", _GPX + _COMMON)
    default = PlacementParams()
    cli.add_argument(
        "--images", metavar="FOLDER", help="the photos (default: where the first TRACK is)"
    )
    cli.add_argument(
        "--time_offset_s",
        type=float,
        default=default.time_offset_s,
        help="seconds to add to the times of the photos (default 0)",
    )
    cli.add_argument(
        "--max_gap_s",
        type=float,
        default=default.max_gap_s,
        help="longest time between the fixes before and after a photo (default 60)",
    )
    cli.add_argument(
        "--photo_times",
        choices=("exif", "file"),
        default=default.photo_times,
        help="times of the photos: DateTimeOriginal, or last change of the file (default exif)",
    )
    cli.add_argument(
        "--heading_from_course",
        action="store_true",
        help="take the direction of movement as heading, for cameras that look ahead",
    )
    return cli


def _add_panoramas(sources: argparse._SubParsersAction) -> None:
    cli = _add_source(sources, "panoramas", "FOLDER", "360-degree panoramas to crops", _PANORAMAS)
    default = CropParams()
    cli.add_argument(
        "--crops_per_panorama", type=int, default=default.crops_per_panorama, help="(default 12)"
    )
    cli.add_argument(
        "--crop_width_share",
        type=float,
        default=default.crop_width_share,
        help="width of a crop as a share of the panorama's (default 512/3328 = 0.1538)",
    )
    cli.add_argument(
        "--fov",
        type=float,
        dest="fov_deg",
        metavar="DEG",
        help="horizontal field of view of the panoramas (default: 360, if they are 2 or 6.5 times "
        "as wide as high)",
    )
    cli.add_argument(
        "--crop_size_px",
        type=int,
        default=default.crop_size_px,
        help="side of the written crops; crops cut at another size are resized (default 512)",
    )
    cli.add_argument(
        "--jobs",
        type=_parse_jobs,
        default=num_usable_cores(),
        metavar="N",
        help="processes (default: one a core)",
    )
    cli.add_argument(
        "--skip_unreadable",
        action="store_true",
        help="leave out panoramas that cannot be read or cut, instead of stopping",
    )


def _parse_columns(text: str) -> dict[str, str]:
    columns = {}
    for part in text.split(","):
        field, equals, name = part.strip().partition("=")
        if not equals or field not in ALIASES:
            raise argparse.ArgumentTypeError(
                f"'{part}' is not field=column with a field of {', '.join(ALIASES)}"
            )
        columns[field] = name.strip()
    return columns


def _parse_jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not '{text}'")
    return int(text)


def _parse_zone(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= NUM_ZONES:
        raise argparse.ArgumentTypeError(f"a UTM zone is 1 to {NUM_ZONES}, not '{text}'")
    return int(text)


if __name__ == "__main__":
    commons.run_command(main)
