"""How sure a top-1 prediction is: risk and coverage, what confidence is read from, its calibration.

The *coverage* of a threshold is the share of queries whose top-1 is accepted, the *risk* the share
of wrong ones among these (El-Yaniv and Wiener, JMLR 2010).
"""

from typing import Any

import numpy as np

COVERAGES = (25, 50, 75, 100)  # percent, of the points in results.json


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
