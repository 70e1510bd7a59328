"""Descriptors of many images of any sizes, so that batches are full and a CUDA device never waits.

Sizes are known only when images are decoded. Images come window by window, a fixed number of
consecutive ones. Within a window, those of one size wait for each other, so that only the last
batch of each size is not full. Which images share a batch depends on their window alone: neither on
the number of processes, nor on what was extracted before an interruption.

While a CUDA device computes, loader processes decode the next images, these are copied to the
device on a stream of their own, and the descriptors of the window before are copied back. On other
devices the same steps follow each other.
"""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

import commons
from datasets.image_lists import ImagePaths
from datasets.loading import ImageDataset, Loader, collate_by_size
from evaluation.views import View

UNREADABLE = -1  # height and width of an image that cannot be read
_BATCHES_PER_WINDOW = 8
_MAX_WAITING_BYTES = 1 << 28  # of images that wait for others of their size
_MAX_RUNNING = 3  # batches on a CUDA device

T = TypeVar("T")
Model = Callable[[torch.Tensor], torch.Tensor]  # images [B, 3, H, W] -> descriptors [B, D]
Piece = tuple[torch.Tensor, torch.Tensor]  # indices [b] of images of one size, uint8 [b, 3, H, W]


@dataclass(frozen=True)
class Inference:
    """How images go through a model, and the type of their descriptors.

    Only `use_amp16` and `dtype` change descriptors beyond rounding.
    """

    device: torch.device
    batch_size: int = 16
    num_workers: int = 0
    skip_unreadable: bool = False  # count unreadable images instead of stopping
    use_amp16: bool = False  # compute in float16 where that is exact enough; on CUDA devices
    dtype: str = "float32"  # of the descriptors; or float16
    io_retries: int = 0  # how often a failed read is tried again, see `load_image`
    show_progress: bool = True  # by a bar on stderr

    def __post_init__(self) -> None:
        """Raise a ValueError if the device cannot do it."""
        if self.use_amp16 and self.device.type != "cuda":
            raise ValueError(f"--use_amp16 needs a CUDA device, this one is {self.device.type}")

    @property
    def window_size(self) -> int:
        """Number of consecutive images that one process extracts together."""
        return _BATCHES_PER_WINDOW * self.batch_size


class Rows(NamedTuple):
    """Descriptors of consecutive images."""

    images: range  # their indices
    descriptors: np.ndarray | None  # float32 [num_images, D] or [num_images, V, D], NaN where an
    # image cannot be read; None if no image can
    sizes: (
        np.ndarray
    )  # height and width as given to the model, or UNREADABLE. int32 [num_images, 2]


@dataclass(frozen=True)
class Extraction:
    """Descriptors, and what they were extracted from.

    Of several processes, each has the descriptors of a shard of the images; the rest is of all.
    """

    descriptors: np.ndarray  # float32 or float16 [num_here, D], or [num_here, V, D] if views stay
    # apart; NaN for unreadable images
    image_sizes: dict[str, int]  # "HxW" as given to the model -> number of images, falling
    num_images: int
    unreadable: list[int] = field(default_factory=list)  # indices of images, ascending
    first: int = 0  # index of the first image here

    @property
    def readable(self) -> np.ndarray:
        """Rows of `descriptors` of images that could be read, ascending. int64 [num_readable]."""
        rows = np.arange(len(self.descriptors))
        return np.setdiff1d(rows, np.array(self.unreadable, np.int64) - self.first)

    @property
    def rows(self) -> np.ndarray | None:
        """The same, None if all images could be read."""
        return self.readable if self.unreadable else None


def extract_descriptors(
    model: Model, paths: ImagePaths, view: View, inference: Inference, label: str = "Descriptors"
) -> Extraction:
    """Run a model over images, in batches of equal size.

    Args:
        model: Images, ImageNet-normalised float32 [B, 3, H, W], to descriptors [B, D].
        paths: The images.
        view: What the model sees of an image.
        inference: Device, batch size, loader processes.
        label: Of the progress bar.

    Returns:
        Descriptors in the order of the paths, and the sizes of the images.

    Raises:
        FileNotFoundError, ValueError: If an image cannot be read; names it.
        ValueError: If a descriptor is not finite; names the image. If no image can be read.
    """
    done = np.zeros(len(paths), bool)
    rows = extract_rows(model, paths, range(len(paths)), done, view, inference, label)
    return collect_rows(rows, paths, range(len(paths)), inference.dtype)


