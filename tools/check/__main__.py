"""Check a data set before training or evaluating on it.

python -m tools.check sf_xl_test_v1          a data set by name
python -m tools.check FOLDER                 database/ and queries/, train/ val/ test/, or images
python -m tools.check FOLDER --decode --bad_list bad.txt       decode every image
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import commons
from command_line import CommandLine, default_datasets_folder
from datasets.catalog import TEST_SETS, TRAIN_SETS
from datasets.partition import PartitionParams
from datasets.small_sets import describe_small_set
from machine import num_usable_cores
from tools.check.classes import check_classes, check_places
from tools.check.files import check_files
from tools.check.findings import (
    ERROR,
    WARNING,
    Finding,
    Section,
    count_level,
    format_remedies,
    format_section,
    show,
)
from tools.check.image_files import ImageFacts, choose_sample, judge_images, measure_images
from tools.check.layout import PURPOSES, QUERIES, TRAIN, ImageFolder, find_layout
from tools.check.names import check_names
from tools.check.pairs import (
    DEFAULT_THRESHOLD_M,
    CheckedFolder,
    check_named_set,
    check_pair,
    judge_size_mix,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Check all folders, print a section for each, and end with what to change.

    Raises:
        ValueError: If there are errors: findings that stop training or evaluation.
        OSError: If the list of bad images cannot be written.
    """
    args = _parse_arguments(argv)
    with commons.usage_errors():
        params = commons.from_flags(PartitionParams, vars(args))
    if args.bad_list:
        _check_can_be_written(Path(args.bad_list))
    max_images = None if args.decode else args.max_headers
    tree = find_layout(args.target, args.datasets_folder)
    if args.purpose:
        tree = tree.for_purpose(args.purpose)
    sections: list[Section] = []

    def add(section: Section) -> None:
        sections.append(section)
        _print(format_section(section))

    if tree.findings:
        add(Section(show(args.target), "the folders", tuple(tree.findings)))
    checked: dict[Path, CheckedFolder] = {}
    for images in tree.folders:
        found = check_folder(images, params, max_images, args.decode, args.num_workers)
        checked[images.folder] = found
        add(found.section)
    for query_set in tree.query_sets:
        database, queries = (
            checked[side.folder] for side in (query_set.database, query_set.queries)
        )
        if database.positions is None or queries.positions is None:  # no images
            continue
        threshold_m = args.positive_dist_threshold
        if query_set.set_name is None:
            findings = check_pair(database, queries, threshold_m or DEFAULT_THRESHOLD_M)
        else:
            findings = check_named_set(
                query_set.set_name, args.datasets_folder, database, queries, threshold_m
            )
        findings += judge_size_mix(database.images, queries.images)
        title = f"searched in {query_set.database.label}"
        add(Section(query_set.queries.label, title, tuple(findings)))
    any(map(add, judge_sizes(tree.folders, checked)))
    _print(format_remedies(sections))
    if args.bad_list:
        _write_bad_list(Path(args.bad_list), [folder.images for folder in checked.values()])
    _conclude(sections, show(args.target))


def check_folder(
    images: ImageFolder,
    params: PartitionParams,
    max_images: int | None,
    decode: bool,
    num_workers: int,
) -> CheckedFolder:
    """Check one folder: its files, their names, the images, and for training the classes.

    Args:
        images: The folder and its role.
        params: How training would form classes and groups.
        max_images: Number of images to open, evenly spread; None: all.
        decode: Whether to decode them completely.
        num_workers: Processes that decode.
    """
    from datasets.gsv_cities import is_gsv_cities  # needs torch, for which --help need not wait

    paths, is_missing, findings = check_files(images.folder, images.num_expected)
    positions = heading_deg = None
    if len(paths) and images.role == TRAIN and is_gsv_cities(images.folder):
        findings += check_places(paths)
    elif len(paths):
        positions, heading_deg, more = check_names(paths, images.role == TRAIN)
        findings += more
    sample = choose_sample(is_missing, max_images)
    facts = measure_images(paths, sample, decode, num_workers, images.label)
    findings += judge_images(paths, facts, int((~is_missing).sum()))
    if positions is not None and images.role == TRAIN:
        findings += check_classes(positions.east_m, positions.north_m, heading_deg, params)
    title = f"{images.role} in {show(str(images.folder))}"
    section = Section(images.label, title, tuple(findings))
    return CheckedFolder(paths, positions, facts, section)


