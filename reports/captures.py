"""When queries were taken, and where they and their first predictions look."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.image_paths import ImageName, parse_image_name


@dataclass(frozen=True)
class Captures:
    """What is known of the images of Q queries."""

    query_years: np.ndarray  # 0 is not known. int [Q]
    query_headings_deg: np.ndarray  # NaN is not known. float [Q]
    first_prediction_headings_deg: np.ndarray  # NaN is not known. float [Q]


def read_captures(
    arrays: Mapping[str, np.ndarray], queries: Sequence[str], first_predictions: Sequence[str]
) -> Captures:
    """Take the arrays of predictions.npz; read what it does not hold from '@' file names.

    Args:
        arrays: Those of predictions.npz.
        queries: Paths, "" where there is none.
        first_predictions: The path of the first prediction of each query, "" where there is none.
    """
    readers = {
        "query_years": lambda: read_years(queries),
        "query_headings_deg": lambda: read_headings(queries),
        "first_prediction_headings_deg": lambda: read_headings(first_predictions),
    }
    return Captures(
        **{name: arrays[name] if name in arrays else read() for name, read in readers.items()}
    )


def read_years(paths: Sequence[str]) -> np.ndarray:
    """Return the years of the timestamps in '@' file names; 0 for other names. int64 [n]."""
    starts = (name.timestamp[:4] if name else "" for name in _read_names(paths))
    years = [int(year) if len(year) == 4 and year.isdecimal() else 0 for year in starts]
    return np.array(years, np.int64)


def read_headings(paths: Sequence[str]) -> np.ndarray:
    """Return the headings in '@' file names, degrees; NaN for other names. float64 [n]."""
    headings_deg = (name.heading_deg if name else None for name in _read_names(paths))
    return np.array([np.nan if one is None else one for one in headings_deg], np.float64)


def _read_names(paths: Sequence[str]) -> Iterator[ImageName | None]:
    for path in paths:
        try:
            yield parse_image_name(path) if "@" in os.path.basename(path) else None
        except ValueError:
            yield None
