"""Figures 4 and 7 of the paper: example images, and queries with the top-1 of each network."""

import os
import random
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from datasets.images import open_image
from paper.drawing import PAGE_IN, new_figure, remove_pictures, save_figure, styled, write_values
from paper.networks import Source
from paper.panoramas import sample_images
from paper.results_of_runs import Study
from paper.run_log import Missing
from paper.runs_to_do import Need
from paper.scales import Scale
from paper.tables import source_of
from reports.pictures import format_metres
from reports.runs import Predictions, read_predictions

_DATASET = "sf_xl_test_v1"
_METHODS = ("NetVLAD", "CRN", "SARE", "SFRS")  # and CosPlace
_NUM_QUERIES = 5
_CHOICE = "Queries drawn at random from those on which the networks disagree"
_WIDTH_PX = 320  # of the pictures inside the PDF
_COLOURS = {"1": "#1b7f3b", "0": "#c62828", "": "#777777"}
_IMAGES_PER_ROW, _ROWS_PER_PART = 6, 2
_MAX_ROW_IN = 1.3
_GAP_IN, _PART_GAP_IN, _LABEL_IN, _LABEL_LENGTH_IN = 0.04, 0.14, 0.22, 1.1
_PICTURE_DPI = 300


def draw_examples(
    train: str | os.PathLike,
    queries_v1: str | os.PathLike,
    queries_v2: str | os.PathLike,
    folder: Path,
    note: str = "",
    seed: int = 0,
) -> list[Path]:
    """Draw two rows of images of each part (figure 4), upright, in their proportions.

    Args:
        train: Folder of the training images or its list file.
        queries_v1: Of the queries of test v1.
        queries_v2: Of the queries of test v2. A part without images shows a message.
        folder: Where PDF, PNG, and CSV with the list of the images are written.
        note: Printed on the figure.
        seed: Of the choice of images.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: If no part has images, or a listed image is missing.
        ValueError: If an image cannot be decoded.
    """
    parts = {"train": train, "test v1 queries": queries_v1, "test v2 queries": queries_v2}
    rows, messages = [], {}
    for label, source in parts.items():
        try:
            paths = sample_images(source, _IMAGES_PER_ROW * _ROWS_PER_PART, seed)
        except FileNotFoundError as error:
            messages[label] = str(error)
            continue
        length = -(-len(paths) // _ROWS_PER_PART)
        rows += [(label, paths[i : i + length]) for i in range(0, len(paths), length)]
    if not rows:
        raise FileNotFoundError("; ".join(messages.values()))
    figure = _draw_rows(tuple(parts), rows, messages)
    values = [
        (number, label, column, path)
        for number, (label, paths) in enumerate(rows, start=1)
        for column, path in enumerate(paths, start=1)
    ]
    table = write_values(values, ("row", "part", "column", "image"), folder, "fig4", note)
    return [*save_figure(figure, folder, "fig4", note), table]


@styled
def _draw_rows(
    parts: Sequence[str], rows: Sequence[tuple[str, list[str]]], messages: Mapping[str, str]
) -> Figure:
    """Draw rows of images below each other, each as wide as the page, with labels on the left."""
    placed, texts, top_in = [], [], 0.0
    for part in parts:
        bottom_in = top_in
        for paths in (paths for label, paths in rows if label == part):
            placed += _place_row([_load_picture(path) for path in paths], bottom_in)
            bottom_in = placed[-1][1].y1 + _GAP_IN
        bottom_in = max(bottom_in, top_in + _LABEL_LENGTH_IN)
        texts.append((part, messages.get(part, ""), (top_in + bottom_in) / 2))
        top_in = bottom_in + _PART_GAP_IN
    height_in = bottom_in
    figure = Figure((PAGE_IN, height_in))
    for picture, box in placed:
        place = (box.x0 / PAGE_IN, 1 - box.y1 / height_in)
        axes = figure.add_axes((*place, box.width / PAGE_IN, box.height / height_in))
        axes.imshow(picture, aspect="auto")
        axes.set_axis_off()
    for part, message, middle_in in texts:
        y, middle = 1 - middle_in / height_in, {"va": "center", "ha": "center"}
        figure.text(0.4 * _LABEL_IN / PAGE_IN, y, part, rotation=90, **middle)
        figure.text(0.5, y, textwrap.fill(message, 90), **middle)
    return figure


def _place_row(pictures: list[Image.Image], top_in: float) -> list[tuple[Image.Image, Bbox]]:
    """Give pictures of a row one height, so that they fill the page; inches from its top left."""
    ratios = [picture.width / picture.height for picture in pictures]
    room_in = PAGE_IN - _LABEL_IN - _GAP_IN * (len(ratios) - 1)
    height_in = min(_MAX_ROW_IN, room_in / sum(ratios))
    placed, left_in = [], _LABEL_IN
    for picture, ratio in zip(pictures, ratios, strict=True):
        placed.append((picture, Bbox.from_bounds(left_in, top_in, height_in * ratio, height_in)))
        left_in += height_in * ratio + _GAP_IN
    return placed


def _load_picture(path: str) -> Image.Image:
    """Open an image and shrink it to its size in print."""
    image = open_image(path)
    height_px = round(_MAX_ROW_IN * _PICTURE_DPI)
    width_px = max(1, round(image.width * height_px / image.height))
    return image.resize((width_px, height_px), Image.Resampling.LANCZOS)


def shown_networks(scale: Scale) -> dict[str, Source]:
    """Return the columns of Figure 7: the networks of the paper, and other released ones."""
    return {
        **{name: source_of("table3", (name, "512", "Pitts30k"), scale) for name in _METHODS},
        "SfM120k ResNet-50": scale.released("landmark:SfM120k:ResNet50"),
        "GLD ResNet-50": scale.released("landmark:GLD:ResNet50"),
        "CosPlace ResNet-18": scale.cosplace("ResNet18", 512),
        "CosPlace VGG-16": scale.cosplace("VGG16", 512),
        "CosPlace ResNet-50": scale.cosplace("ResNet50", 2048),
    }


def qualitative_needs(study: Study) -> list[Need]:
    """Return the networks of Figure 7 on its test set."""
    datasets = tuple(study.scale.datasets([_DATASET]))
    return [
        Need(study.resolve(source), datasets)
        for name, source in shown_networks(study.scale).items()
        if study.is_asked(name, source)
    ]


def draw_qualitative(study: Study, folder: Path) -> list[Path]:
    """Draw Figure 7: a row per query, framed green if the top-1 is correct, else red.

    The queries are drawn at random from those on which the networks disagree. Without any, only
    an empty CSV is written.
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
    """Return predictions of the first seed by network, and networks without any by reason."""
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
    """Draw queries at random from those of all networks, those with differing results first."""
    if not found:
        return []
    answered = [query for query in found[0].rows if all(query in one.rows for one in found)]
    random.Random(0).shuffle(answered)
    is_correct = {query: {one.correct_ranks[query] == 1 for one in found} for query in answered}
    return sorted(answered, key=lambda query: -len(is_correct[query]))[:_NUM_QUERIES]


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
