"""Load images with DataLoader processes: a dataset, batches of one size, signals."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import torch
from torch.utils.data import Dataset

from datasets.image_lists import ImagePaths
from datasets.images import load_image, stack_images


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
