"""EigenPlaces' objective: each class as seen towards two focal points, beside and along its street.

EigenPlaces (ICCV 2023), sections 3.2 and 3.3: cells of M metres are classes, whatever the heading,
and groups take turns as CosPlace's do. An iteration has images of two views of the group's classes,
each with a CosFace head of its own; the losses are added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from datasets.augmentation import Augmentation
from datasets.class_index import ClassIndex
from datasets.image_lists import ImagePaths, image_paths_of
from datasets.panoramas import VIEWS, PanoramaDataset, are_panoramas
from datasets.partition import PanoramaParams, PartitionParams
from training.classification import Classification, ClassificationSettings

_FEW_CROPS = 6  # of a panorama: the nearest one may then look 30 degrees beside the focal point
_NUM_SAMPLED = 100  # panoramas whose crops are counted for the description


@dataclass(frozen=True)
class EigenPlacesSettings(ClassificationSettings):
    """What the flags say about classes, views, heads and batches."""

    fixed_flags: ClassVar = (
        *("M", "N", "min_images_per_class", "groups_num", "focal_dist", "train_images"),
    )
    partition_kind: ClassVar[type[PartitionParams]] = PanoramaParams

    focal_dist: float  # from the mean position of a class to its focal points, in metres
    train_images: str  # "panoramas", "crops", or "auto": by the first image
    whitening: str  # "none", or one that is fitted to training images

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> "EigenPlacesSettings":
        """Read the flags of train.py; raise a ValueError if one is out of its range."""
        headings = {"alpha": PanoramaParams.alpha, "L": PanoramaParams.L}
        return super().from_flags({**flags, **headings})

    def open(self) -> "EigenPlaces":
        """Split the panoramas into classes, or open the split that was saved.

        Raises:
            FileNotFoundError: If there are no images.
            ValueError: If their names have no position or heading, there are too few groups, none
                of the first images can be opened, or a whitening is to be fitted to panoramas.
        """
        index = self.open_index()
        are_whole = self.train_images == "panoramas"
        if self.train_images == "auto":
            are_whole = are_panoramas(index)
        if are_whole and self.whitening != "none":
            raise ValueError(f"--whitening {self.whitening}: {_no_fit(index)}")
        return EigenPlaces(index, self, are_whole)


def _no_fit(index: ClassIndex) -> str:
    return (
        f"{index.folder} holds panoramas, while whitenings and clusters are fitted to crops: "
        "python -m tools.convert panoramas makes such a training folder"
    )


class ViewNet(nn.Module):
    """Images of all views [B, 3, H, W], one view after the other, to descriptors [B, D].

    Each view goes through the network by itself, so that BatchNorm has its own statistics of it, as
    in the original; for torchrun and torch.compile it is one call.
    """

    def __init__(self, network: nn.Module) -> None:
        """Call a network."""
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the descriptors in the order of the images."""
        return torch.cat([self.network(view) for view in images.chunk(len(VIEWS))])


class EigenPlaces(Classification):
    """Groups of panoramas' classes, two heads for each, and batches of both views."""

    num_views: ClassVar[int] = len(VIEWS)
    settings: EigenPlacesSettings

    def __init__(self, index: ClassIndex, settings: EigenPlacesSettings, are_whole: bool) -> None:
        """Train on the first groups of a class index.

        Args:
            index: Of panoramas, see `PanoramaParams`.
            settings: What the flags say.
            are_whole: Whether images are whole panoramas; else they are crops of them.
        """
        super().__init__(index, settings)
        self.are_whole = are_whole

    def describe(self, whole: bool = False) -> str:
        """Return the groups in words, and what the images are."""
        kept = "are panoramas: views are cut out of them"
        if not self.are_whole:
            mean = self._mean_crops()
            kept = (
                f"are crops, {mean:.1f} of a panorama: a view is the one that looks most towards "
                "the focal point"
            )
            if mean < _FEW_CROPS:
                kept += ", which with so few may look elsewhere: EigenPlaces trains on panoramas"
        found = "the first image" if self.settings.train_images == "auto" else "--train_images"
        return (
            f"{super().describe(whole)}\nBy {found}, the images {kept}. Focal points are "
            f"{self.settings.focal_dist:g} m from the middle of a class"
        )

    def _mean_crops(self) -> float:
        """Return how many images a panorama has, by some of them."""
        num_panoramas = len(self.index.image_offsets)
        some = np.unique(np.linspace(0, num_panoramas - 1, _NUM_SAMPLED).astype(np.int64))
        return float(np.mean([len(self.index.crops(image)) for image in some.tolist()]))

    def module(self, network: nn.Module) -> nn.Module:
        """Return the network, called once for each view; see `Objective.module`."""
        return ViewNet(network)

    def sample_images(self, num: int) -> ImagePaths:
        """Return random crops of random panoramas; see `Objective.sample_images`.

        Raises:
            ValueError: If images are whole panoramas.
        """
        if self.are_whole:
            raise ValueError(_no_fit(self.index))
        index, rng = self.index, np.random.default_rng(self.settings.seed)
        num_panoramas = int(index.class_starts[index.group_starts[self.settings.groups_num]])
        drawn = np.sort(rng.permutation(num_panoramas)[:num]).tolist()
        crops = [crop for image in drawn for crop in index.crops(image)]
        kept = np.sort(rng.permutation(len(crops))[:num])
        return image_paths_of(crops[place] for place in kept.tolist())

    def _make_dataset(self, augmentation: Augmentation | None) -> PanoramaDataset:
        settings = self.settings
        return PanoramaDataset(
            self.index, augmentation, settings.io_retries, settings.focal_dist, self.are_whole
        )
