"""The contract between the training loop and a method, and what objectives share.

An objective says what a method trains on and what it minimises; the loop, the checkpoints and the
way to resume know no more. Implementations are listed in `training.setup.OBJECTIVES`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

import commons
from datasets.augmentation import Augmentation
from datasets.image_lists import ImagePaths

ImageSize = tuple[int, int]  # height and width, in pixels


class Batch(NamedTuple):
    """What an iteration trains on."""

    images: torch.Tensor  # float32 [B, 3, H, W], on the device, channels last
    labels: torch.Tensor  # int64 [B], on the device; only the objective knows what they mean
    unreadable: Sequence[str]  # a sentence on each image that could not be read and was replaced
    mining_s: float = 0.0  # seconds that the objective took before it, beside waiting for images


class Objective(Protocol):
    """What a method trains on and what it minimises.

    Random choices are functions of (seed, epoch, iteration) or part of the state, so that a
    resumed run continues with the same bits. Under torchrun each process has an objective of its
    own and yields its share of each batch.
    """

    digest: str  # of the training images: a run is resumed only on the same
    images_per_epoch: int  # that all processes together train on
    folder: str | os.PathLike  # of the training images

    def describe(self, whole: bool = False) -> str:
        """Return what is trained on, in words; `whole` for --dry_run: also what is left out."""

    def module(self, network: nn.Module) -> nn.Module:
        """Return what `loss` calls: the network itself, or what reads more out of it.

        Its parameters are those of the network; torchrun and torch.compile wrap it.

        Raises:
            ValueError: If the method cannot train this network.
        """

    def attach(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        image_size: ImageSize,
        device: torch.device,
    ) -> None:
        """Prepare to train a network; called once.

        Args:
            network: Images [B, 3, H, W] to descriptors [B, network.out_dim]; on the device.
            optimizer: Of the network, for methods that begin anew in between.
            image_size: Of training images: height and width, in pixels.
            device: Where to train.

        Raises:
            ValueError: If images of this size cannot be trained on.
        """

    def sample_images(self, num: int) -> ImagePaths:
        """Return training images drawn at random, the same ones each time; all if they are fewer.

        Cluster centres and whitenings are fitted to them.

        Raises:
            ValueError: If training images are not as the network sees them, such as panoramas.
        """

    def num_iterations(self, epoch: int) -> int:
        """Return the number of batches of an epoch."""

    def turn(self, epoch: int) -> AbstractContextManager[Sequence[Optimizer]]:
        """Yield the optimizers of an epoch beside the network's; their tensors are on the device.

        They are on the device for the duration only: CosPlace has a head for each group.
        """

    def batches(self, model: nn.Module, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the batches of an epoch within its `turn`; mining and generations happen here.

        Args:
            model: What `module` returned, as it is called under torchrun.
            epoch: Counted from 0.
            first: Iteration to begin with; the batches before it are skipped.
        """

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch, a scalar; the model is called in here, under autocast."""

    def image_paths(self, epoch: int, iteration: int) -> list[str]:
        """Return the images of a batch of all processes, for the report of a loss that is NaN."""

    def epoch_metrics(self, epoch: int) -> dict[str, float]:
        """Return numbers of an epoch for metrics.jsonl, beside loss, recalls and times."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values for a checkpoint; all processes call it."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state, with the learning rates given now."""


class ObjectiveSettings(Protocol):
    """What the flags say about an objective, checked; a frozen dataclass."""

    fixed_flags: ClassVar[Sequence[str]]  # that a resumed run must not change

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> "ObjectiveSettings":
        """Read the flags of train.py; raise a ValueError if one is out of its range."""

    def open(self) -> Objective:
        """Read the training set; raise a FileNotFoundError or ValueError if it is not usable."""


def check_share(batch_size: int, noun: str) -> None:
    """Raise a ValueError if processes cannot share a batch evenly.

    Args:
        batch_size: What an iteration trains on, in all processes together.
        noun: Of it, "images" or "tuples".
    """
    if batch_size % commons.num_ranks():
        raise ValueError(
            f"--batch_size {batch_size} are the {noun} of an iteration in all processes together: "
            f"it must be a multiple of their number, {commons.num_ranks()}"
        )


def augments_on_device(asked: str, device: torch.device) -> bool:
    """Return whether batches are augmented on the device rather than in the loader's workers."""
    return {"auto": device.type == "cuda", "cuda": True, "cpu": False}[asked]


def batches_on_device(
    loader: DataLoader, device: torch.device, augmentation: Augmentation | None
) -> Iterator[Batch]:
    """Yield batches on a device, augmented.

    On CUDA the next batch is copied and augmented on its own stream during the current iteration.

    Args:
        loader: Gives what `datasets.groups.collate` returns.
        device: Where to.
        augmentation: For batches on the device; None if they come augmented.
    """
    if device.type != "cuda":
        for loaded in loader:
            yield _prepare(loaded, device, augmentation)
        return
    stream, ready = torch.cuda.Stream(device), None
    for loaded in loader:
        with torch.cuda.stream(stream):
            coming = _prepare(loaded, device, augmentation), stream.record_event()
        if ready is not None:
            yield _hand_over(*ready)
        ready = coming
    if ready is not None:
        yield _hand_over(*ready)


def _prepare(loaded: tuple, device: torch.device, augmentation: Augmentation | None) -> Batch:
    images, labels, seeds, unreadable = loaded
    is_pinned = device.type == "cuda"

    def to_device(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, non_blocking=is_pinned)

    images = to_device(images) if torch.is_tensor(images) else [to_device(one) for one in images]
    if augmentation is not None:
        images = augmentation.batch(images, seeds)
    # Those of tuples side by side, however many each has.
    images = images.flatten(0, -4) if torch.is_tensor(images) else torch.cat(images)
    images = images.contiguous(memory_format=torch.channels_last)
    return Batch(images, to_device(labels), unreadable)


def _hand_over(batch: Batch, event: torch.cuda.Event) -> Batch:
    """Let the current stream wait for another one's batch, and own it from there."""
    current = torch.cuda.current_stream(batch.images.device)
    current.wait_event(event)
    for tensor in (batch.images, batch.labels):
        tensor.record_stream(current)
    return batch
