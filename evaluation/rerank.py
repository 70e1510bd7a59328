"""Re-rank the top predictions by comparing the images themselves: a geometric check.

sift               SIFT features, matched one to one; the score is the number of matches that agree
                   on one homography, found by RANSAC. Needs OpenCV
MODULE:FUNCTION    any function of a query and a database image that returns a score; it runs the
                   code of that module

Images are RGB, upright, uint8 [H, W, 3], of their own size. Higher scores come first; equal ones
stay in the order of the descriptors, as do predictions beyond the top K.
"""

import importlib
import importlib.util
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

import commons
from datasets.images import load_image
from evaluation.descriptors import gather
from evaluation.evaluate import Evaluation, count_correct, own_shard

DEFAULT_K = 20
_SIFT_SIDE, _SIFT_FEATURES = 640, 1000  # pixels, of the longer side; the strongest ones
_RATIO, _RANSAC_PX, _MIN_MATCHES = 0.8, 5.0, 4  # Lowe's ratio; a homography has 4 points


@dataclass(frozen=True)
class Reranker:
    """A matcher, and how many predictions of each query it compares."""

    name: str  # as on the command line
    match: Callable[[np.ndarray, np.ndarray], float]
    k: int
    io_retries: int = 0  # of reading images

    def describe(self) -> dict[str, Any]:
        """Return what results.json says of it."""
        return {"matcher": self.name, "k": self.k}


def open_reranker(name: str | None, k: int | None, io_retries: int = 0) -> Reranker | None:
    """Load a matcher; None if none is asked for.

    Args:
        name: "sift" or "MODULE:FUNCTION", see the top of this file.
        k: Predictions of a query that are compared; None: DEFAULT_K.
        io_retries: See `load_image`.

    Raises:
        ValueError: If there is no such matcher, or it needs what is not installed.
    """
    if name is None:
        return None
    return Reranker(name, load_matcher(name), k or DEFAULT_K, io_retries)


