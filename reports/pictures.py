"""One picture per query: the query and its top-k predictions, framed green, red, or grey.

python -m reports.pictures RUN_FOLDER --num_preds 3
"""

import base64
import io
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import commons
from datasets.image_names import parse_image_name
from datasets.images import open_image
from parser import CommandLine
from reports.runs import iterate_queries

TILE_HEIGHT_PX = 256
FRAME_PX = 6
MARGIN_PX = 8
TEXT_PX = 18
QUERY_COLOUR = (70, 90, 200)
COLOURS = {"1": (40, 160, 60), "0": (210, 50, 40), "": (120, 120, 120)}  # by `correct`


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
    """Draw a query and its predictions side by side.

    Args:
        rows: Rows of `predictions.csv` of one query, by rank.
    """
    tiles = [_tile(rows[0]["query"], "query", QUERY_COLOUR)]
    for row in rows:
        distance = format_metres(float(row["distance_m"] or "nan"))
        tiles.append(_tile(row["prediction"], distance, COLOURS[row["correct"]]))
    width = sum(tile.width for tile in tiles) + MARGIN_PX * (len(tiles) + 1)
    picture = Image.new("RGB", (width, tiles[0].height + 2 * MARGIN_PX), "white")
    x = MARGIN_PX
    for tile in tiles:
        picture.paste(tile, (x, MARGIN_PX))
        x += tile.width + MARGIN_PX
    return picture


def _tile(path: str, text: str, colour: tuple[int, int, int]) -> Image.Image:
    """Frame an image and write a line of text below."""
    image = open_image(path)
    image = image.resize((round(image.width * TILE_HEIGHT_PX / image.height), TILE_HEIGHT_PX))
    frame = (image.width + 2 * FRAME_PX, image.height + 2 * FRAME_PX)
    tile = Image.new("RGB", (frame[0], frame[1] + TEXT_PX + 6), "white")
    tile.paste(colour, (0, 0, *frame))
    tile.paste(image, (FRAME_PX, FRAME_PX))
    font = ImageFont.load_default(TEXT_PX)
    position = (frame[0] / 2, frame[1] + 2)
    ImageDraw.Draw(tile).text(position, text, fill=colour, font=font, anchor="ma")
    return tile


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
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pictures of a finished run."""
    cli = CommandLine(description=__doc__.splitlines()[0])
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
