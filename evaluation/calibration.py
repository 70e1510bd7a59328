"""Confidence as a probability: fitted by `python -m tools.calibrate`, used by localize.py."""

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import commons
from datasets.tables import read_json
from evaluation.confidence import FEATURES
from model.other_models import identify

FORMAT, FORMAT_VERSION = "calibration of confidence", 1
_NUMBERS = ("mean", "scale", "weights")


@dataclass(frozen=True)
class Calibration:
    """From features of a photo's predictions to the probability that its top-1 is correct.

    Attributes:
        mean: Of the features, see FEATURES.
        scale: Their standard deviations.
        weights: Of the standardised features; with the intercept they give a score.
        intercept: Added to the score.
        steps: Scores, ascending, and their probabilities, between which is interpolated (isotonic
            regression); without them it is the logistic function of the score.
        threshold_m: Largest distance of a correct top-1, metres.
        min_confidence: Photos below it are taken to be not in the database; None: not known.
        facts: The model, the queries, the quality; plain values.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    steps: tuple[tuple[float, float], ...] = ()
    threshold_m: float = 25.0
    min_confidence: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise a ValueError if a value has no meaning."""
        for name in _NUMBERS:
            if len(getattr(self, name)) != len(FEATURES):
                raise ValueError(f"{name} has not {len(FEATURES)} numbers")
        numbers = [*self.mean, *self.scale, *self.weights, self.intercept, self.threshold_m]
        numbers += [number for step in self.steps for number in step]
        if not all(map(math.isfinite, numbers)) or min(*self.scale, self.threshold_m) <= 0:
            raise ValueError("a number is not finite, or a scale or threshold_m is not above 0")
        scores, probabilities = [step[0] for step in self.steps], [step[1] for step in self.steps]
        bounds = [*probabilities, *([] if self.min_confidence is None else [self.min_confidence])]
        if scores != sorted(scores) or not all(0 <= bound <= 1 for bound in bounds):
            raise ValueError("steps or min_confidence are not in order")

    def confidence(self, features: np.ndarray) -> np.ndarray:
        """Return the probability that the top-1 is correct, 0 to 1; NaN where a feature is.

        Args:
            features: See `measure_features`. float [..., len(FEATURES)].
        """
        standardised = (np.asarray(features, np.float64) - self.mean) / self.scale
        scores = standardised @ np.array(self.weights) + self.intercept
        if self.steps:
            return np.where(np.isnan(scores), np.nan, np.interp(scores, *np.transpose(self.steps)))
        return 0.5 * (1 + np.tanh(scores / 2))  # the logistic function; does not overflow


def describe_origin(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a calibration is bound to: the model, the resize rule and the re-ranking.

    Args:
        result: Of results.json, or what localize.py knows of its model and database.
    """
    return {
        "model_identity": identify(result),
        "resize": result["resize"],
        "rerank": result.get("rerank") and {k: result["rerank"][k] for k in ("matcher", "k")},
    }


def save_calibration(calibration: Calibration, file: Path) -> None:
    """Write a calibration as JSON, atomically."""
    numbers = dataclasses.asdict(calibration)
    facts = numbers.pop("facts")
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "features": FEATURES}
    commons.write_json(head | numbers | facts, file)


def load_calibration(file: str | os.PathLike, origin: Mapping[str, Any]) -> Calibration:
    """Read a calibration and check that it is of a model.

    Args:
        file: Written by `save_calibration`.
        origin: See `describe_origin`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, damaged, or of another model.
    """
    if not os.path.isfile(file):
        raise FileNotFoundError(f"There is no calibration {file}: python -m tools.calibrate RUN")
    content = read_json(Path(file), object)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{file} is no calibration: python -m tools.calibrate RUN writes one")
    if content.get("format_version") != FORMAT_VERSION or content.get("features") != [*FEATURES]:
        raise ValueError(f"{file} is of another version of this code: calibrate again")
    names = [one.name for one in dataclasses.fields(Calibration) if one.name != "facts"]
    try:
        values = {name: _read(name, content[name]) for name in names}
        facts = {name: content[name] for name in content if name not in names}
        calibration = Calibration(**values, facts=facts)
        made_for = {name: content[name] for name in origin}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{file} is damaged: calibrate again") from None
    if different := [name for name in origin if origin[name] != made_for[name]]:
        name = different[0]
        if name == "model_identity":
            made, asked = f"the model {content.get('model')}", "this model"
        else:
            made, asked = f"{name} {made_for[name]}", f"{origin[name]}"
        raise ValueError(
            f"{file} was calibrated with {made}, not with {asked}: evaluate as you localize, and "
            "calibrate by that run"
        )
    return calibration


def _read(name: str, value: Any) -> Any:
    """Read a field of a calibration from JSON; raises a TypeError or ValueError if it is none."""
    if name == "steps":
        return tuple((float(score), float(probability)) for score, probability in value)
    if name in _NUMBERS:
        return tuple(map(float, value))
    return None if name == "min_confidence" and value is None else float(value)
