"""How fast descriptors are extracted, against a plain loop.

python -m benchmarks.extraction
python -m benchmarks.extraction --device cuda --backbone ResNet50

The plain loop is the obvious program: Pillow and float tensors in the loader, the network as it was
trained, batches of 4 for a database, one image at a time for queries, since their sizes may differ,
and each result fetched before the next batch.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.common import write_photos, write_remark, write_table, write_title
from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets.image_lists import ImagePaths, list_images
from evaluation.descriptors import Inference, Model, extract_descriptors
from evaluation.views import View
from model.inference import optimize
from model.network import build_network
from model.other_models import load_onnx
from tools.export import write_onnx

PLAIN_BATCH = 4
NUM_PROCESSES = 2
SIZES = ((512, 512), (640, 480), (480, 640), (512, 384))  # width, height
Extract = Callable[[ImagePaths], np.ndarray]  # to float32 [num_images, D]


class ExtractionSetting(NamedTuple):
    """What is measured."""

    backbone: str
    dim: int
    device: torch.device
    batch_size: int
    num_workers: int


class Way(NamedTuple):
    """A way to extract descriptors."""

    name: str
    bar: str  # of its ratio for a database
    extract: Extract
    tolerance: float = 1e-5  # of the numbers of a descriptor


def main() -> None:
    """Race all ways on images of one size and of several; print a Markdown table."""
    args = parse_arguments()
    setting = ExtractionSetting(
        args.backbone,
        args.fc_output_dim,
        torch.device(args.device),
        args.batch_size,
        args.num_workers,
    )
    is_cuda = setting.device.type == "cuda"
    write_title(
        "Extraction",
        f"Descriptors of {args.num_images:,} JPEGs of 512 x 512 pixels, or of four sizes in turn, "
        f"by {args.backbone}, {args.fc_output_dim}-D, on "
        f"{'CUDA' if is_cuda else f'{torch.get_num_threads()} threads'}: images/s from file to "
        f"descriptor, against a plain loop, medians of {args.repetitions} interleaved runs. The "
        "difference is the largest between two numbers of the descriptors.",
    )
    columns = ("images", "how", "ours, images/s", "plain, images/s", "ratio", "bar", "difference")
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder), args.num_images)
        write_table(columns, measure_all(setting, *images, args.repetitions))
    if not is_cuda:
        write_remark("There was no GPU: nothing of this was measured on CUDA.")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = cli.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--backbone", default="ResNet18")
    add("--fc_output_dim", type=int, default=512)
    add("--batch_size", type=int, help="of ours (default: 16 on a CPU, 32 on CUDA)")
    add("--num_images", type=int, help="(default: 32 on a CPU, 4096 on CUDA)")
    add("--num_workers", type=int, help="of both (default: 0 on a CPU, 8 on CUDA)")
    add("--repetitions", type=int, default=7)
    add("--quick", action="store_true", help="16 images, on CUDA 1024; 3 repetitions")
    args = cli.parse_args()
    is_cuda = args.device.startswith("cuda")
    args.batch_size = args.batch_size or (32 if is_cuda else 16)
    args.num_images = args.num_images or (4096 if is_cuda else 32)
    args.num_workers = (8 if is_cuda else 0) if args.num_workers is None else args.num_workers
    if args.quick:
        args.num_images, args.repetitions = (1024 if is_cuda else 16), 3
    return args


def measure_all(
    setting: ExtractionSetting, database: ImagePaths, mixed: ImagePaths, repetitions: int
) -> Iterator[tuple[str, ...]]:
    """Yield a row for each kind of images and each way."""
    network = make_network(setting)
    in_batches, one_by_one = (
        partial(extract_plainly, network, setting, batch_size) for batch_size in (PLAIN_BATCH, 1)
    )
    fast = optimize(network)
    ways = [Way("default", "1.35", partial(extract, fast, setting))]
    if setting.device.type == "cuda":
        ways.append(Way("16 bits", "", partial(extract, fast, setting, use_amp16=True), 1e-2))
    else:
        ways.append(Way("onnxruntime", "1.8", partial(extract, export(network), setting)))
    yield from race("database", database, in_batches, ways, repetitions)
    ways = [way._replace(bar="") for way in ways]
    yield from race("queries of one size", database, one_by_one, ways, repetitions)
    yield from race("queries of four sizes", mixed, one_by_one, ways, repetitions)
    if setting.device.type == "cpu":
        with Processes(setting) as processes:
            ways = [Way(f"default, {NUM_PROCESSES} processes", "", processes.extract)]
            yield from race("database", database, in_batches, ways, repetitions)


def export(network: nn.Module) -> Model:
    """Return a network as `--model onnx:FILE` runs it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        write_onnx(torch.jit.script(network), file, 512)
        return load_onnx(file)


