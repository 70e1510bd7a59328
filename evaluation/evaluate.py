"""The whole evaluation: a recall never goes without the protocol that it was measured by."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

import commons
from datasets.eval_set import EvalSet
from datasets.image_lists import ImagePaths
from evaluation.confidence import measure_risk
from evaluation.descriptor_files import DescriptorFiles
from evaluation.descriptors import (
    Extraction,
    Inference,
    Model,
    Rows,
    collect_rows,
    extract_rows,
    gather,
)
from evaluation.search import (
    EXACT,
    FP16,
    Index,
    Neighbors,
    build_index,
    check_search,
    describe_search,
    find_neighbors,
    find_neighbors_within,
    measure_agreement,
    merge_neighbors,
)
from evaluation.self_matches import search_others
from evaluation.views import BENCHMARK_SIZE, View
from model.resizing import parse_resize

DEFAULT_MAJORITY_WEIGHT = 0.01  # the benchmark's
_VOTING_RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Protocol:
    """What recalls depend on beside model and data."""

    recall_values: tuple[int, ...] = (1, 5, 10, 20)
    resize: str | None = None  # "none", shorter side "480", "480x640" (HxW); None: the set's own
    test_method: str | None = None  # how queries are resized and cropped; None: as the database
    majority_weight: float = DEFAULT_MAJORITY_WEIGHT  # of the test method maj_voting
    search: str = EXACT  # see evaluation.search
    exclude_self: bool = False  # leave queries that are database images out of their predictions

    def __post_init__(self) -> None:
        """Raise a ValueError if a value has no meaning."""
        if not self.recall_values or min(self.recall_values) < 1:
            raise ValueError(f"--recall_values must be at least 1, they are {self.recall_values}")
        check_search(self.search)
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

    def recall_at(self, n: int) -> float:
        """Return R@N in percent, of at most as many predictions as there are."""
        positives = self.eval_set.truth.positives_per_query
        return float(compute_recalls(self.predictions, positives, (n,))[0])

    @cached_property
    def distances_m(self) -> np.ndarray | None:
        """Metres from queries to predictions. float64 [num_queries, K]; None if not known."""
        positions = self.eval_set.positions
        return None if positions is None else positions.distances_m(self.predictions)

    @cached_property
    def correct(self) -> np.ndarray | None:
        """Whether each prediction is correct. bool [num_queries, K]; None without ground truth."""
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
    save: Callable[["Database"], None] | None = None,
) -> Iterator[Evaluation]:
    """Evaluate sets one after the other; those with the same database share one pass over it.

    Under torchrun, each process extracts and searches a shard of the images; all get the same
    evaluations as one process.

    Args:
        model: Images, ImageNet-normalised float32 [B, 3, H, W], to descriptors [B, D]; in
            evaluation mode.
        eval_sets: Databases and queries.
        protocol: Values of N, resize rule, search.
        inference: Device, batch size and loader processes.
        min_predictions: Predictions per query, at least.
        files: Where descriptors are loaded from and saved to.
        save: Called with each database when it is ready to be searched.

    Yields:
        Evaluations, in the order of the databases; K is the largest N, or `min_predictions`, or
        the size of the database.
    """
    files = files or DescriptorFiles("")
    k = max(*protocol.recall_values, min_predictions)
    weight = protocol.majority_weight if protocol.test_method == "maj_voting" else 0.0
    database = None
    for eval_set in _ordered_by_database(eval_sets):
        view = protocol.database_view(eval_set)
        search = protocol.search if eval_set.cities is None else EXACT
        if database is None or not database.is_of(eval_set.database, view, search):
            database = None  # two databases at once may be too much for the memory
            extraction = _extract(model, eval_set.database, view, inference, files, "Database")
            index = build_index(extraction.descriptors, search, extraction.rows)
            database = Database(eval_set.database, view, extraction, search, index)
            if save is not None:
                save(database)
        queries = _extract_queries(model, eval_set, protocol, inference, files)
        eval_set, num_self, predictions, distances, agreement = search_others(
            partial(_search, database, queries, cities=eval_set.cities, majority_weight=weight),
            eval_set,
            queries.descriptors,
            k,
            search in (EXACT, FP16) and protocol.test_method is None,
            protocol.exclude_self,
        )
        result = _result(eval_set, protocol, database, queries, predictions, distances, agreement)
        result |= {"num_self_queries": num_self, "exclude_self": protocol.exclude_self}
        yield Evaluation(eval_set, result, predictions, distances)


@dataclass(frozen=True)
class Database:
    """A database that is ready to be searched."""

    paths: ImagePaths
    view: View
    extraction: Extraction
    search: str  # as on the command line
    index: Index  # of the shard of this process

    def is_of(self, paths: ImagePaths, view: View, search: str) -> bool:
        """Tell whether these are the same images, with the same view and search."""
        same_images = self.paths.folder == paths.folder and len(self.paths) == len(paths)
        return same_images and (self.view, self.search) == (view, search)


def compute_recalls(
    predictions: np.ndarray,
    positives_per_query: Sequence[np.ndarray],
    recall_values: Sequence[int],
) -> np.ndarray:
    """Compute Recall@N over all queries, in percent.

    A query without positives counts as a miss: published numbers are made that way.

    Args:
        predictions: Database indices, nearest first. int [num_queries, K].
        positives_per_query: Database indices of the positives, one int array a query.
        recall_values: The values of N. Those above K count all K predictions.

    Returns:
        Recalls, 0 to 100. float64 [len(recall_values)].

    Raises:
        ValueError: If the inputs disagree on the number of queries, or there are none.
    """
    if len(predictions) != len(positives_per_query) or not len(predictions):
        raise ValueError(
            f"{len(predictions)} rows of predictions for {len(positives_per_query)} queries"
        )
    hits = np.stack(
        [
            np.isin(row, positives)
            for row, positives in zip(predictions, positives_per_query, strict=True)
        ]
    )  # [num_queries, K]
    num_correct = np.array([hits[:, :n].any(axis=1).sum() for n in recall_values])
    return 100 * num_correct / len(hits)


def count_correct(
    eval_set: EvalSet,
    predictions: np.ndarray,
    distances: np.ndarray,
    recall_values: Sequence[int],
) -> dict[str, Any]:
    """Return `recalls` and `risk_coverage` of results.json; empty and None without ground truth.

    Args:
        eval_set: Database and queries.
        predictions: Database indices, best first, -1 for none. int [num_queries, K].
        distances: Of the descriptors, inf for none. float [num_queries, K].
        recall_values: See `compute_recalls`.
    """
    if eval_set.truth is None:
        return {"recalls": {}, "risk_coverage": None}
    positives = eval_set.truth.positives_per_query
    recalls = compute_recalls(predictions, positives, recall_values)
    first = zip(predictions[:, 0], positives, strict=True)
    correct = np.array([prediction in those for prediction, those in first])
    return {
        "recalls": {
            f"R@{n}": float(recall) for n, recall in zip(recall_values, recalls, strict=True)
        },
        "risk_coverage": measure_risk(distances[:, 0], correct),
    }


def own_shard(num_images: int, unit: int) -> range:
    """Return the images of this process: all of them, if there is no other process.

    Args:
        num_images: Of all processes.
        unit: Shards begin and end with multiples of it, but for the end of the last one.

    Returns:
        A range; an empty one where there are fewer units than processes.
    """
    num_units, num_ranks = -(-num_images // unit), commons.num_ranks()
    first, last = (
        min(-(-num_units * rank // num_ranks) * unit, num_images)
        for rank in (commons.rank(), commons.rank() + 1)
    )
    return range(first, last)


def merge_crops(
    predictions: np.ndarray, distances: np.ndarray, majority_weight: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the predictions of all crops of each query by distance; each image counts once.

    With a weight, predictions that several crops share come nearer first: for n = 1, 5, 10, the
    squared distance of an image that is c > 1 times among the first n of all crops is reduced by
    weight * c / n, there (deep visual geo-localization benchmark, "maj_voting"; 0.01 there).

    Args:
        predictions: Database indices, -1 where there is none. int [num_queries, V, K].
        distances: L2 distances of the descriptors. float [num_queries, V, K].
        majority_weight: 0 merges by distance alone ("nearest_crop").

    Returns:
        Database indices, int64 [num_queries, K], and distances, float32 [num_queries, K]; -1 and
        `inf` after the last one.
    """
    num_queries, _, k = predictions.shape
    merged = np.full((num_queries, k), -1, np.int64)
    merged_distances = np.full((num_queries, k), np.inf, np.float32)
    for query in range(num_queries):
        squared = distances[query].astype(np.float64) ** 2
        if majority_weight:
            for n in _VOTING_RANKS:
                _vote(predictions[query, :, :n], squared[:, :n], majority_weight / n)
        order = np.argsort(squared, axis=None, kind="stable")
        ranked = predictions[query].ravel()[order]
        _, first = np.unique(ranked, return_index=True)
        first = np.sort(first[ranked[first] >= 0])[:k]
        merged[query, : len(first)] = ranked[first]
        nearest = squared.ravel()[order[first]]
        merged_distances[query, : len(first)] = np.sqrt(np.maximum(nearest, 0))
    return merged, merged_distances


