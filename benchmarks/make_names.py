"""Write a list of file names of any length, that of SF-XL or another, without the images.

python -m benchmarks.make_names --num_images 41200000 --folder data/names/train

A procedural city: streets 100 m apart that are not aligned with the UTM axes, driven once or often
between 2009 and 2021, a panorama about every 10 m, 12 crops a panorama. The list stands beside the
folder, sorted as a listing is. Of the images only the first one exists, as an empty file, so that
the folder can be listed. The seed decides the city.
"""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import utm

import commons

CROPS_PER_PANORAMA = 12
CROP_STEP_DEG = 30
YEARS = np.arange(2009, 2022)
_YEAR_WEIGHTS = np.array([5, 3, 8, 3, 6, 11, 12, 12, 10, 9, 11, 4, 6]) / 100
_ORIGIN_M = (545_000.0, 4_175_000.0)  # a corner of the city, in zone 10 S
_STREET_ANGLE_DEG = 9.6
_BLOCK_M, _SPACING_M = 100.0, 10.0  # between streets; between panoramas of a drive
_PANORAMAS_PER_DRIVE = int(_BLOCK_M / _SPACING_M)  # a drive passes one block of one street
_ODD_NUMBERS = ("{:.0f}", "{:010.2f}", "{:.5f}", "{:.14f}", "{!r}", "{:e}", "{:+.3f}", "{:09.1f}")
_ODD_FOLDERS = ("", "37.70/", "a@b@c/", "deep/er@/", "x/" * 150)
_DRIVES_MEDIAN, _DRIVES_SPREAD = 18.0, 0.6  # of a block, log-normal
_LANE_M, _NOISE_M = 2.0, 0.5  # standard deviations of a drive and of a panorama, across
_STRAY_SHARE, _STRAY_M = 0.02, 25.0  # panoramas on paths and in yards beside the street
_ID_LETTERS = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8
)
_LAST_ID_LETTERS = np.frombuffer(b"AQgw", np.uint8)  # 22 letters of 6 bits hold 128 bits
_ID_LENGTH = 22
_BEFORE_HEADING = (  # small letters are digits of the folder, east, north, latitude, longitude
    b"ff.ff/@eeeeeee.ee@nnnnnnn.nn@10@S@0aa.aaaaa@-ooo.ooooo@" + b"?" * _ID_LENGTH + b"@@"
)
_AFTER_HEADING = b"@@@@tttttt@@.jpg\n"
_PAD = 0  # fills headings of one or two digits up to three, and is left out in the file
_PANORAMAS_PER_BLOCK = 1 << 15


@dataclass(frozen=True)
class _City:
    """Panoramas in the order of their names."""

    east_cm: np.ndarray  # int64 [P]
    north_cm: np.ndarray  # int64 [P]
    month: np.ndarray  # YYYYMM, int64 [P]
    first_heading_deg: np.ndarray  # of the crop nearest to north, 0 to 29. int64 [P]
    pano_id: np.ndarray  # uint8 [P, 22]
    latitude_e5: np.ndarray  # 1e-5 degrees, int64 [P]
    longitude_e5: np.ndarray  # 1e-5 degrees west, int64 [P]


