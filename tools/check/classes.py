"""What training would make of a folder: the classes and groups of CosPlace; nothing is kept."""

from dataclasses import dataclass, replace

import numpy as np

from datasets.partition import Partition, PartitionParams, make_partition
from tools.check.findings import ERROR, FACT, OK, WARNING, Finding, plural

DEFAULT_GROUPS_NUM = 8  # of train.py, as in the paper
_SHOWN_GROUPS = 8


@dataclass(frozen=True)
class ClassFacts:
    """Groups with their classes and images, in the order in which training takes them.

    Attributes:
        params: How images form classes and groups.
        num_images: Images with position and heading; only these can be in a class.
        num_left_out: Images without position or heading.
        groups: (u, v, w), number of classes and number of images of each group.
        largest_class: Images of the largest class before small ones are dropped.
        problem: Why there is no partition; empty if there is one.
    """

    params: PartitionParams
    num_images: int
    num_left_out: int
    groups: tuple[tuple[tuple[int, ...], int, int], ...] = ()
    largest_class: int = 0
    problem: str = ""

    @property
    def num_kept(self) -> int:
        """Number of images in classes that are large enough."""
        return sum(num_images for _, _, num_images in self.groups)


def measure_classes(
    east_m: np.ndarray, north_m: np.ndarray, heading_deg: np.ndarray, params: PartitionParams
) -> ClassFacts:
    """Split images into classes and groups; those with a NaN are left out.

    Args:
        east_m: float64 [num_images].
        north_m: float64 [num_images].
        heading_deg: float64 [num_images].
        params: How images form classes and groups.
    """
    columns = np.stack((east_m, north_m, heading_deg))
    usable = np.isfinite(columns).all(axis=0)
    num_images, num_left_out = int(usable.sum()), int((~usable).sum())
    if not num_images:
        return ClassFacts(params, 0, num_left_out)
    try:
        partition = make_partition(*columns[:, usable], params)
        largest_class = int(np.diff(partition.class_starts).max(initial=0))
        if not largest_class:
            every_class = make_partition(
                *columns[:, usable], replace(params, min_images_per_class=0)
            )
            largest_class = int(np.diff(every_class.class_starts).max())
    except ValueError as error:
        return ClassFacts(params, num_images, num_left_out, problem=str(error))
    return ClassFacts(params, num_images, num_left_out, _list_groups(partition), largest_class)


def judge_classes(facts: ClassFacts) -> list[Finding]:
    """Say how many groups can be trained on, and what is lost."""
    if facts.problem:
        return [Finding(ERROR, "classes", facts.problem)]
    if not facts.num_images:
        return [Finding(FACT, "classes", "none: no image has both position and heading")]
    params = ", ".join(f"{name}={value}" for name, value in vars(facts.params).items())
    if not facts.groups:
        return [_judge_no_groups(facts, params)]
    num_groups = len(facts.groups)
    findings = [
        Finding(OK, "classes", f"{plural(num_groups, 'group')} with {params}", _table(facts))
    ]
    findings.append(_judge_dropped(facts))
    if num_groups < DEFAULT_GROUPS_NUM:
        findings.append(
            Finding(
                WARNING,
                "groups",
                f"only {plural(num_groups, 'group')}; train.py takes {DEFAULT_GROUPS_NUM} if "
                "not told otherwise",
                remedy=f"train with --groups_num {num_groups}"
                + (" or less" if num_groups > 1 else ""),
            )
        )
    else:
        findings.append(Finding(OK, "groups", f"--groups_num 1 to {num_groups} can be trained"))
    if not facts.params.is_separated_at_north:
        text = "360 is not a multiple of alpha x L: around north, neighbours share a group"
        findings.append(Finding(WARNING, "groups", text))
    return findings


def _list_groups(partition: Partition) -> tuple[tuple[tuple[int, ...], int, int], ...]:
    images = partition.class_starts[partition.group_starts]
    return tuple(
        (tuple(group_id), num_classes, num_images)
        for group_id, num_classes, num_images in zip(
            partition.group_ids.tolist(),
            np.diff(partition.group_starts).tolist(),
            np.diff(images).tolist(),
            strict=True,
        )
    )


def _table(facts: ClassFacts) -> tuple[str, ...]:
    lines = ["group  (u, v, w)   classes      images  images/class"]
    for number, ((u, v, w), num_classes, num_images) in enumerate(facts.groups[:_SHOWN_GROUPS]):
        lines.append(
            f"{number:5d}  ({u}, {v}, {w})  {num_classes:8,d}  {num_images:10,d}"
            f"  {num_images / num_classes:12.1f}"
        )
    if rest := facts.groups[_SHOWN_GROUPS:]:
        num_classes, num_images = (sum(group[k] for group in rest) for k in (1, 2))
        lines.append(
            f"and {plural(len(rest), 'group')} more with {plural(num_classes, 'class')} and "
            f"{plural(num_images, 'image')}"
        )
    return tuple(lines)


def _judge_no_groups(facts: ClassFacts, params: str) -> Finding:
    smallest, largest = facts.params.min_images_per_class, facts.largest_class
    return Finding(
        ERROR,
        "classes",
        f"none of {smallest} images with {params}: the largest has {largest}",
        remedy=f"train with --min_images_per_class {largest} or less, or with larger classes "
        "(--M, --alpha)",
    )


def _judge_dropped(facts: ClassFacts) -> Finding:
    num_dropped = facts.num_images - facts.num_kept
    percent = 100 * num_dropped / facts.num_images
    text = (
        f"{num_dropped:,} of {facts.num_images:,} images ({percent:.1f}%) are in classes of fewer "
        f"than {facts.params.min_images_per_class}"
    )
    if 2 * num_dropped > facts.num_images:
        remedy = "lower --min_images_per_class, or make classes larger with --M and --alpha"
        return Finding(WARNING, "dropped", text, remedy=f"most images are dropped: {remedy}")
    return Finding(FACT, "dropped", text)
