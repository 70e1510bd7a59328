"""Figure 7: queries with the first prediction of each of several networks."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datasets.images import open_image
from paper.drawing import PAGE_IN, new_figure, remove_pictures, save_figure, styled, write_values
from paper.plan import Need
from paper.run_log import Missing
from paper.scales import Scale
from paper.sources import Absent, Released, Source
from paper.study import Study
from reports.pictures import format_metres
from reports.runs import Predictions, read_predictions

_DATASET = "sf_xl_test_v1"
_NUM_QUERIES = 5
_CHOICE = "Queries drawn at random from those on which the networks disagree"
_WIDTH_PX = 320  # of the pictures inside the PDF
_COLOURS = {"1": "#1b7f3b", "0": "#c62828", "": "#777777"}


def shown_networks(scale: Scale) -> dict[str, Source]:
    """Return the columns of the figure: those of the paper, and others that there are."""
    return {
        **dict.fromkeys(("NetVLAD", "CRN", "SARE", "SFRS"), Absent()),
        "SfM120k ResNet-50": Released("landmark:SfM120k:ResNet50"),
        "GLD ResNet-50": Released("landmark:GLD:ResNet50"),
        "CosPlace ResNet-18": scale.cosplace("ResNet18", 512),
        "CosPlace VGG-16": scale.cosplace("VGG16", 512),
        "CosPlace ResNet-50": scale.cosplace("ResNet50", 2048),
    }


def qualitative_needs(study: Study) -> list[Need]:
    """Return the networks on the one test set that is shown."""
    datasets = tuple(study.scale.datasets([_DATASET]))
    return [
        Need(study.resolve(source), datasets)
        for name, source in shown_networks(study.scale).items()
        if study.is_asked(name, source)
    ]


def draw_qualitative(study: Study, folder: Path) -> list[Path]:
    """Draw Figure 7: a row per query, framed green where the prediction is right, else red.

    The queries are drawn at random from those on which the networks disagree. Without any there is
    only an empty list.
    """
    found, left_out = _find_predictions(study)
    queries = choose_queries(list(found.values()))
    rows = [
        (query, name, first["prediction"], first["distance_m"], first["correct"])
        for query in queries
        for name, predictions in found.items()
        for first in predictions.rows[query][:1]
    ]
    header = ("query", "network", "prediction", "distance_m", "correct")
    files = [write_values(rows, header, folder, "fig7", study.scale.mark)]
    if not queries:
        remove_pictures(folder, "fig7")
        return files
    reasons = "; ".join(f"{', '.join(names)} ({why})" for why, names in left_out.items())
    notes = (study.scale.mark, _CHOICE, f"Left out: {reasons}" if reasons else "")
    figure = _draw_grid(queries, found)
    return [*save_figure(figure, folder, "fig7", ". ".join(filter(None, notes))), *files]


def _find_predictions(study: Study) -> tuple[dict[str, Predictions], dict[str, list[str]]]:
    """Return predictions of the first seed by network, and networks by why there are none."""
    [dataset] = study.scale.datasets([_DATASET])
    found, left_out = {}, {}
    for name, source in shown_networks(study.scale).items():
        folders = study.find_evaluations(source, dataset)
        if isinstance(folders, Missing):
            left_out.setdefault(folders.reason, []).append(name)
        else:
            queries_folder = study.log.result(folders[0])["queries_folder"]
            found[name] = read_predictions(folders[0] / "predictions.csv", queries_folder)
    return found, left_out


def choose_queries(found: Sequence[Predictions]) -> list[str]:
    """Draw queries at random from those that all networks answered, right and wrong ones first."""
    if not found:
        return []
    answered = [query for query in found[0].rows if all(query in one.rows for one in found)]
    random.Random(0).shuffle(answered)
    is_right = {query: {one.right_ranks[query] == 1 for one in found} for query in answered}
    return sorted(answered, key=lambda query: -len(is_right[query]))[:_NUM_QUERIES]


@styled
def _draw_grid(queries: Sequence[str], found: Mapping[str, Predictions]) -> Figure:
    size_in = (PAGE_IN, 1.25 * len(queries) + 0.4)
    figure, panels = new_figure(*size_in, len(queries), 1 + len(found), squeeze=False)
    for row, query in zip(panels, queries, strict=True):
        firsts = [predictions.rows[query][0] for predictions in found.values()]
        _draw_image(row[0], firsts[0]["query"], "black", "")
        for panel, first in zip(row[1:], firsts, strict=True):
            text = format_metres(float(first["distance_m"] or "nan"))
            _draw_image(panel, first["prediction"], _COLOURS[first["correct"]], text)
    for panel, title in zip(panels[0], ["query", *found], strict=True):
        panel.set_title(title.replace(" ", "\n"))
    return figure


def _draw_image(panel: Axes, path: str, colour: str, text: str) -> None:
    image = open_image(path)
    image.thumbnail((_WIDTH_PX, _WIDTH_PX))
    panel.imshow(image)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_xlabel(text, color=colour, labelpad=2)
    for spine in panel.spines.values():
        spine.set(visible=True, color=colour, linewidth=2)
