"""Descriptors of many images, of any sizes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional
from tqdm import tqdm

from datasets.eval_dataset import ImageDataset, collate_by_size
from datasets.image_paths import ImagePaths
from datasets.images import IMAGENET_MEAN, IMAGENET_STD

Model = Callable[[torch.Tensor], torch.Tensor]  # images [B, 3, H, W] -> descriptors [B, D]


class Extraction(NamedTuple):
    """Descriptors and the sizes of the images that they were made from."""

    descriptors: np.ndarray  # float32 [num_images, D]
    image_sizes: dict[str, int]  # "HxW" as given to the model -> number of images


@dataclass(frozen=True)
class Inference:
    """How images go through a model; none of it changes descriptors beyond rounding."""

    device: torch.device
    batch_size: int = 16
    num_workers: int = 0


def parse_resize(rule: str) -> list[int]:
    """Read a resize rule: "none" -> [], "480" (shorter side) -> [480], "480x640" (HxW) -> both.

    Raises:
        ValueError: If it is none of these.
    """
    sizes = [] if rule == "none" else rule.lower().split("x")
    if len(sizes) > 2 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(
            f"A resize rule is 'none', the shorter side as in '480' or HxW as in '480x640', "
            f"in pixels; not '{rule}'"
        )
    return [int(size) for size in sizes]


def extract_descriptors(
    model: Model, paths: ImagePaths, resize: str, inference: Inference, label: str = "Descriptors"
) -> Extraction:
    """Run a model over images, in batches of equal size.

    Args:
        model: Images, ImageNet-normalised float32 [B, 3, H, W], to descriptors [B, D].
        paths: The images.
        resize: See `parse_resize`.
        inference: Device, batch size and loader processes.
        label: What the progress bar says.

    Returns:
        Descriptors in the order of the paths, and the sizes of the images.

    Raises:
        FileNotFoundError, ValueError: If an image cannot be read; names it.
        ValueError: If a descriptor is not finite; names the image.
    """
    loader = DataLoader(
        ImageDataset(paths),
        batch_size=inference.batch_size,
        num_workers=inference.num_workers,
        collate_fn=collate_by_size,
        pin_memory=inference.device.type == "cuda",
        generator=torch.Generator(),  # so that the loader leaves the global one alone
    )
    target_size = parse_resize(resize)
    descriptors, image_sizes = None, Counter()
    with torch.inference_mode(), tqdm(total=len(paths), desc=label, unit="img") as progress:
        for batches in loader:
            for numbers, images in batches:
                images = images.to(inference.device, non_blocking=True)
                images = preprocess(images, target_size)
                batch = model(images).float().cpu().numpy()  # [B, D]
                _check_finite(batch, numbers, paths)
                if descriptors is None:
                    descriptors = np.empty((len(paths), batch.shape[1]), np.float32)
                descriptors[numbers.numpy()] = batch
                image_sizes["x".join(map(str, images.shape[2:]))] += len(images)
                progress.update(len(images))
    return Extraction(descriptors, dict(image_sizes.most_common()))


def preprocess(images: torch.Tensor, target_size: list[int]) -> torch.Tensor:
    """Scale uint8 [B, 3, H, W] to [0, 1], resize if asked, normalise as ImageNet is."""
    images = functional.to_dtype(images, torch.float32, scale=True)
    if target_size:
        images = functional.resize(images, target_size, antialias=True)
    return functional.normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD))


def _check_finite(descriptors: np.ndarray, numbers: torch.Tensor, paths: ImagePaths) -> None:
    bad = ~np.isfinite(descriptors).all(axis=1)
    if bad.any():
        path = paths[int(numbers[int(bad.argmax())])]
        raise ValueError(f"The descriptor of {path} is not finite: the model's weights are broken")
