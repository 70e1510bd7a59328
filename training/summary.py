"""What the terminal shows of a training: its settings at the start, and a line for each epoch."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import commons
from datasets.eval_set import EvalSet
from datasets.small_sets import SMALL_NUM_IMAGES, describe_small_set
from evaluation import Protocol
from model.network import GeoLocalizationNet
from model.resizing import describe_resize
from runs.provenance import name_device
from training.metrics import EpochStats, describe_seconds
from training.state import Training

MAX_EPOCH_LINE = 120  # characters


def format_start(
    flags: Mapping[str, Any],
    training: Training,
    protocol: Protocol,
    sets: tuple[EvalSet, EvalSet],
    software: Mapping[str, str],
    folder: Path,
) -> str:
    """Return what is trained, where and how, in aligned lines; what to know of a small set.

    Args:
        flags: Of train.py.
        training: About to begin, or to be resumed.
        protocol: Of validation and test.
        sets: For validation and test.
        software: See `describe_software`.
        folder: Of the run.
    """
    network, objective = training.network, training.objective
    threshold_m = flags["positive_dist_threshold"]
    rule = f"positives within {threshold_m:g} m" if threshold_m else "positives as of the set"
    resize = describe_resize(protocol.resize) if protocol.resize else "resized as of the set"
    num_iterations = objective.num_iterations(0)
    num_images = objective.images_per_epoch // max(1, num_iterations)
    rows = {
        "Method": f"{flags['method']}: {_describe_network(network)}",
        "Start": flags["resume_model"] or f"--backbone_weights {flags['backbone_weights']}",
        "Parameters": _count_parameters(network),
        "Device": name_device(training.device),
        "Versions": ", ".join(f"{name} {version}" for name, version in software.items()),
        "Epochs": f"0 to {flags['epochs_num'] - 1}, of {num_iterations:,} iterations of "
        f"{num_images} images of {flags['image_size']} pixels",
        "Validation": str(sets[0]),
        "Test": str(sets[1]),
        "Protocol": f"{rule}; test images {resize}; {protocol.search} search; all of it in "
        "results.json",
        "Run": str(folder),
    }
    warmup = flags["lr_warmup"] or flags["lr_warmup_epochs"] * num_iterations
    if warmup > (most := flags["epochs_num"] * num_iterations):
        rows["Warm-up"] = (
            f"{warmup:,} iterations, the training has {most:,}: learning rates end at "
            f"{most / warmup:.1%} of --lr"
        )
    width = max(map(len, rows))
    lines = [f"{name.ljust(width)}  {text}" for name, text in rows.items()]
    notes = dict.fromkeys(note for one in sets for note in one.named_notes)
    advice = []
    # Missing images are replaced, and counted; panoramas are no images to count.
    with contextlib.suppress(FileNotFoundError, ValueError):
        few = objective.sample_images(SMALL_NUM_IMAGES)
        advice = describe_small_set(few, sets[0].queries)
    return "\n".join([*lines, *notes, objective.describe(), *advice])


def _describe_network(network: GeoLocalizationNet) -> str:
    architecture = network.architecture
    return f"{architecture['backbone']}, {architecture['aggregation']}, {network.out_dim}-D"


def _count_parameters(network: GeoLocalizationNet) -> str:
    sizes = [(one.numel(), one.requires_grad) for one in network.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, is_on in sizes if is_on)
    return f"{total:,}, of which {trained:,} are trained"


def format_epoch(
    place: tuple[int, int],
    turn: Mapping[str, float],
    stats: EpochStats,
    recalls: Mapping[str, float],
    is_best: bool,
    seconds_left: float,
) -> str:
    """Return one line of at most `MAX_EPOCH_LINE` characters on an epoch.

    Args:
        place: Number of the epoch, and of the last one of the run, both from 0.
        turn: What the objective says of the epoch; whole numbers are shown.
        stats: Numbers of its training.
        recalls: Of its validation, in percent: the first two are shown.
        is_best: Whether its network is the best so far.
        seconds_left: Of training.
    """
    shown = [f"{name} {value}" for name, value in turn.items() if isinstance(value, int)]
    shown.append(f"loss {stats.loss:.4f}")
    shown += [f"{name} {recall:.1f}" for name, recall in list(recalls.items())[:2]]
    shown += ["(best)"] * is_best
    shown += [describe_seconds(stats.seconds), f"{describe_seconds(seconds_left)} left"]
    skipped = [f"skipped {commons.plural(stats.skipped_steps, 'step')}"] * (stats.skipped_steps > 0)
    return "  ".join(["Epoch {}/{}".format(*place), *shown, *skipped])
