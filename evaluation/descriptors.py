"""Descriptors of many images, of any sizes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.eval_dataset import ImageDataset, collate_by_size
from datasets.image_paths import ImagePaths
from evaluation.views import View

_ROWS_PER_BLOCK = 1 << 14
Model = Callable[[torch.Tensor], torch.Tensor]  # images [B, 3, H, W] -> descriptors [B, D]


@dataclass(frozen=True)
class Extraction:
    """Descriptors, and what they were made from."""

    descriptors: np.ndarray  # float32 [num_images, D]; [num_images, V, D] if views stay apart
    image_sizes: dict[str, int]  # "HxW" as given to the model -> number of images
    num_images: int
    unreadable: list[int] = field(default_factory=list)  # numbers of skipped images: rows of NaN

    @property
    def readable(self) -> np.ndarray:
        """Numbers of the images that have descriptors, ascending. int [num_readable]."""
        return np.setdiff1d(np.arange(self.num_images), self.unreadable)

    def without_unreadable_rows(self) -> "Extraction":
        """Return the descriptors of the readable images only, [num_readable, ...].

        Rows move within the array, which may be as large as the memory allows; one that is mapped
        from a file is copied.
        """
        if not self.unreadable:
            return self
        readable, descriptors = self.readable, self.descriptors
        if not descriptors.flags.writeable:
            return replace(self, descriptors=descriptors[readable])
        for first in range(0, len(readable), _ROWS_PER_BLOCK):
            rows = readable[first : first + _ROWS_PER_BLOCK]
            descriptors[first : first + len(rows)] = descriptors[rows]  # never before they moved
        return replace(self, descriptors=descriptors[: len(readable)])


@dataclass(frozen=True)
class Inference:
    """How images go through a model; none of it changes descriptors beyond rounding."""

    device: torch.device
    batch_size: int = 16
    num_workers: int = 0
    skip_unreadable: bool = False  # count unreadable images instead of stopping


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
    loader = DataLoader(
        ImageDataset(paths, inference.skip_unreadable),
        batch_size=inference.batch_size,
        num_workers=inference.num_workers,
        collate_fn=collate_by_size,
        pin_memory=inference.device.type == "cuda",
        generator=torch.Generator(),  # so that the loader leaves the global one alone
    )
    descriptors, image_sizes, unreadable = None, Counter(), []
    with torch.inference_mode(), tqdm(total=len(paths), desc=label, unit="img") as progress:
        for batches, skipped in loader:
            unreadable += skipped
            progress.update(len(skipped))
            for numbers, images in batches:
                views = view(images.to(inference.device, non_blocking=True))  # [B, V, 3, h, w]
                batch = _describe(model, views, view.takes_mean)
                _check_finite(batch, numbers, paths)
                if descriptors is None:
                    descriptors = np.full((len(paths), *batch.shape[1:]), np.nan, np.float32)
                descriptors[numbers.numpy()] = batch
                image_sizes["x".join(map(str, views.shape[3:]))] += len(images)
                progress.update(len(images))
    if descriptors is None:
        raise ValueError(f"No image of {paths.folder} can be read, of {len(paths):,}")
    return Extraction(descriptors, dict(image_sizes.most_common()), len(paths), unreadable)


def _describe(model: Model, views: torch.Tensor, takes_mean: bool) -> np.ndarray:
    """Return the descriptors of views [B, V, 3, h, w]: float32 [B, V, D], or [B, D] of one view."""
    descriptors = model(views.flatten(0, 1)).float().unflatten(0, views.shape[:2])
    if takes_mean:
        return descriptors.mean(dim=1).cpu().numpy()
    if views.shape[1] == 1:
        descriptors = descriptors[:, 0]
    return descriptors.cpu().numpy()


def _check_finite(descriptors: np.ndarray, numbers: torch.Tensor, paths: ImagePaths) -> None:
    bad = ~np.isfinite(descriptors).reshape(len(descriptors), -1).all(axis=1)
    if bad.any():
        path = paths[int(numbers[int(bad.argmax())])]
        raise ValueError(f"The descriptor of {path} is not finite: the model's weights are broken")
