"""Make the pictures of the README out of two evaluations of the mini city.

python docs/pictures.py logs/BEFORE logs/AFTER data/demo/mini_city

Those of the README are of CosPlace, `python -m paper.reproduce methods --scale demo`. The second
folder needs a report. Needs Chromium.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1]))

from datasets.image_names import parse_image_name
from datasets.images import open_image
from reports.pictures import MARGIN_PX, TILE_HEIGHT_PX, draw_tile, format_metres, name_image
from reports.runs import iterate_queries

NUM_QUERIES, NUM_PREDS = 4, 2
TITLE_PX, GAP_PX = 60, 28
NUM_PLACES, NUM_YEARS, CROP_PX = 5, 9, 160
OUT = Path(__file__).parent


def main() -> None:
    """Write predictions.jpg and mini_city.jpg beside this file."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("before", type=Path, help="run of the untrained network")
    cli.add_argument("after", type=Path, help="run of the trained network")
    cli.add_argument("city", type=Path, help="folder of the mini city")
    args = cli.parse_args()
    compare_predictions(args.before, args.after).save(OUT / "predictions.jpg", quality=88)
    show_places(args.city).save(OUT / "mini_city.jpg", quality=88)
    show_report(args.after / "report.html").save(OUT / "report.jpg", quality=85)


def compare_predictions(before: Path, after: Path) -> Image.Image:
    """Draw evenly spaced ones of the queries that training gives a correct top-1, one a row."""
    runs = [read_predictions(before), read_predictions(after)]
    won, lost = (
        [query for query in runs[0] if [run[query][0]["correct"] for run in runs] == verdicts]
        for verdicts in (["0", "1"], ["1", "0"])
    )
    sys.stdout.write(f"Top-1 correct only after training: {len(won)}, only before: {len(lost)}\n")
    rows = [draw_row(query, runs) for query in won[:: len(won) // NUM_QUERIES][:NUM_QUERIES]]
    sheet = Image.new("RGB", (rows[0].width, TITLE_PX + sum(row.height for row in rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(30)
    tile_px = (rows[0].width - 2 * GAP_PX) // (1 + 2 * NUM_PREDS)
    for side, (text, run) in enumerate((("before training", before), ("after training", after))):
        recall = json.loads((run / "results.json").read_text())["recalls"]["R@1"]
        left = tile_px + GAP_PX + side * (NUM_PREDS * tile_px + GAP_PX)
        draw.text((left, 12), f"{text}: R@1 {recall:.1f} %", fill="black", font=font)
    for number, row in enumerate(rows):
        sheet.paste(row, (0, TITLE_PX + number * row.height))
    return sheet


def draw_row(query: str, runs: list[dict[str, list[dict[str, str]]]]) -> Image.Image:
    """Draw a query and its predictions in each run, as squares."""
    tiles = [[draw_tile(query, name_image(query), None, TILE_HEIGHT_PX)]]
    for run in runs:
        tiles.append([])
        for row in run[query][:NUM_PREDS]:
            text = format_metres(float(row["distance_m"]))
            tiles[-1].append(draw_tile(row["prediction"], text, row["correct"], TILE_HEIGHT_PX))
    step, height = tiles[0][0].width + MARGIN_PX, tiles[0][0].height + MARGIN_PX
    width = step * sum(map(len, tiles)) + GAP_PX * (len(tiles) - 1)
    picture = Image.new("RGB", (width, height), "white")
    left = 0
    for group in tiles:
        for tile in group:
            picture.paste(tile, (left, 0))
            left += step
        left += GAP_PX
    return picture


def read_predictions(run: Path) -> dict[str, list[dict[str, str]]]:
    """Read predictions.csv as {query: rows by rank}."""
    return {rows[0]["query"]: rows for rows in iterate_queries(run / "predictions.csv")}


def show_places(city: Path) -> Image.Image:
    """Draw classes of 10 m and 30 degrees, one a row, a year a column."""
    classes = defaultdict(dict)
    for path in sorted(city.glob("processed/train/*/*.jpg")):
        name = parse_image_name(path)
        cell = (name.utm_east_m // 10, name.utm_north_m // 10, name.heading_deg // 30)
        classes[cell].setdefault(name.timestamp[:4], path)
    full = [images for images in classes.values() if len(images) >= NUM_YEARS]
    chosen = full[:: len(full) // NUM_PLACES][:NUM_PLACES]
    sheet = Image.new("RGB", (NUM_YEARS * CROP_PX, NUM_PLACES * CROP_PX))
    for row, images in enumerate(chosen):
        for column, year in enumerate(sorted(images)[:NUM_YEARS]):
            crop = open_image(images[year]).resize((CROP_PX, CROP_PX))
            sheet.paste(crop, (column * CROP_PX, row * CROP_PX))
    return sheet


def show_report(page: Path) -> Image.Image:
    """Draw the recalls, the curves and the map of a report as a browser shows them."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,2330"]
        options += [f"--user-data-dir={folder}/profile", f"--screenshot={picture}"]
        options.append("--hide-scrollbars")
        subprocess.run(["chromium", *options, page.resolve().as_uri()], check=True)
        shown = Image.open(picture).convert("RGB")
        return shown.resize((960, 1748), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
