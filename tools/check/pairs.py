"""A database with its queries: which queries can be found at all, and which are given away."""

from dataclasses import dataclass

import numpy as np

from datasets.ground_truth import within_distance
from datasets.image_lists import ImagePaths
from datasets.positions import Utm, join_positions
from tools.check.files import hash_names, make_name_cases
from tools.check.findings import ERROR, FACT, OK, WARNING, Cases, Finding, plural
from tools.check.image_files import ImageFacts
from tools.check.positions import Positions, name_zone

DEFAULT_THRESHOLD_M = 25.0


@dataclass(frozen=True)
class PairFacts:
    """What database and queries are to each other.

    Attributes:
        rule: What makes a database image a positive, in words.
        num_queries: Queries that are asked and, if the rule is a distance, have a position.
        without_positives: Those of them without a positive.
        median_positives: Of the queries that have positives.
        also_in_database: Those of them that have the name of a database image.
        num_same_bytes: Images among the queries, asked or not, that are a database image to the
            last byte, if all was decoded.
        zones_apart: Zones of queries that hold no database image.
        is_named: Whether these are the queries of a named set, which must stay what they are.
    """

    rule: str
    num_queries: int
    without_positives: Cases
    median_positives: float
    also_in_database: Cases
    num_same_bytes: int
    zones_apart: tuple[str, ...] = ()
    is_named: bool = False


def measure_pair(
    database: tuple[ImagePaths, Positions],
    queries: tuple[ImagePaths, Positions],
    threshold_m: float,
    num_same_bytes: int = 0,
) -> PairFacts:
    """Count the positives of every query, and queries that are in the database.

    Args:
        database: Database images with their positions.
        queries: Queries with their positions.
        threshold_m: Largest distance of a positive, metres.
        num_same_bytes: What `count_same_bytes` found.
    """
    num_positives = count_positives(database[1], queries[1], threshold_m)
    names = hash_names(queries[0]), hash_names(database[0])
    in_database = np.flatnonzero(np.isin(*names) & queries[1].is_known)  # 001.jpg proves nothing
    return PairFacts(
        f"within {threshold_m:g} m",
        int((num_positives >= 0).sum()),
        make_name_cases(queries[0], np.flatnonzero(num_positives == 0)),
        find_median(num_positives),
        make_name_cases(queries[0], in_database),
        num_same_bytes,
        tuple(name_zone(zone) for zone in _find_zones_apart(database[1], queries[1])),
    )


def count_positives(database: Positions, queries: Positions, threshold_m: float) -> np.ndarray:
    """Count the database images within a distance of each query, as an evaluation does.

    Args:
        database: Positions of the database.
        queries: Positions of the queries.
        threshold_m: Metres, inclusive.

    Returns:
        -1 for a query without a position. int64 [num_queries].
    """
    num_positives = np.where(queries.is_known, 0, -1)
    known = [side.is_known for side in (database, queries)]
    if not (known[0].any() and known[1].any()):
        return num_positives
    sides = [
        _make_utm(side, is_known) for side, is_known in zip((database, queries), known, strict=True)
    ]
    truth = within_distance(join_positions(*sides), threshold_m)
    num_positives[known[1]] = list(map(len, truth.positives_per_query))
    return num_positives


def find_median(num_positives: np.ndarray) -> float:
    """Return the median of those counts of positives that are above 0; 0 if there is none."""
    found = num_positives[num_positives > 0]
    return float(np.median(found)) if len(found) else 0.0


def count_same_bytes(database: ImageFacts, queries: ImageFacts) -> int:
    """Return how many queries are a database image to the last byte; 0 if not decoded."""
    return int(np.isin(queries.digests, database.digests).sum())


def judge_pair(facts: PairFacts) -> list[Finding]:
    """Say what lowers or raises recalls before any model is at work."""
    return [_judge_positives(facts), *_judge_zones_apart(facts), *_judge_overlap(facts)]


def judge_size_mix(database: ImageFacts, queries: ImageFacts) -> list[Finding]:
    """Say whether database and queries have the same sizes, if these are known."""
    if not database.sizes or not queries.sizes:
        return []
    if database.sizes.keys() == queries.sizes.keys():
        return [Finding(OK, "sizes", "those of the queries are those of the database")]
    mix = Finding(
        WARNING,
        "sizes",
        f"{plural(len(database.sizes), 'size')} in the database, "
        f"{plural(len(queries.sizes), 'size')} among the queries, not the same; "
        "images keep their sizes unless --resize_test_imgs is given",
    )
    return [mix]


def _find_zones_apart(database: Positions, queries: Positions) -> list[int]:
    """Return zones of queries without a database image in them or in a zone beside them."""
    query_zones, database_zones = (
        np.unique(side.zone[side.is_known]) for side in (queries, database)
    )
    if 0 in query_zones or 0 in database_zones:  # images without a zone may be anywhere
        return []
    apart = (abs(query_zones)[:, None] - abs(database_zones)) % 60
    return query_zones[~np.isin(apart, (0, 1, 59)).any(axis=1)].tolist()


def _make_utm(positions: Positions, is_known: np.ndarray) -> Utm:
    zones = positions.zone[is_known]
    letters = np.select([zones < 0, zones > 0], [ord("M"), ord("N")]).astype(np.uint8)
    numbers = np.where(zones == 0, np.nan, abs(zones))
    return Utm(positions.east_m[is_known], positions.north_m[is_known], numbers, letters)


def _judge_positives(facts: PairFacts) -> Finding:
    missing, rule = facts.without_positives, facts.rule
    if not facts.num_queries:
        return Finding(ERROR, "positives", "no query has a position")
    if not missing.num:
        text = f"every query has some {rule}, in the median {facts.median_positives:g}"
        return Finding(OK, "positives", text)
    text = f"{missing.num:,} of {plural(facts.num_queries, 'query')} have none {rule}"
    if missing.num == facts.num_queries:
        remedy = "bring database and queries of one place, in one UTM zone"
        return Finding(ERROR, "positives", text, missing.examples, remedy)
    best = 100 * (1 - missing.num / facts.num_queries)
    text += f": no R@N exceeds {best:.1f}; the others have in the median {facts.median_positives:g}"
    return Finding(WARNING, "positives", text, missing.examples)


def _judge_zones_apart(facts: PairFacts) -> list[Finding]:
    if not facts.zones_apart:
        return []
    zones = ", ".join(facts.zones_apart)
    text = f"there are queries and no database image in {zones}"
    remedy = f"project database and queries into one UTM zone (queries are also in {zones})"
    return [Finding(WARNING, "UTM zones", text, remedy=remedy)]


def _judge_overlap(facts: PairFacts) -> list[Finding]:
    findings, level = [], WARNING
    remedy = "take these queries out of the database: they find themselves"
    if facts.is_named:  # frame 12 of either season may well have one name
        level, remedy = FACT, ""
    if facts.also_in_database.num:
        text = f"{plural(facts.also_in_database.num, 'query')} with the name of a database image:"
        examples = facts.also_in_database.examples
        findings.append(Finding(level, "overlap", text, examples, remedy))
    if facts.num_same_bytes:
        num = plural(facts.num_same_bytes, "image")
        text = f"{num} among the queries with the very bytes of a database image"
        findings.append(Finding(WARNING, "overlap", text, remedy=remedy))
    return findings or [Finding(OK, "overlap", "no query has the name of a database image")]
