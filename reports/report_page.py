"""The page of a report: texts, charts, map and gallery in one HTML file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from evaluation.results import format_rerank, tabulate_poses
from reports.charts import make_charts
from reports.curves import recall_curve
from reports.maps import fill_template, pack_map
from reports.overlays import FOLDER, Look, draw_scale, read_looks
from reports.pictures import encode_image, encode_thumbnail, format_metres, name_image
from reports.run_files import CORRECT, LATER, MISSED, RunArrays

THUMBNAIL_PX = (240, 180)
STATUS_NAMES = {MISSED: "missed", LATER: "later", CORRECT: "correct"}
_JPEG_QUALITY = 70
_LABELS = {  # of results.json, in the order of the page
    "protocol": "Protocol",
    "paper_column": "Column of the paper",
    "positives": "Positives",
    "threshold_m": "Threshold, metres",
    "num_queries": "Queries",
    "num_queries_without_positives": "Queries without a positive",
    "num_self_queries": "Queries that are database images",
    "exclude_self": "Left out of their own predictions",
    "num_database": "Database images",
    "denominator": "Recalls in percent of",
    "resize": "Resize",
    "image_sizes": "Image sizes, H x W",
    "orientation": "Orientation",
    "num_unreadable": "Unreadable images",
    "test_method": "Query preprocessing",
    "search": "Search",
    "search_agreement": "Recall of the search against exact neighbours, %",
    "model": "Model",
    "model_sha256": "SHA-256 of the model",
    "backbone": "Backbone",
    "method": "Method",
    "aggregation": "Aggregation",
    "descriptor_dim": "Descriptor dimension",
    "whiten_dim": "Whitened dimensions",
    "kept_dims": "Whitened dimensions kept",
    "whiten_norm": "Norm of whitened descriptors",
    "code_version": "Code version",
    "seed": "Seed",
    "database_folder": "Database folder",
    "queries_folder": "Queries folder",
}
_SHOWN_ELSEWHERE = {
    *("dataset", "recalls", "risk_coverage", "rerank", "notes", "poses"),
    *("model_file", "fc_output_dim"),
}
_IMAGE_SIZES_SHOWN = 3
_RECALL_TOLERANCE = 0.01  # percent


def render_page(run: RunArrays, num_gallery: int) -> str:
    """Return the HTML of a report; everything from outside is escaped."""
    packed = pack_map(run) if run.positions else None
    looks, problem = read_looks(run.folder / FOLDER, run.results.get("model_sha256"))
    cards = make_cards(run, choose_queries(run, num_gallery), looks)
    return fill_template(
        "page.html",
        ["gallery.js", "map.js"],
        packed["streets"] if packed else [],
        dataset=run.results["dataset"],
        run_name=run.folder.resolve().name,
        recalls=run.results["recalls"],
        num_queries=len(run.queries),
        num_predictions=run.distances_m.shape[1],
        notes=run.results.get("notes", []) + check_recalls(run) + [problem] * bool(problem),
        facts=describe_protocol(run.results),
        poses=describe_poses(run.results),
        charts=make_charts(run),
        why_no_positions=run.why_no_positions,
        map=packed,
        counts=count_statuses(run),
        cards=cards,
        looks=describe_looks(looks) if any(card.overlays for card in cards) else None,
        Markup=Markup,
    )


def check_recalls(run: RunArrays) -> list[str]:
    """Return a sentence for each recall that the predictions do not confirm."""
    if run.correct is None:
        return []
    recalls = recall_curve(run.correct)
    stated = {int(name.removeprefix("R@")): value for name, value in run.results["recalls"].items()}
    return [
        f"results.json says R@{n} {value:.2f}, its predictions give {recalls[n - 1]:.2f}: "
        "the files are not of one run, or queries are left out."
        for n, value in stated.items()
        if n <= len(recalls) and abs(recalls[n - 1] - value) > _RECALL_TOLERANCE
    ]


def count_statuses(run: RunArrays) -> dict[str, int] | None:
    """Count the queries behind each filter of the page; None without labels."""
    if run.statuses is None:
        return None
    missed, later, correct = np.bincount(run.statuses, minlength=CORRECT + 1).tolist()
    return {
        "all": len(run.statuses),
        "correct": correct,
        "wrong": later + missed,
        "missed": missed,
    }


def describe_protocol(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (label, text) of the entries of results.json; those without a label come last."""
    hidden = _SHOWN_ELSEWHERE if results["recalls"] else _SHOWN_ELSEWHERE | {"denominator"}
    names = [name for name in _LABELS if name in results and name not in hidden]
    names += [name for name in results if name not in _LABELS and name not in hidden]
    facts = [
        (_LABELS.get(name, name.replace("_", " ")), _describe(name, results[name]))
        for name in names
    ]
    if results.get("rerank"):
        facts.append(("Re-ranking", format_rerank(results)))
    return [(label, text) for label, text in facts if text]


