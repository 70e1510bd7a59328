"""Figure 7: queries with the first prediction of each of several networks."""

import random
from pathlib import Path

from matplotlib.axes import Axes

from datasets.images import open_image
from paper.drawing import PAGE_IN, new_figure, save_figure, styled, write_values
from paper.plan import Need
from paper.run_log import Missing
from paper.scales import Scale
from paper.sources import Absent, Released, Source
from paper.study import Study
from reports.pictures import format_metres
from reports.runs import Predictions, read_predictions, read_results

_DATASET = "sf_xl_test_v1"
_NUM_QUERIES = 5
_WIDTH_PX = 320  # of the pictures inside the PDF
_COLOURS = {"1": "#1b7f3b", "0": "#c62828", "": "#777777"}


def shown_networks(scale: Scale) -> dict[str, Source]:
    """Return the columns of the figure: those of the paper, and others that there are."""
    return {
        **dict.fromkeys(("NetVLAD", "CRN", "SARE", "SFRS"), Absent()),
        "SfM120k\nResNet-50": Released("landmark:SfM120k:ResNet50"),
        "GLD\nResNet-50": Released("landmark:GLD:ResNet50"),
        "CosPlace\nResNet-18": scale.cosplace("ResNet18", 512),
        "CosPlace\nVGG-16": scale.cosplace("VGG16", 512),
        "CosPlace\nResNet-50": scale.cosplace("ResNet50", 2048),
    }


def answer_needs(study: Study) -> list[Need]:
    """Return the networks on the one test set that is shown."""
    datasets = tuple(study.scale.datasets([_DATASET]))
    return [
        Need(study.resolve(source), datasets)
        for name, source in shown_networks(study.scale).items()
        if study.is_asked(name)
    ]


@styled
def draw_answers(study: Study, folder: Path) -> list[Path]:
    """Draw Figure 7: a row per query, framed green where the prediction is right, else red.

    The queries are drawn at random from those on which the networks disagree.
    """
    [dataset] = study.scale.datasets([_DATASET])
    found, left_out = {}, {}
    for name, source in shown_networks(study.scale).items():
        place = study.evaluation(source, dataset)
        if isinstance(place, Missing):
            left_out[name.replace("\n", " ")] = place.reason
        elif study.is_asked(name):
            queries_folder = read_results(place)["queries_folder"]
            found[name] = read_predictions(place / "predictions.csv", queries_folder)
    queries = choose_queries(list(found.values()))
    rows = [
        (
            query,
            name.replace("\n", " "),
            *(first[key] for key in ("prediction", "distance_m", "correct")),
        )
        for query in queries
        for name, predictions in found.items()
        for first in predictions.rows[query][:1]
    ]
    header = ("query", "network", "prediction", "distance_m", "correct")
    files = [write_values(rows, header, folder, "fig7")]
    if not queries:
        return files
    figure, panels = new_figure(
        PAGE_IN, 1.25 * len(queries) + 0.4, len(queries), 1 + len(found), squeeze=False
    )
    for row, query in zip(panels, queries, strict=True):
        _draw_row(row, query, found)
    for panel, title in zip(panels[0], ["query", *found], strict=True):
        panel.set_title(title)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    note = ". ".join(filter(None, [study.scale.mark, f"Left out: {reasons}" if reasons else ""]))
    return [*save_figure(figure, folder, "fig7", note), *files]


def choose_queries(found: list[Predictions]) -> list[str]:
    """Draw queries at random from those that all networks answered, right and wrong ones first."""
    if not found:
        return []
    answered = [query for query in found[0].rows if all(query in one.rows for one in found)]
    random.Random(0).shuffle(answered)
    is_right = {query: {one.right_ranks[query] == 1 for one in found} for query in answered}
    return sorted(answered, key=lambda query: -len(is_right[query]))[:_NUM_QUERIES]


def _draw_row(row: list[Axes], query: str, found: dict[str, Predictions]) -> None:
    firsts = [predictions.rows[query][0] for predictions in found.values()]
    _draw_image(row[0], firsts[0]["query"], "black", "")
    for panel, first in zip(row[1:], firsts, strict=True):
        text = format_metres(float(first["distance_m"] or "nan"))
        _draw_image(panel, first["prediction"], _COLOURS[first["correct"]], text)


def _draw_image(panel: Axes, path: str, colour: str, text: str) -> None:
    image = open_image(path)
    image.thumbnail((_WIDTH_PX, _WIDTH_PX))
    panel.imshow(image)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_xlabel(text, color=colour, labelpad=2)
    for spine in panel.spines.values():
        spine.set(visible=True, color=colour, linewidth=2)
