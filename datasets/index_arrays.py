"""The arrays of an index, mapped; what is wrong if they do not fit each other.

An index lies on a disk that may lose bits, in a folder that others may share. What can be checked
for every group is checked when it is opened; of classes and images, when they are used.
"""

import math
from pathlib import Path

import numpy as np

from datasets.array_files import map_array
from datasets.image_paths import parse_float
from datasets.list_lines import find_fault
from datasets.name_fields import FIELDS
from datasets.partition import Partition, PartitionParams, cell_of, group_ids_of

ARRAYS = ("image_offsets", "class_starts", "class_cells", "group_starts", "group_ids")
CELL_FIELDS = ("UTM east", "UTM north", "heading")  # of '@' names: they tell the class


def map_arrays(index_folder: Path, params: PartitionParams) -> Partition:
    """Map the arrays of an index; reads as much as there are groups.

    Args:
        index_folder: Where they are.
        params: How images form classes and groups.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If one is damaged, or is not of the same index as the others.
    """
    partition = Partition(*(_map(index_folder / f"{name}.npy") for name in ARRAYS))
    num_classes, num_groups = len(partition.class_cells), len(partition.group_ids)
    shapes = [(len(partition.images),), (num_classes + 1,), (num_classes, 3)]
    shapes += [(num_groups + 1,), (num_groups, 3)]
    for name, array, shape in zip(ARRAYS, vars(partition).values(), shapes, strict=True):
        is_short = name == "image_offsets" and array.dtype == np.uint32
        if array.shape != shape or not (array.dtype == np.int64 or is_short):
            raise ValueError(f"{name}.npy is {array.dtype} {list(array.shape)}, not {list(shape)}")
    ends = partition.class_starts[[0, -1]].tolist() + partition.group_starts[[0, -1]].tolist()
    if ends != [0, len(partition.images), 0, num_classes]:
        raise ValueError("classes and groups do not cover the images")
    if (np.diff(partition.group_starts) < 1).any():
        raise ValueError("group_starts.npy does not ascend")
    for classes in (partition.group_starts[:-1], partition.group_starts[1:] - 1):
        ids = group_ids_of(partition.class_cells[classes], params)
        if not np.array_equal(ids, partition.group_ids):
            raise ValueError("classes are not in their groups")
    return partition


def find_wrong_line(line: bytes, cell: np.ndarray, params: PartitionParams) -> str:
    """Return why a line of the list cannot be that of an image of a class; empty if it can.

    Args:
        line: Path and perhaps '@' name.
        cell: Of the class. int64 [3].
        params: How images form classes and groups.
    """
    if fault := find_fault(line):
        return fault
    name = line.rpartition(b"\t")[2].rpartition(b"/")[2]
    fields = dict(enumerate(name.split(b"@")[:-1]))  # the last part carries the extension
    numbers = [parse_float(fields.get(FIELDS[field], b"")) for field in CELL_FIELDS]
    if not all(map(math.isfinite, numbers)):
        return f"{line!r} is no '@' name"
    if cell_of(*numbers, params) != cell.tolist():
        return f"{line!r} is not in the class {cell.tolist()}"
    return ""


def _map(file: Path) -> np.ndarray:
    try:
        return map_array(file)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from None