def race(
    images: str, paths: ImagePaths, plain: Extract, ways: list[Way], repetitions: int
) -> Iterator[tuple[str, ...]]:
    """Run the plain loop and all ways in turns; yield a row for each way."""
    expected = plain(paths)  # all run once before they are timed
    differences = [np.abs(way.extract(paths) - expected).max() for way in ways]
    speeds = [
        [measure_speed(one, paths) for one in (plain, *(way.extract for way in ways))]
        for _ in range(repetitions)
    ]
    plain_speeds, *ways_speeds = zip(*speeds, strict=True)
    for way, difference, own_speeds in zip(ways, differences, ways_speeds, strict=True):
        assert difference < way.tolerance, f"{way.name}: descriptors differ by {difference:.1g}"
        ratios = [ours / theirs for ours, theirs in zip(own_speeds, plain_speeds, strict=True)]
        medians = [f"{statistics.median(column):.2f}" for column in (own_speeds, plain_speeds)]
        ratio = f"{statistics.median(ratios):.2f}"
        yield images, way.name, *medians, ratio, way.bar, f"{difference:.1g}"


def measure_speed(extract_all: Extract, paths: ImagePaths) -> float:
    """Return images per second."""
    start_s = time.perf_counter()
    extract_all(paths)
    return len(paths) / (time.perf_counter() - start_s)


def extract(
    model: Model, setting: ExtractionSetting, paths: ImagePaths, use_amp16: bool = False
) -> np.ndarray:
    """Return descriptors as eval.py extracts them."""
    inference = Inference(
        setting.device, setting.batch_size, setting.num_workers, use_amp16=use_amp16
    )
    return extract_descriptors(model, paths, View(), inference).descriptors


class PlainEvalDataset(Dataset):
    """Images as normalised float tensors."""

    def __init__(self, paths: ImagePaths) -> None:
        """Take images of any sizes."""
        self.paths = paths
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Load one."""
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def extract_plainly(
    network: nn.Module, setting: ExtractionSetting, batch_size: int, paths: ImagePaths
) -> np.ndarray:
    """Return descriptors as the obvious program extracts them."""
    is_cuda = setting.device.type == "cuda"
    loader = DataLoader(
        PlainEvalDataset(paths), batch_size, num_workers=setting.num_workers, pin_memory=is_cuda
    )
    descriptors = np.empty((len(paths), setting.dim), np.float32)
    first = 0
    with torch.inference_mode():
        for images in loader:
            batch = network(images.to(setting.device)).cpu().numpy()
            descriptors[first : first + len(batch)] = batch
            first += len(batch)
    return descriptors


class Processes:
    """Processes that share images and threads as those of torchrun do."""

    def __init__(self, setting: ExtractionSetting) -> None:
        """Start them, each with a network."""
        threads = max(torch.get_num_threads() // NUM_PROCESSES, 1)
        self._pool = ProcessPoolExecutor(
            NUM_PROCESSES, get_context("spawn"), _prepare, (setting, threads)
        )

    def extract(self, paths: ImagePaths) -> np.ndarray:
        """Return descriptors; each process extracts a shard."""
        bounds = [len(paths) * number // NUM_PROCESSES for number in range(NUM_PROCESSES + 1)]
        shards = [paths.subset(slice(*pair)) for pair in zip(bounds, bounds[1:], strict=False)]
        return np.concatenate(list(self._pool.map(_extract_shard, shards)))

    def __enter__(self) -> "Processes":
        """Return them."""
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        self._pool.shutdown()


def _prepare(setting: ExtractionSetting, threads: int) -> None:
    torch.set_num_threads(threads)
    global _extract_shard_with
    _extract_shard_with = partial(extract, optimize(make_network(setting)), setting)


def _extract_shard(paths: ImagePaths) -> np.ndarray:
    return _extract_shard_with(paths)


def make_network(setting: ExtractionSetting) -> nn.Module:
    """Return a network with random weights, and BatchNorms as if it had been trained."""
    torch.manual_seed(0)
    network = build_network(setting.backbone, setting.dim, backbone_weights="none").eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network.to(setting.device)


def write_images(folder: Path, num_images: int) -> tuple[ImagePaths, ImagePaths]:
    """Write images of 512 x 512, and of SIZES in turn."""
    photos = write_photos(folder / "database", num_images, 512)
    (folder / "mixed").mkdir()
    for photo, size in zip(photos, cycle(SIZES), strict=False):
        Image.open(photo).resize(size).save(folder / "mixed" / photo.name, quality=92)
    return list_images(folder / "database"), list_images(folder / "mixed")


if __name__ == "__main__":
    main()
