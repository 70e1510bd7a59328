"""How sure a top-1 prediction is: risk and coverage, and what confidence is read from.

The *coverage* of a threshold is the share of queries whose top-1 is accepted, the *risk* the share
of wrong ones among these (El-Yaniv and Wiener, JMLR 2010).
"""

from typing import Any

import numpy as np

COVERAGES = (25, 50, 75, 100)  # percent, of the points in results.json
DEFAULT_THRESHOLD_M = 25.0  # largest distance within one place, where nothing says another
NUM_RANKS = 10  # predictions that features are measured on
FEATURES = ("distance", "distance_ratio", "agreement")  # see `measure_features`


def risk_curve(distances: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return the risk of accepting the 1, 2, ... num_queries surest top-1 predictions.

    Among queries with equal distances it is the mean over all orders.

    Args:
        distances: Descriptor distance of each query's top-1; inf where there is none. float [n].
        correct: Whether it is correct. bool [n].

    Returns:
        Percent. float64 [n].
    """
    order = np.argsort(distances, kind="stable")
    _, block, counts = np.unique(distances[order], return_inverse=True, return_counts=True)
    wrong_share = np.bincount(block, weights=~correct[order]) / counts
    return 100 * np.cumsum(wrong_share[block]) / np.arange(1, len(order) + 1)


def measure_risk(distances: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    """Measure how well descriptor distances tell correct top-1 predictions from wrong ones.

    Args:
        distances: See `risk_curve`.
        correct: See `risk_curve`.

    Returns:
        Plain values in percent: the area under the risk-coverage curve, which is the mean of
        `risk_curve`; the risk at some coverages; and R@100P, the recall at 100% precision: the
        share of all queries that are nearer to their top-1 than any query with a wrong one.
    """
    risks = risk_curve(distances, correct)
    nearest_wrong = distances[~correct].min(initial=np.inf)
    return {
        "area": float(risks.mean()),
        "risk_at_coverage": {
            str(coverage): float(risks[-(-coverage * len(risks) // 100) - 1])
            for coverage in COVERAGES
        },
        "R@100P": float(100 * np.mean(correct & (distances < nearest_wrong))),
    }


def measure_spread(positions_m: np.ndarray) -> float | None:
    """Return the median distance of predictions to their medoid, metres.

    The medoid is the prediction with the least sum of distances to the others; the median is over
    those others.

    Args:
        positions_m: UTM east and north, by rank. float64 [K, 2].

    Returns:
        Metres; None for fewer than two predictions.
    """
    if len(positions_m) < 2:
        return None
    apart_m = np.linalg.norm(positions_m[:, None] - positions_m[None], axis=2)  # [K, K]
    medoid = int(apart_m.sum(axis=1).argmin())
    return float(np.median(np.delete(apart_m[medoid], medoid)))


def measure_confidence(
    positions_m: np.ndarray, descriptor_distances: np.ndarray, threshold_m: float
) -> float | None:
    """Return how far the other predictions agree with the place of the top-1, 0 to 1.

    Each prediction votes for its place with weight (d_1 / d_k)^2, where d_k is its descriptor
    distance; the result is the share of the votes within the threshold of the top-1. It is high if
    the predictions are of one place, or if the top-1 is far nearer than those of other places. It
    is a heuristic, not a calibrated probability: a photo of a place outside the database gets one
    too.

    Args:
        positions_m: UTM east and north, by rank. float64 [K, 2].
        descriptor_distances: Ascending. float [K].
        threshold_m: Largest distance within one place, metres.

    Returns:
        At least 1 / K; None for fewer than two predictions.
    """
    if len(positions_m) < 2:
        return None
    first, distances = descriptor_distances[0], np.asarray(descriptor_distances, float)
    votes = (first / np.maximum(distances, first)) ** 2 if first > 0 else distances == 0
    near = np.linalg.norm(positions_m - positions_m[0], axis=1) <= threshold_m
    return float(votes[near].sum() / votes.sum())


def measure_features(
    positions_m: np.ndarray, descriptor_distances: np.ndarray, threshold_m: float
) -> np.ndarray:
    """Return what a calibrated confidence is computed from.

    Args:
        positions_m: UTM east and north of at most NUM_RANKS predictions, by rank. float64 [K, 2].
        descriptor_distances: Of these. float [K].
        threshold_m: Largest distance within one place, metres.

    Returns:
        The descriptor distance of the top-1; its ratio to the least distance of a prediction at
        another place, or to the largest distance if all are at one place; the agreement of
        `measure_confidence`. float64 [3], NaN for fewer than two predictions.
    """
    agreement = measure_confidence(positions_m, descriptor_distances, threshold_m)
    if agreement is None:
        return np.full(len(FEATURES), np.nan)
    distances = np.asarray(descriptor_distances, np.float64)
    is_other = np.linalg.norm(positions_m - positions_m[0], axis=1) > threshold_m
    other = distances[is_other].min() if is_other.any() else distances.max()
    return np.array([distances[0], distances[0] / other if other > 0 else 1.0, agreement])
