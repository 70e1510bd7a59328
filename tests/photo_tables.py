"""Photos with a table that says where they were taken, and the names that they must get."""

import os
import struct

import utm
from conftest import write_image
from PIL import Image

from datasets.image_names import ImageName, format_image_name
from tools.convert.__main__ import main

ROWS = [  # path, latitude, longitude, heading, timestamp
    ("a/one.jpg", 55.70584, 13.19321, "270", "2024-05-01T12:30:00"),
    ("a/two.JPG", 55.70594, 13.19331, "", ""),
    ("three.png", 55.70604, 13.19341, "-90", "2024:05:02 08:00:01"),
]
HEADER = "path,lat,lon,heading,timestamp\n"


def write_photos(tmp_path):
    """Write the photos of ROWS and photos.csv; return their folder."""
    for path, *_ in ROWS:
        write_image(tmp_path / "photos" / path)
    write_csv(tmp_path, HEADER + lines(ROWS))
    return tmp_path / "photos"


def lines(rows, separator=","):
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def write_csv(tmp_path, text, encoding="utf-8"):
    file = tmp_path / "photos" / "photos.csv"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text.encode(encoding))
    return str(file)


def convert(tmp_path, *flags, out="out"):
    main(["csv", str(tmp_path / "photos" / "photos.csv"), f"--out={tmp_path / out}", *flags])
    return tmp_path / out


def names_of(folder):
    return sorted(os.listdir(folder))


def expected_names(rows=ROWS):
    """Return the names of rows, each projected on its own."""
    names = []
    for path, latitude, longitude, heading, timestamp in rows:
        east, north, zone, letter = utm.from_latlon(float(latitude), float(longitude))
        stem, extension = os.path.splitext(os.path.basename(path))
        fields = ImageName(
            east, north, zone, letter, float(latitude), float(longitude), stem,
            heading_deg=float(heading) % 360 if heading else None,
            timestamp=timestamp and f"202405{timestamp[8:10]}_{timestamp[11:].replace(':', '')}",
            extension=extension.lower(),
        )  # fmt: skip
        names.append(format_image_name(fields))
    return names


UNKNOWN = 123457.0  # is written as 0/0, what cameras put for a number that they do not know


def write_photo(path, gps=None, details=None):
    """Write a photo with tags of the GPS and of the Exif directory."""
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825).update(gps or {})
    exif.get_ifd(0x8769).update(details or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24)).save(path, exif=exif)
    if UNKNOWN in (gps or {}).values() or UNKNOWN in (gps or {}).get(2, ()):
        content = path.read_bytes()
        unknown = content.replace(struct.pack(">2I", int(UNKNOWN), 1), bytes(8))
        unknown = unknown.replace(struct.pack("<2I", int(UNKNOWN), 1), bytes(8))
        assert unknown != content
        path.write_bytes(unknown)
