"""One picture per query: the query and its top-k predictions, marked correct or wrong.

python -m reports.pictures RUN_FOLDER --num_preds 3
"""

import base64
import io
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

import commons
from command_line import CommandLine
from datasets.image_names import parse_image_name
from datasets.images import open_image
from reports.runs import iterate_queries

TILE_HEIGHT_PX = 256
FRAME_PX = 6
MARGIN_PX = 8
TEXT_PX = 18
LEAST_TEXT_PX = 12  # of names that are long
QUERY_COLOUR = (53, 102, 168)  # these are the colours of reports/page/style.css
COLOURS = {"1": (29, 138, 86), "0": (207, 67, 51), "": (90, 99, 107)}  # by `correct`
_SIGNS = {
    "1": ((0, 0.55), (0.35, 0.9), (1, 0.1)),
    "0": ((0, 0), (1, 1), (0.5, 0.5), (1, 0), (0, 1)),
}


def save_pictures(run_folder: Path, num_preds: int, only_wrong: bool = False) -> int:
    """Write RUN_FOLDER/preds/<query number>.jpg for the queries of a run, replacing older ones.

    Args:
        run_folder: Holds the `predictions.csv` of an evaluation.
        num_preds: Predictions shown of each query.
        only_wrong: Leave out queries whose top-1 prediction is correct.

    Returns:
        The number of pictures written.

    Raises:
        FileNotFoundError: If there is no `predictions.csv`, or an image is gone.
        ValueError: If the file is damaged; older pictures then stay.
    """
    predictions_file = run_folder / "predictions.csv"
    if not predictions_file.is_file():
        raise FileNotFoundError(
            f"There is no {predictions_file}: evaluate a model with --save_dir {run_folder} first"
        )
    queries = [
        rows[:num_preds]
        for rows in iterate_queries(predictions_file)
        if not (only_wrong and rows[0]["correct"] == "1")
    ]
    pictures_folder = run_folder / "preds"
    pictures_folder.mkdir(exist_ok=True)
    for old in pictures_folder.glob("*.jpg"):
        old.unlink()
    for rows in queries:
        picture = draw_predictions(rows)
        picture.save(pictures_folder / f"{int(rows[0]['query_num']):05d}.jpg", quality=90)
    return len(queries)


def save_sheet(queries: Sequence[list[dict[str, str]]], file: Path) -> None:
    """Draw some queries with their predictions, one below the other, into one picture.

    Args:
        queries: For each, its rows of `predictions.csv` by rank.
        file: Of the picture, a JPEG; its folder is made.
    """
    pictures = [draw_predictions(rows) for rows in queries]
    size = (max(one.width for one in pictures), sum(one.height for one in pictures))
    sheet, y = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height
    file.parent.mkdir(exist_ok=True)
    with commons.atomic_write(file) as temporary:
        sheet.save(temporary, "JPEG", quality=90)


def draw_predictions(rows: list[dict[str, str]]) -> Image.Image:
    """Draw a query, with its name, and its predictions side by side.

    Args:
        rows: Rows of `predictions.csv` of one query, by rank.
    """
    tiles = [draw_tile(rows[0]["query"], name_image(rows[0]["query"]))]
    for row in rows:
        distance = format_metres(float(row["distance_m"] or "nan"))
        tiles.append(draw_tile(row["prediction"], distance, row["correct"]))
    width = sum(tile.width for tile in tiles) + MARGIN_PX * (len(tiles) + 1)
    picture = Image.new("RGB", (width, tiles[0].height + 2 * MARGIN_PX), "white")
    x = MARGIN_PX
    for tile in tiles:
        picture.paste(tile, (x, MARGIN_PX))
        x += tile.width + MARGIN_PX
    return picture


