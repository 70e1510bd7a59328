"""Turn the flags of train.py into settings, networks, evaluation sets and a training."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import commons
import machine
from datasets.catalog import TRAIN_SETS
from datasets.eval_set import EvalSet, Labels, load_own_set, load_test_set
from datasets.image_lists import ImagePaths
from datasets.images import errors_naming, load_image
from evaluation import Protocol
from evaluation.descriptors import Inference, load_windows
from evaluation.views import View
from methods import METHODS
from model.aggregation.netvlad import draw_local_descriptors
from model.backbones.build import build_backbone
from model.checkpoints import network_of, start_network
from model.formats.openibl import start_from_clusters
from model.network import GeoLocalizationNet, build_network, choose_architecture, keep_rule
from model.published import find_start
from model.resizing import IMAGE_SIZE, choose_resize, own_rule, parse_resize
from model.whitening import WhiteningParams, check_dims
from training.classification import ClassificationSettings
from training.curves import CurvesParams
from training.eigenplaces import EigenPlacesSettings
from training.objective import ImageSize, Objective, ObjectiveSettings
from training.optimizers import OptimizerParams
from training.places import PlacesSettings
from training.sfrs import SFRSSettings
from training.state import Optimization, Training, cpu_computes_in
from training.tuples import TupleSettings

OBJECTIVES: dict[str, type[ObjectiveSettings]] = {
    "classification": ClassificationSettings,
    "eigenplaces": EigenPlacesSettings,
    "tuples": TupleSettings,
    "sfrs": SFRSSettings,
    "places": PlacesSettings,
}
_ARCHITECTURE = ("backbone", "fc_output_dim", "aggregation", "aggregation_args", "input_scaling")
NUM_INITIAL_IMAGES = 500  # local descriptors of theirs are clustered: as VGB and OpenIBL
_FREEZING = ("train_all_layers", "freeze_te", "train_last_blocks")


@dataclass(frozen=True)
class Settings:
    """What flags say, checked."""

    objective: ObjectiveSettings
    protocol: Protocol  # of validation and test
    optimization: Optimization
    image_size: int | str | None  # of training images, in pixels: a side or "HxW"; None: that of
    # the network
    resize: str | None  # of test images, see `choose_resize`
    whitening: WhiteningParams | None  # last layer of the network that is tested
    inference: Inference  # of validation, test, and what is fitted to training images
    starts_new: bool  # whether the network of a new run is new, too, clusters included
    semantic_labels: str | None  # folder of label maps, for aggregations that start from them
    curves: CurvesParams  # what is written of iterations and epochs
    seed: int

    def for_network(
        self, network: GeoLocalizationNet, eval_sets: Sequence[EvalSet] = ()
    ) -> "Settings":
        """Return them with the image sizes of a network, where flags do not give any.

        The network keeps the rule that it is validated by, see `own_rule`.

        Raises:
            ValueError: If it cannot take such images, see `check_image_sizes`.
        """
        image_size = self.image_size or network.image_size or IMAGE_SIZE
        resize = choose_resize(self.resize, image_size, network)
        has_map_size = hasattr(network.aggregation, "map_size")
        rule = own_rule(resize, image_size, network.image_size is not None, has_map_size)
        keep_rule(network, rule)
        protocol = replace(self.protocol, resize=resize)
        settings = replace(self, image_size=image_size, protocol=protocol)
        check_image_sizes(network, settings, eval_sets)
        return settings

    @property
    def device(self) -> torch.device:
        """Where to train, validate and test."""
        return self.inference.device

    @property
    def height_width(self) -> ImageSize:
        """The size of training images, as soon as it is known."""
        height, width = (2 * parse_resize(str(self.image_size)))[:2]
        return height, width


def objective_of(method: str) -> type[ObjectiveSettings]:
    """Return the settings of a method's objective."""
    return OBJECTIVES[METHODS[method]["objective"]]