def _vote(predictions: np.ndarray, squared_distances: np.ndarray, weight: float) -> None:
    """Reduce, in place, the distances of images that are predicted more than once."""
    _, place, counts = np.unique(predictions, return_inverse=True, return_counts=True)
    times = counts[place].reshape(predictions.shape)
    squared_distances -= np.where(times > 1, weight * times, 0)


def _ordered_by_database(eval_sets: Sequence[EvalSet]) -> list[EvalSet]:
    """Bring sets with the same database together, in the order in which these come first."""
    folders = [eval_set.database.folder for eval_set in eval_sets]
    return sorted(eval_sets, key=lambda eval_set: folders.index(eval_set.database.folder))


def extract_shard(
    model: Model, paths: ImagePaths, view: View, inference: Inference, label: str
) -> Extraction:
    """Return the descriptors of this process's shard of images; all processes must call it."""
    shard = own_shard(len(paths), inference.window_size)
    done = np.zeros(len(shard), bool)
    rows = extract_rows(model, paths, shard, done, view, inference, label)
    return collect_rows(rows, paths, shard, inference.dtype)


def _extract(
    model: Model,
    paths: ImagePaths,
    view: View,
    inference: Inference,
    files: DescriptorFiles,
    label: str,
) -> Extraction:
    """Return the descriptors of this process's shard of images, loaded or extracted.

    Raises:
        ValueError: If saved descriptors lack unreadable images, which are not to be skipped.
    """
    shard = own_shard(len(paths), inference.window_size)

    def extract(done: np.ndarray) -> Generator[Rows, None, None]:
        return extract_rows(model, paths, shard, done, view, inference, label)

    extraction = files.get(paths, view, extract, shard, inference.dtype)
    if extraction.unreadable and not inference.skip_unreadable:
        raise ValueError(
            f"{len(extraction.unreadable):,} of {len(paths):,} images of {paths.folder} could "
            "not be read when their descriptors were saved: repair them and extract again "
            "into another folder, or say --skip_unreadable"
        )
    return extraction


