"""How much of an evaluation is not the network: listing, ground truth, search, files, report.

python -m benchmarks.evaluation --num_images 8000

A set of database images and queries of 512 x 512 goes through every part of
eval.py. The descriptors are random; how long their extraction would take is measured on a few of
the images with a ResNet-18, the smallest network of the paper.
"""

import argparse
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import write_remark, write_table, write_title
from datasets.eval_set import load_own_set
from datasets.image_lists import ImagePaths
from datasets.image_names import ImageName, format_image_name
from evaluation.descriptor_files import DescriptorFiles
from evaluation.descriptors import Inference, Rows, extract_descriptors
from evaluation.evaluate import Protocol, evaluate_all
from evaluation.results import NUM_RANKED, write_results
from evaluation.views import View
from model.network import build_network
from reports.report import write_report

DIM, IMAGE_SIZE_PX, NUM_EXTRACTED = 512, 512, 128
PROVENANCE = {"model": "random", "model_file": None, "model_sha256": None}
PROVENANCE |= {"code_version": "", "seed": 0}


def main() -> None:
    """Evaluate a random set, print the seconds of each part."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--num_images", type=int, default=8000, help="of database and of queries")
    cli.add_argument("--num_workers", type=int, default=2)
    cli.add_argument("--quick", action="store_true", help="2,000 images of each")
    args = cli.parse_args()
    num_images = 2000 if args.quick else args.num_images
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root, run_folder = Path(folder) / "set", Path(folder) / "run"
        write_images(root, num_images)
        run_folder.mkdir()
        with timed(seconds, "list images, read positions, find positives"):
            eval_set = load_own_set(root)
        files = DescriptorFiles("random", save_folder=Path(folder) / "descriptors")
        for paths in (eval_set.database, eval_set.queries):
            images = range(len(paths))
            files.get(paths, View(), lambda done: make_descriptors(len(done)), images)
        inference = Inference(torch.device("cpu"), num_workers=args.num_workers)
        with timed(seconds, f"search for {NUM_RANKED} neighbours, count recalls"):
            [evaluation] = evaluate_all(None, [eval_set], Protocol(), inference, NUM_RANKED, files)
        with timed(seconds, "write results.json, predictions.csv, predictions.npz"):
            write_results(evaluation, PROVENANCE, run_folder, 20)
        with timed(seconds, "write report.html without pictures"):
            write_report(run_folder, num_gallery=0)
        extraction_s = measure_extraction(eval_set.database, inference) * 2 * num_images
    write_title(
        "Evaluation without the network",
        f"eval.py with {num_images:,} database images and as many queries of "
        f"{IMAGE_SIZE_PX} x {IMAGE_SIZE_PX} beside their descriptors.",
    )
    write_table(("part", "seconds"), ((part, f"{value:.2f}") for part, value in seconds.items()))
    total = sum(seconds.values())
    write_remark(
        f"In all {total:.2f} s, {100 * total / extraction_s:.2f}% of the {extraction_s:,.0f} s "
        f"that a ResNet-18 takes for the descriptors of {2 * num_images:,} images (bar: 5%)."
    )


def write_images(root: Path, num_images: int) -> None:
    """Write a database and queries along streets; all show the same noise."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGE_SIZE_PX // 8, IMAGE_SIZE_PX // 8, 3), dtype=np.uint8)
    picture = root / "picture.jpg"
    root.mkdir()
    Image.fromarray(pixels).resize((IMAGE_SIZE_PX, IMAGE_SIZE_PX)).save(picture)
    content = picture.read_bytes()
    for part in ("database", "queries"):
        (root / part).mkdir()
        for number, (east_m, north_m) in enumerate(rng.uniform(0, 2500, (num_images, 2))):
            name = ImageName(
                551_000 + east_m,
                4_180_000 + north_m,
                10,
                "S",
                pano_id=f"{number:06d}",
                heading_deg=number % 360,
                timestamp=f"{2010 + number % 12}06",
            )
            (root / part / format_image_name(name)).write_bytes(content)


def make_descriptors(num_images: int) -> Generator[Rows, None, None]:
    """Yield random descriptors of length 1."""
    descriptors = np.random.default_rng(0).normal(size=(num_images, DIM)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    sizes = np.full((num_images, 2), IMAGE_SIZE_PX, np.int32)
    yield Rows(range(num_images), descriptors, sizes)


def measure_extraction(paths: ImagePaths, inference: Inference) -> float:
    """Return the seconds per image of a ResNet-18, after a first batch that is not counted."""
    network = build_network("ResNet18", DIM, backbone_weights="none").eval()
    few = [paths.subset(np.arange(count)) for count in (inference.batch_size, NUM_EXTRACTED)]
    extract_descriptors(network, few[0], View(), inference)
    start = time.perf_counter()
    extract_descriptors(network, few[1], View(), inference)
    return (time.perf_counter() - start) / NUM_EXTRACTED


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Note how long a part takes."""
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start


if __name__ == "__main__":
    main()
