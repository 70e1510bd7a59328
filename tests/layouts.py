"""Small test sets in the layout of each named one, with the file names that are usual there."""

from pathlib import Path

import numpy as np
import utm
from conftest import write_image

from datasets.catalog import TEST_SETS
from datasets.image_names import ImageName, format_image_name

ORIGIN_M = np.array([551_000.0, 4_180_000.0])
COPENHAGEN, SAN_FRANCISCO = (55.68, 12.57), (37.76, -122.44)


def write_set(root: Path, set_name: str, rng: np.random.Generator) -> Path:
    """Write a set of some 20 database images and 10 queries; return the folder of the split."""
    folder = root / TEST_SETS[set_name].folders[0]
    if set_name.startswith("msls"):
        _write_msls(root, folder, rng, in_metadata=set_name == "msls_val_740")
    elif set_name.startswith("nordland"):
        _write_frames(folder)
    elif set_name == "amstertime":
        for role in ("database", "queries"):
            for number in range(12):
                write_image(folder / role / f"@0@{1000 * number}@@@@@{number:04d}@@@@@@@@.jpg")
    else:
        test_set = TEST_SETS[set_name]
        database = "gallery" if set_name.startswith("svox") else test_set.database[0]
        for role, count in ((database, 20), (test_set.queries, 10)):
            for number in range(count):
                position = ORIGIN_M + rng.uniform(0, 150, 2)
                fields = {"zone_number": 10, "zone_letter": "S", "pano_id": f"{number:04d}"}
                file = format_image_name(ImageName(*position, **fields))
                write_image(folder / role / "37.70" / file)
    return folder


def _write_frames(folder: Path) -> None:
    """Write Nordland as its formatter does: frame i lies i * 25 / 10.5 mock metres north."""
    for role in ("database", "queries"):
        for frame in range(45):
            write_image(folder / role / f"@0@{frame * 25 / 10.5:07.1f}@@@@@{frame}@@@@@@@@.jpg")


def _write_msls(root: Path, folder: Path, rng: np.random.Generator, in_metadata: bool) -> None:
    """Write two cities in one folder, each in its own UTM zone, and the official metadata."""
    keys: dict[str, list[str]] = {"cph": [], "sf": []}
    for role, count in (("database", 12), ("queries", 8)):
        for city, (latitude, longitude) in (("cph", COPENHAGEN), ("sf", SAN_FRANCISCO)):
            for number in range(count):
                place = (latitude + rng.uniform(0, 2e-3), longitude + rng.uniform(0, 2e-3))
                east_m, north_m, zone, letter = utm.from_latlon(*place)
                key = f"{city}-{role}-{number}"
                name = ImageName(
                    east_m,
                    north_m,
                    zone,
                    letter,
                    *place,
                    pano_id=key,
                    note=f"day_forward_{city}",
                )
                write_image(folder / role / format_image_name(name))
                if role == "queries":
                    keys[city].append(key)
    if in_metadata:
        for city, queries in keys.items():
            metadata = root / "msls" / "train_val" / city / "query"
            metadata.mkdir(parents=True)
            rows = list(enumerate(queries))
            subtasks = [f"{row},{row % 4 != 3},False" for row, _ in rows]
            images = [f"{row},{key},1.0,2.0,90,2018-05-03,{row == 1}" for row, key in rows]
            (metadata / "subtask_index.csv").write_text("\n".join([",all,s2w", *subtasks]))
            header = ",key,lon,lat,ca,captured_at,pano"
            (metadata / "raw.csv").write_text("\n".join([header, *images]))