def write_names(folder: Path, num_images: int, seed: int = 0) -> Path:
    """Write `<folder>_images_paths.txt`, and the folder with an empty file for the first image.

    Args:
        folder: Where the images would be.
        num_images: Number of names; the last panorama may miss some of its 12 crops.
        seed: Decides the city.

    Returns:
        The list file.

    Raises:
        FileExistsError: If the folder holds something, or the list file is there.
        ValueError: If num_images is not positive.
    """
    if num_images < 1:
        raise ValueError(f"--num_images must be at least 1, it is {num_images}")
    list_file = folder.with_name(f"{folder.name}_images_paths.txt")
    if list_file.exists() or (folder.exists() and any(folder.iterdir())):
        raise FileExistsError(f"{list_file} or images in {folder} exist: give another --folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    city = _make_city(-(-num_images // CROPS_PER_PANORAMA), np.random.default_rng(seed))
    missing, first = num_images, b""
    with commons.atomic_write(list_file) as temporary, open(temporary, "wb") as file:
        for block in _format_blocks(city):
            block = block[:missing]
            missing -= len(block)
            text = block[block != _PAD]
            first = first or text[: block.shape[1]].tobytes().split(b"\n")[0]
            text.tofile(file)
    image = folder / first.decode()
    image.parent.mkdir(parents=True)
    image.touch()
    return list_file


def _make_city(num_panoramas: int, rng: np.random.Generator) -> _City:
    east_m, north_m, month = _drive(num_panoramas, rng)
    east_cm, north_cm = (np.rint(100 * axis).astype(np.int64) for axis in (east_m, north_m))
    pano_id = _ID_LETTERS[rng.integers(len(_ID_LETTERS), size=(num_panoramas, _ID_LENGTH))]
    pano_id[:, -1] = _LAST_ID_LETTERS[rng.integers(len(_LAST_ID_LETTERS), size=num_panoramas)]
    first_heading_deg = rng.integers(CROP_STEP_DEG, size=num_panoramas)
    latitude_deg, longitude_deg = utm.to_latlon(east_cm / 100, north_cm / 100, 10, "S")
    latitude_e5 = np.rint(1e5 * latitude_deg).astype(np.int64)
    longitude_e5 = np.rint(-1e5 * longitude_deg).astype(np.int64)
    id_start = np.ascontiguousarray(pano_id[:, :8]).view(">u8")[:, 0]  # enough where all else ties
    order = np.lexsort((id_start, north_cm, east_cm, latitude_e5 // 1000))
    return _City(
        east_cm[order],
        north_cm[order],
        month[order],
        first_heading_deg[order],
        pano_id[order],
        latitude_e5[order],
        longitude_e5[order],
    )


def _drive(
    num_panoramas: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return UTM east and north in metres and the month of the panoramas of all drives."""
    most_blocks = -(-num_panoramas // _PANORAMAS_PER_DRIVE)  # if each were driven once
    drives = np.ceil(rng.lognormal(np.log(_DRIVES_MEDIAN), _DRIVES_SPREAD, most_blocks))
    num_blocks = 1 + int(np.searchsorted(np.cumsum(drives) * _PANORAMAS_PER_DRIVE, num_panoramas))
    block = np.repeat(np.arange(num_blocks), drives[:num_blocks].astype(np.int64))
    month = 100 * rng.choice(YEARS, len(block), p=_YEAR_WEIGHTS / _YEAR_WEIGHTS.sum())
    month += rng.integers(1, 13, len(block))
    phase_m, lane_m = rng.uniform(0, _SPACING_M, len(block)), rng.normal(0, _LANE_M, len(block))
    drive = np.repeat(np.arange(len(block)), _PANORAMAS_PER_DRIVE)[:num_panoramas]
    along_m = phase_m[drive] + _SPACING_M * (np.arange(num_panoramas) % _PANORAMAS_PER_DRIVE)
    across_m = lane_m[drive] + rng.normal(0, _NOISE_M, num_panoramas)
    strays = rng.random(num_panoramas) < _STRAY_SHARE
    across_m[strays] += rng.uniform(-_STRAY_M, _STRAY_M, strays.sum())
    east_m, north_m = _lay_out(block[drive], along_m, across_m, num_blocks)
    return east_m, north_m, month[drive]


def _lay_out(
    block: np.ndarray, along_m: np.ndarray, across_m: np.ndarray, num_blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Place blocks on a turned grid, two at each crossing, one along each of its streets."""
    crossing, is_second = np.divmod(block, 2)
    row, column = np.divmod(crossing, int(np.ceil(np.sqrt(num_blocks / 2))))
    x_m = _BLOCK_M * column + np.where(is_second, across_m, along_m)
    y_m = _BLOCK_M * row + np.where(is_second, along_m, across_m)
    cos, sin = np.cos(np.radians(_STREET_ANGLE_DEG)), np.sin(np.radians(_STREET_ANGLE_DEG))
    return _ORIGIN_M[0] + cos * x_m + sin * y_m, _ORIGIN_M[1] - sin * x_m + cos * y_m


def _format_blocks(city: _City) -> Iterator[np.ndarray]:
    """Yield the lines of some panoramas, padded to one width. uint8 [num_lines, width]."""
    headings, order = _format_headings()
    for first in range(0, len(city.month), _PANORAMAS_PER_BLOCK):
        part = _City(*(v[first : first + _PANORAMAS_PER_BLOCK] for v in vars(city).values()))
        fields = {
            b"f": part.latitude_e5 // 1000,
            b"e": part.east_cm,
            b"n": part.north_cm,
            b"a": part.latitude_e5,
            b"o": part.longitude_e5,
        }
        before = _fill(_BEFORE_HEADING, fields, len(part.month))
        before[:, _columns(_BEFORE_HEADING, b"?")] = part.pano_id
        after = _fill(_AFTER_HEADING, {b"t": part.month}, len(part.month))
        heading = headings[order[part.first_heading_deg]].reshape(-1, 3)
        sides = (np.repeat(side, CROPS_PER_PANORAMA, axis=0) for side in (before, after))
        yield np.concatenate([next(sides), heading, next(sides)], axis=1)


def _format_headings() -> tuple[np.ndarray, np.ndarray]:
    """Return each heading as text, and the headings of a panorama in the order of their names.

    Returns:
        uint8 [360, 3], and degrees by first heading, int64 [30, 12].
    """
    text = np.array([f"{heading:d}".encode() for heading in range(360)], "S3")
    turns = CROP_STEP_DEG * np.arange(CROPS_PER_PANORAMA)
    order = [
        sorted((first + turns).tolist(), key=lambda heading: f"{heading}@")
        for first in range(CROP_STEP_DEG)
    ]
    return text.view(np.uint8).reshape(360, 3), np.array(order)


def _fill(template: bytes, fields: Mapping[bytes, np.ndarray], num_lines: int) -> np.ndarray:
    """Repeat a template and write numbers [P] where it has their letters. uint8 [P, width]."""
    lines = np.tile(np.frombuffer(template, np.uint8), (num_lines, 1))
    for letter, rest in fields.items():
        for column in _columns(template, letter)[::-1]:
            rest, digit = np.divmod(rest, 10)
            lines[:, column] = digit + ord("0")
    return lines


def _columns(template: bytes, letter: bytes) -> np.ndarray:
    return np.flatnonzero(np.frombuffer(template, np.uint8) == ord(letter))


def make_odd_lines(num_lines: int, seed: int = 0) -> list[str]:
    """Return lines with headings that are negative, huge or fractions, and '@' in folders."""
    rng = np.random.default_rng(seed)

    def number(low: float, high: float) -> str:
        return str(rng.choice(_ODD_NUMBERS)).format(float(rng.uniform(low, high)))

    lines = []
    for image in range(num_lines):
        east, north, heading = number(-60, 60), number(-60, 60), number(-400, 800)
        rest = "@" * int(rng.integers(1, 9))
        name = f"@{east}@{north}@10@S@@@pano{image}@@{heading}{rest}.jpg"
        lines.append(f"{rng.choice(_ODD_FOLDERS)}{name}")
    return lines


def write_odd_names(folder: Path, num_lines: int) -> Path:
    """Write odd lines with a byte order mark and CRLF, and an empty first image."""
    lines = make_odd_lines(num_lines)
    first = folder / lines[0]
    first.parent.mkdir(parents=True)
    first.touch()
    list_file = folder.with_name(f"{folder.name}_images_paths.txt")
    list_file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    return list_file


def main(argv: Sequence[str] | None = None) -> None:
    """Write a list of names."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--num_images", type=int, default=41_200_000, help="(default: as SF-XL)")
    cli.add_argument("--folder", type=Path, required=True, help="where the images would be")
    cli.add_argument("--seed", type=int, default=0, help="another seed is another city")
    args = cli.parse_args(argv)
    if args.num_images < 1:
        cli.error(f"--num_images must be at least 1, it is {args.num_images}")
    list_file = write_names(args.folder, args.num_images, args.seed)
    logging.info(f"{args.num_images:,} names are in {list_file}")


if __name__ == "__main__":
    commons.run_command(main)
