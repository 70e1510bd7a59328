"""Load images with DataLoader processes: a dataset, batches of one size, signals.

Tensors come from loader processes by /dev/shm and a handle each. Where either is scarce, as in
docker's 64 MB, they come through a pipe: it takes the time of a copy, and nothing else.
"""

import contextlib
import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.reduction import ForkingPickler
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from datasets.image_lists import ImagePaths
from datasets.images import load_image, stack_images
from datasets.workers import explaining_starts, limit_workers, must_copy

T = TypeVar("T")


class ImageDataset(Dataset):
    """Images in order: (index, uint8 [3, H, W]), or (index, None) for a skipped one."""

    def __init__(
        self, paths: ImagePaths, skip_unreadable: bool = False, io_retries: int = 0
    ) -> None:
        """Read images of any size, with the retries of `load_image`."""
        self.paths = paths
        self.skip_unreadable = skip_unreadable
        self.io_retries = io_retries

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | None]:
        """Load one image; raises as `load_image` does, unless unreadable images are skipped."""
        try:
            return index, load_image(self.paths[index], self.io_retries)
        except (FileNotFoundError, ValueError):
            if not self.skip_unreadable:
                raise
            return index, None


def collate_by_size(
    samples: list[tuple[int, torch.Tensor | None]],
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Split samples into batches of equal image size: [(indices [B], images [B, 3, H, W]), ...].

    Skipped images are left out.
    """
    by_size: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
    for index, image in samples:
        if image is not None:
            by_size.setdefault(image.shape, []).append((index, image))
    return [
        (torch.tensor([index for index, _ in same]), stack_images([image for _, image in same]))
        for same in by_size.values()
    ]


class Loader(DataLoader):
    """A loader of batches, with as many processes as the machine has room for."""

    def __init__(
        self,
        dataset: Dataset,
        batches: Iterable[Any],
        num_workers: int,
        collate: Callable[[list], Any],
        device: torch.device,
        keeps_workers: bool = False,
    ) -> None:
        """Prepare; iterating starts the processes.

        Args:
            dataset: Gives samples.
            batches: Of indices for the data set, see `DataLoader`.
            num_workers: Loader processes, at most.
            collate: Makes a batch of samples.
            device: Where batches will go.
            keeps_workers: Whether the processes live as long as the loader, through all epochs.
        """
        num_workers = limit_workers(num_workers) if num_workers else 0
        copies = num_workers > 0 and must_copy()
        super().__init__(
            dataset,
            batch_sampler=batches,
            num_workers=num_workers,
            persistent_workers=keeps_workers and num_workers > 0,
            collate_fn=collate,
            # A process that is killed while it writes into a pipe would hold the thread that pins.
            pin_memory=device.type == "cuda" and not copies,
            worker_init_fn=partial(_begin_worker, copies=copies),
            generator=torch.Generator(),  # so that the loader leaves the global one alone
        )

    def __iter__(self) -> Iterator[Any]:
        """Start the processes, and yield batches; raises an OSError if they cannot be started."""
        with defer_interrupts(), explaining_starts():
            batches = super().__iter__()
        return _name_losses(batches)


def _name_losses(batches: Iterator[T]) -> Iterator[T]:
    """Yield batches; raise torch's RuntimeError also where a connection ends before its process."""
    try:
        yield from batches
    except (ConnectionError, EOFError) as error:
        time.sleep(1)  # the system is about to report the process, to which torch listens
        raise RuntimeError("DataLoader worker exited unexpectedly") from error


def _begin_worker(worker_id: int, copies: bool) -> None:
    ignore_job_signals(worker_id)
    _send_again_on_errors()
    if copies:
        _send_copies()


def _send_copies() -> None:
    """Let this process send tensors through pipes from now on."""
    ForkingPickler.register(torch.Tensor, _reduce_to_array)


def _send_again_on_errors() -> None:
    """Let this process send through a pipe what does not find room in shared memory.

    `multiprocessing` would show a traceback and drop it, and the receiver would wait for ever.
    """
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_again


def _send_again(queue: multiprocessing.queues.Queue, error: Exception, batch: object) -> None:
    """Send a batch through the pipe, or, if it was sent so before, the error."""
    if isinstance(batch, tuple) and len(batch) == 2:  # as torch numbers its batches
        is_copied = ForkingPickler._extra_reducers.get(torch.Tensor) is _reduce_to_array
        _send_copies()
        queue.put((batch[0], ExceptionWrapper()) if is_copied else batch)


def _reduce_to_array(tensor: torch.Tensor) -> tuple[Callable, tuple]:
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)  # as it is in memory
    return _from_array, (tensor.permute(order).numpy(), np.argsort(order).tolist())


def _from_array(array: np.ndarray, order: list[int]) -> torch.Tensor:
    return torch.from_numpy(array).permute(order)


def ignore_job_signals(worker_id: int) -> None:
    """Let a loader process survive signals to the whole job; a `worker_init_fn`.

    Ctrl-C and a cluster's notice that time is up reach all processes of a job, while the main
    process still needs batches to finish its step. SIGINT is ignored, and on Linux so is a SIGTERM
    that does not come from the main process. A SIGTERM of the main process ends this one at once,
    even if it is stuck: an exiting main process ends its loader processes so, and waits for them.

    Args:
        worker_id: Index of the process in its loader; unused.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere the sender of a signal is unknown
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    main_process = multiprocessing.parent_process()  # not the fork server
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main_process.pid:
        pass
    os._exit(0)  # as loader processes of torch do


@contextlib.contextmanager
def defer_interrupts() -> Iterator[None]:
    """Defer Ctrl-C while processes start.

    During a fork, the main process would lose it, or report an ended loader process as a failure.
    """
    if threading.current_thread() is not threading.main_thread():  # others never get it
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda *signal_and_frame: held.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held and callable(before):
            before(*held[0])