def _extract_queries(
    model: Model,
    eval_set: EvalSet,
    protocol: Protocol,
    inference: Inference,
    files: DescriptorFiles,
) -> Extraction:
    """Return the descriptors of all queries, as float32."""
    view = protocol.queries_view(eval_set)
    shard = _extract(model, eval_set.queries, view, inference, files, "Queries")
    descriptors = np.concatenate(gather(shard.descriptors)).astype(np.float32, copy=False)
    return replace(shard, descriptors=descriptors, first=0)


def _search(
    database: Database,
    queries: Extraction,
    k: int,
    cities: tuple[np.ndarray, np.ndarray] | None,
    majority_weight: float,
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Find the k nearest images of each query, in the shards of all processes.

    Args:
        database: The shard of this process.
        queries: One descriptor per query, or one per crop, see `merge_crops`.
        k: At most the size of the database is returned.
        cities: Of all images; each query is searched in its own city only, always exactly.
        majority_weight: See `merge_crops`.

    Returns:
        Database indices, int64 [num_queries, K], and distances, float32 [num_queries, K], as
        `find_neighbors`; and how many of the exact neighbours were found, percent, None if exact.
    """
    readable = queries.readable
    asked = queries.descriptors[readable]
    flat = asked.reshape(-1, asked.shape[-1])  # one row per crop
    if cities is not None:
        cities = cities[0], np.repeat(cities[1][readable], len(flat) // len(asked))
    extraction, agreement = database.extraction, None
    found, found_distances = _search_shards(extraction, database.index, flat, k, cities)
    if database.search != EXACT:
        agreement = measure_agreement(
            found,
            lambda rows, k: _search_shards(extraction, extraction.descriptors, flat[rows], k)[0],
        )
    if asked.ndim == 3:
        shape = (*asked.shape[:2], -1)
        found, found_distances = merge_crops(
            found.reshape(shape), found_distances.reshape(shape), majority_weight
        )
    predictions = np.full((queries.num_images, found.shape[1]), -1, np.int64)
    distances = np.full(predictions.shape, np.inf, np.float32)
    predictions[readable], distances[readable] = found, found_distances
    return predictions, distances, agreement


def _search_shards(
    extraction: Extraction,
    index: Index,
    queries: np.ndarray,
    k: int,
    cities: tuple[np.ndarray, np.ndarray] | None = None,
) -> Neighbors:
    """Find rows of the shards of all processes for queries, float32 [num_queries, D]."""
    num_here, rows = len(extraction.descriptors), extraction.rows
    if (num_here if rows is None else len(rows)) == 0:  # more processes than readable images
        found = np.empty((len(queries), 0), np.int64)
        distances = np.empty((len(queries), 0), np.float32)
    elif cities is None:
        found, distances = find_neighbors(index, queries, k, rows)
    else:
        here = cities[0][extraction.first : extraction.first + num_here]
        if rows is not None:
            here = np.where(np.isin(np.arange(num_here), rows), here, -1)  # others have no city
        found, distances = find_neighbors_within(
            extraction.descriptors, queries, k, here, cities[1]
        )
    parts = gather((np.where(found < 0, -1, found + extraction.first), distances))
    return parts[0] if len(parts) == 1 else merge_neighbors(*zip(*parts, strict=True), k)


def _result(
    eval_set: EvalSet,
    protocol: Protocol,
    database: Database,
    queries: Extraction,
    predictions: np.ndarray,
    distances: np.ndarray,
    agreement: float | None,
) -> dict[str, Any]:
    """Return recalls and everything that they depend on, as plain values."""
    truth = eval_set.truth
    dim = database.extraction.descriptors.shape[1]
    num_searched = len(eval_set.database) - len(database.extraction.unreadable)
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
        **count_correct(eval_set, predictions, distances, protocol.recall_values),
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
        "descriptor_dim": dim,
        "orientation": "upright by EXIF",
        "search": describe_search(database.search, num_searched, dim)
        + ("" if eval_set.cities is None else ", each query in its own city"),
        "search_agreement": agreement,
        "notes": list(eval_set.notes),
    }
