"""What a training starts from, by its flags."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

import commons
from datasets.augmentations import AugmentationParams
from datasets.catalog import TRAIN_SETS, find_train_folder
from datasets.class_index import ClassIndex, load_index
from datasets.eval_dataset import EvalSet
from datasets.eval_sets import Labels, load_test_set
from datasets.partition import PartitionParams
from evaluation import Protocol
from model import GeoLocalizationNet, build_network
from model.checkpoints import load_network, network_of
from model.network import IMAGE_SIZE, choose_resize
from training.state import Optimization, Training

_ARCHITECTURE = ("backbone", "fc_output_dim", "pooling", "backbone_weights")
_FREEZING = ("train_all_layers", "freeze_te")


def make_network(
    flags: dict[str, Any], checkpoint: dict[str, Any] | None, path: Path | None
) -> GeoLocalizationNet:
    """Return the network of a checkpoint, or a new one.

    Args:
        flags: Of train.py.
        checkpoint: Of the run that is continued, if one is.
        path: Its file.
    """
    freezing = {name: flags[name] for name in _FREEZING}
    if checkpoint is not None:
        return network_of(checkpoint, path, **freezing)
    if start := flags["resume_model"]:
        return load_network(start, **freezing)
    return build_network(**{name: flags[name] for name in _ARCHITECTURE}, **freezing)


@dataclass(frozen=True)
class Settings:
    """What flags say, checked."""

    partition: PartitionParams
    augmentation: AugmentationParams  # without --image_size: that is known once the network is
    protocol: Protocol  # of validation and test
    optimization: Optimization
    device: torch.device
    image_size: int | None  # of training images, if flags tell it
    resize: str | None  # of test images, see `choose_resize`

    def for_network(self, network: GeoLocalizationNet) -> "Settings":
        """Return them with the image sizes that a network wants, where flags do not tell."""
        image_size = self.image_size or network.image_size or IMAGE_SIZE
        resize = choose_resize(self.resize, image_size, network)
        return replace(
            self,
            augmentation=replace(self.augmentation, image_size=image_size),
            protocol=replace(self.protocol, resize=resize),
        )


def read_settings(args: argparse.Namespace) -> Settings:
    """Return what flags say.

    Raises:
        ValueError: If a flag is out of its range.
    """
    _check_batch_size(args.batch_size)
    strength = {field.name: vars(args)[field.name] for field in fields(AugmentationParams)}
    settings = Settings(
        commons.from_flags(PartitionParams, args),
        AugmentationParams(**strength | {"image_size": args.image_size or IMAGE_SIZE}),
        Protocol(tuple(args.recall_values), args.resize_test_imgs or None),
        commons.from_flags(Optimization, args),
        commons.choose_device(args.device),
        args.image_size,
        args.resize_test_imgs,
    )
    settings.optimization.check(settings.device)
    return settings


def open_index(flags: dict[str, Any], params: PartitionParams) -> ClassIndex:
    """Return the split of the training images into classes, made if it is not there yet.

    Raises:
        FileNotFoundError: If there are no images.
        ValueError: If their names do not tell where they are, or there are too few groups.
    """
    folder = flags["train_set_folder"]
    folder = folder or find_train_folder(flags["dataset"], flags["datasets_folder"])
    index = ClassIndex(
        commons.of_main_process(
            lambda: load_index(folder, params, flags["cache_folder"]).index_folder
        )
    )
    index.require_groups(flags["groups_num"])
    return index


def load_eval_sets(flags: dict[str, Any]) -> tuple[EvalSet, EvalSet]:
    """Return what a training is validated and tested on."""
    root, named = flags["datasets_folder"], TRAIN_SETS[flags["dataset"]]
    labels = Labels(flags["positive_dist_threshold"])
    own_test_set = (flags["test_set_folder"], flags["queries_folder"])
    return (
        load_test_set(named.val, root, flags["val_set_folder"], labels=labels),
        load_test_set(named.test, root, *own_test_set, labels),
    )


def make_training(
    network: GeoLocalizationNet,
    class_counts: Sequence[int],
    settings: Settings,
    checkpoint: dict[str, Any] | None,
    path: Path | None,
) -> Training:
    """Return a training that begins, or one that goes on from a checkpoint.

    Raises:
        ValueError: If the checkpoint, a file of this path, is not of such a training.
    """
    training = Training(network, class_counts, settings.optimization, settings.device)
    if checkpoint is not None:
        try:
            training.load_state_dict(checkpoint)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path} is not a checkpoint of this training ({reason})") from error
    return training


def _check_batch_size(batch_size: int) -> None:
    """Raise a ValueError if the images of an iteration cannot be shared out evenly."""
    if batch_size % commons.num_ranks():
        raise ValueError(
            f"--batch_size {batch_size} are the images of an iteration in all processes together: "
            f"it must be a multiple of their number, {commons.num_ranks()}"
        )


def augments_on_device(asked: str, device: torch.device) -> bool:
    """Tell whether batches are augmented on the device rather than in the loader's workers."""
    return {"auto": device.type == "cuda", "cuda": True, "cpu": False}[asked]
