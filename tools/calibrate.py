"""Fit the confidence of localize.py on an evaluation, whose queries have known places.

python -m tools.calibrate logs/RUN                               # writes logs/RUN/calibration.json
python -m tools.calibrate logs/RUN --test logs/OTHER_RUN --precision 0.99 --out calibration.json
python localize.py PHOTOS --resume model.pth --place_index INDEX --calibration calibration.json
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

import commons
from command_line import CommandLine, HelpFormatter, fraction
from evaluation.calibration import Calibration, describe_origin, save_calibration
from evaluation.confidence import DEFAULT_THRESHOLD_M, FEATURES
from reports.runs import find_set, read_results
from runs.provenance import code_version

MIN_OF_EACH = 10  # queries with a correct top-1, and with a wrong one
MANY_QUERIES = 1000  # from here on isotonic regression by default: with fewer it overfits
NUM_FOLDS, NUM_BINS = 5, 10
_AGREEMENT = FEATURES.index("agreement")  # the heuristic of localize.py


def main(argv: Sequence[str] | None = None) -> None:
    """Fit a calibration, say how good it is, and save it."""
    args = _parse_arguments(argv)
    commons.setup_logging()
    result, features, correct = read_run(Path(args.run))
    check_counts(correct)
    kind = args.kind
    if kind == "auto":
        kind = "isotonic" if len(correct) >= MANY_QUERIES else "logistic"
    threshold_m = result["threshold_m"] or DEFAULT_THRESHOLD_M
    calibration = replace(fit(features, correct, kind), threshold_m=threshold_m)
    confidence = cross_validate(features, correct, kind)
    min_confidence = choose_threshold(confidence, correct, args.precision)
    quality = {
        "num_folds": NUM_FOLDS,
        "heuristic": measure_quality(features[:, _AGREEMENT], correct),
        "calibrated": measure_quality(confidence, correct, min_confidence),
    }
    logging.info(
        f"{result['dataset']}: {len(correct):,} queries, {correct.sum():,} with a correct top-1; "
        f"{kind}, cross-validated in {NUM_FOLDS} folds: {_format(quality)}"
    )
    if min_confidence is None:
        logging.warning(
            f"No confidence is reached by {MIN_OF_EACH} queries of which {100 * args.precision:g}% "
            "are correct: localize.py will need --min_confidence; or give a smaller --precision"
        )
    if result["num_queries_without_positives"] == 0:
        logging.warning(
            "All queries have a positive: of photos of places outside the database this run knows "
            "nothing, and their confidence may be too high"
        )
    tests = {
        folder: test(calibration, min_confidence, result, Path(folder)) for folder in args.test
    }
    facts = {
        "kind": kind,
        **{name: result.get(name) for name in ("model", "model_sha256", "descriptor_dim")},
        "dataset": result["dataset"],
        **describe_origin(result),
        "queries_folder": result.get("queries_folder"),
        "num_queries": len(correct),
        "num_correct": int(correct.sum()),
        "num_left_out": result["num_queries"] - len(correct),
        "num_queries_without_positives": result["num_queries_without_positives"],
        "precision": args.precision,
        "quality": quality,
        "tests": tests,
        "code_version": code_version(),
    }
    out = Path(args.out) if args.out else Path(args.run) / "calibration.json"
    save_calibration(replace(calibration, min_confidence=min_confidence, facts=facts), out)
    logging.info(f"For localize.py: --calibration {out}")


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = CommandLine(
        prog="python -m tools.calibrate",
        description=__doc__.split("\n")[0],
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = cli.add_argument
    add("run", metavar="RUN", help="folder of an evaluation on one test set, with its results.json")
    add(
        "--kind",
        choices=("auto", "logistic", "isotonic"),
        default="auto",
        help=f"regression; auto: isotonic from {MANY_QUERIES:,} queries on, else logistic",
    )
    add(
        "--precision",
        type=fraction,
        default=0.95,
        help="share of correct ones among the photos that localize.py then takes to be in the "
        "database; chooses its --min_confidence",
    )
    add("--test", nargs="+", default=[], metavar="RUN", help="evaluations to test it on")
    add("--out", metavar="FILE", help="the calibration (default: RUN/calibration.json)")
    return cli.parse_args(argv)


def read_run(folder: Path) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Read results.json and predictions.npz of an evaluation.

    Returns:
        The results; features, float64 [n, 3], and whether the top-1 is correct, bool [n], of the
        queries that could be read.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it is damaged, or the run has no labels or no positions.
    """
    folder = find_set(folder)
    result, arrays_file = read_results(folder), folder / "predictions.npz"
    if not arrays_file.is_file():
        raise FileNotFoundError(f"There is no {arrays_file}: give the folder of a run of eval.py")
    try:
        describe_origin(result)
        _ = result["threshold_m"], result["num_queries_without_positives"]
        with np.load(arrays_file, allow_pickle=False) as arrays:
            names = [name for name in ("confidence_features", "correct") if name in arrays]
            found = {name: arrays[name] for name in names}
        if any(array.dtype.kind not in "fb" for array in found.values()):
            raise ValueError("its arrays are of other types")
        shapes = [found[name].shape[: 2 - (name == "correct")] for name in names]
        expected = [(result["num_queries"], len(FEATURES)), (result["num_queries"],)]
    except Exception as error:  # NumPy and zipfile raise many kinds for damaged files
        raise ValueError(f"{folder} has no whole evaluation: {error!r}; evaluate again") from None
    if len(names) < 2:
        raise ValueError(
            f"{arrays_file} lacks {'features' if 'correct' in found else 'labels'}: evaluate "
            "again by this version, queries and database with known positions"
        )
    if shapes != expected:
        raise ValueError(f"{arrays_file} and results.json are of different runs: evaluate again")
    is_known = np.isfinite(found["confidence_features"]).all(axis=1)
    if num_unknown := int((~is_known).sum()):
        logging.warning(f"{num_unknown:,} queries of {folder} have no predictions: left out")
    return result, found["confidence_features"][is_known], found["correct"][is_known, 0]