def read_settings(flags: dict[str, Any]) -> Settings:
    """Return what the flags of train.py say.

    Raises:
        ValueError: If a flag is out of its range.
    """
    optimizer = commons.from_flags(OptimizerParams, flags)
    device = machine.choose_device(flags["device"])
    flags = flags | {"use_amp16": _choose_amp16(flags, device)}
    settings = Settings(
        objective=objective_of(flags["method"]).from_flags(flags),
        protocol=Protocol(tuple(flags["recall_values"]), flags["resize_test_imgs"] or None),
        optimization=commons.from_flags(Optimization, {**flags, "optimizer": optimizer}),
        image_size=flags["image_size"],
        resize=flags["resize_test_imgs"],
        whitening=read_whitening(flags),
        inference=Inference(
            device,
            flags["infer_batch_size"],
            flags["num_workers"],
            io_retries=flags["io_retries"],
        ),
        starts_new=flags["resume_model"] is None and flags["cluster_file"] is None,
        semantic_labels=flags["semantic_labels"],
        curves=CurvesParams(flags["log_every"], flags["wandb"]),
        seed=flags["seed"],
    )
    settings.optimization.check(settings.device)
    choose_architecture(**{name: flags[name] for name in _ARCHITECTURE})
    return settings


def _choose_amp16(flags: Mapping[str, Any], device: torch.device) -> bool:
    """Return whether to train in mixed precision; a method's default is for devices that do so."""
    is_default = flags["use_amp16"] and METHODS[flags["method"]].get("use_amp16", False)
    if is_default and device.type == "cpu" and not cpu_computes_in(flags["amp_dtype"]):
        logging.info(
            f"Without --use_amp16, a default of --method {flags['method']}: this processor does "
            f"not compute in {flags['amp_dtype']}"
        )
        return False
    return flags["use_amp16"]


def read_whitening(flags: dict[str, Any]) -> WhiteningParams | None:
    """Return what the flags say of a whitening; raise a ValueError if it is out of its range."""
    if flags["whitening"] == "none":
        return None
    params = WhiteningParams(flags["whitening"], flags["whiten_dim"], flags["kept_dims"])
    check_dims(params.dim, flags["whiten_images"])
    return params


def load_eval_sets(flags: dict[str, Any]) -> tuple[EvalSet, EvalSet]:
    """Return the sets for validation and test."""
    named, labels = TRAIN_SETS[flags["dataset"]], Labels(flags["positive_dist_threshold"])

    def load(name: str, folder: str | None, queries_folder: str | None) -> EvalSet:
        if folder is not None:
            return load_own_set(folder, queries_folder, labels)
        return load_test_set(name, flags["datasets_folder"], labels)

    return (
        load(named.val, flags["val_set_folder"], None),
        load(named.test, flags["test_set_folder"], flags["queries_folder"]),
    )


def make_network(
    flags: dict[str, Any], checkpoint: dict[str, Any] | None, path: Path | None
) -> GeoLocalizationNet:
    """Return the network of a checkpoint, or a new one.

    Args:
        flags: Of train.py.
        checkpoint: Of the run that is resumed, if one is.
        path: Its file.
    """
    freezing = {name: flags[name] for name in _FREEZING}
    if checkpoint is not None:
        return network_of(checkpoint, path, **freezing)
    if start := flags["resume_model"]:
        names = ("aggregation", "aggregation_args")
        start = find_start(start)
        return start_network(start, **{name: flags[name] for name in names}, **freezing)
    names = (*_ARCHITECTURE, "backbone_weights")
    network = build_network(**{name: flags[name] for name in names}, **freezing)
    if flags["cluster_file"]:
        start_from_clusters(network.aggregation, flags["cluster_file"])
    return network


