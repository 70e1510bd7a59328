"""CosPlace's objective: classify images into the classes of one group, one group an epoch.

EigenPlaces' is made of the same parts, see `training.eigenplaces`.

Paper, sections 3.2 and 3.3: cells of M metres x alpha degrees are classes, groups hold classes that
do not touch, each group has a CosFace head of its own, and epoch t trains group t mod groups_num.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

import commons
from cosface_loss import MarginCosineProduct
from datasets.augmentation import Augmentation, AugmentationParams
from datasets.catalog import find_train_folder
from datasets.class_index import ClassIndex, load_index
from datasets.groups import GroupSampler, TrainDataset, collate
from datasets.image_lists import ImagePaths, image_paths_of
from datasets.loading import Loader
from datasets.partition import PartitionParams
from training.objective import (
    Batch,
    ImageSize,
    augments_on_device,
    batches_on_device,
    check_share,
)
from training.optimizers import adam, load_optimizer, move


@dataclass(frozen=True)
class ClassificationSettings:
    """What the flags say about classes, heads and batches."""

    fixed_flags: ClassVar = ("M", "alpha", "N", "L", "min_images_per_class", "groups_num")
    partition_kind: ClassVar[type[PartitionParams]] = PartitionParams

    partition: PartitionParams
    augmentation: AugmentationParams  # its image size is replaced by the network's
    augmentation_device: str  # see `augments_on_device`
    train_set_folder: str | None  # None: that of the data set
    dataset: str  # key of datasets.catalog.TRAIN_SETS
    datasets_folder: str
    cache_folder: str  # where class indices are saved
    groups_num: int  # groups that take turns
    batch_size: int  # images of an iteration, of each view, in all processes together
    iterations_per_epoch: int
    classifiers_lr: float  # of the heads
    s: float  # scale of the heads' logits
    m: float  # margin of the heads, in cosine
    num_workers: int  # loader processes
    io_retries: int  # how often a failed read is tried again
    seed: int

    def __post_init__(self) -> None:
        """Check that processes can share a batch evenly."""
        check_share(self.batch_size, "images")

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> "ClassificationSettings":
        """Read the flags of train.py; raise a ValueError if one is out of its range."""
        size = {"image_size": AugmentationParams.image_size}
        parts = {
            "partition": commons.from_flags(cls.partition_kind, flags),
            "augmentation": commons.from_flags(AugmentationParams, {**flags, **size}),
        }
        return commons.from_flags(cls, {**flags, **parts})

    def open(self) -> "Classification":
        """Split the training images into classes, or open the split that was saved.

        Raises:
            FileNotFoundError: If there are no images.
            ValueError: If their names have no position or heading, or there are too few groups.
        """
        return Classification(self.open_index(), self)

    def open_index(self) -> ClassIndex:
        """Open the class index, see `open`."""
        folder = self.train_set_folder
        folder = folder or find_train_folder(self.dataset, self.datasets_folder)
        index = ClassIndex(
            commons.of_main_process(
                lambda: load_index(folder, self.partition, self.cache_folder).index_folder
            )
        )
        index.require_groups(self.groups_num)
        return index


class Classification:
    """Groups of classes, a CosFace head for each, and batches of the group whose turn it is.

    A method may see classes in several views: each has a head in each group, and its share of each
    batch.
    """

    num_views: ClassVar[int] = 1

    def __init__(self, index: ClassIndex, settings: ClassificationSettings) -> None:
        """Train on the first groups of a class index."""
        self.index, self.settings = index, settings
        self.digest, self.folder = index.digest, index.folder
        images_per_iteration = self.num_views * settings.batch_size
        self.images_per_epoch = images_per_iteration * settings.iterations_per_epoch
        self._heads: list[nn.Module] = []  # of the current turn, as they are called

    def describe(self, whole: bool = False) -> str:
        """Return the groups in words: those trained on, or all."""
        if whole:
            last = self.settings.groups_num - 1
            trained = f"are groups 0 to {last}" if last else "is group 0"
            return f"{self.index.describe()}\nTrained {trained}"
        groups = range(self.settings.groups_num)
        num_classes = sum(len(self.index.classes(group)) for group in groups)
        num_images = sum(self.index.num_images(group) for group in groups)
        alone = [str(group) for group in groups if len(self.index.classes(group)) == 1]
        note = (
            f". Epochs of group {', '.join(alone)} teach nothing: it has one class, told from "
            "none. Lower --min_images_per_class or --N, or --groups_num"
        )
        return (
            f"{self.index.describe(len(groups))}\nTrained on "
            f"{commons.plural(num_images, 'image')} of {commons.plural(num_classes, 'class')}"
            f"{note if alone else ''}"
        )

    def module(self, network: nn.Module) -> nn.Module:
        """Return the network itself; see `Objective.module`."""
        return network

    def attach(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        image_size: ImageSize,
        device: torch.device,
    ) -> None:
        """Make a head for each group, and the loader; see `Objective.attach`."""
        settings, (height, width) = self.settings, image_size
        if height != width:
            raise ValueError(
                f"--image_size {height}x{width}: classes are trained on squares, give the side"
            )
        self.device = device
        self.heads = [
            MarginCosineProduct(
                network.out_dim, len(self.index.classes(group)), settings.s, settings.m
            )
            for group in range(settings.groups_num)
            for _ in range(self.num_views)
        ]
        self.head_optimizers = [adam(head, settings.classifiers_lr, device) for head in self.heads]
        augmentation = Augmentation(replace(settings.augmentation, image_size=height))
        on_device = augments_on_device(settings.augmentation_device, device)
        self._augmentation = augmentation if on_device else None
        self._dataset = self._make_dataset(None if on_device else augmentation)
        self._sampler = self._make_sampler((commons.rank(), commons.num_ranks()))
        self._loader = Loader(
            self._dataset, self._sampler, settings.num_workers, collate, device, keeps_workers=True
        )

    def sample_images(self, num: int) -> ImagePaths:
        """Return images of the trained groups, drawn at random; see `Objective.sample_images`."""
        index = self.index
        num_images = int(index.class_starts[index.group_starts[self.settings.groups_num]])
        drawn = np.random.default_rng(self.settings.seed).permutation(num_images)[:num]
        return image_paths_of(map(index.path, sorted(drawn.tolist())))

    def _make_dataset(self, augmentation: Augmentation | None) -> TrainDataset:
        return TrainDataset(self.index, augmentation, self.settings.io_retries)

    def _make_sampler(self, share: tuple[int, int]) -> GroupSampler:
        settings = self.settings
        return GroupSampler(
            self.index,
            settings.groups_num,
            settings.batch_size,
            settings.iterations_per_epoch,
            settings.seed,
            share,
            self.num_views,
        )

    def num_iterations(self, epoch: int) -> int:
        """Return the number of batches of an epoch."""
        return self.settings.iterations_per_epoch

    @contextlib.contextmanager
    def turn(self, epoch: int) -> Iterator[list[Optimizer]]:
        """Yield the optimizers of the group's heads, all on the device for the duration."""
        first = epoch % self.settings.groups_num * self.num_views
        turn = slice(first, first + self.num_views)
        heads, optimizers = self.heads[turn], self.head_optimizers[turn]
        try:
            for head, optimizer in zip(heads, optimizers, strict=True):
                move(head, optimizer, self.device)
            self._heads = heads
            if commons.num_ranks() > 1:
                self._heads = [
                    DistributedDataParallel(head, gradient_as_bucket_view=True) for head in heads
                ]
            yield optimizers
        finally:
            self._heads = []
            for head, optimizer in zip(heads, optimizers, strict=True):
                optimizer.zero_grad()
                move(head, optimizer, torch.device("cpu"))

    def batches(self, model: nn.Module, epoch: int, first: int) -> Iterator[Batch]:
        """Yield augmented images and their labels within the group."""
        self._sampler.epoch, self._sampler.first_iteration = epoch, first
        return batches_on_device(self._loader, self.device, self._augmentation)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy of the CosFace logits, summed over views."""
        descriptors = model(batch.images).chunk(self.num_views)
        labels = batch.labels.chunk(self.num_views)
        return sum(
            F.cross_entropy(head(view, classes), classes)
            for head, view, classes in zip(self._heads, descriptors, labels, strict=True)
        )

    def image_paths(self, epoch: int, iteration: int) -> list[str]:
        """Return the images of a batch of all processes."""
        draws = self._make_sampler((0, 1)).batch(epoch, iteration)
        return [self._dataset.path(draw) for draw in draws]

    def epoch_metrics(self, epoch: int) -> dict[str, float]:
        """Return the group that an epoch trains."""
        return {"group": epoch % self.settings.groups_num}

    def state_dict(self) -> dict[str, Any]:
        """Return heads and moments, under the official code's names."""
        return {
            "classifiers_state_dict": [head.state_dict() for head in self.heads],
            "optimizers_state_dict": [adam.state_dict() for adam in self.head_optimizers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume with the heads and moments of a state."""
        heads, moments = state["classifiers_state_dict"], state["optimizers_state_dict"]
        for head, saved in zip(self.heads, heads, strict=True):
            head.load_state_dict(saved)
        for optimizer, saved in zip(self.head_optimizers, moments, strict=True):
            load_optimizer(optimizer, saved)
