"""The draws of CosPlace and EigenPlaces: class after class of one group, a random image of each.

All that is random is a function of (seed, epoch, position), so that training continues after an
interruption as if there had been none, whatever the number of workers.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from datasets.augmentation import Augmentation
from datasets.class_index import ClassIndex
from datasets.images import load_image, stack_images

_MAX_TRIES = 20  # images in a row that cannot be read: it is not the images then


class Draw(NamedTuple):
    """One sample to be loaded."""

    group: int
    label: int  # index of the class in its group
    seed: int  # decides the image and its augmentation
    view: int = 0  # of the methods that see a class in several ways: which one


class Sample(NamedTuple):
    """One image to train on."""

    image: torch.Tensor  # float32 [3, image_size, image_size] if augmented, else uint8 [3, H, W]
    label: int  # index of the class in its group; of a tuple, its number of images
    seed: int  # of the draw
    unreadable: tuple[str, ...]  # a sentence on each image that could not be read and was replaced


class TrainDataset(Dataset):
    """The images of all groups; a `GroupSampler` says which are drawn.

    Groups share the memory-mapped index and the loader with its workers.
    """

    def __init__(
        self, index: ClassIndex, augmentation: Augmentation | None, io_retries: int = 0
    ) -> None:
        """Draw from an index.

        Args:
            index: Classes and their images.
            augmentation: Applied to each image; None leaves it to the device.
            io_retries: How often a failed read is tried again, see `load_image`.
        """
        self.index = index
        self.augmentation = augmentation
        self.io_retries = io_retries

    def __getitem__(self, draw: Draw) -> Sample:
        """Return one random image of a class.

        An image that cannot be read is replaced by the next one of its class; if there is none, by
        the first readable one of the next class of the group, with the label of that class.

        Raises:
            ValueError: If 20 images in a row cannot be read, or none of the group.
        """
        unreadable: list[str] = []
        for label, image_index in islice(self._candidates(draw), _MAX_TRIES):
            try:
                image = self._load(draw, label, image_index)
            except (FileNotFoundError, ValueError) as error:
                unreadable.append(str(error))
                continue
            if self.augmentation is not None:
                image = self.augmentation(image, draw.seed)
            return Sample(image, label, draw.seed, tuple(unreadable))
        raise ValueError(
            f"{len(unreadable)} images in a row cannot be read. Is the disk there that holds "
            f"{self.index.folder}? The first of them: {unreadable[0]}"
        )

    def path(self, draw: Draw) -> str:
        """Return the path of the image drawn, whether it can be read or not."""
        return self._path(draw, *next(self._candidates(draw)))

    def _path(self, draw: Draw, label: int, image_index: int) -> str:
        """Return the file of an image of the class with this label."""
        return self.index.path(image_index)

    def _load(self, draw: Draw, label: int, image_index: int) -> torch.Tensor:
        """Return its image, uint8 [3, H, W]."""
        return load_image(self._path(draw, label, image_index), self.io_retries)

    def _candidates(self, draw: Draw) -> Iterator[tuple[int, int]]:
        """Yield label and index of the image drawn, then of those that may replace it."""
        classes = self.index.classes(draw.group)
        for step in range(len(classes)):
            label = (draw.label + step) % len(classes)
            images = self.index.images(classes[label])
            for turn in range(len(images)):
                yield label, images[(draw.seed + turn) % len(images)]


class GroupSampler(Sampler[list[Draw]]):
    """Batches of draws from the group whose turn it is: epoch t trains group t mod groups_num.

    Classes come in random order, each once, then in another order, and so on: sampling is
    class-balanced, however many images a class has.
    """

    def __init__(
        self,
        index: ClassIndex,
        groups_num: int,
        batch_size: int,
        iterations: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        num_views: int = 1,
    ) -> None:
        """Sample from the first groups of an index.

        Args:
            index: Classes and their images.
            groups_num: Number of groups that take turns.
            batch_size: Images of an iteration, of each view, in all processes together.
            iterations: Batches of an epoch.
            seed: With the epoch, decides all draws.
            share: Rank of this process and number of processes; each batch is shared evenly.
            num_views: A batch has draws of each view, one view after the other, which take classes
                in orders of their own.
        """
        self.index = index
        self.groups_num = groups_num
        self.batch_size = batch_size
        self.iterations = iterations
        self.seed = seed
        self.share = share
        self.num_views = num_views
        self.epoch = 0
        self.first_iteration = 0

    def __len__(self) -> int:
        """Return the number of remaining batches of an epoch."""
        return max(0, self.iterations - self.first_iteration)

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield this process's share of the batches of the epoch set in `epoch`.

        The first is that of `first_iteration`: the earlier ones are drawn too, and left out.
        """
        return self._batches(self.epoch, self.first_iteration)

    def batch(self, epoch: int, iteration: int) -> list[Draw]:
        """Return this process's share of one batch."""
        return next(self._batches(epoch, iteration))

    def _batches(self, epoch: int, first: int) -> Iterator[list[Draw]]:
        """Yield the share of each batch of an epoch, from the batch `first` on."""
        rng = np.random.default_rng((self.seed, epoch))
        group, (rank, num_ranks) = epoch % self.groups_num, self.share
        own = slice(rank * self.batch_size // num_ranks, (rank + 1) * self.batch_size // num_ranks)
        num_classes = len(self.index.classes(group))
        labels = [np.empty(0, np.int64)] * self.num_views  # those that come next
        for iteration in range(self.iterations):
            draws = []
            for view, coming in enumerate(labels):
                while len(coming) < self.batch_size:
                    coming = np.concatenate((coming, rng.permutation(num_classes)))
                batch, labels[view] = coming[: self.batch_size], coming[self.batch_size :]
                seeds = rng.integers(2**63, size=self.batch_size)
                if iteration >= first:
                    pairs = zip(batch[own].tolist(), seeds[own].tolist(), strict=True)
                    draws += [Draw(group, label, seed, view) for label, seed in pairs]
            if draws:
                yield draws


def collate(
    samples: list[Sample],
) -> tuple[torch.Tensor | tuple[torch.Tensor, ...], torch.Tensor, list[int], list[str]]:
    """Join samples.

    Returns:
        Images, one tensor if their sizes agree; labels int64 [B]; seeds; and the sentences on
        images that could not be read.
    """
    images, labels, seeds, unreadable = zip(*samples, strict=True)
    if len({image.shape for image in images}) == 1:
        images = stack_images(images)
    return images, torch.tensor(labels), list(seeds), [text for some in unreadable for text in some]
