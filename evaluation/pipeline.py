"""Images through a model, so that a CUDA device never waits.

While the device computes, loader processes decode the next images, these are copied to the device
on a stream of their own, and the descriptors of the window before are copied back. On other devices
the same steps follow each other.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch

from evaluation.batches import Batch, Window
from evaluation.rows import SIZES_DTYPE, UNREADABLE, Described
from evaluation.views import View

_MAX_RUNNING = 3  # batches on a CUDA device
Model = Callable[[torch.Tensor], torch.Tensor]  # images [B, 3, H, W] -> descriptors [B, D]


class Pipeline:
    """A model, what it sees of images, and the device where it computes."""

    def __init__(self, model: Model, view: View, device: torch.device, use_amp16: bool) -> None:
        """Make the stream for copies."""
        self._model, self._view, self._device, self._use_amp16 = model, view, device, use_amp16
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._running: deque[torch.cuda.Event] = deque()

    def describe(
        self, windows: Iterable[Window], show_progress: Callable[[int], object]
    ) -> Iterator[Described]:
        """Yield the descriptors of windows, each when the next one is on its way.

        Args:
            windows: Images.
            show_progress: Called with numbers of images when the device has been given them.
        """
        before = None
        for window in windows:
            launched = self._launch(window, show_progress)
            if before is not None:
                yield before.wait()
            before = launched
        if before is not None:
            yield before.wait()

    def _launch(self, window: Window, show_progress: Callable[[int], object]) -> "_Launched":
        numbers, outputs = [], []
        sizes = np.full((len(window.images), 2), UNREADABLE, SIZES_DTYPE)
        for batch in window.batches:
            views = self._view(self._send(batch))  # [B, V, 3, h, w]
            outputs.append(self._run(views))
            self._hold_back()
            numbers.append(batch.numbers.numpy() - window.images.start)
            sizes[numbers[-1]] = views.shape[3:]
            show_progress(len(batch.numbers))
        show_progress(int((sizes[:, 0] == UNREADABLE).sum()))
        if not outputs:
            return _Launched(window.images, sizes)
        is_cuda = self._device.type == "cuda"
        descriptors = torch.cat(outputs).to("cpu", non_blocking=is_cuda)
        arrived = torch.cuda.current_stream(self._device).record_event() if is_cuda else None
        return _Launched(window.images, sizes, np.concatenate(numbers), descriptors, arrived)

    def _hold_back(self) -> None:
        """Wait until few batches are on the device: images come faster than networks work."""
        if self._copies is None:
            return
        self._running.append(torch.cuda.current_stream(self._device).record_event())
        if len(self._running) > _MAX_RUNNING:
            self._running.popleft().synchronize()

    def _send(self, batch: Batch) -> torch.Tensor:
        """Bring the images of a batch, uint8 [B, 3, H, W], to the device."""
        with torch.cuda.stream(self._copies):  # nothing, if there is none
            pieces = [
                piece.to(self._device, non_blocking=self._copies is not None)
                for piece in batch.pieces
            ]
            images = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if self._copies is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._copies)
            images.record_stream(computing)
        return images

    def _run(self, views: torch.Tensor) -> torch.Tensor:
        """Return the descriptors of views [B, V, 3, h, w]: [B, V, D], or [B, D] of one view."""
        autocast = torch.autocast(self._device.type, torch.float16)
        with autocast if self._use_amp16 else nullcontext():
            descriptors = self._model(views.flatten(0, 1))
        descriptors = descriptors.float().unflatten(0, views.shape[:2])
        if self._view.takes_mean:
            return descriptors.mean(dim=1)
        return descriptors[:, 0] if views.shape[1] == 1 else descriptors


class _Launched(NamedTuple):
    """A window whose descriptors may still be on their way."""

    images: range
    sizes: np.ndarray
    numbers: np.ndarray | None = None  # within the window, in the order of the descriptors
    descriptors: torch.Tensor | None = None
    arrived: torch.cuda.Event | None = None

    def wait(self) -> Described:
        if self.descriptors is None:
            return Described(self.images, None, self.sizes)
        if self.arrived is not None:
            self.arrived.synchronize()
        found = self.descriptors.numpy()
        descriptors = np.full((len(self.images), *found.shape[1:]), np.nan, np.float32)
        descriptors[self.numbers] = found
        return Described(self.images, descriptors, self.sizes)
