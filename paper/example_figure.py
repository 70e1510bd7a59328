"""Figure 4 of the paper: what the images of a data set look like."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from datasets.images import open_image
from paper.drawing import PAGE_IN, save_figure, styled, write_values
from paper.panoramas import sample_images

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
        queries_v2: Of the queries of test v2. A part without images says so in its place.
        folder: Where PDF, PNG, and CSV with the list of the images are written.
        note: Printed on the figure.
        seed: Another seed shows other images.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: If no part has images, or an image that a list names is not there.
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
    """Open an image and make it as small as it is shown."""
    image = open_image(path)
    height_px = round(_MAX_ROW_IN * _PICTURE_DPI)
    width_px = max(1, round(image.width * height_px / image.height))
    return image.resize((width_px, height_px), Image.Resampling.LANCZOS)
