"""The planned runs in words, with rough costs: time and gigabytes of checkpoints."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from datasets.catalog import TRAIN_SETS, look_up_test_set
from methods import METHODS
from model.backbones import find_spec
from model.published import parse_published, rule_of
from model.resizing import parse_resize
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
    "DINOv2_S": (6.1, 22.1),
    "DINOv2_B": (23.1, 86.6),
    "EfficientNet_Lite0": (2.0, 3.4),
}
_FORWARD_SHARE = 1 / 3  # of a training step


class Machine(NamedTuple):
    """What a training step takes, for each image: some seconds, and more by its multiply-adds."""

    unit: str  # of the plan
    unit_s: float
    image_s: float
    gmac_s: float
    start_s: float  # of a command, its imports included
    basis: str  # what the numbers are based on


MACHINES = {
    # The authors' trainings took 20 h (ResNet-18) and 75 h (ResNet-101) for 16 million images of
    # 512 x 512: a line through these two.
    "RTX 3090": Machine(
        *("GPU h", 3600.0, 3600 * 3.3 / 16e6, 3600 * (75 - 20) / (40.8 - 9.5) / 16e6, 0.0),
        "hours of an RTX 3090 in full precision, by the authors' 20 h (ResNet-18) and 75 h "
        "(ResNet-101), and by the multiply-adds of each network",
    ),
    # EfficientNet-Lite0 at 128 x 128: 27 ms of a core for an image in a training step, 9 ms in
    # extraction; other networks by their multiply-adds.
    "2 cores": Machine(
        *("min", 60.0, 0.004, 0.076, 25.0),
        "minutes of 2 cores of an AMD EPYC with nothing else to do, by EfficientNet-Lite0 at "
        "128 x 128 and by multiply-adds",
    ),
}
_CLASSES_PER_GROUP = 35_000  # of SF-XL, by the paper
_ADAM = 3  # a weight and its two moments
_EPOCHS_TO_PATIENCE = 15  # of trainings that patience ends: a guess, no number is published
_TUPLE_SETS = {"pitts30k": (10_000, 7_416), "mini_city": (17_640, 17_640)}  # database and queries
# of training sets whose database is mined whole by --mining auto
_CROPS = 6  # of a drawn panorama, in the database or as queries
_POSITIVES = {"mini_city": 14}  # of a query, which are extracted with it; elsewhere:
_POSITIVES_GUESS = 5
_NUM_PLACES = {"gsv_cities": 62_500}  # with 4 images: SALAD's epoch is 1,041 batches of 60
_NOTE = (
    "{unit}: {basis}; GB: checkpoints. Both are rough estimates, and include runs whose data set "
    "is missing. {epochs} epochs are guessed for trainings that end by --patience; the images that "
    "they mine among and validate on are included."
)


def describe_plan(steps: Sequence[Step], log: RunLog, machine: str = "RTX 3090") -> str:
    """Return one line per run with its estimates, and their sums; `machine`: a key of MACHINES."""
    planned: set[tuple[Trained, int]] = set()
    one = MACHINES[machine]
    rows = [row for step in steps for row in _describe_step(step, log, planned, one)]
    rows.append((sum(row[0] for row in rows), sum(row[1] for row in rows), "together"))
    lines = [f"{s / one.unit_s:7.2f} {gigabytes:6.1f}  {text}" for s, gigabytes, text in rows]
    note = _NOTE.format(unit=one.unit, basis=one.basis, epochs=_EPOCHS_TO_PATIENCE)
    return "\n".join([f"{one.unit:>7}     GB  run", *lines, note])


def _describe_step(
    step: Step, log: RunLog, planned: set[tuple[Trained, int]], machine: Machine
) -> Iterator[tuple[float, float, str]]:
    """Yield seconds, gigabytes and text of a training and a whitening, if any, and of evaluations.

    Args:
        step: The step.
        log: The runs on disk.
        planned: Trainings of earlier steps; that of this step is added.
        machine: That does them.
    """
    if isinstance(step.source, Trained):
        training = (step.source.training, step.seed)
        if is_made(step, log):
            yield 0.0, 0.0, f"trained   {step}"
        elif is_trained(step, log) or training in planned:
            costs = _whitening_s(step.source, machine), _whitening_gigabytes(step.source)
            yield *costs, f"whiten    {step}"
        else:
            yield _describe_training(step, log, machine)
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
            seconds = evaluation_s(step.source, names, machine) * (verb == "evaluate ")
            yield seconds, 0.0, f"{verb} {step} on {', '.join(names)}"


def _describe_training(step: Step, log: RunLog, machine: Machine) -> tuple[float, float, str]:
    source, run = step.source, log.training(step.source, step.seed)
    missing = log.missing_for_training(source)
    start = f", from {source.start}" if source.start else ""
    text = f"{'resume   ' if run else 'train    '} {step}{start}"
    return (
        training_s(source, machine, run.num_epochs if run else 0),
        training_gigabytes(source),
        text + (f" (there is no {missing})" if missing else ""),
    )


def training_s(source: Trained, machine: Machine, num_done: int = 0) -> float:
    """Return the seconds of a training, without finished epochs."""
    settings = source.settings
    num_epochs = settings["epochs_num"]
    if settings["patience"]:
        num_epochs = min(num_epochs, max(_EPOCHS_TO_PATIENCE, num_done + 1))
    trained, extracted = _COUNTS[METHODS[settings["method"]]["objective"]](settings)
    num_steps = (num_epochs - num_done) * (trained + _FORWARD_SHARE * extracted)
    return num_steps * _step_s(source, machine) + _whitening_s(source, machine)


def _whitening_s(source: Trained, machine: Machine) -> float:
    """Return the seconds of a command, and of extracting what a whitening is fitted to."""
    num_images = source["whiten_images"] * (source["whitening"] != "none")
    return machine.start_s + num_images * _FORWARD_SHARE * _step_s(source, machine)


def count_trained_images(source: Trained) -> int:
    """Return the images that a training is on, repeated ones counted each."""
    settings = source.settings
    return settings["epochs_num"] * _COUNTS[METHODS[settings["method"]]["objective"]](settings)[0]


def _count_classification(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the images of an epoch that are trained on, and those that are only extracted."""
    return settings["iterations_per_epoch"] * settings["batch_size"], 0  # hours include validation