def extract_rows(
    model: Model,
    paths: ImagePaths,
    shard: range,
    done: np.ndarray,
    view: View,
    inference: Inference,
    label: str,
) -> Generator[Rows, None, None]:
    """Extract the descriptors of a shard of images, window by window.

    Args:
        model: As in `extract_descriptors`, which also says what is raised.
        paths: All images.
        shard: Indices of images; the first one begins a window.
        done: Which of them have descriptors; windows of such images are left out. bool [num_here].
        view: What the model sees of an image.
        inference: Device, batch size, loader processes.
        label: Of the progress bar.
    """
    windows = [
        window
        for window in split_range(shard, inference.window_size)
        if not done[rows_of(window, shard)].all()
    ]
    if not windows:
        return
    pipeline = _Pipeline(model, view, inference)
    num_left = sum(map(len, windows))
    progress = tqdm(
        total=len(shard),
        initial=len(shard) - num_left,
        desc=label,
        unit="img",
        dynamic_ncols=True,
        disable=commons.rank() > 0
        or not inference.show_progress,  # one bar, of a shard like the others
    )
    with progress:
        for rows in pipeline.run(load_windows(paths, windows, inference), progress.update):
            _check_finite(rows, paths, inference.dtype)
            yield rows


def collect_rows(rows: Iterable[Rows], paths: ImagePaths, shard: range, dtype: str) -> Extraction:
    """Put the descriptors of a shard into one array in memory; waits for all processes.

    Raises:
        ValueError: If no image of any process can be read.
    """
    _, descriptors, sizes = stack_rows(rows, shard, dtype)
    shape = () if descriptors is None else descriptors.shape[1:]
    own = (shape, *summarise_sizes(sizes, shard.start))
    shapes, counts, lists = zip(*gather(own), strict=True)
    unreadable = list(chain.from_iterable(lists))
    require_readable(len(unreadable) < len(paths), paths)
    if descriptors is None:
        descriptors = np.full((len(shard), *max(shapes)), np.nan, dtype)
    image_sizes = name_sizes(sum(counts, Counter()))
    return Extraction(descriptors, image_sizes, len(paths), unreadable, shard.start)


def stack_rows(parts: Iterable[Rows], images: range, dtype: str) -> Rows:
    """Put parts of images into arrays; what no part has counts as unreadable.

    Args:
        parts: They may overlap.
        images: All of their images are among these.
        dtype: Of the descriptors.
    """
    descriptors, sizes = None, np.full((len(images), 2), UNREADABLE, np.int32)
    for part in parts:
        readable = np.flatnonzero(part.sizes[:, 0] > 0)
        if len(readable):
            if descriptors is None:
                descriptors = np.full((len(images), *part.descriptors.shape[1:]), np.nan, dtype)
            rows = readable + (part.images.start - images.start)
            descriptors[rows], sizes[rows] = part.descriptors[readable], part.sizes[readable]
    return Rows(images, descriptors, sizes)


def rows_of(images: range, shard: range) -> slice:
    """Return the rows of images in an array of a shard."""
    return slice(images.start - shard.start, images.stop - shard.start)


def summarise_sizes(sizes: np.ndarray, first: int = 0) -> tuple[Counter, list[int]]:
    """Count images by (height, width), and list the indices of unreadable ones.

    Args:
        sizes: As in `Rows`.
        first: Index of the first image.
    """
    distinct, counts = np.unique(sizes, axis=0, return_counts=True)
    pairs = zip(map(tuple, distinct.tolist()), counts.tolist(), strict=True)
    unreadable = np.flatnonzero(sizes[:, 0] == UNREADABLE) + first
    return Counter({size: n for size, n in pairs if size[0] != UNREADABLE}), unreadable.tolist()


def name_sizes(counts: Counter) -> dict[str, int]:
    """Return counts by (height, width) as {"HxW": number of images}, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {f"{height}x{width}": count for (height, width), count in ordered}


def gather(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks; waits for all of them.

    Args:
        value: Of this process; can be pickled.
    """
    if commons.num_ranks() == 1:
        return [value]
    values = [value] * commons.num_ranks()
    dist.all_gather_object(values, value)
    return values


def require_readable(is_any: bool, paths: ImagePaths) -> None:
    """Raise a ValueError if no image can be read."""
    if not is_any:
        raise ValueError(f"No image of {paths.folder} can be read, of {len(paths):,}")


def split_range(images: range, step: int) -> list[range]:
    """Split a range into ranges of `step`; the last one may be shorter."""
    return [images[first : first + step] for first in range(0, len(images), step)]


def load_windows(
    paths: ImagePaths, windows: Sequence[range], inference: Inference
) -> Iterator[tuple[range, Iterator[list[Piece]]]]:
    """Yield windows and their batches, see `batch_by_size`; take all of these before the next one.

    Raises:
        FileNotFoundError, ValueError: If an image cannot be read; names it.
    """
    size = inference.batch_size
    batches = (load for window in windows for load in split_range(window, size))
    images = ImageDataset(paths, inference.skip_unreadable, inference.io_retries)
    loads = iter(Loader(images, batches, inference.num_workers, collate_by_size, inference.device))
    for window in windows:
        yield window, batch_by_size(islice(loads, len(split_range(window, size))), size)


