"""Descriptors of many images, of any sizes."""

import contextlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from tqdm import tqdm

import commons
from datasets.image_lists import ImagePaths
from evaluation.batches import load_windows, split_windows, window_size
from evaluation.pipeline import Model, Pipeline
from evaluation.rows import Described, Facts, MemoryRows, Rows, facts_of, find_missing
from evaluation.views import View

_ROWS_PER_BLOCK = 1 << 14


@dataclass(frozen=True)
class Extraction:
    """Descriptors, and what they were made from.

    Of several processes, each may have the descriptors, float32 or float16, of a shard of the
    images; the rest is of all of them.
    """

    descriptors: np.ndarray  # [num_here, D]; [num_here, V, D] if views stay apart
    image_sizes: dict[str, int]  # "HxW" as given to the model -> number of images
    num_images: int
    unreadable: list[int] = field(default_factory=list)  # numbers of skipped images: rows of NaN
    shard: range | None = None  # the images whose rows are here; None: all

    @property
    def readable(self) -> np.ndarray:
        """Numbers of the images that have descriptors here, ascending. int [num_readable]."""
        here = range(self.num_images) if self.shard is None else self.shard
        return np.setdiff1d(np.arange(here.start, here.stop), self.unreadable)

    def without_unreadable_rows(self) -> "Extraction":
        """Return the descriptors of the readable images only, [num_readable, ...].

        Rows move within the array, which may be as large as the memory allows; one that is mapped
        from a file is copied.
        """
        readable, descriptors = self.readable, self.descriptors
        if len(readable) == len(descriptors):
            return self
        rows = readable - (self.shard.start if self.shard else 0)
        if not descriptors.flags.writeable:
            return replace(self, descriptors=descriptors[rows])
        for first in range(0, len(rows), _ROWS_PER_BLOCK):
            block = rows[first : first + _ROWS_PER_BLOCK]
            descriptors[first : first + len(block)] = descriptors[block]  # never before they moved
        return replace(self, descriptors=descriptors[: len(rows)])


@dataclass(frozen=True)
class Inference:
    """How images go through a model, and how their descriptors are kept.

    Only `use_amp16` and `dtype` change descriptors beyond rounding.
    """

    device: torch.device
    batch_size: int = 16
    num_workers: int = 0
    skip_unreadable: bool = False  # count unreadable images instead of stopping
    use_amp16: bool = False  # compute in float16 where that is exact enough; on CUDA devices
    dtype: str = "float32"  # of the descriptors; or float16
    io_retries: int = 0  # how often a read that failed is tried again, see `load_image`

    def __post_init__(self) -> None:
        """Raise a ValueError if the device cannot do it."""
        if self.use_amp16 and self.device.type != "cuda":
            raise ValueError(f"--use_amp16 needs a CUDA device, this one is {self.device.type}")

    @property
    def shard_unit(self) -> int:
        """Number of images that one process has to describe together."""
        return window_size(self.batch_size)


def extract_descriptors(
    model: Model, paths: ImagePaths, view: View, inference: Inference, label: str = "Descriptors"
) -> Extraction:
    """Run a model over images, in batches of equal size.

    Args:
        model: Images, ImageNet-normalised float32 [B, 3, H, W], to descriptors [B, D].
        paths: The images.
        view: What of the images the model sees.
        inference: Device, batch size, loader processes.
        label: What the progress bar says.

    Returns:
        Descriptors in the order of the paths, and the sizes of the images.

    Raises:
        FileNotFoundError, ValueError: If an image cannot be read; names it.
        ValueError: If a descriptor is not finite; names the image. If no image can be read.
    """
    rows = MemoryRows(range(len(paths)), inference.dtype)
    fill_rows(rows, model, paths, view, inference, label)
    return extraction_of(rows, facts_of(rows), paths)


def fill_rows(
    rows: Rows, model: Model, paths: ImagePaths, view: View, inference: Inference, label: str
) -> None:
    """Describe the images of this process that have no descriptor yet.

    Args:
        rows: Where descriptors go, and which there are.
        model: See `extract_descriptors`; also for what is raised.
        paths: The images of all processes.
        view: What of the images the model sees.
        inference: Device, batch size, loader processes.
        label: What the progress bar says.
    """
    windows = find_missing(rows, split_windows(rows.images, inference.batch_size))
    if not windows:
        return
    loaded = load_windows(
        paths,
        windows,
        inference.batch_size,
        inference.num_workers,
        inference.skip_unreadable,
        pin_memory=inference.device.type == "cuda",
        io_retries=inference.io_retries,
    )
    pipeline = Pipeline(model, view, inference.device, inference.use_amp16)
    progress = tqdm(
        total=len(rows.images),
        initial=len(rows.images) - sum(map(len, windows)),
        desc=label,
        unit="img",
        dynamic_ncols=True,
        disable=commons.rank() > 0,  # one bar, of a shard like the others
    )
    with contextlib.closing(rows), torch.inference_mode(), progress:
        for described in pipeline.describe(loaded, progress.update):
            _check_finite(described, paths, inference.dtype)
            rows.put(described)


def extraction_of(rows: MemoryRows, facts: Facts, paths: ImagePaths) -> Extraction:
    """Return descriptors in memory as an extraction.

    Args:
        rows: Of this process.
        facts: Of all processes.
        paths: The images of all processes.

    Raises:
        ValueError: If no image can be read.
    """
    require_some(facts, paths)
    shard = rows.images if len(rows.images) < len(paths) else None
    return Extraction(
        rows.descriptors(facts.shape), facts.image_sizes, len(paths), facts.unreadable, shard
    )


def require_some(facts: Facts, paths: ImagePaths) -> None:
    """Raise a ValueError if no image can be read."""
    if len(facts.unreadable) == len(paths):
        raise ValueError(f"No image of {paths.folder} can be read, of {len(paths):,}")


def _check_finite(described: Described, paths: ImagePaths, dtype: str) -> None:
    if described.descriptors is None:
        return
    largest = np.abs(described.descriptors).reshape(len(described.images), -1).max(axis=1)
    bad = np.flatnonzero(~(largest <= np.finfo(dtype).max) & (described.sizes[:, 0] > 0))
    if len(bad):
        is_finite = np.isfinite(largest[bad[0]])
        raise ValueError(
            f"The descriptor of {paths[described.images[bad[0]]]} is not finite"
            + (f" in {dtype}" if is_finite else ": the model's weights are broken")
        )