def describe_poses(results: dict[str, Any]) -> dict[str, Any] | None:
    """Return table, protocol and notes of the errors of poses; None if there are none.

    Raises:
        ValueError: If they are not as eval.py writes them.
    """
    if "poses" not in results:
        return None
    poses = results["poses"]
    try:
        rows, notes = tabulate_poses(poses), [str(note) for note in poses["notes"]]
        return {"rows": rows, "protocol": str(poses["protocol"]), "notes": notes}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError("poses in results.json are damaged: evaluate again") from None


def _describe(name: str, value: Any) -> str:
    """Return a value as text; empty if unknown."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if name == "resize":
        return _describe_resize(value)
    if name == "image_sizes":
        return "; ".join(f"{role} {_describe_sizes(sizes)}" for role, sizes in value.items())
    if isinstance(value, dict):
        return ", ".join(f"{_describe('', part)} {key}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(_describe("", part) for part in value)
    if isinstance(value, int):
        return str(value) if name == "seed" else f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _describe_resize(rule: str) -> str:
    if rule == "none":
        return "none, images keep their size"
    return f"shorter side {rule} px" if rule.isdecimal() else rule


def _describe_sizes(sizes: dict[str, int]) -> str:
    shown = [f"{size} ({count:,})" for size, count in list(sizes.items())[:_IMAGE_SIZES_SHOWN]]
    if len(sizes) > len(shown):
        shown.append(f"{len(sizes) - len(shown)} other sizes")
    return ", ".join(shown)


@dataclass(frozen=True)
class Picture:
    """One image of a card."""

    path: str
    label: str  # "query" or "prediction 1"
    frame: str  # "query", "correct", "wrong" or "neutral"
    thumbnail: str  # data URI; empty if the image cannot be shown
    problem: str  # why it has no thumbnail
    lines: tuple[str, ...] = ()  # distances

    @property
    def file(self) -> str:
        """Return the name of the file."""
        return os.path.basename(self.path)

    @property
    def name(self) -> str:
        """Return a name for people, see `name_image`."""
        return name_image(self.path)


@dataclass(frozen=True)
class Card:
    """One query with its top-k predictions."""

    query_num: int
    status: str  # of STATUS_NAMES; "unlabelled" without labels
    headline: str
    error_m: float  # of the top-1 prediction; NaN if unknown
    descriptor_distance: float  # of the top-1 prediction
    pictures: list[Picture]  # the query first
    overlays: list[Picture]  # where the descriptor looks in the query and the top-1 prediction

    @property
    def names(self) -> str:
        """Return the names of the files, to search in."""
        return "\n".join(picture.file for picture in self.pictures)


def choose_queries(run: RunArrays, num_gallery: int) -> np.ndarray:
    """Choose queries by the distance of their top-1, surest first: wrong ones, then correct ones.

    Half of each kind if there are enough. Without labels, the surest and the least sure ones.

    Args:
        run: The run.
        num_gallery: Number of queries.

    Returns:
        Indices of queries. int [at most num_gallery].
    """
    first_distances = run.descriptor_distances[:, 0]
    surest = np.argsort(first_distances, kind="stable")
    surest = surest[[bool(run.predictions[query]) for query in surest]]
    if run.correct is None:
        half = min(num_gallery, len(surest)) // 2
        least_sure = surest[half:][::-1][: num_gallery - half]
        return np.concatenate([surest[:half], least_sure])
    is_correct = run.correct[surest, 0]
    wrong, correct = surest[~is_correct], surest[is_correct]
    num_wrong = max(num_gallery // 2, num_gallery - len(correct))
    wrong = wrong[:num_wrong]
    return np.concatenate([wrong, correct[: num_gallery - len(wrong)]])


def make_cards(
    run: RunArrays, query_nums: np.ndarray, looks: Mapping[str, Look] | None = None
) -> list[Card]:
    """Read the images of some queries and of their top-k predictions.

    Args:
        run: The run.
        query_nums: Indices of the queries.
        looks: Heat maps by path of the image, see `read_looks`.
    """
    return [_make_card(run, int(query), looks or {}) for query in query_nums]


def describe_looks(looks: Mapping[str, Look]) -> dict[str, str]:
    """Return what heat maps show, and their colours as a data URI."""
    kinds = ", ".join(dict.fromkeys(look.kind for look in looks.values()))
    return {"kind": kinds, "scale": encode_image(draw_scale(120, 12), _JPEG_QUALITY)}


def _make_card(run: RunArrays, query: int, looks: Mapping[str, Look]) -> Card:
    thumbnail, problem = _make_thumbnail(run.queries[query])
    pictures = [Picture(run.queries[query], "query", "query", thumbnail, problem)]
    for rank, path in enumerate(run.predictions[query]):
        thumbnail, problem = _make_thumbnail(path)
        lines = (
            format_metres(run.distances_m[query, rank]),
            f"descriptor {run.descriptor_distances[query, rank]:.3f}",
        )
        frame = "neutral"
        if run.correct is not None:
            frame = "correct" if run.correct[query, rank] else "wrong"
        label = f"prediction {rank + 1}"
        pictures.append(Picture(path, label, frame, thumbnail, problem, lines))
    overlays = [_lay_over(one, looks[one.path]) for one in pictures[:2] if one.path in looks]
    statuses = run.statuses
    return Card(
        query,
        "unlabelled" if statuses is None else STATUS_NAMES[int(statuses[query])],
        _describe_rank(run, query),
        float(run.distances_m[query, 0]),
        float(run.descriptor_distances[query, 0]),
        pictures,
        overlays,
    )


def _lay_over(picture: Picture, look: Look) -> Picture:
    """Return a picture with its heat map instead of the image alone."""
    thumbnail = look.encode(picture.path, THUMBNAIL_PX, _JPEG_QUALITY) if picture.thumbnail else ""
    label = f"{picture.label}: up to {look.over_mean:.1f} x the mean"
    return replace(picture, label=label, thumbnail=thumbnail, lines=())


def _describe_rank(run: RunArrays, query: int) -> str:
    """Return the rank of the first correct prediction in words."""
    if run.correct is None:
        return ""
    if not run.correct[query].any():
        if run.num_positives is not None and not run.num_positives[query]:
            return "wrong, the database has no positive"
        return f"wrong, no correct prediction among the top-{run.correct.shape[1]}"
    rank = int(run.correct[query].argmax()) + 1
    return "correct" if rank == 1 else f"wrong, first correct prediction at rank {rank}"


def _make_thumbnail(path: str) -> tuple[str, str]:
    """Return a small JPEG as a data URI and an empty text, or an empty URI and the problem."""
    try:
        return encode_thumbnail(path, THUMBNAIL_PX, _JPEG_QUALITY), ""
    except FileNotFoundError:
        return "", "this image is gone"
    except ValueError:
        return "", "this image cannot be read"
