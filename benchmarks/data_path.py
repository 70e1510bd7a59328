"""What an image costs on its way from a JPEG file into training, against Pillow and torchvision.

python -m benchmarks.data_path
python -m benchmarks.data_path --photos FOLDER

The reference is the obvious program: Pillow opens the file, the pixels become floats, torchvision
jitters, crops and normalises them, one operation on the whole image after the other.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision import transforms
from torchvision.transforms.functional import to_tensor

from benchmarks.common import write_photos
from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets.augmentation import Augmentation, AugmentationParams, augment_batch
from datasets.images import load_image, stack_images

SIDE = 512  # of the augmented images, and of painted photos
BATCH_SIZE = 32
BATCH_RUNS = 3
WHOLE_BAR, WORKER_BAR, COLOUR_BAR = 8, 2, 2  # times faster, times faster, steps of 256 colours
JITTER = transforms.ColorJitter(0.7, 0.7, 0.7, 0.5)
CROP = transforms.RandomResizedCrop(SIDE, scale=(0.5, 1), antialias=True)
NORMALISE = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)
HEADER = """## Training data path

From a JPEG of {kilobytes:.0f} kB to a normalised image of {side} x {side}, milliseconds of one \
core an image: medians of {count} runs in {turns} turns over {num_photos} photos. The reference \
is Pillow and torchvision's transforms of floats.

| step | ours, ms | reference, ms | ratio | bar |
|---|---:|---:|---:|---:|
"""
T = TypeVar("T")


def main() -> None:
    """Measure stages, the whole, a worker's part and batches; print a Markdown table."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--photos", type=Path, help="folder of .jpg files (default: painted ones)")
    cli.add_argument("--num_photos", type=int, default=64)
    cli.add_argument("--repetitions", type=int, default=8, help="runs over all photos")
    cli.add_argument("--quick", action="store_true", help="32 photos, 3 repetitions")
    args = cli.parse_args()
    num_photos, repetitions = (32, 3) if args.quick else (args.num_photos, args.repetitions)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.photos is None:
            paths = write_photos(Path(folder), num_photos, SIDE)
        else:
            paths = sorted(args.photos.glob("*.jpg"))[:num_photos]
        if not paths:
            cli.error(f"--photos: there are no .jpg files in {args.photos}")
        kilobytes = statistics.mean(path.stat().st_size for path in paths) / 1000
        numbers = {
            "num_photos": len(paths),
            "turns": repetitions,
            "count": repetitions * len(paths),
        }
        sys.stdout.write(HEADER.format(kilobytes=kilobytes, side=SIDE, **numbers))
        write_stages(paths, repetitions)
        write_worker(paths, repetitions)
        images = [load_image(path) for path in itertools.islice(itertools.cycle(paths), BATCH_SIZE)]
        write_batch(images, torch.device("cpu"))
        if torch.cuda.is_available():
            write_batch(images, torch.device("cuda"))
        write_differences(paths)
    if not torch.cuda.is_available():
        sys.stdout.write("There was no GPU: the batch was not measured on CUDA.\n")


def plain_load(path: Path) -> torch.Tensor:
    """Open an image as floats."""
    with Image.open(path) as image:
        return to_tensor(image.convert("RGB"))


def plain_augment(image: torch.Tensor) -> torch.Tensor:
    """Augment floats with the global random generator."""
    return NORMALISE(CROP(JITTER(image)))


def write_stages(paths: Sequence[Path], repetitions: int) -> None:
    """Print the costs of decoding, of augmentation, and of both."""
    augmentation, seeds = Augmentation(AugmentationParams(SIDE)), itertools.count()
    image, floats = load_image(paths[0]), plain_load(paths[0])
    cropped = CROP(floats)
    cost_ms = time_in_turns(
        {
            "decoding, ours": load_image,
            "decoding": plain_load,
            "colour jitter": lambda _: JITTER(floats),
            "random resized crop": lambda _: CROP(floats),
            "normalisation": lambda _: NORMALISE(cropped),
            "augmentation, ours": lambda _: augmentation(image, next(seeds)),
            "augmentation": lambda _: plain_augment(floats),
            "whole, ours": lambda path: augmentation(load_image(path), next(seeds)),
            "whole": lambda path: plain_augment(plain_load(path)),
        },
        paths,
        repetitions,
    )
    write_row("decoding", cost_ms["decoding, ours"], cost_ms["decoding"])
    for stage in ("colour jitter", "random resized crop", "normalisation"):
        write_row(stage, None, cost_ms[stage])
    write_row("these three in one", cost_ms["augmentation, ours"], cost_ms["augmentation"])
    write_row("**the whole**", cost_ms["whole, ours"], cost_ms["whole"], WHOLE_BAR)


