"""Generate a mini city; the number of processes does not change a byte."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

import commons
from datasets.workers import map_in_processes
from machine import num_usable_cores
from mini_city.params import PRESETS, CityParams
from mini_city.shots import PoseRow, Shot, plan, take

_DESCRIPTION = "mini_city.json"
_GENERATOR_VERSION = 3  # of the images: raised whenever they change
_POSE_COLUMNS = (
    "image", "utm_east_m", "utm_north_m", "height_m", "qw", "qx", "qy", "qz",
    "heading_deg", "pitch_deg", "roll_deg", "fov_deg",
)  # fmt: skip
_CHUNKS_PER_WORKER = 8  # neighbouring shots see the same facades, so they go to one process


def generate(
    folder: str | os.PathLike,
    params: CityParams | str = "demo",
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> bool:
    """Write a mini city in the layout of SF-XL.

    Args:
        folder: Of the city; it appears only when complete.
        params: Sizes of the city, or the name of a preset.
        seed: Of the city.
        workers: Number of processes; all cores by default. It does not change the images.
        overwrite: Whether another mini city in that folder is replaced.

    Returns:
        False if the folder already holds this very city.

    Raises:
        FileExistsError: If the folder holds something else.
    """
    folder = Path(folder).resolve()
    params = PRESETS[params] if isinstance(params, str) else params
    description = json.dumps(_describe(params, seed), indent=2)
    if _holds(folder, description):
        return False
    _check_free(folder, overwrite)
    with commons.atomic_folder(folder, overwrite) as unfinished:
        _write(unfinished, params, seed, workers or num_usable_cores())
        (unfinished / _DESCRIPTION).write_text(description)
    return True


def _describe(params: CityParams, seed: int) -> dict:
    return {"generator_version": _GENERATOR_VERSION, "seed": seed, "params": asdict(params)}


def _holds(folder: Path, description: str) -> bool:
    path = folder / _DESCRIPTION
    return path.is_file() and path.read_text() == description


def _check_free(folder: Path, overwrite: bool) -> None:
    """Refuse to replace anything but an empty folder or, with overwrite, another mini city."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / _DESCRIPTION).is_file():
        raise FileExistsError(f"{folder} exists and is no mini city: choose another folder")
    if not overwrite:
        raise FileExistsError(
            f"{folder} holds another mini city: choose another folder, or pass --overwrite"
        )


def _write(folder: Path, params: CityParams, seed: int, workers: int) -> None:
    """Write all images, then the poses."""
    shots = plan(params, seed)
    rows = []
    with tqdm(total=len(shots), desc="mini city", unit="shot") as progress:
        for shot_rows in _take_all(shots, folder / "processed", params, seed, workers):
            rows += shot_rows
            progress.update()
    with open(folder / "processed/test/queries_v2_poses.csv", "w", newline="") as file:
        csv.writer(file).writerows([_POSE_COLUMNS, *rows])


def _take_all(
    shots: list[Shot], folder: Path, params: CityParams, seed: int, workers: int
) -> Iterator[list[PoseRow]]:
    """Yield the pose rows of every shot, in order, as they are written."""
    take_one = partial(_take_one, folder=folder, params=params, seed=seed)
    chunksize = -(-len(shots) // (workers * _CHUNKS_PER_WORKER))
    yield from map_in_processes(take_one, shots, workers, chunksize)


def _take_one(shot: Shot, folder: Path, params: CityParams, seed: int) -> list[PoseRow]:
    return take(shot, folder / shot.split, params, seed)
