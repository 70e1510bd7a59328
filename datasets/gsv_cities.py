"""Read GSV-Cities: a table of images for each city, from which the names of the files follow.

Dataframes/CITY.csv has the columns of `COLUMNS`; the image of a row is
Images/CITY_ID/{city_id}_{place_id}_{year}_{month}_{northdeg}_{lat}_{lon}_{panoid}.jpg with 7, 4, 2
and 3 digits. Ids of places are those of a city: two cities may have the same.
"""

import csv
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import commons
from datasets.image_lists import split_lines
from datasets.places import PlaceSet

TABLES_FOLDER, IMAGES_FOLDER = "Dataframes", "Images"
MAX_PLACES = 100_000  # of a city: ids of places are below it
_DIGEST_VERSION = 1  # checkpoints hold digests: with another version they could not be resumed
_NUM_LOOKED_FOR = 20  # images of a city, before training
_BAD_CHARACTERS = "/\\\n\r\0"  # in no name of a file


def _finite(text: str) -> float:
    """Return a number; raise a ValueError if it is none, or not finite."""
    if not math.isfinite(number := float(text)):
        raise ValueError
    return number


def _small(text: str) -> int:
    """Return a whole number of at most 4 digits; raise a ValueError if it is none."""
    if abs(number := int(text)) >= 10_000:
        raise ValueError
    return number


def _place_id(text: str) -> int:
    """Return the id of a place; raise a ValueError if it is none."""
    if not 0 <= (number := int(text)) < MAX_PLACES:
        raise ValueError
    return number


def _name(text: str) -> str:
    """Return a part of a name; raise a ValueError if it cannot be one."""
    if text in ("", ".", "..") or any(one in text for one in _BAD_CHARACTERS):
        raise ValueError
    return text


COLUMNS: dict[str, tuple[Callable[[str], object], str]] = {  # how they are read, what they hold
    "place_id": (_place_id, f"a whole number from 0 to {MAX_PLACES - 1:,}"),
    "year": (_small, "a whole number of at most 4 digits"),
    "month": (_small, "a whole number of at most 4 digits"),
    "northdeg": (_small, "a whole number of at most 4 digits"),
    "city_id": (_name, "the name of a folder"),
    "lat": (_finite, "a number"),
    "lon": (_finite, "a number"),
    "panoid": (_name, "a part of a file's name"),
}


class GsvCity(NamedTuple):
    """The kept images of a city, place after place, the most recent image of a place first."""

    text: bytes  # paths, relative to the folder of the data set, one a line
    sizes: np.ndarray  # images of each place. int64 [num_places]
    num_small: int  # places left out, as they have too few images
    folders: set[str]  # of images, that the table names


def is_gsv_cities(folder: str | os.PathLike) -> bool:
    """Return whether a folder has the tables of GSV-Cities."""
    return Path(folder, TABLES_FOLDER).is_dir()


def read_gsv_cities(
    folder: str | os.PathLike, cities: Sequence[str] = (), min_images: int = 4
) -> PlaceSet:
    """Read the tables of the cities.

    Args:
        folder: Holds Dataframes/ and Images/.
        cities: Their names, in the order in which an epoch takes them; all, by name, if empty.
        min_images: Places with fewer are left out.

    Raises:
        FileNotFoundError: If there is no table, or a city has no images.
        ValueError: If a city is unknown, or a table lacks a column or has something else in it.
    """
    folder, are_all = Path(folder).resolve(), not cities
    cities = tuple(cities) or find_cities(folder)
    _check_cities(folder, cities)
    read = [_read_city(folder, city, min_images) for city in cities]
    sizes = np.concatenate([city.sizes for city in read])
    if not len(sizes):
        raise ValueError(
            f"No place of {folder} has {min_images} images: lower --min_images_per_place"
        )
    starts = np.concatenate(([0], np.cumsum(sizes)))
    part_starts = np.concatenate(([0], np.cumsum([len(city.sizes) for city in read])))
    text = b"".join(city.text for city in read)
    digest = hashlib.blake2b(repr((_DIGEST_VERSION, min_images)).encode(), digest_size=12)
    for part in (text, starts.tobytes(), part_starts.tobytes()):
        digest.update(part)
    paths = split_lines(folder, np.frombuffer(text, np.uint8))
    num_small = sum(city.num_small for city in read)
    left_out = [
        f"{commons.plural(num_small, 'place')} with fewer than {min_images} images left out"
    ] * bool(num_small)
    if are_all and (unlisted := _find_unlisted(folder, set().union(*(c.folders for c in read)))):
        left_out.append(f"images of {', '.join(unlisted)} left out, as no table lists them")
    return PlaceSet(
        folder,
        digest.hexdigest(),
        starts,
        cities,
        part_starts,
        is_joined=True,
        path=paths.__getitem__,
        left_out="; ".join(left_out),
    )


def find_cities(folder: Path) -> tuple[str, ...]:
    """Return the cities that have a table, by name; raise a FileNotFoundError if none has."""
    files = (folder / TABLES_FOLDER).glob("*.csv")
    cities = sorted(file.stem for file in files if not file.name.startswith("."))
    if not cities:
        raise FileNotFoundError(f"{folder / TABLES_FOLDER} has no table, CITY.csv")
    return tuple(cities)


