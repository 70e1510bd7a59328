"""Make the pictures of the README out of the runs of `make demo`. Needs Chromium for report.jpg.

python docs/pictures.py logs/demo/untrained logs/demo/trained data/mini_city
"""

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1]))

from datasets.image_names import parse_image_name
from datasets.images import open_image
from reports.pictures import draw_predictions
from reports.runs import iterate_queries

NUM_QUERIES, NUM_PREDS = 4, 3
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
    """Draw evenly spaced queries, one a row, with their predictions in both runs."""
    runs = [read_predictions(before), read_predictions(after)]
    queries = list(runs[0])[:: len(runs[0]) // NUM_QUERIES][:NUM_QUERIES]
    pairs = [[draw_predictions(run[query][:NUM_PREDS]) for run in runs] for query in queries]
    widths = [max(pair[side].width for pair in pairs) for side in (0, 1)]
    height = pairs[0][0].height
    sheet = Image.new("RGB", (sum(widths) + 30, 40 + height * len(pairs)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(24)
    for side, text in enumerate(("before training", "after training")):
        left = side * (widths[0] + 30)
        draw.text((left + 10, 6), text, fill="black", font=font)
        for row, pair in enumerate(pairs):
            sheet.paste(pair[side], (left, 40 + row * height))
    return sheet.resize((sheet.width * 2 // 3, sheet.height * 2 // 3), Image.Resampling.LANCZOS)


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
    """Draw the curves and the map of a report as a browser shows them."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,2440"]
        options += [f"--user-data-dir={folder}/profile", f"--screenshot={picture}"]
        subprocess.run(["chromium", *options, page.resolve().as_uri()], check=True)
        shown = Image.open(picture).convert("RGB").crop((0, 760, 1264, 2440))
        return shown.resize((840, 1116), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