def check_image_sizes(
    network: GeoLocalizationNet, settings: Settings, eval_sets: Sequence[EvalSet]
) -> None:
    """Check that the aggregation takes maps of training and test images, before hours of training.

    Args:
        network: Its backbone is built again without memory: only sizes of maps are computed.
        settings: For this network.
        eval_sets: The sizes of the first image of each database and of the first query count.

    Raises:
        ValueError: If it does not.
    """
    if not hasattr(network.aggregation, "check_size"):
        return
    sizes = {settings.height_width: "training images, --image_size"}
    for eval_set in eval_sets:
        view = settings.protocol.database_view(eval_set)
        for paths in (eval_set.database, eval_set.queries):
            with contextlib.suppress(OSError, ValueError):  # what cannot be read is told later
                height, width = view(load_image(paths[0])[None]).shape[-2:]
                sizes.setdefault((height, width), f"images of {eval_set.name}, --resize_test_imgs")
    with torch.device("meta"):
        backbone = build_backbone(network.architecture["backbone"], "none").eval()
        for (height, width), what in sizes.items():
            try:
                network.aggregation.check_size(backbone(torch.empty(1, 3, height, width)))
            except ValueError as error:
                raise ValueError(f"{height}x{width} of {what}: {error}") from None


def initialise_aggregation(
    network: GeoLocalizationNet, objective: Objective, settings: Settings
) -> None:
    """Start a new network's aggregation from local descriptors of training images, if it does so.

    The main process does it: those of a job get its weights when they make their training.

    Args:
        network: New; on the CPU.
        objective: Its training images are drawn from.
        settings: Have the size of training images, and how to extract.
    """
    if not hasattr(network.aggregation, "initialise") or commons.rank() > 0:
        return
    logging.info("Clusters are searched in local descriptors of training images")
    view = View("{}x{}".format(*settings.height_width))
    paths = objective.sample_images(NUM_INITIAL_IMAGES)
    inference = replace(settings.inference, skip_unreadable=True)
    ((_, pieces),) = load_windows(paths, [range(len(paths))], inference)
    network.to(inference.device)
    order, labels_of = [], None
    if settings.semantic_labels is not None:
        labels_of = partial(_read_labels, settings.semantic_labels, objective.folder, paths, order)

    def batches() -> Iterator[torch.Tensor]:
        for batch in pieces:
            order.extend(torch.cat([indices for indices, _ in batch]).tolist())
            yield view(torch.cat([images for _, images in batch])).flatten(0, 1)

    descriptors, labels = draw_local_descriptors(
        network, batches(), seed=settings.seed, labels_of=labels_of
    )
    known = {} if labels is None else {"labels": labels}
    network.aggregation.initialise(descriptors, settings.seed, **known)


def _read_labels(
    label_folder: str,
    image_folder: str | os.PathLike,
    paths: ImagePaths,
    order: Sequence[int],
    number: int,
    size: torch.Size,
) -> torch.Tensor:
    """Return the labels of an image at the locations of its map, int64 [h, w].

    Args:
        label_folder: Has a PNG of the training ids of Cityscapes for each image, by its path.
        image_folder: Images' paths are relative to it.
        paths: The images.
        order: Index in `paths` of each image in the order of the batches.
        number: Of the image, in that order.
        size: Height and width of the map.

    Raises:
        FileNotFoundError: If there are no labels of an image.
        ValueError: If they cannot be read.
    """
    relative = os.path.relpath(paths[order[number]], image_folder)
    file = Path(label_folder, relative).with_suffix(".png")
    with errors_naming(file), Image.open(file) as labels:
        resized = labels.resize((size[1], size[0]), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(resized, np.int64))


def make_training(
    network: GeoLocalizationNet,
    objective: Objective,
    settings: Settings,
    checkpoint: dict[str, Any] | None,
    path: Path | None,
) -> Training:
    """Return a new training, or one with the state of a checkpoint.

    Args:
        network: With the weights of the checkpoint.
        objective: What it trains on.
        settings: For this network.
        checkpoint: Of the run that is resumed, if one is.
        path: Its file.

    Raises:
        ValueError: If the checkpoint is not of such a training.
    """
    if checkpoint is None and settings.starts_new:
        initialise_aggregation(network, objective, settings)
    training = Training(
        network, objective, settings.optimization, settings.device, settings.height_width
    )
    if checkpoint is not None:
        try:
            training.load_state_dict(checkpoint)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path} is not a checkpoint of this training ({reason})") from error
    return training
