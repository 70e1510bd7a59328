"""The whole evaluation: a recall never goes without the protocol that it was measured by."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from datasets.eval_set import EvalSet
from evaluation.descriptor_files import DescriptorFiles
from evaluation.descriptors import Extraction, Inference, Model
from evaluation.indexes import EXACT, IndexSpec
from evaluation.recall import compute_recalls
from evaluation.retrieval import Database, Extractor, Found, prepare_database, search
from evaluation.views import BENCHMARK_SIZE, View, parse_resize

DEFAULT_MAJORITY_WEIGHT = 0.01  # the benchmark's


@dataclass(frozen=True)
class Protocol:
    """What decides the recalls beside model and data."""

    recall_values: tuple[int, ...] = (1, 5, 10, 20)
    resize: str | None = None  # "none", shorter side "480", "480x640" (HxW); None: the set's own
    test_method: str | None = None  # how queries are looked at; None: as the database
    majority_weight: float = DEFAULT_MAJORITY_WEIGHT  # of the test method maj_voting
    index: IndexSpec = EXACT

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.recall_values or min(self.recall_values) < 1:
            raise ValueError(f"--recall_values must be at least 1, they are {self.recall_values}")
        if self.resize is not None:
            parse_resize(self.resize)
        if self.test_method is not None:
            View(self.resize or BENCHMARK_SIZE, self.test_method)

    def database_view(self, eval_set: EvalSet) -> View:
        """Return what the model sees of database images."""
        default = eval_set.resize if self.test_method is None else BENCHMARK_SIZE
        return View(self.resize or default)

    def queries_view(self, eval_set: EvalSet) -> View:
        """Return what the model sees of queries."""
        return View(self.database_view(eval_set).resize, self.test_method)


@dataclass(frozen=True)
class Evaluation:
    """Recalls with their protocol, and the predictions that they were counted on."""

    eval_set: EvalSet
    result: dict[str, Any]  # plain values, for results.json
    predictions: np.ndarray  # database indices, nearest first, -1 for none. int64 [num_queries, K]
    distances: np.ndarray  # of the predicted descriptors, L2. float32 [num_queries, K]

    @property
    def recall_at_1(self) -> float:
        """R@1 in percent."""
        positives = self.eval_set.truth.positives_per_query
        return float(compute_recalls(self.predictions, positives, (1,))[0])

    @cached_property
    def distances_m(self) -> np.ndarray | None:
        """Metres from queries to predictions. float64 [num_queries, K]; None if not known."""
        positions = self.eval_set.positions
        return None if positions is None else positions.distances_m(self.predictions)

    @cached_property
    def correct(self) -> np.ndarray | None:
        """Whether each prediction is right. bool [num_queries, K]; None without ground truth."""
        truth = self.eval_set.truth
        if truth is None:
            return None
        rows = zip(self.predictions, truth.positives_per_query, strict=True)
        return np.stack([np.isin(predictions, positives) for predictions, positives in rows])


def evaluate(
    model: Model,
    eval_set: EvalSet,
    protocol: Protocol,
    inference: Inference,
    min_predictions: int = 1,
) -> Evaluation:
    """Search the database of one set for each query and count recalls; see `evaluate_all`."""
    return next(evaluate_all(model, [eval_set], protocol, inference, min_predictions))


def evaluate_all(
    model: Model,
    eval_sets: Sequence[EvalSet],
    protocol: Protocol,
    inference: Inference,
    min_predictions: int = 1,
    files: DescriptorFiles | None = None,
    keep: Callable[[Database], None] | None = None,
) -> Iterator[Evaluation]:
    """Evaluate sets one after the other; those with the same database share one pass over it.

    Under torchrun, each process describes and searches a shard of the images; all get the same
    evaluations, to the last bit those of one process.

    Args:
        model: Images, ImageNet-normalised float32 [B, 3, H, W], to descriptors [B, D]; in
            evaluation mode.
        eval_sets: Databases and queries.
        protocol: Values of N, resize rule, search.
        inference: Device, batch size and loader processes.
        min_predictions: Keep at least so many predictions per query.
        files: Where descriptors are loaded from and saved to.
        keep: Called with each database when it is ready to be searched.

    Yields:
        Evaluations, in the order of the databases; K is the largest N, or `min_predictions`, or
        the size of the database.
    """
    extract = Extractor(model, inference, files or DescriptorFiles(""))
    k = max(*protocol.recall_values, min_predictions)
    weight = protocol.majority_weight if protocol.test_method == "maj_voting" else 0.0
    database = None
    for eval_set in _ordered_by_database(eval_sets):
        view = protocol.database_view(eval_set)
        index = protocol.index if eval_set.cities is None else EXACT
        if database is None or not database.is_of(eval_set.database, view, index):
            database = None  # two databases at once may be too much for the memory
            database = prepare_database(extract, eval_set.database, view, index)
            if keep is not None:
                keep(database)
        queries = extract.for_queries(eval_set.queries, protocol.queries_view(eval_set))
        found = search(database, queries, k, eval_set.cities, weight)
        result = _describe(eval_set, protocol, database, queries, found)
        yield Evaluation(eval_set, result, found.predictions, found.distances)


def _ordered_by_database(eval_sets: Sequence[EvalSet]) -> list[EvalSet]:
    """Bring sets with the same database together, in the order in which these come first."""
    folders = [eval_set.database.folder for eval_set in eval_sets]
    return sorted(eval_sets, key=lambda eval_set: folders.index(eval_set.database.folder))


def _describe(
    eval_set: EvalSet,
    protocol: Protocol,
    database: Database,
    queries: Extraction,
    found: Found,
) -> dict[str, Any]:
    """Return recalls and everything that they depend on, as plain values."""
    truth = eval_set.truth
    recalls = {}
    if truth is not None:
        values = compute_recalls(
            found.predictions, truth.positives_per_query, protocol.recall_values
        )
        recalls = {
            f"R@{n}": float(recall)
            for n, recall in zip(protocol.recall_values, values, strict=True)
        }
    unreadable = {
        "database": len(database.extraction.unreadable),
        "queries": len(queries.unreadable),
    }
    return {
        "dataset": eval_set.name,
        "protocol": eval_set.protocol,
        "paper_column": eval_set.paper_column,
        "database_folder": str(eval_set.database.folder),
        "queries_folder": str(eval_set.queries.folder),
        "recalls": recalls,
        "num_queries": len(eval_set.queries),
        "num_database": len(eval_set.database),
        "num_queries_without_positives": truth and int((~truth.has_positives).sum()),
        "positives": truth and truth.rule,
        "threshold_m": truth and truth.threshold_m,
        "denominator": eval_set.denominator,
        "resize": database.view.resize,
        "test_method": protocol.test_method or "as the database",
        "image_sizes": {
            "database": database.extraction.image_sizes,
            "queries": queries.image_sizes,
        },
        "num_unreadable": unreadable,
        "descriptor_dim": database.descriptors.shape[1],
        "orientation": "upright by EXIF",
        "search": found.search,
        "search_agreement": found.agreement,
        "notes": list(eval_set.notes),
    }
