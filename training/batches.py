"""Batches for training, on the device before they are needed."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from datasets.augmentations import Augmentation
from datasets.train_dataset import GroupSampler, TrainDataset, collate


class Batch(NamedTuple):
    """What an iteration trains on."""

    images: torch.Tensor | Sequence[torch.Tensor]  # several tensors while their sizes differ
    labels: torch.Tensor  # int64 [B]
    seeds: list[int]  # of the augmentation of each image


def make_loader(
    dataset: TrainDataset, sampler: GroupSampler, num_workers: int, pin_memory: bool
) -> DataLoader:
    """Make a loader whose workers live as long as it does, through all epochs and groups."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=collate,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # so that the loader leaves the global one alone
    )


def batches_on_device(
    loader: DataLoader, device: torch.device, augmentation: Augmentation | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield augmented images, channels last, and labels of each batch, on a device.

    On CUDA the next batch is copied and augmented on a stream of its own while one is worked on.

    Args:
        loader: Gives what `datasets.train_dataset.collate` returns.
        device: Where to.
        augmentation: For batches on the device; None if they come augmented.
    """
    if device.type != "cuda":
        for batch in loader:
            yield _prepare(Batch(*batch), device, augmentation)
        return
    stream, ready = torch.cuda.Stream(device), None
    for batch in loader:
        with torch.cuda.stream(stream):
            coming = _prepare(Batch(*batch), device, augmentation), stream.record_event()
        if ready is not None:
            yield _hand_over(*ready)
        ready = coming
    if ready is not None:
        yield _hand_over(*ready)


def _prepare(
    batch: Batch, device: torch.device, augmentation: Augmentation | None
) -> tuple[torch.Tensor, torch.Tensor]:
    images, is_pinned = batch.images, device.type == "cuda"
    if torch.is_tensor(images):
        images = images.to(device, non_blocking=is_pinned)
    else:
        images = [image.to(device, non_blocking=is_pinned) for image in images]
    if augmentation is not None:
        images = augmentation.batch(images, batch.seeds)
    images = images.contiguous(memory_format=torch.channels_last)
    return images, batch.labels.to(device, non_blocking=is_pinned)


def _hand_over(
    tensors: tuple[torch.Tensor, torch.Tensor], prepared: torch.cuda.Event
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let the current stream wait for what another one prepares, and own it from there."""
    current = torch.cuda.current_stream(tensors[0].device)
    current.wait_event(prepared)
    for tensor in tensors:
        tensor.record_stream(current)
    return tensors