def write_worker(paths: Sequence[Path], repetitions: int) -> None:
    """Print the remaining cost of a loader's worker if the device augments."""
    batch = paths[:BATCH_SIZE]
    cost_ms = time_in_turns(
        {
            "ours": lambda batch: stack_images([load_image(path) for path in batch]),
            "plain": lambda batch: default_collate([plain_load(path) for path in batch]),
        },
        [batch],
        repetitions,
    )
    ours_ms, plain_ms = cost_ms["ours"] / len(batch), cost_ms["plain"] / len(batch)
    write_row("worker, if the device augments", ours_ms, plain_ms, WORKER_BAR)


def write_batch(images: Sequence[torch.Tensor], device: torch.device) -> None:
    """Print the cost of an image in a batch augmented on a device."""
    augmentation, seeds = Augmentation(AugmentationParams(SIDE)), itertools.count()
    images = [image.to(device) for image in images]
    floats = [image.contiguous() / 255 for image in images]

    def augment(_: int) -> torch.Tensor:
        recipes = [augmentation.draw(image, next(seeds)) for image in images]
        return augment_batch(images, recipes, SIDE)

    def finished(function: Callable[[int], torch.Tensor]) -> Callable[[int], float]:
        return lambda run: function(run)[0, 0, 0, 0].item()  # waits for the device

    cost_ms = time_in_turns(
        {
            "ours": finished(augment),
            "plain": finished(lambda _: torch.stack([plain_augment(image) for image in floats])),
        },
        range(1),
        BATCH_RUNS,
        time.process_time if device.type == "cpu" else time.perf_counter,
    )
    ours_ms, plain_ms = cost_ms["ours"] / len(images), cost_ms["plain"] / len(images)
    write_row(f"batch of {len(images)} on {device}", ours_ms, plain_ms)


def write_differences(paths: Sequence[Path]) -> None:
    """Compare pixels, and colours augmented with the same seeds; print the largest difference."""
    augmentation = Augmentation(AugmentationParams(SIDE))
    std = torch.tensor(IMAGENET_STD)[:, None, None]
    of_kernel = of_batch = 0.0
    for seed, path in enumerate(paths):
        image, floats = load_image(path), plain_load(path)
        assert torch.equal(image.contiguous() / 255, floats), f"{path} is decoded differently"
        torch.manual_seed(seed)
        expected = plain_augment(floats)
        in_batch = augment_batch([image], [augmentation.draw(image, seed)], SIDE)[0]
        of_kernel = max(of_kernel, 255 * ((augmentation(image, seed) - expected) * std).abs().max())
        of_batch = max(of_batch, 255 * ((in_batch - expected) * std).abs().max())
    assert max(of_kernel, of_batch) <= COLOUR_BAR, "augmented images differ from the reference"
    sys.stdout.write(
        f"\nDecoded pixels are equal. With the same seed, colours differ from the reference by at "
        f"most {of_kernel:.4f} of 255, in a batch by {of_batch:.4f} (bar: {COLOUR_BAR}).\n"
    )


def time_in_turns(
    functions: dict[str, Callable[[T], object]],
    inputs: Sequence[T],
    turns: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Return the median milliseconds of each function.

    In each turn, one function after the other takes all inputs, as a loader's worker does. The
    clock is that of the processor's time: what other programs take does not count.
    """
    for function in functions.values():
        function(inputs[0])
    seconds = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            for value in inputs:
                start_s = clock()
                function(value)
                seconds[name].append(clock() - start_s)
    return {name: 1000 * statistics.median(runs) for name, runs in seconds.items()}


def write_row(what: str, ours_ms: float | None, plain_ms: float, bar: float | None = None) -> None:
    """Print a row of the table; a stage that ours does not have of its own has no time."""
    ours, ratio = ("", "") if ours_ms is None else (f"{ours_ms:.2f}", f"{plain_ms / ours_ms:.1f}")
    sys.stdout.write(f"| {what} | {ours} | {plain_ms:.2f} | {ratio} | {bar or ''} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
