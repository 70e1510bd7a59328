"""The planned runs in words, with rough costs: GPU hours and gigabytes of checkpoints."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from datasets.catalog import TRAIN_SETS, look_up_test_set
from evaluation.views import parse_resize
from methods import METHODS
from model.backbones import find_spec
from model.published import parse_published
from paper.networks import Released, Trained
from paper.run_log import NO_DATA_SET, RunLog
from paper.runs_to_do import Step, is_made, is_trained, missing_evaluations

# Multiply-adds of one image in 10^9 and parameters in 10^6, without the linear layer, by
# benchmarks/backbones.py; convolutional networks at 512 x 512, transformers at their own size.
_COSTS = {
    "ResNet18": (9.5, 11.2),
    "ResNet50": (21.4, 23.5),
    "ResNet101": (40.8, 42.5),
    "ResNet18_conv4": (7.4, 2.8),
    "ResNet50_conv4": (17.2, 8.5),
    "ResNet101_conv4": (36.5, 27.5),
    "VGG16": (80.2, 14.7),
    "ViT_B16": (17.6, 86.4),
    "CCT14_224": (5.5, 22.0),
    "CCT14_384": (18.6, 22.1),
    "EfficientNet_Lite0": (2.0, 3.4),
}
# The authors' trainings took 20 h (ResNet-18) and 75 h (ResNet-101) for 16 million images of
# 512 x 512 on an RTX 3090: a line through these two.
_HOURS_PER_IMAGE = 3.3 / 16e6
_HOURS_PER_GMAC = (75 - 20) / (40.8 - 9.5) / 16e6
_FORWARD_SHARE = 1 / 3  # of a training step
_CLASSES_PER_GROUP = 35_000  # of SF-XL, by the paper
_ADAM = 3  # a weight and its two moments
_EPOCHS_TO_PATIENCE = 15  # of trainings that patience ends: a guess, no number is published
_TUPLE_SETS = {"pitts30k": (10_000, 7_416), "mini_city": (8_000, 8_000)}  # database and queries of
# training sets whose database is mined whole by --mining auto
_POSITIVES = 5  # of a query, a guess; extracted with it
_NOTE = (
    "GPU h: hours of an RTX 3090 in full precision, by the authors' 20 h (ResNet-18) and 75 h "
    "(ResNet-101), and by the multiply-adds of each network; GB: checkpoints. Both are rough "
    f"estimates, and include runs whose data set is missing. {_EPOCHS_TO_PATIENCE} epochs are "
    "guessed for trainings that end by --patience; the images that they mine among and validate on "
    "are included."
)


def describe_plan(steps: Sequence[Step], log: RunLog) -> str:
    """Return one line per run with its estimates, and their sums."""
    planned: set[tuple[Trained, int]] = set()
    rows = [row for step in steps for row in _describe_step(step, log, planned)]
    rows.append((sum(row[0] for row in rows), sum(row[1] for row in rows), "together"))
    lines = [f"{hours:7.2f} {gigabytes:6.1f}  {text}" for hours, gigabytes, text in rows]
    return "\n".join(["  GPU h     GB  run", *lines, _NOTE])


def _describe_step(
    step: Step, log: RunLog, planned: set[tuple[Trained, int]]
) -> Iterator[tuple[float, float, str]]:
    """Yield hours, gigabytes and text of a training and a whitening, if any, and of evaluations.

    Args:
        step: The step.
        log: The runs on disk.
        planned: Trainings of earlier steps; that of this step is added.
    """
    if isinstance(step.source, Trained):
        training = (step.source.training, step.seed)
        if is_made(step, log):
            yield 0.0, 0.0, f"trained   {step}"
        elif is_trained(step, log) or training in planned:
            costs = whitening_hours(step.source), _whitening_gigabytes(step.source)
            yield *costs, f"whiten    {step}"
        else:
            yield _describe_training(step, log)
        planned.add(training)
    missing = missing_evaluations(step, log)
    absent = [
        name
        for name in step.datasets
        if log.evaluation(step.source, step.seed, name) == NO_DATA_SET
    ]
    measured = [name for name in step.datasets if name not in (*missing, *absent)]
    for verb, names in (("measured ", measured), ("evaluate ", missing), ("no data  ", absent)):
        if names:
            hours = evaluation_hours(step.source, names) * (verb == "evaluate ")
            yield hours, 0.0, f"{verb} {step} on {', '.join(names)}"


def _describe_training(step: Step, log: RunLog) -> tuple[float, float, str]:
    source, run = step.source, log.training(step.source, step.seed)
    missing = log.missing_for_training(source)
    start = f", from {source.start}" if source.start else ""
    text = f"{'resume   ' if run else 'train    '} {step}{start}"
    return (
        training_hours(source, run.num_epochs if run else 0),
        training_gigabytes(source),
        text + (f" (there is no {missing})" if missing else ""),
    )


def training_hours(source: Trained, num_done: int = 0) -> float:
    """Return the hours of a training on one RTX 3090, without finished epochs."""
    settings = source.settings
    num_epochs = settings["epochs_num"]
    if settings["patience"]:
        num_epochs = min(num_epochs, max(_EPOCHS_TO_PATIENCE, num_done + 1))
    trained, extracted = _COUNTS[METHODS[settings["method"]]["objective"]](settings)
    steps = (num_epochs - num_done) * (trained + _FORWARD_SHARE * extracted)
    return steps * _hours_per_image(source) + whitening_hours(source)


def whitening_hours(source: Trained) -> float:
    """Return the hours of the extraction of the images that a whitening is fitted to."""
    num_images = source["whiten_images"] * (source["whitening"] != "none")
    return num_images * _FORWARD_SHARE * _hours_per_image(source)


def _count_classification(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the images of an epoch that are trained on, and those that are only extracted."""
    return settings["iterations_per_epoch"] * settings["batch_size"], 0  # hours include validation


