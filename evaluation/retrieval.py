"""Find what is nearest to queries in a database; images of both may be unreadable."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from datasets.image_lists import ImagePaths
from evaluation.crops import merge_crops
from evaluation.descriptor_files import DescriptorFiles
from evaluation.descriptors import Extraction, Inference, Model, fill_rows
from evaluation.indexes import EXACT, Index, IndexSpec, build_index, choose_params, describe_index
from evaluation.processes import gather, own_shard
from evaluation.rows import Rows
from evaluation.search import (
    find_neighbors,
    find_neighbors_within,
    measure_agreement,
    merge_neighbors,
    search_index,
)
from evaluation.views import View

Cities = tuple[np.ndarray, np.ndarray]  # of database and queries


@dataclass(frozen=True)
class Extractor:
    """A model, how images go through it, and the files that keep its descriptors."""

    model: Model
    inference: Inference
    files: DescriptorFiles

    def __call__(self, paths: ImagePaths, view: View, label: str) -> Extraction:
        """Return the descriptors of this process's shard of images, loaded or extracted.

        Raises:
            ValueError: If kept descriptors have gaps that were not asked for.
        """

        def fill(rows: Rows) -> None:
            fill_rows(rows, self.model, paths, view, self.inference, label)

        shard = own_shard(len(paths), self.inference.shard_unit)
        extraction = self.files.get(paths, view, fill, shard, self.inference.dtype)
        if extraction.unreadable and not self.inference.skip_unreadable:
            raise ValueError(
                f"{len(extraction.unreadable):,} of {len(paths):,} images of {paths.folder} could "
                "not be read when their descriptors were saved: repair them and extract again "
                "into another folder, or say --skip_unreadable"
            )
        return extraction

    def for_queries(self, paths: ImagePaths, view: View) -> Extraction:
        """Return the descriptors of the readable ones of all queries, as float32, for a search."""
        shard = self(paths, view, "Queries").without_unreadable_rows()
        descriptors = np.concatenate(gather(shard.descriptors)).astype(np.float32, copy=False)
        return replace(shard, descriptors=descriptors, shard=None)


@dataclass(frozen=True)
class Database:
    """A database that is ready to be searched."""

    paths: ImagePaths
    view: View
    extraction: Extraction  # without rows of unreadable images
    asked: IndexSpec  # how they are to be searched
    spec: IndexSpec  # the same, with all parameters
    index: Index | None  # None: exact search among the descriptors

    @property
    def descriptors(self) -> np.ndarray:
        """Descriptors of the readable images of this process. [num_readable, D]."""
        return self.extraction.descriptors

    @property
    def readable_paths(self) -> ImagePaths:
        """The images that have descriptors, in the order of these; for one process."""
        unreadable = self.extraction.unreadable
        return self.paths.subset(self.extraction.readable) if unreadable else self.paths

    def is_of(self, paths: ImagePaths, view: View, asked: IndexSpec) -> bool:
        """Tell whether these are the same images, seen and searched in the same way."""
        same_images = self.paths.folder == paths.folder and len(self.paths) == len(paths)
        return same_images and (self.view, self.asked) == (view, asked)


class Found(NamedTuple):
    """Predictions among all images of the database, for all queries, and how they were found."""

    predictions: np.ndarray  # database indices, nearest first, -1 for none. int64 [num_queries, K]
    distances: np.ndarray  # of the descriptors, L2. float32 [num_queries, K]
    search: str  # in words
    agreement: float | None  # with the exact search, percent; None if it is exact


def prepare_database(
    extractor: Extractor, paths: ImagePaths, view: View, spec: IndexSpec
) -> Database:
    """Extract a database and index it, unless the search is exact."""
    extraction = extractor(paths, view, "Database").without_unreadable_rows()
    if spec == EXACT:
        return Database(paths, view, extraction, spec, spec, None)
    chosen = choose_params(spec, *extraction.descriptors.shape)
    index = build_index(extraction.descriptors, chosen)
    return Database(paths, view, extraction, spec, chosen, index)


def search(
    database: Database,
    queries: Extraction,
    k: int,
    cities: Cities | None = None,
    majority_weight: float = 0.0,
) -> Found:
    """Find the k nearest images of each query, in the shards of all processes.

    Args:
        database: What is searched; the shard of this process.
        queries: One descriptor per query, or one per crop: see `merge_crops`. Without rows of
            unreadable queries.
        k: How many; at most all are returned.
        cities: Of all images; each query is searched in its own city only, always exactly.
        majority_weight: See `merge_crops`.
    """
    asked = queries.descriptors
    flat = asked.reshape(-1, asked.shape[-1])  # one row per crop
    words, agreement, own_cities = describe_index(database.spec), None, None
    if cities is not None:
        words = f"{describe_index(EXACT)}, each query in its own city"
        crops_cities = np.repeat(cities[1][queries.readable], len(flat) // len(asked))
        own_cities = cities[0][database.extraction.readable], crops_cities
    found = _search_shard(database, flat, k, own_cities)
    if database.index is not None:
        agreement = measure_agreement(database.descriptors, flat, found[0])
    predictions, distances = _merge_shards(database.extraction, *found, k)
    if asked.ndim == 3:
        shape = (*asked.shape[:2], -1)
        predictions, distances = merge_crops(
            predictions.reshape(shape), distances.reshape(shape), majority_weight
        )
    return Found(*_number_queries(queries, predictions, distances), words, agreement)


def _search_shard(
    database: Database, queries: np.ndarray, k: int, cities: Cities | None
) -> tuple[np.ndarray, np.ndarray]:
    """Find rows of this process's shard for queries, float32 [num_queries, D]."""
    if not len(database.descriptors):  # more processes than images
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    if cities is not None:
        return find_neighbors_within(database.descriptors, queries, k, *cities)
    if database.index is None:
        return find_neighbors(database.descriptors, queries, k)
    return search_index(database.index, queries, k)


def _merge_shards(
    database: Extraction, predictions: np.ndarray, distances: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Turn rows that each process has found into numbers among all images of the database."""
    if database.unreadable or database.shard is not None:
        predictions = np.where(predictions < 0, -1, database.readable[predictions])
    parts = gather((predictions, distances))
    return parts[0] if len(parts) == 1 else merge_neighbors(*zip(*parts, strict=True), k)


def _number_queries(
    queries: Extraction, predictions: np.ndarray, distances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Turn one line per readable query into one per query."""
    if not queries.unreadable:
        return predictions, distances
    shape = (queries.num_images, predictions.shape[1])
    all_predictions, all_distances = (
        np.full(shape, -1, np.int64),
        np.full(shape, np.inf, np.float32),
    )
    all_predictions[queries.readable] = predictions
    all_distances[queries.readable] = distances
    return all_predictions, all_distances
