"""What a training image costs EigenPlaces: a view out of a panorama, against a ready crop.

python -m benchmarks.panoramas
python -m benchmarks.panoramas --num_images 100 --repetitions 5

Images are made: panoramas of 3,328 x 512 pixels, and crops of 512 x 512 out of them, as JPEGs in
the file cache. One core; medians over the images, of the fastest of some repetitions each.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from benchmarks.common import write_photos, write_table, write_title
from datasets.images import load_image
from datasets.panoramas import crop_width, cut_crop

WIDTH, HEIGHT = 3328, 512  # of SF-XL's panoramas, in pixels
QUALITY = 92  # of the JPEGs


def main() -> None:
    """Print a Markdown table."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--num_images", type=int, default=10)
    cli.add_argument("--repetitions", type=int, default=5)
    cli.add_argument("--quick", action="store_true", help="fewer images")
    args = cli.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        panoramas, crops = write_images(Path(folder), 3 if args.quick else args.num_images)
        loaded = [load_image(path) for path in panoramas]
        costs = {
            "decode a panorama": measure(load_image, panoramas, args.repetitions),
            "cut a view out of it": measure(
                lambda image: cut_crop(image, 123.0, 200.0), loaded, args.repetitions
            ),
            "decode a crop": measure(load_image, crops, args.repetitions),
        }
    write_title("Panoramas", "Milliseconds of one core.")
    write_table(("step", "ms"), [(step, f"{ms:.2f}") for step, ms in costs.items()])


def write_images(folder: Path, num_images: int) -> tuple[list[Path], list[Path]]:
    """Write panoramas, and the crop in the middle of each; return their paths."""
    panoramas, crops = [], []
    for square in write_photos(folder / "squares", num_images, WIDTH):
        with Image.open(square) as image:
            rows = image.crop((0, 0, WIDTH, HEIGHT))
        first = (WIDTH - crop_width(WIDTH)) // 2
        panoramas.append(folder / f"panorama_{square.name}")
        crops.append(folder / f"crop_{square.name}")
        rows.save(panoramas[-1], quality=QUALITY)
        rows.crop((first, 0, first + crop_width(WIDTH), HEIGHT)).save(crops[-1], quality=QUALITY)
    return panoramas, crops


def measure(step: Callable, inputs: Sequence, repetitions: int) -> float:
    """Return the median over inputs of the fastest time of a step, in milliseconds."""
    fastest = []
    for one in inputs:
        times = []
        for _ in range(repetitions):
            start_s = time.perf_counter()
            step(one)
            times.append(time.perf_counter() - start_s)
        fastest.append(min(times))
    return 1000 * statistics.median(fastest)


if __name__ == "__main__":
    main()