def _count_eigenplaces(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the same of two views."""
    return 2 * _count_classification(settings)[0], 0


def _count_tuples(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the same of a training on tuples: those that are mined among, and validation's."""
    most = _CROPS * settings["tuple_panoramas"]
    num_database, num_queries = (
        min(number, most) for number in _TUPLE_SETS.get(settings["dataset"], (0, 0))
    )
    num_queries = settings["queries_per_epoch"] or num_queries
    num_rounds = -(-num_queries // settings["cache_refresh_rate"])
    is_whole = num_database and settings["mining"] in ("auto", "full", "openibl")
    num_candidates = num_database if is_whole else settings["neg_samples_num"]
    num_positives = _POSITIVES.get(settings["dataset"], _POSITIVES_GUESS)
    per_query = 1 if is_whole else 1 + num_positives
    val = look_up_test_set(TRAIN_SETS[settings["dataset"]].val)
    num_val = (val.num_database or 0) + (val.num_queries or 0)
    extracted = num_rounds * num_candidates + per_query * num_queries + num_val
    return num_queries * (2 + settings["negs_num_per_query"]), extracted


def _count_sfrs(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the same with difficult positives, at most, which the teacher extracts, too.

    The mean over all epochs, the first of which has none.
    """
    trained, extracted = _count_tuples(settings)
    num_epochs = max(1, settings["epochs_num"])
    num_difficult = trained * settings["pos_num"] // (2 + settings["negs_num_per_query"])
    num_difficult = num_difficult * (num_epochs - 1) // num_epochs
    return trained + num_difficult, extracted + num_difficult


def _count_places(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the same of a training on places: each once, and validation's images."""
    num_places = (settings["iterations_per_epoch"] or 0) * settings["batch_size"]
    num_places = num_places or _NUM_PLACES.get(settings["dataset"], 0)
    val = look_up_test_set(TRAIN_SETS[settings["dataset"]].val)
    num_val = (val.num_database or 0) + (val.num_queries or 0)
    return num_places * settings["images_per_place"], num_val


_COUNTS: dict[str, Callable[[Mapping[str, Any]], tuple[int, int]]] = {
    "classification": _count_classification,
    "eigenplaces": _count_eigenplaces,
    "tuples": _count_tuples,
    "sfrs": _count_sfrs,
    "places": _count_places,
}


def evaluation_s(source: Trained | Released, datasets: Sequence[str], machine: Machine) -> float:
    """Return the seconds of a command, and of extraction on test sets, 0 where unknown.

    Sets with the same folder share their database.
    """
    test_sets = [look_up_test_set(name) for name in datasets]
    databases = {test_set.folders: test_set.num_database or 0 for test_set in test_sets}
    num_images = sum(databases.values()) + sum(one.num_queries or 0 for one in test_sets)
    return machine.start_s + num_images * _FORWARD_SHARE * _step_s(source, machine)


def training_gigabytes(source: Trained) -> float:
    """Return the size of the checkpoints of a training: network, heads, and their optimizers."""
    settings = source.settings
    network = _COSTS[settings["backbone"]][1] * 1e6
    num_views = {"classification": 1, "eigenplaces": 2}
    num_views = num_views.get(METHODS[settings["method"]]["objective"], 0)
    heads = 0
    if num_views:
        num_classes = 100 if settings["dataset"] == "mini_city" else _CLASSES_PER_GROUP
        heads = num_views * settings["groups_num"] * num_classes * _raw_dim(source)
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


def _step_s(source: Trained | Released, machine: Machine) -> float:
    """Return the seconds of a training step, by multiply-adds, which grow with the area."""
    if isinstance(source, Trained):
        backbone, size = source["backbone"], str(source["image_size"])
    else:
        model = parse_published(source.spec)
        backbone = model.backbone
        size = rule_of(model.family, backbone) or "512"  # a guess: they take images as they are
    height, width = (2 * (parse_resize(size) or [512]))[:2]
    gmacs = _COSTS[backbone][0] * height * width / (find_spec(backbone).image_size or 512) ** 2
    return machine.image_s + machine.gmac_s * gmacs
