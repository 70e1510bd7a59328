"""Batches for training, on the device before they are needed."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from datasets.augmentations import Augmentation
from datasets.train_dataset import GroupSampler, TrainDataset, collate
from datasets.workers import outlive_signals


class Prepared(NamedTuple):
    """What an iteration trains on, on the device."""

    images: torch.Tensor  # float32 [B, 3, H, W], channels last
    labels: torch.Tensor  # int64 [B]
    unreadable: Sequence[str]  # see datasets.train_dataset.Sample


class Batch(NamedTuple):
    """What the loader brings."""

    images: torch.Tensor | Sequence[torch.Tensor]  # several tensors while their sizes differ
    labels: torch.Tensor  # int64 [B]
    seeds: list[int]  # of the augmentation of each image
    unreadable: Sequence[str] = ()  # see datasets.train_dataset.Sample


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
        worker_init_fn=outlive_signals,
        generator=torch.Generator(),  # so that the loader leaves the global one alone
    )


def batches_on_device(
    loader: DataLoader, device: torch.device, augmentation: Augmentation | None
) -> Iterator[Prepared]:
    """Yield batches on a device, augmented.

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


def _prepare(batch: Batch, device: torch.device, augmentation: Augmentation | None) -> Prepared:
    images, is_pinned = batch.images, device.type == "cuda"
    if torch.is_tensor(images):
        images = images.to(device, non_blocking=is_pinned)
    else:
        images = [image.to(device, non_blocking=is_pinned) for image in images]
    if augmentation is not None:
        images = augmentation.batch(images, batch.seeds)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = batch.labels.to(device, non_blocking=is_pinned)
    return Prepared(images, labels, batch.unreadable)


def _hand_over(batch: Prepared, event: torch.cuda.Event) -> Prepared:
    """Let the current stream wait for what another one prepares, and own it from there."""
    current = torch.cuda.current_stream(batch.images.device)
    current.wait_event(event)
    for tensor in (batch.images, batch.labels):
        tensor.record_stream(current)
    return batch