def judge_sizes(
    folders: Iterable[ImageFolder], checked: Mapping[Path, CheckedFolder]
) -> Iterator[Section]:
    """Yield a section for each training folder that is small, see `describe_small_set`.

    Args:
        folders: Of the tree; queries to validate on are those whose label begins with val/.
        checked: By folder.
    """
    folders = list(folders)
    asked = [one for one in folders if one.role == QUERIES and one.label.startswith("val/")]
    validation = checked[asked[0].folder].paths if asked else None
    for images in folders:
        paths = checked[images.folder].paths
        if images.role == TRAIN and (few := describe_small_set(paths, validation)):
            findings = tuple(Finding(WARNING, "size", sentence) for sentence in few)
            yield Section(images.label, "what training gains", findings)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = CommandLine(
        prog="python -m tools.check",
        description="Check a data set before training or evaluating on it; changes nothing. "
        "The exit code is 1 if training or evaluation would fail.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = cli.add_argument
    add(
        "target",
        metavar="FOLDER|NAME",
        help="a folder with database/ and queries/, with train/ val/ test/, or with images to "
        f"train on; or one of {', '.join(TRAIN_SETS | TEST_SETS)} (./NAME is a folder)",
    )
    add(
        "--datasets_folder",
        default=default_datasets_folder(),
        help="folder of the data sets; also the variable DATASETS_FOLDER",
    )
    add(
        "--for",
        dest="purpose",
        choices=PURPOSES,
        help="what the images are judged for: only training needs headings, only evaluation "
        "queries (default: what their folders are named for, training if for nothing)",
    )
    add("--decode", action="store_true", help="decode every image, and find copies")
    add("--bad_list", metavar="FILE", help="with --decode: write the images that cannot be read")
    add(
        "--max_headers",
        type=int,
        default=10_000,
        help="number of images of a folder whose sizes are read; all with --decode",
    )
    workers = min(8, num_usable_cores())
    add("--num_workers", type=int, default=workers, help="processes that decode")
    add(
        "--positive_dist_threshold",
        type=float,
        help="largest distance of a positive, in metres, instead of the data set's (25)",
    )
    group = cli.add_argument_group("classes and groups of training folders, as of train.py")
    for name, value in vars(PartitionParams()).items():
        group.add_argument(f"--{name}", type=int, default=value, help="as of train.py")
    args = cli.parse_args(argv)
    if args.bad_list and not args.decode:
        cli.error("--bad_list goes with --decode, which opens all images")
    if min(args.num_workers, args.max_headers) < 0:
        cli.error("--num_workers and --max_headers must not be negative")
    if args.positive_dist_threshold is not None and not args.positive_dist_threshold > 0:
        cli.error("--positive_dist_threshold must be above 0")
    return args


def _check_can_be_written(path: Path) -> None:
    """Fail now and not after hours of decoding."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(
            f"--bad_list {show(str(path))} cannot be written: give a file in a folder that exists"
        )


def _write_bad_list(path: Path, images: Iterable[ImageFacts]) -> None:
    """Write the path of every image that cannot be used, one a line."""
    bad = [os.fsencode(file) for facts in images for file, _ in facts.problems]
    with commons.atomic_write(path) as temporary:
        temporary.write_bytes(b"".join(file + b"\n" for file in bad))
    _print(f"{commons.plural(len(bad), 'path')} written to {show(str(path))}")


def _conclude(sections: Sequence[Section], target: str) -> None:
    num_errors, num_warnings = (count_level(sections, level) for level in (ERROR, WARNING))
    verdict = (
        f"{commons.plural(num_errors, 'error')}, "
        f"{commons.plural(num_warnings, 'warning')} in {target}"
    )
    if num_errors:
        raise ValueError(f"{verdict}: training or evaluation would fail, see above")
    _print(verdict)


def _print(text: str) -> None:
    """Log a block of lines in what the console can show."""
    encoding = sys.stdout.encoding or "utf-8"
    logging.info(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


if __name__ == "__main__":
    commons.run_command(main)
