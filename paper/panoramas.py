"""Where and when the panoramas of a data set were taken, from the names of its images.

A panorama is what one camera took at one place at one time; data sets hold crops of it. Names that
write UTM east, UTM north, pano id and timestamp alike are of one panorama. A field that names do
not have says nothing: without timestamps, position and pano id tell panoramas apart; without pano
ids, position and timestamp. Crops agree in all four with the panorama that they are of, hence a
folder of either gives the same panoramas.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.image_lists import LIST_ENDING, ImagePaths, find_list_file, list_images, read_list
from datasets.image_names import hash_fields, read_fields, read_prefixes

_IDENTITY = ("UTM east", "UTM north", "pano id", "timestamp")
_NUM_EXAMPLES = 3
_NAMES_PER_BLOCK = 1 << 17  # bounds the memory


@dataclass(frozen=True)
class Panoramas:
    """The different panoramas of a data set, in the order in which they are first named."""

    east_m: np.ndarray  # UTM. float64 [P]
    north_m: np.ndarray  # UTM. float64 [P]
    years: np.ndarray  # 0 if unknown. int64 [P]
    num_images: np.ndarray  # names of this panorama: its crops. int64 [P]


def read_panoramas(source: str | os.PathLike) -> Panoramas:
    """Read the names of a data set block by block and reduce them to its panoramas.

    Neighbouring names of one panorama are joined at once, so that a sorted list of 12 crops each
    takes a twelfth of the memory; an unsorted one gives the same.

    Args:
        source: As for `iterate_names`; names of crops or of panoramas.

    Raises:
        FileNotFoundError: If there are no names.
        ValueError: If names have no UTM position, or are of several UTM zones.
    """
    blocks, examples = [], []
    for paths in iterate_names(source):
        keys = hash_fields(paths, _IDENTITY)
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        firsts, num_images = paths.subset(starts), np.diff(starts, append=len(paths))
        numbers = read_fields(firsts, ("UTM east", "UTM north", "UTM zone"))
        bad = np.flatnonzero(~np.isfinite(numbers[:2]).all(axis=0))
        examples += [os.path.basename(firsts.name(i)) for i in bad[:_NUM_EXAMPLES]]
        blocks.append((keys[starts], *numbers, read_years(firsts), num_images))
    keys, *columns = (np.concatenate(column) for column in zip(*blocks, strict=True))
    firsts, num_images = _join(keys, columns.pop())
    east_m, north_m, zones, years = (column[firsts] for column in columns)
    _check_positions(source, east_m + north_m, num_images, examples[:_NUM_EXAMPLES])
    _check_zones(source, zones, num_images)
    return Panoramas(east_m, north_m, years, num_images)


def read_years(paths: ImagePaths) -> np.ndarray:
    """Return the year of each timestamp, 0 where there is none. int64 [num_images]."""
    digits = read_prefixes(paths, "timestamp", 4).view(np.uint8).reshape(-1, 4) - ord("0")
    years = digits.astype(np.int64) @ [1000, 100, 10, 1]
    return np.where((digits <= 9).all(axis=1), years, 0)


def count_per_cell(panoramas: Panoramas, side_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Count the panoramas of each non-empty cell of side_m x side_m metres.

    Returns:
        Panoramas per cell and images per cell. int64 [num_cells] both.
    """
    axes = (panoramas.east_m, panoramas.north_m)
    corners = [np.unique(axis // side_m, return_inverse=True) for axis in axes]
    (_, columns), (norths, rows) = corners
    _, cells = np.unique(columns * len(norths) + rows, return_inverse=True)
    num_images = np.bincount(cells, weights=panoramas.num_images)
    return np.bincount(cells), num_images.astype(np.int64)


def sample_images(source: str | os.PathLike, num_images: int, seed: int) -> list[str]:
    """Draw distinct images uniformly at random, all if there are fewer.

    Returns:
        Absolute paths.

    Raises:
        FileNotFoundError: As `iterate_names`.
    """
    rng = np.random.default_rng(seed)
    drawn: list[tuple[float, str]] = []
    for paths in iterate_names(source):
        numbers = rng.random(len(paths))  # the smallest are drawn
        drawn += [(numbers[i], paths[i]) for i in np.argsort(numbers)[:num_images]]
        drawn = sorted(drawn)[:num_images]
    return [path for _, path in drawn]


def iterate_names(source: str | os.PathLike) -> Iterator[ImagePaths]:
    """Yield the names of a data set in blocks of some MB; images need not exist.

    Args:
        source: A folder of images; if `<folder>_images_paths.txt` stands beside it, that is read
            instead. Or such a list file.

    Raises:
        FileNotFoundError: If there is neither, or no image in them.
    """
    path = Path(os.path.abspath(source))
    list_file = path if path.is_file() else find_list_file(path, path.resolve())
    if list_file is None:
        paths = list_images(path, is_mapped=True)
    else:
        folder = list_file.with_name(list_file.name.removesuffix(LIST_ENDING))
        paths = read_list(list_file, folder, is_mapped=True)
    if not len(paths):
        raise FileNotFoundError(f"{list_file} is empty; expected one image path per line")
    for first in range(0, len(paths), _NAMES_PER_BLOCK):
        yield paths.subset(slice(first, first + _NAMES_PER_BLOCK))


def _join(keys: np.ndarray, num_images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join all runs of one key: return the first run of each, ascending, and the sums."""
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    starts = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1]))
    firsts, sums = order[starts], np.add.reduceat(num_images[order], starts)
    as_named = np.argsort(firsts)
    return firsts[as_named], sums[as_named]


def _check_positions(
    source: str | os.PathLike, numbers: np.ndarray, num_images: np.ndarray, examples: list[str]
) -> None:
    num_bad = num_images[~np.isfinite(numbers)].sum()
    if num_bad:
        raise ValueError(
            f"{num_bad:,} of {num_images.sum():,} names of {source} have no UTM position, for "
            f"example {', '.join(examples)}: names begin '@UTM_east@UTM_north@'. "
            "To make names: python -m tools.convert --help"
        )


def _check_zones(source: str | os.PathLike, zones: np.ndarray, num_images: np.ndarray) -> None:
    known = np.isfinite(zones)
    values, members = np.unique(zones[known], return_inverse=True)
    if len(values) > 1:
        counts = np.bincount(members, weights=num_images[known])
        found = ", ".join(
            f"{count:,.0f} in zone {zone:g}" for zone, count in zip(values, counts, strict=True)
        )
        raise ValueError(
            f"The names of {source} are of several UTM zones ({found}): cells of them would mix; "
            "give one zone at a time"
        )