def check_counts(correct: np.ndarray) -> None:
    """Raise a ValueError if there are too few correct or too few wrong ones to fit to."""
    num_correct, num_wrong = int(correct.sum()), int((~correct).sum())
    if min(num_correct, num_wrong) < MIN_OF_EACH:
        raise ValueError(
            f"{num_correct:,} queries have a correct top-1 and {num_wrong:,} a wrong one: "
            f"{MIN_OF_EACH} of each are needed, give an evaluation on more queries"
        )


def fit(features: np.ndarray, correct: np.ndarray, kind: str) -> Calibration:
    """Fit the probability that a top-1 is correct.

    Args:
        features: float [n, 3].
        correct: bool [n].
        kind: "logistic", or "isotonic": a rising function of the logistic score, which is
            cross-validated for it.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale < 1e-12] = 1.0
    standardised, regression = (features - mean) / scale, LogisticRegression()
    regression.fit(standardised, correct)
    steps = ()
    if kind == "isotonic":
        scores = cross_val_predict(
            regression, standardised, correct, cv=_folds(), method="decision_function"
        )
        rising = IsotonicRegression(y_min=0, y_max=1).fit(scores, correct)
        steps = zip(rising.X_thresholds_.tolist(), rising.y_thresholds_.tolist(), strict=True)
    return Calibration(
        tuple(mean.tolist()),
        tuple(scale.tolist()),
        tuple(regression.coef_[0].tolist()),
        float(regression.intercept_[0]),
        tuple(steps),
    )


def cross_validate(features: np.ndarray, correct: np.ndarray, kind: str) -> np.ndarray:
    """Return the confidence of each query by a calibration fitted without it. float64 [n]."""
    confidence = np.empty(len(correct))
    for rest, fold in _folds().split(features, correct):
        confidence[fold] = fit(features[rest], correct[rest], kind).confidence(features[fold])
    return confidence


def _folds() -> StratifiedKFold:
    return StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)


def choose_threshold(confidence: np.ndarray, correct: np.ndarray, precision: float) -> float | None:
    """Return the least confidence whose queries, it and above, are correct with a precision.

    Returns:
        0 to 1; None if there is none that at least MIN_OF_EACH queries reach.
    """
    for threshold in np.unique(confidence):
        accepted = correct[confidence >= threshold]
        if len(accepted) >= MIN_OF_EACH and accepted.mean() >= precision:
            return float(threshold)
    return None


def measure_quality(
    confidence: np.ndarray, correct: np.ndarray, min_confidence: float | None = None
) -> dict[str, float]:
    """Measure confidences by what is correct.

    Returns:
        The Brier score, the mean squared difference to 1 (correct) or 0 (wrong); the expected
        calibration error, the mean difference of confidence and share of correct ones in
        NUM_BINS bins of equal width (Guo et al., ICML 2017); with a threshold, the share of queries
        that reach it, and of correct ones among these. All 0 to 1.
    """
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - correct, minlength=NUM_BINS)
    quality = {
        "brier": float(np.mean((confidence - correct) ** 2)),
        "expected_calibration_error": float(np.abs(gaps).sum() / len(correct)),
    }
    if min_confidence is not None:
        accepted = confidence >= min_confidence
        quality["coverage"] = float(accepted.mean())
        quality["precision"] = float(correct[accepted].mean()) if accepted.any() else 1.0
    return quality


def test(
    calibration: Calibration, min_confidence: float | None, result: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Return the quality on another evaluation, of the same model."""
    other, features, correct = read_run(folder)
    if describe_origin(other) != describe_origin(result):
        raise ValueError(f"{folder} is of another model, resize rule or re-ranking: no test")
    confidence = calibration.confidence(features)
    quality = {
        "heuristic": measure_quality(features[:, _AGREEMENT], correct),
        "calibrated": measure_quality(confidence, correct, min_confidence),
    }
    logging.info(f"Test on {other['dataset']}, {len(correct):,} queries: {_format(quality)}")
    return quality


def _format(quality: dict[str, Any]) -> str:
    """Return heuristic -> calibrated in one line."""
    before, after = quality["heuristic"], quality["calibrated"]
    text = (
        f"Brier score {before['brier']:.3f} -> {after['brier']:.3f}, expected calibration error "
        f"{before['expected_calibration_error']:.3f} -> {after['expected_calibration_error']:.3f} "
        "(heuristic -> calibrated)"
    )
    if "coverage" in after:
        text += (
            f"; {100 * after['coverage']:.1f}% reach the threshold, "
            f"{100 * after['precision']:.1f}% of these are correct"
        )
    return text


if __name__ == "__main__":
    commons.run_command(main)
