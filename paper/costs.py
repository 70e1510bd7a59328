"""The planned runs in words, with rough costs: GPU hours and gigabytes of checkpoints."""

from collections.abc import Iterator, Sequence

from datasets.catalog import look_up_test_set
from model.backbones import find_spec
from model.published import parse_published
from paper.networks import Released, Trained
from paper.run_log import NO_DATA_SET, RunLog
from paper.runs_to_do import Step, is_trained, missing_evaluations

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
}
# The authors' trainings took 20 h (ResNet-18) and 75 h (ResNet-101) for 16 million images of
# 512 x 512 on an RTX 3090: a line through these two.
_HOURS_PER_IMAGE = 3.3 / 16e6
_HOURS_PER_GMAC = (75 - 20) / (40.8 - 9.5) / 16e6
_FORWARD_SHARE = 1 / 3  # of a training step
_CLASSES_PER_GROUP = 35_000  # of SF-XL, by the paper
_ADAM = 3  # a weight and its two moments
_NOTE = (
    "GPU h: hours of an RTX 3090 in full precision; GB: checkpoints. Both are rough estimates, and "
    "include runs whose data set is missing."
)


def describe_plan(steps: Sequence[Step], log: RunLog) -> str:
    """Return one line per run with its estimates, and their sums."""
    rows = [row for step in steps for row in _describe_step(step, log)]
    rows.append((sum(row[0] for row in rows), sum(row[1] for row in rows), "together"))
    lines = [f"{hours:7.2f} {gigabytes:6.1f}  {text}" for hours, gigabytes, text in rows]
    return "\n".join(["  GPU h     GB  run", *lines, _NOTE])


def _describe_step(step: Step, log: RunLog) -> Iterator[tuple[float, float, str]]:
    """Yield hours, gigabytes and text of a training, if there is one, and of its evaluations."""
    if isinstance(step.source, Trained):
        if is_trained(step, log):
            yield 0.0, 0.0, f"trained   {step}"
        else:
            training = log.training(step.source, step.seed)
            missing = log.missing_for_training(step.source)
            verb = "resume   " if training else "train    "
            yield (
                training_hours(step.source, training.num_epochs if training else 0),
                training_gigabytes(step.source),
                f"{verb} {step}" + (f" (there is no {missing})" if missing else ""),
            )
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


def training_hours(source: Trained, num_done: int = 0) -> float:
    """Return the hours of a training on one RTX 3090, without finished epochs."""
    flags = dict(source.flags)
    num_epochs = flags.get("epochs_num", 50) - num_done
    iterations = num_epochs * flags.get("iterations_per_epoch", 10_000)
    num_images = iterations * flags.get("batch_size", 32)
    gmacs = _gmacs(flags["backbone"], flags["image_size"])
    return num_images * (_HOURS_PER_IMAGE + _HOURS_PER_GMAC * gmacs)


def evaluation_hours(source: Trained | Released, datasets: Sequence[str]) -> float:
    """Return the hours of extraction on test sets on one RTX 3090, 0 where unknown.

    Sets with the same folder share their database.
    """
    test_sets = [look_up_test_set(name) for name in datasets]
    databases = {test_set.folders: test_set.num_database or 0 for test_set in test_sets}
    num_images = sum(databases.values()) + sum(one.num_queries or 0 for one in test_sets)
    if isinstance(source, Trained):
        backbone, image_size = source["backbone"], source["image_size"]
    else:
        backbone, image_size = parse_published(source.spec).backbone, 512
    gmacs = _gmacs(backbone, image_size)
    return num_images * _FORWARD_SHARE * (_HOURS_PER_IMAGE + _HOURS_PER_GMAC * gmacs)


def training_gigabytes(source: Trained) -> float:
    """Return the size of the checkpoints of a training: network, heads, and their optimizers."""
    flags = dict(source.flags)
    network = _COSTS[flags["backbone"]][1] * 1e6
    groups = flags.get("groups_num", 8)
    num_classes = 100 if flags["dataset"] == "mini_city" else _CLASSES_PER_GROUP
    head = num_classes * (flags["fc_output_dim"] or find_spec(flags["backbone"]).out_channels)
    return 4e-9 * (_ADAM * (network + groups * head) + network)


def _gmacs(backbone: str, image_size: int) -> float:
    """Return multiply-adds of one image, which grow with its area."""
    gmacs, _ = _COSTS[backbone]
    return gmacs * (image_size / (find_spec(backbone).image_size or 512)) ** 2
