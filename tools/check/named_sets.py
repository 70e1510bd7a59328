"""A test set with a name: what its own protocol makes of its database and its queries."""

import os

import numpy as np

from datasets.catalog import TEST_SETS, describe_counts
from datasets.eval_set import EvalSet, Labels, load_test_set
from tools.check.files import hash_names, judge_expected, make_name_cases
from tools.check.findings import ERROR, FACT, Finding, plural, show
from tools.check.pairs import PairFacts, find_median, judge_pair


def judge_named_set(
    name: str,
    datasets_folder: str | os.PathLike,
    threshold_m: float | None = None,
    num_same_bytes: int = 0,
) -> list[Finding]:
    """Load a set as an evaluation does, and say which queries it asks and which can be found.

    Args:
        name: Key of TEST_SETS.
        datasets_folder: Where sets are looked for by name.
        threshold_m: Largest distance of a positive, metres; None is that of the set.
        num_same_bytes: What `count_same_bytes` found.
    """
    try:
        eval_set = load_test_set(name, datasets_folder, labels=Labels(threshold_m))
    except (ValueError, OSError) as error:
        text, *details = map(show, str(error).split("\n"))
        remedy = f"mend what keeps {name} from being evaluated: {text}"
        return [Finding(ERROR, "protocol", text, tuple(details), remedy)]
    num_queries, test_set = len(eval_set.queries), TEST_SETS[name]
    count = judge_expected(num_queries, test_set.num_queries, "query")
    told = describe_counts(test_set, len(eval_set.database), num_queries)
    return [
        Finding(FACT, "protocol", f"{eval_set.protocol}: {plural(num_queries, 'query')}"),
        *([] if count is None else [count]),
        *(Finding(FACT, "note", show(note)) for note in eval_set.notes if note not in told),
        *judge_pair(measure_eval_set(eval_set, num_same_bytes)),
    ]


def measure_eval_set(eval_set: EvalSet, num_same_bytes: int = 0) -> PairFacts:
    """Count the positives that the ground truth of a set gives to each query that is asked.

    Args:
        eval_set: A set with ground truth.
        num_same_bytes: What `count_same_bytes` found.
    """
    database, queries, truth = eval_set.database, eval_set.queries, eval_set.truth
    num_positives = np.array([len(positives) for positives in truth.positives_per_query])
    in_database = np.isin(hash_names(queries), hash_names(database))
    return PairFacts(
        truth.rule if truth.threshold_m is None else f"within {truth.threshold_m:g} m",
        len(queries),
        make_name_cases(queries, np.flatnonzero(num_positives == 0)),
        find_median(num_positives),
        make_name_cases(queries, np.flatnonzero(in_database)),
        num_same_bytes,
        is_named=True,
    )
