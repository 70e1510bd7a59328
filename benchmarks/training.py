"""How fast CosPlace trains, against a plain training loop.

python -m benchmarks.training
python -m benchmarks.training --device cuda --backbones ResNet18 ResNet50 --max_seconds 180

The plain loop is the obvious program: images opened by Pillow and made floats in the loader,
augmented one by one with torchvision, a network in PyTorch's default memory layout, Adam with its
default settings, the loss read in each iteration. Both train the same network and head on the same
35,000 classes. On a CPU images are loaded and augmented by the process that trains, on CUDA the
loader has workers and the device augments.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.common import write_photos, write_remark, write_table, write_title
from benchmarks.plain_training import (
    PlainTraining,
    TrainingSetting,
    make_network,
    plain_loop,
    plain_step,
    random_batch,
)
from datasets.class_index import ClassIndex, load_index
from datasets.image_names import ImageName, format_image_name
from datasets.partition import PartitionParams
from model.network import build_network
from parser import parse_train_arguments
from train import train_one_epoch
from training.classification import Classification, ClassificationSettings
from training.metrics import EpochStats
from training.objective import Batch
from training.state import Optimization, Training

NUM_PHOTOS = 64


def main() -> None:
    """Measure each backbone and batch size; print a Markdown table."""
    args = parse_arguments()
    on_cuda = args.device.startswith("cuda")
    write_title(
        "Training",
        f"Iterations with {args.image_size} x {args.image_size} images and {args.num_classes:,} "
        f"classes on {args.device}, {args.amp or 'fp32'}, against a plain loop: medians of "
        f"{args.repetitions} interleaved measurements. The step is without loading and "
        "augmentation, the loop with both; both give the same losses.",
    )
    columns = ("network", "batch", "what", "ours, images/s", "plain, images/s", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        index = make_index(Path(folder), args.num_classes, args.image_size)
        write_table(columns, measure_all(args, index))
    seconds = measure_group_switch(args.num_classes, torch.device(args.device))
    write_remark(f"A change of the group takes {seconds:.3f} s.")
    if not on_cuda:
        write_remark("There was no GPU: nothing of this was measured on CUDA.")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = cli.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--backbones", nargs="+", default=["ResNet18"], metavar="NAME")
    add("--batch_size", nargs="+", type=int, default=[32], help="0: the largest that fits a GPU")
    add("--image_size", type=int, default=512)
    add("--num_classes", type=int, default=35_000)
    add("--iterations", type=int, help="of a measurement (default: 1 on a CPU, 50 on CUDA)")
    add("--repetitions", type=int, default=5)
    add("--max_seconds", type=float, default=float("inf"), help="then with fewer repetitions")
    add("--num_workers", type=int, help="(default: 0 on a CPU, 8 on CUDA)")
    add("--amp", choices=("fp16", "bf16"), help="mixed precision, of both")
    add("--compile", action="store_true", help="ours by torch.compile")
    add("--quick", action="store_true", help="batches of 8")
    args = cli.parse_args()
    on_cuda = args.device.startswith("cuda")
    args.iterations = args.iterations or (50 if on_cuda else 1)
    args.num_workers = (8 if on_cuda else 0) if args.num_workers is None else args.num_workers
    args.batch_size = [8] if args.quick else args.batch_size
    return args


def measure_all(args: argparse.Namespace, index: ClassIndex) -> Iterator[tuple[str, ...]]:
    """Yield two rows for each backbone and batch size."""
    use_amp16, amp_dtype = args.amp is not None, args.amp or "fp16"
    settings = list(product(args.backbones, args.batch_size))
    seconds = args.max_seconds / (2 * len(settings))  # of a race
    for backbone, batch_size in settings:
        setting = TrainingSetting(
            backbone,
            batch_size,
            args.image_size,
            args.num_classes,
            args.iterations,
            args.repetitions,
            args.num_workers,
            torch.device(args.device),
            Optimization(use_amp16=use_amp16, amp_dtype=amp_dtype, compile=args.compile),
            lr=1e-5,
            classifiers_lr=0.01,
        )
        if batch_size == 0:
            setting = setting._replace(batch_size=find_largest_batch(setting))
        check_same_losses(setting._replace(batch_size=4, image_size=64, iterations=3))
        yield race("step", our_step(setting), plain_step(setting), setting, seconds)
        yield race("loop", our_loop(setting, index), plain_loop(setting, index), setting, seconds)


def race(
    what: str,
    ours: Callable[[], float],
    plain: Callable[[], float],
    setting: TrainingSetting,
    max_seconds: float,
) -> tuple[str, ...]:
    """Run both in turns; return a row with their images per second."""
    start_s, speeds = time.perf_counter(), []
    ours(), plain()  # to warm up
    for _ in range(setting.repetitions):
        speeds.append((ours(), plain()))
        if time.perf_counter() - start_s > max_seconds:
            break
    medians = [f"{statistics.median(column):.2f}" for column in zip(*speeds, strict=True)]
    ratio = statistics.median(our_speed / speed for our_speed, speed in speeds)
    return setting.backbone, str(setting.batch_size), what, *medians, f"{ratio:.2f}"


def our_step(setting: TrainingSetting) -> Callable[[], float]:
    """Return a function that trains on one batch again and again, and returns images/s."""
    images, labels = random_batch(setting)
    images = images.contiguous(memory_format=torch.channels_last)
    return training_on_one_batch(setting, images, labels)[1]


def our_loop(setting: TrainingSetting, index: ClassIndex) -> Callable[[], float]:
    """Return a function that trains on images of an index, and returns images/s."""
    training = make_training(setting, index)
    return lambda: train_iterations(training).images_per_second


def train_iterations(training: Training) -> EpochStats:
    """Train for an epoch, as the training script does."""
    training.begin_epoch()
    return train_one_epoch(training, lambda training, unreadable: training.progress.check())


def make_training(setting: TrainingSetting, index: ClassIndex | SimpleNamespace) -> Training:
    """Return our training, of one group of an index."""
    flags = {
        "groups_num": 1,
        "batch_size": setting.batch_size,
        "iterations_per_epoch": setting.iterations,
        "num_workers": setting.num_workers,
        "lr": setting.lr,
        "classifiers_lr": setting.classifiers_lr,
    }
    args = parse_train_arguments([f"--{name}={value}" for name, value in flags.items()])
    objective = Classification(index, ClassificationSettings.from_flags(vars(args)))
    network = make_network(setting)
    return Training(network, objective, setting.optimization, setting.device, setting.image_size)


def training_on_one_batch(
    setting: TrainingSetting, images: torch.Tensor, labels: torch.Tensor
) -> tuple[Training, Callable[[], float]]:
    """Return a training whose batches are all the same, and a function that measures it."""
    classes = SimpleNamespace(classes=lambda group: range(setting.num_classes), digest="")
    training = make_training(setting, classes)
    batches = [Batch(images, labels, [])] * setting.iterations
    training.objective.batches = lambda model, epoch, first: iter(batches)
    return training, lambda: train_iterations(training).images_per_second


def check_same_losses(setting: TrainingSetting) -> None:
    """Stop if some steps of both do not give the same mean loss."""
    batch = random_batch(setting)
    ours = train_iterations(training_on_one_batch(setting, *batch)[0]).loss
    plain = PlainTraining(setting)
    theirs = statistics.mean(plain.step(*batch) for _ in range(setting.iterations))
    is_rounded = setting.optimization.use_amp16 or setting.device.type == "cuda"  # by TF32
    tolerance = 1e-2 if is_rounded else 1e-4
    assert abs(ours - theirs) < tolerance * theirs, f"the losses differ: {ours}, {theirs}"


def find_largest_batch(setting: TrainingSetting) -> int:
    """Return the largest power of two of images that our step takes without running out."""
    batch_size = 32
    while True:
        try:
            our_step(setting._replace(batch_size=2 * batch_size, iterations=1))()
        except torch.OutOfMemoryError:
            return batch_size
        finally:
            torch.cuda.empty_cache()
        batch_size *= 2


def make_index(folder: Path, num_classes: int, image_size: int) -> ClassIndex:
    """Make an index of one group whose images are links to a few photos."""
    photos = write_photos(folder / "photos", NUM_PHOTOS, image_size)
    (folder / "train").mkdir()
    for n in range(num_classes):
        name = ImageName(50 * (n % 1000), 50 * (n // 1000), heading_deg=0.0)
        (folder / "train" / format_image_name(name)).symlink_to(photos[n % NUM_PHOTOS])
    params = PartitionParams(min_images_per_class=1)
    return load_index(folder / "train", params, folder / "cache")


def measure_group_switch(num_classes: int, device: torch.device) -> float:
    """Return the seconds that it takes to put one head away and to take out the next one."""
    network = build_network("ResNet18", backbone_weights="none")
    args = parse_train_arguments(["--groups_num=2", "--num_workers=0"])
    classes = SimpleNamespace(classes=lambda group: range(num_classes), digest="")
    objective = Classification(classes, ClassificationSettings.from_flags(vars(args)))
    training = Training(network, objective, Optimization(), device, 64)
    for head, optimizer in zip(objective.heads, objective.head_optimizers, strict=True):
        head.weight.grad = torch.zeros_like(head.weight)
        optimizer.step()  # so that there are moments
    seconds = []
    for training.epoch_num in range(6):
        start_s = time.perf_counter()
        with training.turn():
            if device.type == "cuda":
                torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
