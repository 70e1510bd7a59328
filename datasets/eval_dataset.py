"""What networks are evaluated on: database images, queries, and where each was taken."""

import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.image_paths import ImagePaths, list_images
from datasets.images import load_image
from datasets.name_fields import read_numbers


@dataclass(frozen=True)
class EvalSet:
    """A database, queries, and their UTM positions."""

    name: str
    database: ImagePaths
    queries: ImagePaths

    @cached_property
    def database_utms(self) -> np.ndarray:
        """Positions (east, north) in metres. float64 [num_database, 2]."""
        return read_numbers(self.database).T

    @cached_property
    def queries_utms(self) -> np.ndarray:
        """Positions (east, north) in metres. float64 [num_queries, 2]."""
        return read_numbers(self.queries).T

    def __str__(self) -> str:
        """Return name and counts."""
        return (
            f"{self.name} ({len(self.database):,} database images, {len(self.queries):,} queries)"
        )


def load_eval_set(
    name: str, database_folder: str | os.PathLike, queries_folder: str | os.PathLike
) -> EvalSet:
    """List the images of two folders and read their positions.

    Raises:
        FileNotFoundError: If a folder is missing or has no images.
        ValueError: If names lack UTM positions.
    """
    eval_set = EvalSet(name, list_images(database_folder), list_images(queries_folder))
    _ = eval_set.database_utms, eval_set.queries_utms  # now, so that bad names show at once
    return eval_set


class ImageDataset(Dataset):
    """Images in order: (number, uint8 [3, H, W])."""

    def __init__(self, paths: ImagePaths) -> None:
        """Read images of any sizes."""
        self.paths = paths

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor]:
        """Load one image; raises like `load_image`."""
        return index, load_image(self.paths[index])


def collate_by_size(
    samples: list[tuple[int, torch.Tensor]],
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Split samples into batches of equal image size: [(numbers [B], images [B, 3, H, W]), ...]."""
    by_size: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
    for sample in samples:
        by_size.setdefault(sample[1].shape, []).append(sample)
    return [
        (torch.tensor([number for number, _ in same]), torch.stack([image for _, image in same]))
        for same in by_size.values()
    ]
