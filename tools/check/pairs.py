"""A database with its queries: queries without positives, and queries that are in the database."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from commons import plural
from datasets.catalog import TEST_SETS, describe_counts
from datasets.eval_set import Labels, load_test_set
from datasets.ground_truth import within_distance
from datasets.image_lists import ImagePaths
from datasets.positions import Utm, join_positions
from tools.check.files import hash_lines, judge_count
from tools.check.findings import (
    ERROR,
    FACT,
    OK,
    WARNING,
    Finding,
    Section,
    show,
    show_names,
)
from tools.check.image_files import ImageFacts

DEFAULT_THRESHOLD_M = 25.0


@dataclass(frozen=True)
class CheckedFolder:
    """A folder of images with what other checks need of it."""

    paths: ImagePaths
    positions: Utm | None  # None if there are no images
    images: ImageFacts
    section: Section


def check_pair(
    database: CheckedFolder, queries: CheckedFolder, threshold_m: float
) -> list[Finding]:
    """Find the positives of every query that has a position, as an evaluation does.

    Args:
        database: A folder with images.
        queries: Another one.
        threshold_m: Largest distance of a positive, metres.
    """
    has_position = [folder.positions.is_known for folder in (database, queries)]
    if not has_position[1].any():
        return [Finding(ERROR, "positives", "no query has a position")]
    try:
        positions = join_positions(
            database.positions.subset(has_position[0]), queries.positions.subset(has_position[1])
        )
    except ValueError as error:
        return [Finding(ERROR, "UTM zones", str(error))]
    positives = within_distance(positions, threshold_m).positives_per_query
    known_queries = queries.paths.subset(np.flatnonzero(has_position[1]))
    return [
        _judge_positives(known_queries, positives, f"within {threshold_m:g} m"),
        *(Finding(FACT, "note", note) for note in positions.notes),
        *_judge_overlap(database, queries, known_queries, is_named=False),
    ]


def check_named_set(
    name: str,
    datasets_folder: str | os.PathLike,
    database: CheckedFolder,
    queries: CheckedFolder,
    threshold_m: float | None = None,
) -> list[Finding]:
    """Check a set by its own protocol, which chooses the queries and their positives.

    Args:
        name: Key of TEST_SETS.
        datasets_folder: Holds the data sets.
        database: The folder of its database; it has images.
        queries: The folder of its queries; it has images.
        threshold_m: Largest distance of a positive, metres; None is that of the set.
    """
    try:
        eval_set = load_test_set(name, datasets_folder, Labels(threshold_m))
    except (ValueError, OSError) as error:
        text, *details = map(show, str(error).split("\n"))
        remedy = f"mend what keeps {name} from being evaluated: {text}"
        return [Finding(ERROR, "protocol", text, tuple(details), remedy)]
    num_queries, test_set, truth = len(eval_set.queries), TEST_SETS[name], eval_set.truth
    counts = describe_counts(test_set, len(eval_set.database), num_queries)  # reported by folder
    rule = truth.rule if truth.threshold_m is None else f"within {truth.threshold_m:g} m"
    return [
        Finding(FACT, "protocol", f"{eval_set.protocol}: {plural(num_queries, 'query')}"),
        *judge_count(num_queries, test_set.num_queries, "query"),
        *(Finding(FACT, "note", show(note)) for note in eval_set.notes if note not in counts),
        _judge_positives(eval_set.queries, truth.positives_per_query, rule),
        *_judge_overlap(database, queries, eval_set.queries, is_named=True),
    ]


def judge_size_mix(database: ImageFacts, queries: ImageFacts) -> list[Finding]:
    """Say whether database and queries have the same sizes, if these are known."""
    if not database.sizes or not queries.sizes:
        return []
    if database.sizes.keys() == queries.sizes.keys():
        return [Finding(OK, "sizes", "those of the queries are those of the database")]
    text = (
        f"{plural(len(database.sizes), 'size')} in the database, "
        f"{plural(len(queries.sizes), 'size')} among the queries, not the same: images "
        "keep their sizes unless --resize_test_imgs is given"
    )
    return [Finding(WARNING, "sizes", text)]


def _judge_positives(
    queries: ImagePaths, positives_per_query: Sequence[np.ndarray], rule: str
) -> Finding:
    num_positives = np.array([len(positives) for positives in positives_per_query])
    without = np.flatnonzero(num_positives == 0)
    examples = show_names(queries, without)
    text = f"{len(without):,} of {plural(len(queries), 'query')} have none {rule}"
    if len(without) == len(queries):
        remedy = "bring database and queries of one place, in one UTM zone"
        return Finding(ERROR, "positives", text, examples, remedy)
    median = np.median(num_positives[num_positives > 0])
    if not len(without):
        return Finding(OK, "positives", f"every query has some {rule}, in the median {median:g}")
    best = 100 * (1 - len(without) / len(queries))
    text += f": no R@N exceeds {best:.1f}; the others have in the median {median:g}"
    return Finding(WARNING, "positives", text, examples)


def _judge_overlap(
    database: CheckedFolder, queries: CheckedFolder, asked: ImagePaths, is_named: bool
) -> list[Finding]:
    """Find queries that are in the database.

    Args:
        database: The folder of the database.
        queries: The folder of all queries.
        asked: Those that are evaluated.
        is_named: Whether the set is a published one, which must not be changed.
    """
    findings, level = [], WARNING
    remedy = "take these queries out of the database: they find themselves"
    if is_named:  # frame 12 of either season may well have one name
        level, remedy = FACT, ""
    names = (hash_lines(paths, without_folders=True) for paths in (asked, database.paths))
    if len(same := np.flatnonzero(np.isin(*names))):
        text = f"{plural(len(same), 'query')} with the name of a database image:"
        findings.append(Finding(level, "overlap", text, show_names(asked, same), remedy))
    if num := int(np.isin(queries.images.digests, database.images.digests).sum()):
        text = f"{plural(num, 'image')} among the queries with the bytes of a database image"
        findings.append(Finding(WARNING, "overlap", text, remedy=remedy))
    return findings or [Finding(OK, "overlap", "no query has the name of a database image")]
