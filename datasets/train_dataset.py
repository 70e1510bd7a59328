"""What CosPlace trains on: class after class of one group, one random image of each.

All that is random is a function of (seed, epoch, position), so that training continues after an
interruption as if there had been none, whatever the number of workers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from datasets.augmentations import Augmentation
from datasets.class_index import ClassIndex
from datasets.images import load_image, stack_images


class Draw(NamedTuple):
    """One sample to be loaded."""

    class_num: int  # numbered through all groups, see ClassIndex
    label: int  # numbered inside the group
    seed: int  # decides the image and its augmentation


class TrainDataset(Dataset):
    """The images of all groups; a `GroupSampler` says which are drawn.

    Groups share the memory-mapped index and the loader with its workers.
    """

    def __init__(self, index: ClassIndex, augmentation: Augmentation | None) -> None:
        """Draw from an index.

        Args:
            index: Classes and their images.
            augmentation: Applied to each image; None leaves it to the device.
        """
        self.index = index
        self.augmentation = augmentation

    def __getitem__(self, draw: Draw) -> tuple[torch.Tensor, int, int]:
        """Return one random image of a class, its label in the group and its seed.

        The image is float32 [3, image_size, image_size] if augmented, otherwise uint8 [3, H, W].
        """
        images = self.index.images(draw.class_num)
        path = self.index.path(images[draw.seed % len(images)])
        image = load_image(path)
        if self.augmentation is not None:
            image = self.augmentation(image, draw.seed)
        return image, draw.label, draw.seed


class GroupSampler(Sampler[list[Draw]]):
    """Batches of draws from the group whose turn it is: epoch t trains group t mod groups_num.

    Classes come in random order, each once, then in another order, and so on (class-balanced
    sampling, whatever the number of images of a class).
    """

    def __init__(
        self,
        index: ClassIndex,
        groups_num: int,
        batch_size: int,
        iterations: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Sample from the first groups of an index.

        Args:
            index: Classes and their images.
            groups_num: How many groups take turns.
            batch_size: Images of an iteration, in all processes together.
            iterations: Batches of an epoch.
            seed: With the epoch, decides all draws.
            share: Number of this process and how many share each batch evenly.
        """
        self.index = index
        self.groups_num = groups_num
        self.batch_size = batch_size
        self.iterations = iterations
        self.seed = seed
        self.share = share
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self.iterations

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield this process's share of the batches of the epoch that is set in `epoch`."""
        number, num_shares = self.share
        own = slice(
            number * self.batch_size // num_shares, (number + 1) * self.batch_size // num_shares
        )
        rng = np.random.default_rng((self.seed, self.epoch))
        classes = self.index.classes(self.epoch % self.groups_num)
        labels = np.empty(0, np.int64)
        for _ in range(self.iterations):
            while len(labels) < self.batch_size:
                labels = np.concatenate((labels, rng.permutation(len(classes))))
            batch, labels = labels[: self.batch_size], labels[self.batch_size :]
            seeds = rng.integers(2**63, size=self.batch_size)
            yield [
                Draw(classes[label], int(label), int(seed))
                for label, seed in zip(batch[own], seeds[own], strict=True)
            ]


def collate(
    samples: list[tuple[torch.Tensor, int, int]],
) -> tuple[torch.Tensor | tuple[torch.Tensor, ...], torch.Tensor, list[int]]:
    """Join samples: images as one tensor if their sizes agree, labels int64 [B], seeds."""
    images, labels, seeds = zip(*samples, strict=True)
    if len({image.shape for image in images}) == 1:
        images = stack_images(images)
    return images, torch.tensor(labels), list(seeds)