def _check_cities(folder: Path, cities: Sequence[str]) -> None:
    known = find_cities(folder)
    if unknown := [city for city in cities if city not in known]:
        raise ValueError(
            f"--cities {' '.join(unknown)}: {folder / TABLES_FOLDER} has no such table; it has "
            f"{', '.join(known)}"
        )
    if len(set(cities)) < len(cities):
        raise ValueError(f"--cities {' '.join(cities)}: each city can be given once")


def _read_city(folder: Path, city: str, min_images: int) -> GsvCity:
    """Read the table of a city."""
    columns = _read_table(folder / TABLES_FOLDER / f"{city}.csv")
    ids, year, month, lat = (np.array(columns[n]) for n in ("place_id", "year", "month", "lat"))
    order = np.lexsort((-lat, -month, -year, ids))
    counts = np.unique(ids, return_counts=True)[1]
    is_kept = counts >= min_images
    kept = order[np.repeat(is_kept, counts)].tolist()
    rows = list(zip(*columns.values(), strict=True))
    lines = [format_image_path(*rows[index]) for index in kept]
    _check_images(folder, city, lines)
    text = "".join(f"{line}\n" for line in lines).encode()
    folders = set(columns["city_id"])
    return GsvCity(text, counts[is_kept], int((~is_kept).sum()), folders)


def format_image_path(
    place_id: int,
    year: int,
    month: int,
    northdeg: int,
    city_id: str,
    lat: float,
    lon: float,
    panoid: str,
) -> str:
    """Return the path of an image, relative to the folder of the data set.

    `lat` and `lon` are written as Python writes floats: 48.5 also where the table has 48.50.
    """
    return (
        f"{IMAGES_FOLDER}/{city_id}/{city_id}_{place_id % MAX_PLACES:07d}_{year}_{month:02d}_"
        f"{northdeg:03d}_{lat}_{lon}_{panoid}.jpg"
    )


def _check_images(folder: Path, city: str, lines: Sequence[str]) -> None:
    """Check some images of a city: batches of it may come hours after the first ones.

    Raises:
        FileNotFoundError: If a folder of images is missing or empty, or none of 20 images exists.
    """
    table = f"{TABLES_FOLDER}/{city}.csv"
    for name in sorted({line.split("/")[1] for line in lines}):
        images = folder / IMAGES_FOLDER / name
        if not images.is_dir() or (found := next(os.scandir(images), None)) is None:
            raise FileNotFoundError(
                f"{images} holds no images, but {table} lists some: leave the city out by --cities"
            )
        of_folder = [line for line in lines if line.split("/")[1] == name]
        some = of_folder[:: -(-len(of_folder) // _NUM_LOOKED_FOR)]
        if not any((folder / line).exists() for line in some):
            raise FileNotFoundError(
                f"There is no {folder / some[0]}, nor any other of {len(some)} images that {table} "
                f"lists, but {found.name}: rename the images, or leave the city out by --cities"
            )


def _find_unlisted(folder: Path, listed: set[str]) -> list[str]:
    """Return the folders of images that no table names."""
    found = {entry.name for entry in os.scandir(folder / IMAGES_FOLDER) if entry.is_dir()}
    return sorted(name for name in found - listed if not name.startswith("."))


def find_nearby(folder: str | os.PathLike) -> Path | None:
    """Return the folder with the tables of GSV-Cities that holds a folder, or that is in it."""
    path = Path(folder).resolve()
    inside = [Path(entry) for entry in os.scandir(path) if entry.is_dir()] if path.is_dir() else []
    return next(filter(is_gsv_cities, [*path.parents[:2], *sorted(inside)]), None)


def _read_table(file: Path) -> dict[str, list]:
    """Return the columns of a table, in the order of COLUMNS.

    Raises:
        ValueError: If a column is missing, or a row has something else in it; names file and line.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            rows = [row for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if missing := [name for name in COLUMNS if name not in header]:
        raise ValueError(
            f"{file} has no column {' and no '.join(missing)}: its first line is "
            f"{','.join(header)[:100]!r}, a table of GSV-Cities has {','.join(COLUMNS)}"
        )
    if not rows:
        raise ValueError(f"{file} lists no images: leave the city out by --cities")
    short = next((n for n, row in enumerate(rows) if len(row) != len(header)), None)
    if short is not None:
        raise ValueError(
            f"{file}, row {short + 1:,} has {len(rows[short])} cells, the header {len(header)}"
        )
    texts = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else {}
    return {name: _convert(file, name, texts.get(name, ()), *how) for name, how in COLUMNS.items()}


def _convert(
    file: Path, column: str, texts: Sequence[str], read: Callable[[str], object], kind: str
) -> list:
    try:
        return list(map(read, texts))
    except ValueError:
        pass
    for row, text in enumerate(texts):
        try:
            read(text)
        except ValueError:
            raise ValueError(f"{file}, row {row + 1:,}: {column} is {text!r}, not {kind}") from None
    raise AssertionError("no cell is wrong")