def load_matcher(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return a matcher by name; modules are also looked for in the current folder."""
    if name == "sift":
        return SiftMatcher()
    module, _, function = name.partition(":")
    if not module or not function.isidentifier():
        raise ValueError(f"--rerank {name}: give sift, or MODULE:FUNCTION")
    logging.info(f"{name} is code of others, which runs with your rights: only use what you trust")
    sys.path.append(os.getcwd())  # after our own modules, which keep their names
    try:
        matcher = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # of code that is not ours
        raise ValueError(
            f"--rerank {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.pop()
    if not callable(matcher):
        raise ValueError(f"--rerank {name} is no function of a query and a database image")
    return matcher


def rerank_all(
    evaluations: Iterable[Evaluation], reranker: Reranker | None
) -> Iterator[Evaluation]:
    """Re-rank evaluations one after the other; without a re-ranker they stay as they are.

    All processes must call it. Results say the recalls before and the seconds a query.
    """
    for evaluation in evaluations:
        yield evaluation if reranker is None else rerank_evaluation(evaluation, reranker)


def rerank_evaluation(evaluation: Evaluation, reranker: Reranker) -> Evaluation:
    """Re-rank the predictions of an evaluation and count its recalls anew."""
    eval_set, result = evaluation.eval_set, evaluation.result
    predictions, distances, seconds = rerank(
        reranker,
        eval_set.queries,
        eval_set.database,
        evaluation.predictions,
        evaluation.distances,
    )
    values = [int(name.removeprefix("R@")) for name in result["recalls"]]
    counted = count_correct(eval_set, predictions, distances, values)
    facts = reranker.describe() | {
        "recalls_before": result["recalls"],
        "risk_coverage_before": result["risk_coverage"],
        "seconds_per_query": round(seconds, 4),
    }
    result = result | counted | {"rerank": facts}
    return replace(evaluation, result=result, predictions=predictions, distances=distances)


def rerank(
    reranker: Reranker,
    queries: Sequence[str],
    database: Sequence[str],
    predictions: np.ndarray,
    distances: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Order the first K predictions of each query by their scores, highest first.

    Under torchrun each process compares a shard of the queries; all must call it.

    Args:
        reranker: Compares images.
        queries: Paths.
        database: Paths.
        predictions: Database indices, nearest descriptor first; -1 is none. int [num_queries, N].
        distances: Of the descriptors. float [num_queries, N].

    Returns:
        Predictions and distances, in their new order, and the mean seconds of a query.

    Raises:
        FileNotFoundError: If an image is gone.
        ValueError: If an image cannot be read, or the matcher fails or returns no number.
    """
    runs = "" if reranker.name == "sift" else ", which runs the code of that module"
    logging.info(f"Re-ranking the top-{reranker.k} by {reranker.name}{runs}")
    shard, start_s = own_shard(len(queries), 1), time.monotonic()
    orders = np.tile(np.arange(predictions.shape[1]), (len(shard), 1))
    progress = tqdm(shard, f"Re-ranking by {reranker.name}", disable=commons.rank() > 0)
    for order, query in zip(orders, progress, strict=True):
        candidates = predictions[query, : reranker.k]
        candidates = candidates[candidates >= 0]  # all come before those that are none
        if len(candidates) > 1:
            paths = [database[index] for index in candidates]
            order[: len(paths)] = np.argsort(
                -_score(reranker, queries[query], paths), kind="stable"
            )
    parts = gather((orders, time.monotonic() - start_s))
    order = np.concatenate([part[0] for part in parts])
    seconds = sum(part[1] for part in parts) / max(len(queries), 1)
    return (
        np.take_along_axis(predictions, order, axis=1),
        np.take_along_axis(distances, order, axis=1),
        seconds,
    )


def _score(reranker: Reranker, query: str, candidates: Sequence[str]) -> np.ndarray:
    """Return the score of each candidate of a query. float64 [len(candidates)]."""
    image, scores = _read(query, reranker), []
    for path in candidates:
        other = _read(path, reranker)
        try:
            scores.append(float(reranker.match(image, other)))
        except Exception as error:  # of code that may not be ours
            raise ValueError(
                f"--rerank {reranker.name} fails on {query} and {path}: {type(error).__name__}: "
                f"{error}"
            ) from error
        if math.isnan(scores[-1]):
            raise ValueError(
                f"--rerank {reranker.name} returns NaN for {query} and {path}, not a score"
            )
    return np.array(scores)


def _read(path: str, reranker: Reranker) -> np.ndarray:
    return np.ascontiguousarray(load_image(path, reranker.io_retries).permute(1, 2, 0).numpy())


class SiftMatcher:
    """Counts SIFT matches of two images that agree on one homography."""

    def __init__(self) -> None:
        """Raise a ValueError if OpenCV is not installed."""
        if importlib.util.find_spec("cv2") is None:
            raise ValueError(
                "--rerank sift needs OpenCV, which is not installed: "
                "pip install opencv-python-headless"
            )
        import cv2

        self._cv2, self._sift = cv2, cv2.SIFT_create(_SIFT_FEATURES)
        self._query: np.ndarray | None = None  # is compared with K images, one after the other
        self._features: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, query: np.ndarray, database: np.ndarray) -> float:
        """Return the number of inliers of two RGB images, uint8 [H, W, 3] each."""
        if query is not self._query:
            self._query, self._features = query, self._extract(query)
        points, descriptors = self._features
        other_points, others = self._extract(database)
        left, right = match_features(descriptors, others)
        if len(left) < _MIN_MATCHES:
            return 0.0
        _, inliers = self._cv2.findHomography(
            points[left], other_points[right], self._cv2.RANSAC, _RANSAC_PX
        )
        return 0.0 if inliers is None else float(inliers.sum())

    def _extract(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points, pixels, float32 [n, 2], and RootSIFT descriptors, float32 [n, 128]."""
        grey = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY)
        factor = _SIFT_SIDE / max(grey.shape)
        if factor < 1:
            grey = self._cv2.resize(
                grey, None, fx=factor, fy=factor, interpolation=self._cv2.INTER_AREA
            )
        found, descriptors = self._sift.detectAndCompute(grey, None)
        if descriptors is None:
            return np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
        sums = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12)
        points = np.array([one.pt for one in found], np.float32)
        return points, np.sqrt(descriptors / sums)  # Arandjelovic and Zisserman, CVPR 2012


def match_features(descriptors: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match unit descriptors to others by Lowe's ratio test; each is matched once at most.

    Args:
        descriptors: float32 [n, D].
        others: float32 [m, D].

    Returns:
        Rows of the one and of the other. int [num_matches] each.
    """
    if not len(descriptors) or len(others) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    squared = np.maximum(2 - 2 * descriptors @ others.T, 0)
    nearest = squared.argmin(axis=1)
    first, second = np.partition(squared, 1, axis=1)[:, :2].T
    rows = np.arange(len(descriptors))
    is_mutual = squared.argmin(axis=0)[nearest] == rows
    is_match = is_mutual & (first < _RATIO**2 * second)
    return rows[is_match], nearest[is_match]
