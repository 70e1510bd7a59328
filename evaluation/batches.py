"""Images in batches of equal size, however the sizes are mixed.

Sizes are known only when images are decoded. Images come window by window, ranges of a fixed number
of them. Within a window, those of one size wait for each other, so that batches are full but for
the last one of each size, and little has to wait. Which images share a batch depends on their
window alone: neither on the number of processes, nor on what was done before an interruption.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from datasets.image_lists import ImagePaths
from datasets.loading import ImageDataset, collate_by_size, defer_interrupts, ignore_job_signals

_BATCHES_PER_WINDOW = 8
_MAX_WAITING_BYTES = 1 << 28  # of images that wait for others of their size

Piece = tuple[torch.Tensor, torch.Tensor]  # numbers [b] of images of one size, uint8 [b, 3, H, W]


class Batch(NamedTuple):
    """Images of one size."""

    numbers: torch.Tensor  # of the images. int64 [B]
    pieces: list[torch.Tensor]  # the images, uint8 [b, 3, H, W] each, B in all


class Window(NamedTuple):
    """A range of images."""

    images: range  # their numbers
    batches: Iterator[Batch]  # of those that can be read


def window_size(batch_size: int) -> int:
    """Return the number of images in a window."""
    return _BATCHES_PER_WINDOW * batch_size


def split_windows(images: range, batch_size: int) -> list[range]:
    """Split images into windows.

    Args:
        images: Their numbers; the first one begins a window.
        batch_size: Images per batch.
    """
    return _split(images, window_size(batch_size))


def load_windows(
    paths: ImagePaths,
    windows: Sequence[range],
    batch_size: int,
    num_workers: int,
    skip_unreadable: bool,
    pin_memory: bool,
    io_retries: int = 0,
) -> Iterator[Window]:
    """Load images.

    Args:
        paths: Of all images.
        windows: Which to load, in this order.
        batch_size: Images per batch.
        num_workers: Loader processes.
        skip_unreadable: Go on past images that cannot be read; they are in no batch.
        pin_memory: Load to where a CUDA device can copy from while it computes.
        io_retries: How often a read that failed is tried again, see `load_image`.

    Yields:
        Windows; all batches of one are to be taken before the next one.

    Raises:
        FileNotFoundError, ValueError: If an image cannot be read; names it.
    """
    loader = DataLoader(
        ImageDataset(paths, skip_unreadable, io_retries),
        batch_sampler=(load for window in windows for load in _split(window, batch_size)),
        num_workers=num_workers,
        collate_fn=collate_by_size,
        pin_memory=pin_memory,
        worker_init_fn=ignore_job_signals,
        generator=torch.Generator(),  # so that the loader leaves the global one alone
    )
    with defer_interrupts():
        loads = iter(loader)
    for window in windows:
        loads_of_window = islice(loads, len(_split(window, batch_size)))
        yield Window(window, batch_by_size(loads_of_window, batch_size))


def batch_by_size(loads: Iterable[list[Piece]], batch_size: int) -> Iterator[Batch]:
    """Put images of one size together, across loads.

    Args:
        loads: Images as the loader brings them, at most a batch at once.
        batch_size: Images per batch.

    Yields:
        Full batches as soon as there are enough images of a size; in the end, what is left.
    """
    waiting: dict[torch.Size, list[Piece]] = {}
    for numbers, images in chain.from_iterable(loads):
        same = waiting.setdefault(images.shape[2:], [])
        room = batch_size - _count(same)
        same.append((numbers[:room], images[:room]))
        if _count(same) == batch_size:
            yield _join(same)
            same[:] = [(numbers[room:], images[room:])] if len(numbers) > room else []
        if sum(image.nbytes for same in waiting.values() for _, image in same) > _MAX_WAITING_BYTES:
            yield from _empty(waiting)
    yield from _empty(waiting)


def _empty(waiting: dict[torch.Size, list[Piece]]) -> Iterator[Batch]:
    yield from (_join(same) for same in waiting.values() if same)
    waiting.clear()


def _join(same: list[Piece]) -> Batch:
    return Batch(torch.cat([numbers for numbers, _ in same]), [images for _, images in same])


def _count(same: list[Piece]) -> int:
    return sum(len(numbers) for numbers, _ in same)


def _split(images: range, step: int) -> list[range]:
    return [images[first : first + step] for first in range(0, len(images), step)]
