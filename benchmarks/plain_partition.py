"""The obvious program for classes and groups: loops over names, a dict of lists, torch.save.

The reference of `partition`, with the steps of the original CosPlace. To
open a group is to load all of them.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from datasets.partition import PartitionParams


def build(
    list_file: Path,
    params: PartitionParams,
    cache_file: Path,
    fields_of: Callable[[str], list[str]] = lambda line: line.split("@"),
) -> None:
    """Split the names of a list one by one and save classes and groups.

    Args:
        list_file: One relative path a line.
        params: How images form classes and groups.
        cache_file: Written: for each group its classes, and for each class the paths of its images.
        fields_of: How a line is split into the fields of its '@' name.
    """
    folder = str(list_file).removesuffix("_images_paths.txt")
    lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    absolute_paths = [os.path.join(folder, line) for line in lines]
    paths = [path[len(folder) + 1 :] for path in absolute_paths]
    fields_per_image = [fields_of(path) for path in paths]
    texts = [(fields[1], fields[2], fields[9]) for fields in fields_per_image]
    numbers = np.array(texts).astype(np.float64)
    ids = [find_class_and_group(*row, params) for row in numbers]
    images_per_class = defaultdict(list)
    for image, (class_id, _) in enumerate(ids):
        images_per_class[class_id].append(image)
    images_per_class = {
        class_id: [paths[image] for image in images]
        for class_id, images in images_per_class.items()
        if len(images) >= params.min_images_per_class
    }
    classes_per_group = defaultdict(set)
    for class_id, group_id in ids:
        if class_id in images_per_class:
            classes_per_group[group_id].add(class_id)
    classes_per_group = [list(classes) for classes in classes_per_group.values()]
    torch.save((classes_per_group, images_per_class), cache_file)


def find_class_and_group(
    east_m: float, north_m: float, heading_deg: float, params: PartitionParams
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the class of an image and the group of that class."""
    east, north = int(east_m // params.M), int(north_m // params.M)
    heading = int(heading_deg % 360 // params.alpha)
    return (east, north, heading), (east % params.N, north % params.N, heading % params.L)


def open_group(cache_file: Path, group: int) -> tuple[list[tuple], dict[tuple, list[str]]]:
    """Return the classes of a group, and the images of all classes."""
    classes_per_group, images_per_class = load(cache_file)
    return classes_per_group[group], images_per_class


def load(cache_file: Path) -> tuple[list[list[tuple]], dict[tuple, list[str]]]:
    """Return the classes of each group, and the images of each class."""
    return torch.load(cache_file, weights_only=False)


def split_any_name(line: str) -> list[str]:
    """Split a line whose '@' name is below folders with '@' of their own."""
    return line.rpartition("/")[2].split("@")
