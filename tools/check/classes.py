"""What training would form of a folder: classes and groups of CosPlace, places of GSV-Cities."""

from dataclasses import replace

import numpy as np

from commons import plural
from datasets.image_lists import ImagePaths
from datasets.partition import Partition, PartitionParams, make_partition
from tools.check.findings import ERROR, FACT, OK, WARNING, Finding, show

MOST_MISSING = 0.01  # of the images of places: --max_bad_images of train.py
DEFAULT_GROUPS_NUM = 8  # of train.py, as in the paper
_SHOWN_GROUPS = 8


def check_classes(
    east_m: np.ndarray, north_m: np.ndarray, heading_deg: np.ndarray, params: PartitionParams
) -> list[Finding]:
    """Split images into classes and groups; those with a NaN are left out.

    Args:
        east_m: float64 [num_images].
        north_m: float64 [num_images].
        heading_deg: float64 [num_images].
        params: How images form classes and groups.
    """
    columns = np.stack((east_m, north_m, heading_deg))
    columns = columns[:, np.isfinite(columns).all(axis=0)]
    num_images = columns.shape[1]
    if not num_images:
        return [Finding(FACT, "classes", "none: no image has both position and heading")]
    described = ", ".join(f"{name}={value}" for name, value in vars(params).items())
    try:
        partition = make_partition(*columns, params)
        if not len(partition.group_ids):
            everything = make_partition(*columns, replace(params, min_images_per_class=0))
            largest = int(np.diff(everything.class_starts).max())
            smallest = params.min_images_per_class
            text = f"none of {smallest} images with {described}: the largest has {largest}"
            remedy = f"train with --min_images_per_class {largest} or less, or with larger "
            remedy += "classes (--M, --alpha)"
            return [Finding(ERROR, "classes", text, remedy=remedy)]
    except ValueError as error:
        return [Finding(ERROR, "classes", str(error))]
    num_groups = len(partition.group_ids)
    text = f"{plural(num_groups, 'group')} with {described}"
    findings = [Finding(OK, "classes", text, _table(partition))]
    findings.append(_judge_dropped(num_images, int(partition.class_starts[-1]), params))
    if num_groups < DEFAULT_GROUPS_NUM:
        text = f"only {plural(num_groups, 'group')}; train.py takes {DEFAULT_GROUPS_NUM} by default"
        remedy = f"train with --groups_num {num_groups}" + " or less" * (num_groups > 1)
        findings.append(Finding(WARNING, "groups", text, remedy=remedy))
    else:
        findings.append(Finding(OK, "groups", f"--groups_num 1 to {num_groups} can be trained"))
    if not params.is_separated_at_north:
        text = "360 is not a multiple of alpha x L: around north, neighbours share a group"
        findings.append(Finding(WARNING, "groups", text))
    return findings


def check_places(paths: ImagePaths) -> list[Finding]:
    """Read the tables of GSV-Cities, and look for the images that they list.

    Args:
        paths: All images of the folder that holds the tables.
    """
    from datasets.gsv_cities import read_gsv_cities  # needs torch, for which --help need not wait

    try:
        places = read_gsv_cities(paths.folder)
    except (OSError, ValueError) as error:
        remedy = "correct the table, or leave its city out: train with --cities"
        return [Finding(ERROR, "tables", show(str(error)), remedy=remedy)]
    first, *table = places.describe(whole=True).splitlines()
    findings = [Finding(OK, "places", show(first), tuple(map(show, table)))]
    present, cut = set(paths.lines()), len(str(places.folder)) + 1
    listed = [places.path(image)[cut:] for image in range(places.num_images)]
    missing = [name for name in listed if name.encode() not in present]
    if missing:
        text = f"{len(missing):,} of {len(listed):,} images that the tables list do not exist:"
        level = ERROR if len(missing) > MOST_MISSING * len(listed) else WARNING
        remedy = "bring the missing images, or leave their city out: train with --cities"
        findings.append(Finding(level, "missing", text, tuple(map(show, missing[:3])), remedy))
    else:
        findings.append(Finding(OK, "missing", "every image that the tables list exists"))
    if num := len(paths) - len(listed) + len(missing):
        text = f"{plural(num, 'image')} in no place that is trained on"
        findings.append(Finding(FACT, "not listed", text))
    return findings


def _table(partition: Partition) -> tuple[str, ...]:
    """Return a line for each of the first groups, in the order of training, and one for others."""
    num_classes = np.diff(partition.group_starts).tolist()
    num_images = np.diff(partition.class_starts[partition.group_starts]).tolist()
    rows = list(zip(partition.group_ids.tolist(), num_classes, num_images, strict=True))
    lines = ["group  (u, v, w)   classes      images  images/class"]
    for number, ((u, v, w), classes, images) in enumerate(rows[:_SHOWN_GROUPS]):
        lines.append(
            f"{number:5d}  ({u}, {v}, {w})  {classes:8,d}  {images:10,d}  {images / classes:12.1f}"
        )
    if rest := rows[_SHOWN_GROUPS:]:
        lines.append(
            f"and {plural(len(rest), 'group')} more with "
            f"{plural(sum(classes for _, classes, _ in rest), 'class')} and "
            f"{plural(sum(images for _, _, images in rest), 'image')}"
        )
    return tuple(lines)


def _judge_dropped(num_images: int, num_kept: int, params: PartitionParams) -> Finding:
    num_dropped = num_images - num_kept
    text = (
        f"{num_dropped:,} of {num_images:,} images ({100 * num_dropped / num_images:.1f}%) are in "
        f"classes of fewer than {params.min_images_per_class}"
    )
    if 2 * num_dropped > num_images:
        remedy = "lower --min_images_per_class, or make classes larger with --M and --alpha"
        return Finding(WARNING, "dropped", text, remedy=f"most images are dropped: {remedy}")
    return Finding(FACT, "dropped", text)
