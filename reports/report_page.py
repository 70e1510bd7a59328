"""The page of a report: texts, charts, map and gallery put into one HTML file."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from reports.curves import recall_curve
from reports.gallery import choose_queries, make_cards
from reports.map_data import pack_map
from reports.report_charts import make_charts
from reports.run_files import LATER, MISSED, RIGHT, RunArrays

_FOLDER = Path(__file__).with_name("page")
_SCRIPTS = ("gallery.js", "map.js")
_LABELS = {  # of results.json, in the order of the page
    "protocol": "Protocol",
    "paper_column": "Column of the paper",
    "positives": "Right predictions",
    "threshold_m": "Threshold, metres",
    "num_queries": "Queries",
    "num_queries_without_positives": "Queries without a positive",
    "num_database": "Database images",
    "denominator": "Recalls are percent of",
    "resize": "Resize",
    "image_sizes": "Image sizes, H x W",
    "orientation": "Orientation",
    "num_unreadable": "Unreadable images",
    "test_method": "Queries are described",
    "search": "Search",
    "search_agreement": "Exact neighbours found by the search, %",
    "model": "Model",
    "model_sha256": "SHA-256 of the model",
    "backbone": "Backbone",
    "pooling": "Pooling",
    "descriptor_dim": "Descriptor dimension",
    "kept_dims": "Whitened dimensions kept",
    "code_version": "Code version",
    "seed": "Seed",
    "database_folder": "Database folder",
    "queries_folder": "Queries folder",
}
_SHOWN_ELSEWHERE = {"dataset", "recalls", "notes", "model_file", "fc_output_dim"}
_IMAGE_SIZES_SHOWN = 3
_RECALL_TOLERANCE = 0.01  # percent


def render_page(run: RunArrays, num_gallery: int) -> str:
    """Return the HTML of a report; everything from outside is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        dataset=run.results["dataset"],
        run_name=run.folder.resolve().name,
        recalls=run.results["recalls"],
        num_queries=len(run.queries),
        num_predictions=run.distances_m.shape[1],
        notes=run.results.get("notes", []) + check_recalls(run),
        facts=describe_protocol(run.results),
        charts=make_charts(run),
        why_no_positions=run.why_no_positions,
        map=pack_map(run) if run.positions else None,
        counts=count_statuses(run),
        cards=make_cards(run, choose_queries(run, num_gallery)),
        style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
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
    missed, later, right = np.bincount(run.statuses, minlength=3)[[MISSED, LATER, RIGHT]].tolist()
    return {
        "all": len(run.statuses),
        "right": right,
        "wrong": later + missed,
        "missed": missed,
    }


def describe_protocol(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (label, text) of all that results.json tells; what has no label comes last."""
    hidden = _SHOWN_ELSEWHERE if results["recalls"] else _SHOWN_ELSEWHERE | {"denominator"}
    names = [name for name in _LABELS if name in results and name not in hidden]
    names += [name for name in results if name not in _LABELS and name not in hidden]
    facts = [
        (_LABELS.get(name, name.replace("_", " ")), _describe(name, results[name]))
        for name in names
    ]
    return [(label, text) for label, text in facts if text]


def _describe(name: str, value: Any) -> str:
    """Return a value as text; empty for what is not known."""
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
