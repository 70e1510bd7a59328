"""The official validation queries of Mapillary Street-level Sequences, and its cities."""

import csv
import os
from pathlib import Path

import numpy as np

from datasets.image_lists import ImagePaths
from datasets.image_names import parse_image_name

_METADATA_FOLDERS = ("msls/train_val", "mapillary_sls/train_val")
_VALIDATION_CITIES = ("cph", "sf")


def read_official_queries(datasets_folder: str | os.PathLike) -> set[str]:
    """Return the keys of the validation queries that the official evaluation asks.

    These are the queries of the subtask "all" that are no panoramas.

    Raises:
        FileNotFoundError: If the metadata of MSLS is not there.
        ValueError: If it is not as published.
    """
    places = [Path(datasets_folder).resolve() / folder for folder in _METADATA_FOLDERS]
    folders = [place for place in places if (place / _VALIDATION_CITIES[0]).is_dir()]
    if not folders:
        raise FileNotFoundError(
            f"The metadata of MSLS is not at {' or '.join(map(str, places))}: it tells which "
            "queries are official. Unpack metadata.zip of MSLS there"
        )
    return {key for city in _VALIDATION_CITIES for key in _read_city(folders[0] / city / "query")}


def _read_city(folder: Path) -> list[str]:
    """Return the keys of one city; the rows of the two tables belong together by number."""
    subtasks, images = (_read_table(folder / f"{name}.csv") for name in ("subtask_index", "raw"))
    if len(subtasks) != len(images):
        raise ValueError(
            f"{folder}: subtask_index.csv has {len(subtasks):,} rows, raw.csv {len(images):,}"
        )
    try:
        return [
            image["key"]
            for subtask, image in zip(subtasks, images, strict=True)
            if _is_true(subtask["all"]) and not _is_true(image["pano"])
        ]
    except KeyError as error:
        raise ValueError(f"{folder}: subtask_index.csv or raw.csv has no column {error}") from None


def _read_table(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}: unpack metadata.zip of MSLS there")
    with open(file, newline="", encoding="utf-8-sig") as lines:
        return list(csv.DictReader(lines))


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "1.0")


def find_keys(paths: ImagePaths, keys: set[str]) -> np.ndarray:
    """Return the numbers of the images whose pano id is one of the keys, ascending."""
    names = (paths.name(index) for index in range(len(paths)))
    return np.flatnonzero([parse_image_name(name).pano_id in keys for name in names])


def read_cities(paths: ImagePaths) -> list[str]:
    """Return the city of each image: the end of its note (day_forward_cph), else its sub-folder.

    Raises:
        ValueError: If neither says a city; names an image.
    """
    cities = []
    for index, path in enumerate(paths):
        fields = os.path.basename(paths.name(index)).split("@")
        note = fields[14] if len(fields) > 15 else ""
        folder, slash, _ = os.path.relpath(path, paths.folder).partition(os.sep)
        city = note.rpartition("_")[2] or (folder if slash else "")
        if not city:
            raise ValueError(
                f"{path} does not say its city, which a search per city needs: neither a note "
                "(field 14 of the '@' name) nor a sub-folder"
            )
        cities.append(city)
    return cities