def _count_tuples(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the same of a training on tuples: those that are mined among, and validation's."""
    num_database, num_queries = _TUPLE_SETS.get(settings["dataset"], (0, 0))
    num_queries = settings["queries_per_epoch"] or num_queries
    num_rounds = -(-num_queries // settings["cache_refresh_rate"])
    is_whole = num_database and settings["mining"] in ("auto", "full", "openibl")
    num_candidates = num_database if is_whole else settings["neg_samples_num"]
    per_query = 1 if is_whole else 1 + _POSITIVES
    val = look_up_test_set(TRAIN_SETS[settings["dataset"]].val)
    num_val = (val.num_database or 0) + (val.num_queries or 0)
    extracted = num_rounds * num_candidates + per_query * num_queries + num_val
    return num_queries * (2 + settings["negs_num_per_query"]), extracted


def _count_sfrs(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the same with difficult positives, which the teacher extracts, too."""
    trained, extracted = _count_tuples(settings)
    num_difficult = trained * settings["pos_num"] // (2 + settings["negs_num_per_query"])
    return trained + num_difficult, extracted + num_difficult


_COUNTS: dict[str, Callable[[Mapping[str, Any]], tuple[int, int]]] = {
    "classification": _count_classification,
    "tuples": _count_tuples,
    "sfrs": _count_sfrs,
}


def evaluation_hours(source: Trained | Released, datasets: Sequence[str]) -> float:
    """Return the hours of extraction on test sets on one RTX 3090, 0 where unknown.

    Sets with the same folder share their database.
    """
    test_sets = [look_up_test_set(name) for name in datasets]
    databases = {test_set.folders: test_set.num_database or 0 for test_set in test_sets}
    num_images = sum(databases.values()) + sum(one.num_queries or 0 for one in test_sets)
    return num_images * _FORWARD_SHARE * _hours_per_image(source)


def training_gigabytes(source: Trained) -> float:
    """Return the size of the checkpoints of a training: network, heads, and their optimizers."""
    settings = source.settings
    network = _COSTS[settings["backbone"]][1] * 1e6
    heads = 0
    if METHODS[settings["method"]]["objective"] == "classification":
        num_classes = 100 if settings["dataset"] == "mini_city" else _CLASSES_PER_GROUP
        heads = settings["groups_num"] * num_classes * _raw_dim(source)
    return 4e-9 * (_ADAM * (network + heads) + network) + _whitening_gigabytes(source)


def _whitening_gigabytes(source: Trained) -> float:
    """Return the size of a network with a whitening as its last layer, 0 if it has none."""
    if source["whitening"] == "none":
        return 0.0
    network = _COSTS[source["backbone"]][1] * 1e6
    return 4e-9 * (network + source["whiten_dim"] * _raw_dim(source))


def _raw_dim(source: Trained) -> int:
    """Return the length of descriptors before a whitening."""
    num_channels = find_spec(source["backbone"]).out_channels
    clusters = (source["aggregation_args"] or {}).get("clusters", 1)
    return source["fc_output_dim"] or clusters * num_channels


def _hours_per_image(source: Trained | Released) -> float:
    """Return the hours of a training step, by multiply-adds, which grow with the image's area."""
    if isinstance(source, Trained):
        backbone, size = source["backbone"], str(source["image_size"])
    else:
        backbone, size = parse_published(source.spec).backbone, "512"
    height, width = (2 * parse_resize(size))[:2]
    gmacs = _COSTS[backbone][0] * height * width / (find_spec(backbone).image_size or 512) ** 2
    return _HOURS_PER_IMAGE + _HOURS_PER_GMAC * gmacs
