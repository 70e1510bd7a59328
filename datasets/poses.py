"""Files of 6-DoF poses, beside the folder of the images: `<folder>_poses.txt` or .csv.

World: x is east and y is north in UTM metres, z is up. Camera: x is right, y is down, z is the
optical axis.

- .txt: as the reference poses of the San Francisco Landmarks queries, which are the 598 queries of
  SF-XL test v2 (reference_poses_addTM_all_598.txt; Sattler et al., CVPR 2017): a line is
  `0 NAME qw qx qy qz EAST NORTH HEIGHT`; the quaternion turns the world into the camera.
- .csv: as the mini city writes them: columns image, utm_east_m, utm_north_m, qw, qx, qy, qz; the
  quaternion turns the camera into the world. Other columns are not read.

Heights are of no common zero, and not read.
"""

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from datasets.image_lists import ImagePaths
from datasets.image_names import parse_float
from datasets.positions import read_utm
from datasets.tables import TABLE, unescape_cell

ENDINGS = ("_poses.txt", "_poses.csv")  # of the folder's name; the first file that exists is read
_COLUMNS = ("image", "utm_east_m", "utm_north_m", "qw", "qx", "qy", "qz")
_REFERENCE = "lines are 0 NAME qw qx qy qz EAST NORTH HEIGHT"
_LENGTH_TOLERANCE = 0.01  # of a quaternion, which is 1


@dataclass(frozen=True)
class PoseFile:
    """The poses in a file.

    Attributes:
        path: The file.
        rows: Row of each image, by the name that the file gives it.
        utm_m: East and north. float64 [num_rows, 2].
        quaternions: Camera to world, (x, y, z, w). float64 [num_rows, 4].
    """

    path: Path
    rows: dict[str, int]
    utm_m: np.ndarray
    quaternions: np.ndarray

    def find(self, paths: ImagePaths, by_pano_id: bool = False) -> np.ndarray:
        """Return the row of each image, -1 for none. int64 [num_images].

        The file may name images by relative path, basename, or basename without extension.

        Args:
            paths: The images.
            by_pano_id: Whether also by the pano id of '@' names (crops of a panorama share it).
        """
        found = np.full(len(paths), -1, np.int64)
        for index in range(len(paths)):
            name = paths.name(index)
            basename = os.path.basename(name)
            fields = basename.split("@")
            pano_id = fields[7] if by_pano_id and len(fields) > 15 else ""
            for key in (name, basename, os.path.splitext(basename)[0], pano_id):
                if key in self.rows:
                    found[index] = self.rows[key]
                    break
        return found

    def offsets_m(self, rows: np.ndarray, paths: ImagePaths) -> np.ndarray:
        """Return from the positions in names to those in a file; 0 without one. float64 [n, 2]."""
        utm = read_utm(paths)
        offsets_m = self.utm_m[rows] - np.stack([utm.east_m, utm.north_m], axis=1)
        return np.where(rows[:, None] < 0, 0, offsets_m)


def find_poses(folder: Path) -> Path | None:
    """Return the file of poses beside a folder of images, if there is one."""
    beside = (folder.with_name(folder.name + ending) for ending in ENDINGS)
    return next((path for path in beside if path.is_file()), None)


def read_poses(path: Path) -> PoseFile:
    """Read a file of poses, see the head of this module.

    Raises:
        ValueError: If it is malformed; names file and line.
    """
    names: dict[str, int] = {}
    values = []
    with open(path, **TABLE | {"encoding": "utf-8-sig"}) as lines:
        rows = _read_csv(path, lines) if path.suffix == ".csv" else _read_reference(path, lines)
        for line, name, cells in rows:
            numbers = [parse_float(os.fsencode(cell)) for cell in cells]
            length = float(np.linalg.norm(numbers[:4]))
            if not np.isfinite(numbers).all():
                fault = f"has no number where one must be: {' '.join(cells)!r}"
            elif abs(length - 1) > _LENGTH_TOLERANCE:
                fault = f"has a quaternion of length {length:.3f}, not 1"
            elif name in names:
                fault = f"has the image {name!r} again"
            else:
                names[name] = len(names)
                values.append(numbers)
                continue
            raise ValueError(f"Line {line} of {path} {fault}")
    if not names:
        raise ValueError(f"{path} has no poses")
    table = np.array(values)
    rotations = Rotation.from_quat(table[:, [1, 2, 3, 0]])
    if path.suffix != ".csv":
        rotations = rotations.inv()
    return PoseFile(path, names, table[:, 4:6], rotations.as_quat())


def _read_csv(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Yield line number, image, and qw, qx, qy, qz, east, north as texts."""
    reader = csv.DictReader(lines, skipinitialspace=True)
    try:
        if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or [])]:
            raise ValueError(f"{path} has no column {', '.join(missing)}")
        for row in reader:
            cells = [row[name] or "" for name in _COLUMNS]
            yield reader.line_num, unescape_cell(cells[0]), [*cells[3:], *cells[1:3]]
    except csv.Error as error:
        raise ValueError(f"{path} is not a table: {error}") from None


def _read_reference(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the same of a text; a first line without a number where one must be is a header.

    Empty lines and comments do not count.
    """
    is_first = True
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if not cells or line.startswith("#"):
            continue
        numbers = [parse_float(os.fsencode(cell)) for cell in cells[-7:]]
        is_header, is_first = is_first and not np.isfinite(numbers).any(), False
        if is_header:
            continue
        if len(cells) < 9:
            raise ValueError(f"Line {number} of {path} has {len(cells)} values: {_REFERENCE}")
        yield number, " ".join(cells[1:-7]), cells[-7:-1]
