"""Look at a data set before training or evaluating on it.

python -m tools.check sf_xl_test_v1          a data set by name
python -m tools.check FOLDER                 database/ and queries/, train/ val/ test/, or images
python -m tools.check FOLDER --decode --bad_list bad.txt       decode every image
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import commons
from datasets.catalog import TEST_SETS, TRAIN_SETS
from datasets.image_lists import ImagePaths
from datasets.partition import PartitionParams
from parser import not_negative_int, positive_float
from tools.check.classes import judge_classes, measure_classes
from tools.check.files import judge_files, measure_files
from tools.check.findings import (
    ERROR,
    WARNING,
    Section,
    count_level,
    format_remedies,
    format_section,
    plural,
    show,
)
from tools.check.image_files import ImageFacts, choose_sample, measure_images
from tools.check.image_findings import judge_images
from tools.check.layout import TRAIN, Pair, Part, find_layout
from tools.check.name_findings import judge_names
from tools.check.named_sets import judge_named_set
from tools.check.names import NameFacts, measure_names
from tools.check.pairs import (
    DEFAULT_THRESHOLD_M,
    count_same_bytes,
    judge_pair,
    judge_size_mix,
    measure_pair,
)
from tools.check.walk import judge_walk


@dataclass(frozen=True)
class Looking:
    """How to look at the images of a folder."""

    max_images: int | None  # open so many, evenly spread; None is all
    decode: bool  # decode them whole, not only their headers
    num_workers: int


@dataclass(frozen=True)
class CheckedPart:
    """What is known of one folder."""

    label: str
    paths: ImagePaths
    names: NameFacts | None  # None if there are no images
    images: ImageFacts
    section: Section


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
    looking = Looking(max_images, args.decode, args.num_workers)
    layout = find_layout(args.target, args.datasets_folder)
    sections = []
    if layout.findings:
        sections.append(Section(show(args.target), "the folders", layout.findings))
        _print(format_section(sections[-1]))
    checked: dict[Path, CheckedPart] = {}
    for part in layout.parts:
        checked[part.folder] = check_part(part, params, looking)
        sections.append(checked[part.folder].section)
        _print(format_section(sections[-1]))
    for section in _check_pairs(
        layout.pairs, checked, args.datasets_folder, args.positive_dist_threshold
    ):
        sections.append(section)
        _print(format_section(section))
    _print(format_remedies(sections))
    if args.bad_list:
        _write_bad_list(Path(args.bad_list), [part.images for part in checked.values()])
    _conclude(sections, show(args.target))


def check_part(part: Part, params: PartitionParams, looking: Looking) -> CheckedPart:
    """Check one folder: its files, their names, the images, and for training the classes.

    Args:
        part: The folder and what it is for.
        params: How training would form classes and groups.
        looking: How many images to open, and how.
    """
    files = measure_files(part.folder)
    num_images, needs_headings = len(files.paths), part.role == TRAIN
    findings = [*judge_files(files, part.num_expected), *judge_walk(files.walk)]
    names = measure_names(files.paths) if num_images else None
    if names is not None:
        findings += judge_names(names, num_images, needs_headings)
    images = measure_images(
        files.paths,
        choose_sample(files.is_missing, looking.max_images),
        looking.decode,
        looking.num_workers,
        part.label,
    )
    findings += judge_images(images, int((~files.is_missing).sum()))
    if names is not None and needs_headings:
        columns = names.positions.east_m, names.positions.north_m, names.heading_deg
        findings += judge_classes(measure_classes(*columns, params))
    title = f"{part.role} in {show(str(part.folder))}"
    return CheckedPart(
        part.label, files.paths, names, images, Section(part.label, title, tuple(findings))
    )


def check_pair(database: CheckedPart, queries: CheckedPart, threshold_m: float) -> Section:
    """Check which queries can be found in a database.

    Args:
        database: What is known of the database; it has images.
        queries: What is known of the queries; there are some.
        threshold_m: Largest distance of a positive, metres.
    """
    facts = measure_pair(
        (database.paths, database.names.positions),
        (queries.paths, queries.names.positions),
        threshold_m,
        count_same_bytes(database.images, queries.images),
    )
    findings = judge_pair(facts) + judge_size_mix(database.images, queries.images)
    return Section(queries.label, f"searched in {database.label}", tuple(findings))


def check_named_set(
    name: str,
    datasets_folder: str,
    database: CheckedPart,
    queries: CheckedPart,
    threshold_m: float | None = None,
) -> Section:
    """Check a set by its own protocol: which of its queries are asked, and what is right for each.

    Args:
        name: Key of TEST_SETS.
        datasets_folder: Where sets are looked for by name.
        database: What is known of its database; it has images.
        queries: What is known of its queries; there are some.
        threshold_m: Largest distance of a positive, metres; None is that of the set.
    """
    num_same_bytes = count_same_bytes(database.images, queries.images)
    findings = judge_named_set(name, datasets_folder, threshold_m, num_same_bytes)
    findings += judge_size_mix(database.images, queries.images)
    return Section(queries.label, f"searched in {database.label}", tuple(findings))


def _check_pairs(
    pairs: Iterable[Pair],
    checked: Mapping[Path, CheckedPart],
    datasets_folder: str,
    threshold_m: float | None,
) -> Iterator[Section]:
    """Check the pairs whose folders both hold images, those of named sets by their protocols."""
    for pair in pairs:
        database, queries = checked[pair.database.folder], checked[pair.queries.folder]
        if database.names is None or queries.names is None:
            continue
        if pair.set_name is None:
            yield check_pair(database, queries, threshold_m or DEFAULT_THRESHOLD_M)
        else:
            yield check_named_set(pair.set_name, datasets_folder, database, queries, threshold_m)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = argparse.ArgumentParser(
        prog="python -m tools.check",
        description="Look at a data set before training or evaluating on it; no GPU is needed and "
        "nothing is changed. The exit code is 1 if training or evaluation would fail.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = cli.add_argument
    add(
        "target",
        metavar="FOLDER|NAME",
        help="a folder with database/ and queries/, with train/ val/ test/, or with images to "
        f"train on; or one of {', '.join([*TRAIN_SETS, *TEST_SETS])} (./NAME is a folder)",
    )
    add(
        "--datasets_folder",
        default=os.environ.get("DATASETS_FOLDER", "data"),
        help="where data sets are looked for by name; also the variable DATASETS_FOLDER",
    )
    add("--decode", action="store_true", help="decode every image, and find copies")
    add("--bad_list", metavar="FILE", help="with --decode: write the images that cannot be read")
    add(
        "--max_headers",
        type=not_negative_int,
        default=10_000,
        help="read the sizes of so many images of a folder; all of them with --decode",
    )
    workers = min(8, os.cpu_count() or 1)
    add("--num_workers", type=not_negative_int, default=workers, help="processes that decode")
    add(
        "--positive_dist_threshold",
        type=positive_float,
        help="largest distance of a positive, in metres, instead of the data set's (25)",
    )
    group = cli.add_argument_group("classes and groups of training folders, as of train.py")
    for name, value in vars(PartitionParams()).items():
        group.add_argument(f"--{name}", type=int, default=value, help="as of train.py")
    args = cli.parse_args(argv)
    if args.bad_list and not args.decode:
        cli.error("--bad_list goes with --decode, which looks at all images")
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
    _print(f"{plural(len(bad), 'path')} written to {show(str(path))}")


def _conclude(sections: Sequence[Section], target: str) -> None:
    num_errors, num_warnings = (count_level(sections, level) for level in (ERROR, WARNING))
    verdict = f"{plural(num_errors, 'error')}, {plural(num_warnings, 'warning')} in {target}"
    if num_errors:
        raise ValueError(f"{verdict}: training or evaluation would fail, see above")
    _print(verdict)


def _print(text: str) -> None:
    """Log a block of lines in what the console can show."""
    encoding = sys.stdout.encoding or "utf-8"
    logging.info(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


if __name__ == "__main__":
    commons.run_command(main)
