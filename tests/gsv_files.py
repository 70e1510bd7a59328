"""A small GSV-Cities in its real layout: tables, names of files, places of a colour each."""

import csv
from pathlib import Path

import numpy as np
from conftest import write_image

COLUMNS = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")
CITIES = {"London": 6, "Boston": 5, "PRS": 4}  # places; ids are the same ones in each


def write_gsv_cities(root, cities=CITIES, num_images=5, missing=(), size=(40, 48)):
    """Write Dataframes/ and Images/; the last place of each city has only 3 images.

    Args:
        root: The folder of the data set.
        cities: Number of places of each city.
        num_images: Of each other place.
        missing: Numbers of images, counted through all rows, whose file is not written.
        size: Width and height of the images, in pixels.
    """
    rng, number = np.random.default_rng(0), 0
    for city, num_places in cities.items():
        rows = []
        for place in range(num_places):
            colour = rng.integers(30, 220, 3)
            for index in range(3 if place == num_places - 1 else num_images):
                row = (
                    *(7 * place + 7, 2007 + index, int(rng.integers(1, 13))),
                    *(int(rng.integers(360)), city),
                    *(round(48 + rng.random(), 6), round(2 + rng.random(), 6), f"pano{number}"),
                )
                rows.append(row)
                if number not in missing:
                    path = Path(root, "Images", city, file_name(*row))
                    write_image(path, size, colour=(colour + 4 * index).tolist())
                number += 1
        write_table(Path(root, "Dataframes", f"{city}.csv"), rows)
    return root


def file_name(place_id, year, month, northdeg, city_id, lat, lon, panoid):
    numbers = f"{str(place_id).zfill(7)}_{year}_{str(month).zfill(2)}_{str(northdeg).zfill(3)}"
    return f"{city_id}_{numbers}_{lat}_{lon}_{panoid}.jpg"


def write_table(file, rows, columns=COLUMNS):
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