def batch_by_size(loads: Iterable[list[Piece]], batch_size: int) -> Iterator[list[Piece]]:
    """Put images of one size together, across loads.

    Args:
        loads: Images as the loader brings them, at most a batch at once.
        batch_size: Images per batch.

    Yields:
        Full batches, in pieces of one size, as soon as there are enough images of it; in the end,
        the rest.
    """
    waiting: dict[torch.Size, list[Piece]] = {}
    for indices, images in chain.from_iterable(loads):
        same = waiting.setdefault(images.shape[2:], [])
        room = batch_size - _count(same)
        same.append((indices[:room], images[:room]))
        if _count(same) == batch_size:
            yield list(same)
            same[:] = [(indices[room:], images[room:])] if len(indices) > room else []
        if sum(image.nbytes for same in waiting.values() for _, image in same) > _MAX_WAITING_BYTES:
            yield from filter(None, waiting.values())
            waiting = {}
    yield from filter(None, waiting.values())


def _count(pieces: list[Piece]) -> int:
    return sum(len(indices) for indices, _ in pieces)


class _Pipeline:
    """A model, what it sees of images, and the device where it computes."""

    def __init__(self, model: Model, view: View, inference: Inference) -> None:
        """Make the stream for copies."""
        self._model, self._view, self._device = model, view, inference.device
        self._use_amp16 = inference.use_amp16
        self._is_cuda = self._device.type == "cuda"
        self._copies = torch.cuda.Stream(self._device) if self._is_cuda else None
        self._running: deque[torch.cuda.Event] = deque()

    def run(
        self,
        windows: Iterable[tuple[range, Iterator[list[Piece]]]],
        show_progress: Callable[[int], object],
    ) -> Iterator[Rows]:
        """Yield the descriptors of windows, each when the device has been given the next one.

        Args:
            windows: See `load_windows`.
            show_progress: Called with numbers of images when the device has been given them.
        """
        fetch_last = None
        for images, batches in windows:
            fetch = self._launch(images, batches, show_progress)
            if fetch_last is not None:
                yield fetch_last()
            fetch_last = fetch
        if fetch_last is not None:
            yield fetch_last()

    @torch.inference_mode()
    def _launch(
        self,
        images: range,
        batches: Iterator[list[Piece]],
        show_progress: Callable[[int], object],
    ) -> Callable[[], Rows]:
        """Give a window to the device; return a function that waits for its descriptors."""
        places, outputs = [], []
        sizes = np.full((len(images), 2), UNREADABLE, np.int32)
        for batch in batches:
            views = self._view(self._send([piece for _, piece in batch]))  # [B, V, 3, h, w]
            outputs.append(self._compute(views))
            self._hold_back()
            places.append(torch.cat([indices for indices, _ in batch]).numpy() - images.start)
            sizes[places[-1]] = views.shape[3:]
            show_progress(len(places[-1]))
        show_progress(int((sizes[:, 0] == UNREADABLE).sum()))
        if not outputs:
            return lambda: Rows(images, None, sizes)
        output = torch.cat(outputs).to("cpu", non_blocking=self._is_cuda)
        arrived = torch.cuda.current_stream(self._device).record_event() if self._is_cuda else None

        def fetch() -> Rows:
            if arrived is not None:
                arrived.synchronize()
            descriptors = np.full((len(images), *output.shape[1:]), np.nan, np.float32)
            descriptors[np.concatenate(places)] = output.numpy()
            return Rows(images, descriptors, sizes)

        return fetch

    def _hold_back(self) -> None:
        """Wait until few batches are on the device: images come faster than networks work."""
        if not self._is_cuda:
            return
        self._running.append(torch.cuda.current_stream(self._device).record_event())
        if len(self._running) > _MAX_RUNNING:
            self._running.popleft().synchronize()

    def _send(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        """Bring images of one size to the device: uint8 [B, 3, H, W]."""
        with torch.cuda.stream(self._copies):  # nothing, if there is none
            pieces = [piece.to(self._device, non_blocking=self._is_cuda) for piece in pieces]
            images = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if self._copies is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._copies)
            images.record_stream(computing)
        return images

    def _compute(self, views: torch.Tensor) -> torch.Tensor:
        """Return the descriptors of views [B, V, 3, h, w]: [B, V, D], or [B, D] of one view."""
        autocast = torch.autocast(self._device.type, torch.float16)
        with autocast if self._use_amp16 else nullcontext():
            descriptors = self._model(views.flatten(0, 1))
        descriptors = descriptors.float().unflatten(0, views.shape[:2])
        if self._view.takes_mean:
            return descriptors.mean(dim=1)
        return descriptors[:, 0] if views.shape[1] == 1 else descriptors


def _check_finite(rows: Rows, paths: ImagePaths, dtype: str) -> None:
    if rows.descriptors is None:
        return
    largest = np.abs(rows.descriptors).reshape(len(rows.images), -1).max(axis=1)
    bad = np.flatnonzero(~(largest <= np.finfo(dtype).max) & (rows.sizes[:, 0] > 0))
    if len(bad):
        is_finite = np.isfinite(largest[bad[0]])
        raise ValueError(
            f"The descriptor of {paths[rows.images[bad[0]]]} is not finite"
            + (f" in {dtype}" if is_finite else ": the model's weights are broken")
        )