def draw_tile(
    path: str, text: str, correct: str | None = None, width_px: int | None = None
) -> Image.Image:
    """Frame an image and write a line of text below, with a tick or a cross before it.

    Args:
        path: The image.
        text: Made smaller, then shorter, where it is wider than the image.
        correct: "1", "0", or "" if unknown; None for a query.
        width_px: Of the image, whose middle is shown; by default that of the whole image.
    """
    image = open_image(path)
    if width_px is None:
        width_px = round(image.width * TILE_HEIGHT_PX / image.height)
    image = ImageOps.fit(image, (width_px, TILE_HEIGHT_PX), Image.Resampling.BICUBIC)
    colour = QUERY_COLOUR if correct is None else COLOURS[correct]
    frame = (image.width + 2 * FRAME_PX, image.height + 2 * FRAME_PX)
    tile = Image.new("RGB", (frame[0], frame[1] + TEXT_PX + 8), "white")
    tile.paste(colour, (0, 0, *frame))
    tile.paste(image, (FRAME_PX, FRAME_PX))
    sign = _SIGNS.get(correct or "", ())
    sign_px = TEXT_PX if sign else 0
    text, font = fit_text(text, frame[0] - sign_px - 8)
    draw = ImageDraw.Draw(tile)
    left, middle = (frame[0] - font.getlength(text) - sign_px) / 2, frame[1] + TEXT_PX / 2 + 4
    size = 0.6 * TEXT_PX
    points = [(left + x * size, middle + (y - 0.5) * size) for x, y in sign]
    draw.line(points, fill=colour, width=2, joint="curve")
    draw.text((left + sign_px, middle), text, fill=colour, font=font, anchor="lm")
    return tile


def fit_text(
    text: str, width_px: float, largest_px: int = TEXT_PX
) -> tuple[str, ImageFont.FreeTypeFont]:
    """Return a text and a font that fit into a width."""
    for size_px in range(largest_px, LEAST_TEXT_PX - 1, -1):
        font = ImageFont.load_default(size_px)
        if font.getlength(text) <= width_px:
            return text, font
    while text and font.getlength(f"{text}...") > width_px:
        text = text[:-1]
    return f"{text}...", font


def name_image(path: str | os.PathLike) -> str:
    """Return the name of an image for people: that of its file, or the pano_id of an '@' name.

    There `tools.convert` keeps the name of the original photo. The crops of a panorama are told
    apart by their headings: "kPnABhWJ1kA61eMNPLs1vQ, 210°".
    """
    file = os.path.basename(path)
    try:
        name = parse_image_name(file) if file.startswith("@") else None
    except ValueError:
        return file
    if name is None or not name.pano_id:
        return file
    return name.pano_id if name.heading_deg is None else f"{name.pano_id}, {name.heading_deg:g}°"


def format_metres(distance_m: float) -> str:
    """Return a distance as text; NaN: unknown, inf: in different UTM regions."""
    if math.isnan(distance_m):
        return ""
    if math.isinf(distance_m):
        return "another UTM zone"
    if distance_m >= 1000:
        return f"{distance_m / 1000:.1f} km"
    return f"{distance_m:.2f} m" if distance_m < 100 else f"{distance_m:.0f} m"


def encode_thumbnail(path: str | os.PathLike, size_px: tuple[int, int], quality: int) -> str:
    """Return an upright, small JPEG of an image as a data URI; raises like `open_image`.

    Args:
        path: The image.
        size_px: Largest width and height; smaller images keep their size.
        quality: Of the JPEG.
    """
    image = open_image(path)
    image.thumbnail(size_px, Image.Resampling.LANCZOS)
    return encode_image(image, quality)


def encode_image(image: Image.Image, quality: int) -> str:
    """Return an image as a data URI, a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pictures of a finished run."""
    cli = CommandLine(prog="python -m reports.pictures", description=__doc__.splitlines()[0])
    cli.add_argument("run_folder", type=Path, help="folder with a predictions.csv")
    cli.add_argument("--num_preds", type=int, default=3, help="predictions a picture (default: 3)")
    cli.add_argument("--only_wrong", action="store_true", help="only queries with a wrong top-1")
    args = cli.parse_args(argv)
    if args.num_preds < 1:
        cli.error(f"--num_preds must be at least 1, it is {args.num_preds}")
    num_pictures = save_pictures(args.run_folder, args.num_preds, args.only_wrong)
    logging.info(f"{num_pictures} pictures are in {args.run_folder / 'preds'}")


if __name__ == "__main__":
    commons.run_command(main)
