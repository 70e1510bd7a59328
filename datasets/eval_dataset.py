"""What networks are evaluated on: database images, queries, and what is right for each."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.ground_truth import GroundTruth
from datasets.image_lists import ImagePaths
from datasets.images import load_image, stack_images
from datasets.positions import Positions


@dataclass(frozen=True)
class EvalSet:
    """A database, queries, and what is known of them."""

    name: str
    database: ImagePaths
    queries: ImagePaths
    positions: Positions | None = None  # None where the names do not tell
    truth: GroundTruth | None = None  # None: retrieval without recalls
    cities: tuple[np.ndarray, np.ndarray] | None = None  # of database and queries, if they bound
    # the search: int [num_database], int [num_queries]
    resize: str = "none"  # unless another one is asked for
    protocol: str = "all queries"  # in words
    denominator: str = "all queries"
    paper_column: str | None = None
    notes: tuple[str, ...] = ()  # sentences on what a reader of the recalls must know

    def __str__(self) -> str:
        """Return name and counts."""
        return (
            f"{self.name} ({len(self.database):,} database images, {len(self.queries):,} queries)"
        )


class ImageDataset(Dataset):
    """Images in order: (number, uint8 [3, H, W]), or (number, None) for one that is skipped."""

    def __init__(
        self, paths: ImagePaths, skip_unreadable: bool = False, io_retries: int = 0
    ) -> None:
        """Read images of any sizes, trying again as `load_image` does."""
        self.paths = paths
        self.skip_unreadable = skip_unreadable
        self.io_retries = io_retries

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | None]:
        """Load one image; raises like `load_image` unless unreadable ones are skipped."""
        try:
            return index, load_image(self.paths[index], self.io_retries)
        except (FileNotFoundError, ValueError):
            if not self.skip_unreadable:
                raise
            return index, None


def collate_by_size(
    samples: list[tuple[int, torch.Tensor | None]],
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Split samples into batches of equal image size: [(numbers [B], images [B, 3, H, W]), ...].

    Skipped images are in none of them.
    """
    by_size: dict[torch.Size, list[tuple[int, torch.Tensor]]] = {}
    for number, image in samples:
        if image is not None:
            by_size.setdefault(image.shape, []).append((number, image))
    return [
        (torch.tensor([number for number, _ in same]), stack_images([image for _, image in same]))
        for same in by_size.values()
    ]
