"""What a training starts from, by its flags."""

from dataclasses import fields
from typing import Any

import torch

import commons
from datasets.augmentations import AugmentationParams
from model import GeoLocalizationNet, build_network
from model.checkpoints import network_of
from model.files import read_checkpoint
from model.network import IMAGE_SIZE

_ARCHITECTURE = ("backbone", "fc_output_dim", "pooling", "backbone_weights")
_FREEZING = ("train_all_layers", "freeze_te")


def make_network(flags: dict[str, Any], checkpoint: dict[str, Any] | None) -> GeoLocalizationNet:
    """Return the network of a checkpoint, or a new one.

    Args:
        flags: Of train.py.
        checkpoint: Of the run that is continued, if one is.
    """
    freezing = {name: flags[name] for name in _FREEZING}
    if start := flags["resume_train"] or flags["resume_model"]:
        return network_of(checkpoint or read_checkpoint(start), start, **freezing)
    return build_network(**{name: flags[name] for name in _ARCHITECTURE}, **freezing)


def augmentation_params(flags: dict[str, Any]) -> AugmentationParams:
    """Return what flags say; without --image_size, it is known once the network is.

    Raises:
        ValueError: If a flag is out of its range.
    """
    strength = {field.name: flags[field.name] for field in fields(AugmentationParams)}
    return AugmentationParams(**strength | {"image_size": flags["image_size"] or IMAGE_SIZE})


def check_batch_size(batch_size: int) -> None:
    """Raise a ValueError if the images of an iteration cannot be shared out evenly."""
    if batch_size % commons.num_ranks():
        raise ValueError(
            f"--batch_size {batch_size} are the images of an iteration in all processes together: "
            f"it must be a multiple of their number, {commons.num_ranks()}"
        )


def augments_on_device(asked: str, device: torch.device) -> bool:
    """Tell whether batches are augmented on the device rather than in the loader's workers."""
    return {"auto": device.type == "cuda", "cuda": True, "cpu": False}[asked]
