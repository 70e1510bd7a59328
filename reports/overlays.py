"""Heat maps drawn over images, and the files with them that `reports.attention` writes.

A folder of them has `<name>.jpg`, the image beside the map over it; `maps.npz`, the maps; and
`attention.csv`, a row for each map: COLUMNS.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from datasets.images import open_image
from datasets.tables import TABLE, unescape_cell
from reports.pictures import encode_image, fit_text

FOLDER = "attention"  # in that of a run
TABLE_FILE, MAPS_FILE = "attention.csv", "maps.npz"
COLUMNS = (
    *("picture", "image", "image_height", "image_width", "input_height", "input_width"),
    *("layer", "kind", "map_height", "map_width", "sum", "max_over_mean", "peak_x", "peak_y"),
    *("resize", "model", "model_sha256"),
)
SIDE_PX = 480  # longer side of images in a picture
_LEAST_PANEL_PX = 300  # wide enough for the text below
_MARGIN_PX, _BAR_PX, _TEXT_PX = 10, 14, 15
_COLOURS = (matplotlib.colormaps["inferno"](np.linspace(0, 1, 256))[:, :3] * 255).round()
_OPACITY = (0.4, 0.8)  # of the colours where the map is 0 and where it is largest
_INK = (31, 38, 44)


class Peak(NamedTuple):
    """The largest value of a heat map."""

    over_mean: float  # in multiples of the mean; NaN if that is not above 0
    x: float  # of the middle of its location, in pixels of the image from the left
    y: float  # from the top


def find_peak(heat: np.ndarray, size: tuple[int, int]) -> Peak:
    """Return the largest value of a heat map [h, w] over an image of a width and height."""
    row, column = np.unravel_index(np.argmax(heat), heat.shape)
    mean = float(heat.mean())
    over_mean = float(heat[row, column]) / mean if mean > 0 else np.nan
    width, height = size
    x, y = (column + 0.5) * width / heat.shape[1], (row + 0.5) * height / heat.shape[0]
    return Peak(over_mean, float(x), float(y))


def draw_overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """Return an image with a heat map [h, w] over it: dark is 0 and below, yellow the largest.

    The map covers the whole image; between the middles of locations it is interpolated.
    """
    largest = max(float(heat.max()), np.finfo(np.float32).tiny)
    shares = Image.fromarray(np.clip(heat / largest, 0, 1).astype(np.float32))
    shares = np.array(shares.resize(image.size, Image.Resampling.BILINEAR))[..., None]
    colours = _COLOURS[(255 * shares[..., 0]).round().astype(int)]
    opacity = _OPACITY[0] + (_OPACITY[1] - _OPACITY[0]) * shares
    grey = np.array(image.convert("L"), np.float32)[..., None]
    return Image.fromarray((opacity * colours + (1 - opacity) * grey).round().astype(np.uint8))


def draw_sheet(
    image: Image.Image, name: str, kind: str, maps: Mapping[str, np.ndarray]
) -> Image.Image:
    """Draw an image beside its heat maps, each with its scale below.

    Args:
        image: In its own size.
        name: Below the image.
        kind: What the maps show, in words.
        maps: By the name of the layer, [h, w].
    """
    image = ImageOps.contain(image, (SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    panel_px = max(image.width, _LEAST_PANEL_PX)
    below_px = _BAR_PX + 2 * _TEXT_PX + 3 * _MARGIN_PX
    step = panel_px + _MARGIN_PX
    size = (_MARGIN_PX + (1 + len(maps)) * step, image.height + _MARGIN_PX + below_px)
    sheet = Image.new("RGB", size, "white")
    sheet.paste(image, (_MARGIN_PX, _MARGIN_PX))
    top = image.height + 2 * _MARGIN_PX
    _write(sheet, (_MARGIN_PX, top), name, panel_px)
    for place, (layer, heat) in enumerate(maps.items(), start=1):
        left = _MARGIN_PX + place * step
        sheet.paste(draw_overlay(image, heat), (left, _MARGIN_PX))
        sheet.paste(draw_scale(min(image.width, panel_px), _BAR_PX), (left, top))
        peak = find_peak(heat, image.size).over_mean
        texts = (name_map(kind, layer), f"0 to {peak:.1f} x the mean location")
        for line, text in enumerate(texts):
            _write(sheet, (left, top + _BAR_PX + line * (_TEXT_PX + 4) + 6), text, panel_px)
    return sheet


def draw_scale(width_px: int, height_px: int) -> Image.Image:
    """Draw the colours of overlays from 0 to the largest value, without transparency."""
    row = _COLOURS[np.linspace(0, 255, width_px).round().astype(int)].astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row, (height_px, width_px, 3)).copy())


def _write(sheet: Image.Image, place: tuple[int, int], text: str, width_px: int) -> None:
    text, font = fit_text(text, width_px, _TEXT_PX)
    ImageDraw.Draw(sheet).text(place, text, fill=_INK, font=font)


@dataclass(frozen=True)
class Look:
    """Where the descriptor of an image looks, as read from a folder of heat maps."""

    kind: str  # of the numbers, in words, with the layer
    heat: np.ndarray  # float32 [h, w]
    over_mean: float  # largest value, in multiples of the mean

    def encode(self, path: str, size_px: tuple[int, int], quality: int) -> str:
        """Return the map over a small copy of the image as a data URI; raises like `open_image`.

        Args:
            path: The image.
            size_px: Largest width and height.
            quality: Of the JPEG.
        """
        image = open_image(path)
        image.thumbnail(size_px, Image.Resampling.LANCZOS)
        return encode_image(draw_overlay(image, self.heat), quality)


def read_looks(folder: Path, model_sha256: str | None) -> tuple[dict[str, Look], str]:
    """Read the heat maps of a run; of several layers, the last.

    Args:
        folder: With the files of `reports.attention`.
        model_sha256: Of the model of the run.

    Returns:
        Maps by path of the image, and a sentence if they are left out; both empty without a folder.

    Raises:
        ValueError: If the files are damaged.
    """
    if not (folder / TABLE_FILE).is_file():
        return {}, ""
    looks: dict[str, Look] = {}
    try:
        with (
            open(folder / TABLE_FILE, **TABLE) as text,
            np.load(folder / MAPS_FILE, allow_pickle=False) as maps,
        ):
            for cells in csv.DictReader(text):
                row = {name: unescape_cell(cell) for name, cell in cells.items()}
                if row["model_sha256"] != str(model_sha256 or ""):
                    return {}, (
                        f"The heat maps in {folder.name}/ are of another model and left out: run "
                        "python -m reports.attention again."
                    )
                heat = maps[key_of(row["picture"], row["layer"])]
                if heat.ndim != 2 or heat.dtype != np.float32 or not np.isfinite(heat).all():
                    raise ValueError(f"the map of {row['picture']} is none")
                kind = name_map(row["kind"], row["layer"])
                looks[row["image"]] = Look(kind, heat, float(row["max_over_mean"]))
    except Exception as error:  # csv, NumPy and zipfile raise many kinds for damaged files
        raise ValueError(
            f"The heat maps in {folder} are damaged ({error}): remove the folder, or run python -m "
            "reports.attention again"
        ) from None
    return looks, ""


def key_of(picture: str, layer: str) -> str:
    """Return the name of a map in maps.npz."""
    return "/".join(filter(None, (Path(picture).stem, layer)))


def name_map(kind: str, layer: str) -> str:
    """Return what a map shows, in words."""
    return ", ".join(filter(None, (kind, layer)))
