"""Folders of panoramas, lists of names, and settings of EigenPlaces."""

import numpy as np
import tiny_backbone  # noqa: F401, LINE names it
from conftest import name
from PIL import Image

from parser import parse_train_arguments
from training.eigenplaces import EigenPlacesSettings


def listed(folder, lines, ending="\n"):
    """Write a list of names beside a folder with an empty file for the first image."""
    first = folder / lines[0]
    first.parent.mkdir(parents=True, exist_ok=True)
    first.touch()
    text = "".join(f"{line}{ending}" for line in lines)
    folder.with_name(f"{folder.name}_images_paths.txt").write_bytes(text.encode())
    return folder


def write_panoramas(folder, num=8, places=((7, 7), (22, 7)), size=(416, 64)):
    """Write panoramas along streets to the east, whose columns have the colours of bearings."""
    for place, (east, north) in enumerate(places):
        for number in range(num):
            heading = (37.5 * number + 90 * place) % 360
            bearings = (heading + 180 + np.arange(size[0]) / size[0] * 360) % 360
            file = folder / name(
                east + number, north + 0.1 * (number % 3), heading, pano_id=f"{place}x{number}"
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            row = np.stack([bearings / 360 * 255, 255 - bearings / 360 * 255, 100 + 0 * bearings])
            pixels = np.repeat(row.T[None].astype(np.uint8), size[1], axis=0)
            Image.fromarray(pixels).save(file, quality=95)
    return folder


def flags_of(*line):
    return EigenPlacesSettings.from_flags(
        vars(parse_train_arguments(["--method=eigenplaces", "--num_workers=0", *line]))
    )
