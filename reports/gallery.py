"""The gallery of a report: which queries to show, and small pictures of them."""

import os
from dataclasses import dataclass

import numpy as np

from reports.pictures import format_metres
from reports.run_files import LATER, MISSED, RIGHT, RunArrays
from reports.thumbnails import encode_thumbnail

THUMBNAIL_PX = (240, 180)
_JPEG_QUALITY = 70
STATUS_NAMES = {MISSED: "missed", LATER: "later", RIGHT: "right"}


@dataclass(frozen=True)
class Picture:
    """One image of a card."""

    path: str
    label: str  # "query" or "prediction 1"
    frame: str  # "query", "right", "wrong" or "neutral"
    thumbnail: str  # data URI; empty if the image cannot be shown
    problem: str  # why not
    lines: tuple[str, ...] = ()  # distances

    @property
    def file(self) -> str:
        """Return the name of the file."""
        return os.path.basename(self.path)


@dataclass(frozen=True)
class Card:
    """One query with its first predictions."""

    query_num: int
    status: str  # of STATUS_NAMES; "unlabelled" without labels
    headline: str
    error_m: float  # of the first prediction; NaN if not known
    descriptor_distance: float  # of the first prediction
    pictures: list[Picture]  # the query first

    @property
    def names(self) -> str:
        """Return the names of the files, to search in."""
        return "\n".join(picture.file for picture in self.pictures)


def choose_queries(run: RunArrays, num_gallery: int) -> np.ndarray:
    """Choose queries, the surest first predictions first: wrong ones, then right ones.

    As many of either kind as there are, so that the gallery is full if it can be. Without labels
    it is the surest and the least sure ones.

    Args:
        run: The run.
        num_gallery: How many queries.

    Returns:
        Query numbers. int [at most num_gallery].
    """
    first_distances = run.descriptor_distances[:, 0]
    surest = np.argsort(first_distances, kind="stable")
    surest = surest[[bool(run.predictions[query]) for query in surest]]
    if run.correct is None:
        half = min(num_gallery, len(surest)) // 2
        least_sure = surest[half:][::-1][: num_gallery - half]
        return np.concatenate([surest[:half], least_sure])
    is_right = run.correct[surest, 0]
    wrong, right = surest[~is_right], surest[is_right]
    num_wrong = max(num_gallery // 2, num_gallery - len(right))
    wrong = wrong[:num_wrong]
    return np.concatenate([wrong, right[: num_gallery - len(wrong)]])


def make_cards(run: RunArrays, query_nums: np.ndarray) -> list[Card]:
    """Read the images of some queries and of their first predictions."""
    return [_make_card(run, int(query)) for query in query_nums]


def _make_card(run: RunArrays, query: int) -> Card:
    thumbnail, problem = make_thumbnail(run.queries[query])
    pictures = [Picture(run.queries[query], "query", "query", thumbnail, problem)]
    for rank, path in enumerate(run.predictions[query]):
        thumbnail, problem = make_thumbnail(path)
        lines = (
            format_metres(run.distances_m[query, rank]),
            f"descriptor {run.descriptor_distances[query, rank]:.3f}",
        )
        frame = "neutral"
        if run.correct is not None:
            frame = "right" if run.correct[query, rank] else "wrong"
        label = f"prediction {rank + 1}"
        pictures.append(Picture(path, label, frame, thumbnail, problem, lines))
    statuses = run.statuses
    return Card(
        query,
        "unlabelled" if statuses is None else STATUS_NAMES[int(statuses[query])],
        _headline(run, query),
        float(run.distances_m[query, 0]),
        float(run.descriptor_distances[query, 0]),
        pictures,
    )


def _headline(run: RunArrays, query: int) -> str:
    """Say where among the predictions the first right one is."""
    if run.correct is None:
        return ""
    if not run.correct[query].any():
        if run.num_positives is not None and not run.num_positives[query]:
            return "wrong, the database has no right image"
        return f"wrong, none of the first {run.correct.shape[1]} is right"
    rank = int(run.correct[query].argmax()) + 1
    return "right" if rank == 1 else f"wrong, the first right one has rank {rank}"


def make_thumbnail(path: str) -> tuple[str, str]:
    """Return a small JPEG as a data URI and an empty text, or an empty URI and the problem."""
    try:
        return encode_thumbnail(path, THUMBNAIL_PX, _JPEG_QUALITY), ""
    except FileNotFoundError:
        return "", "this image is gone"
    except ValueError:
        return "", "this image cannot be read"
