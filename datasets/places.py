"""Training sets of places: several images of each place, and batches of places.

Methods of GSV-Cities and those after it train on batches of P places with K images each. Places are
those of GSV-Cities, see `datasets.gsv_cities`, or the classes of CosPlace of any folder with '@'
names. All that is random is a function of (seed, epoch, position), as in `datasets.groups`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

import commons
from datasets.class_index import ClassIndex
from datasets.groups import Sample
from datasets.image_lists import ImagePaths, image_paths_of
from datasets.images import load_image

_MAX_TRIES = 20  # places in a row without enough readable images: it is not the images then


@dataclass(frozen=True)
class PlaceSet:
    """Places and their images. Place p has the images starts[p] to starts[p + 1].

    Attributes:
        folder: Holds the images.
        digest: Of all names and places; sets with one digest are the same.
        starts: First image of each place, then the number of images. int64 [num_places + 1].
        parts: Names of the cities, or of the groups of classes.
        part_starts: First place of each part, then the number of places. int64 [num_parts + 1].
        is_joined: Whether a batch may end one part and begin the next, as in GSV-Cities. Classes of
            different groups may touch: none of their batches is of two groups.
        path: Returns the absolute path of an image.
        left_out: A sentence on places that are not trained on; "" if there are none.
    """

    folder: Path
    digest: str
    starts: np.ndarray
    parts: tuple[str, ...]
    part_starts: np.ndarray
    is_joined: bool
    path: Callable[[int], str]
    left_out: str = ""

    @property
    def num_places(self) -> int:
        """Number of places of all parts."""
        return len(self.starts) - 1

    @property
    def num_images(self) -> int:
        """Number of images of all places."""
        return int(self.starts[-1])

    def images(self, place: int) -> range:
        """Return the images of a place."""
        return range(*self.starts[place : place + 2].tolist())

    def places(self, part: int) -> range:
        """Return the places of a city or group."""
        return range(*self.part_starts[part : part + 2].tolist())

    def describe(self, whole: bool = False) -> str:
        """Return counts in words; with `whole` also those of each part, one a line."""
        noun = "city" if self.is_joined else "group"
        lines = [
            f"{self.num_images:,} images of {commons.plural(self.num_places, 'place')} in "
            f"{commons.plural(len(self.parts), noun)}, {self.folder}",
            *filter(None, [self.left_out]),
        ]
        for part, name in enumerate(self.parts if whole else ()):
            places = self.places(part)
            num_images = int(self.starts[places.stop] - self.starts[places.start])
            lines.append(f"  {name:20s} {len(places):8,d} places  {num_images:10,d} images")
        return "\n".join(lines)

    def sample_images(self, num: int, seed: int) -> ImagePaths:
        """Return images drawn at random, each at most once; all that exist if there are fewer."""
        drawn = np.random.default_rng(seed).permutation(self.num_images)[:num]
        paths = map(self.path, sorted(drawn.tolist()))
        return image_paths_of(path for path in paths if os.path.isfile(path))

    def num_batches(self, batch_size: int) -> int:
        """Return the batches of an epoch; places that fill none are left out of it.

        Raises:
            ValueError: If there is none.
        """
        sizes = np.diff(self.part_starts)
        num = int(sizes.sum() // batch_size if self.is_joined else (sizes // batch_size).sum())
        if not num:
            most = int(sizes.sum() if self.is_joined else sizes.max(initial=0))
            where = "" if self.is_joined else " of one group"
            remedies = ["lower it"] if most > 1 else ["a batch needs 2"]
            if not self.is_joined:
                remedies += ["have smaller places by --M"] * (most == 1)
                remedies.append("have fewer groups by --N and --L")
            raise ValueError(
                f"--batch_size is {batch_size} places, {self.folder} has {most:,}{where}: "
                + ", or ".join(remedies)
            )
        return num


def places_of_classes(index: ClassIndex) -> PlaceSet:
    """Return the classes of a class index as places, its groups as parts."""
    groups = index.group_ids.tolist()
    return PlaceSet(
        Path(index.folder),
        index.digest,
        np.asarray(index.class_starts),
        tuple(f"({', '.join(map(str, group))})" for group in groups),
        np.asarray(index.group_starts),
        is_joined=False,
        path=index.path,
    )


class PlaceDraw(NamedTuple):
    """One place to be loaded."""

    place: int
    seed: int  # decides its images and their augmentation
    images: tuple[int, ...] = ()  # if any: these instead, which are a place of their own

    @property
    def label(self) -> int:
        """A number that no other place of the batch has."""
        return -1 - self.images[0] if self.images else self.place


class PlaceSampler(Sampler[list[PlaceDraw]]):
    """Batches of places, part after part, each in a new random order in each epoch.

    Batches are thus mostly of one city, whose places are harder to tell apart. In GSV-Cities images
    are shuffled and a place comes with its first one, as in its authors' code: those with many
    images come earlier on average.
    """

    def __init__(
        self,
        place_set: PlaceSet,
        batch_size: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        most: int | None = None,
    ) -> None:
        """Sample from a set.

        Args:
            place_set: Places and their images.
            batch_size: Places of an iteration, in all processes together.
            seed: With the epoch, decides all draws.
            share: Rank of this process and number of processes; each batch is shared evenly.
            most: Batches of an epoch, drawn among all; None: all.

        Raises:
            ValueError: If there are fewer places than in a batch.
        """
        self.place_set, self.batch_size, self.seed, self.share = place_set, batch_size, seed, share
        self._num_batches = place_set.num_batches(batch_size)
        self.num_iterations = min(self._num_batches, most or self._num_batches)
        self.epoch = 0
        self.first_iteration = 0
        self.mined: np.ndarray | None = None  # images of places to take instead, in other orders.
        # int64 [num_iterations, batch_size, images_per_place]

    def __len__(self) -> int:
        """Return the number of remaining batches of an epoch."""
        return max(0, self.num_iterations - self.first_iteration)

    def __iter__(self) -> Iterator[list[PlaceDraw]]:
        """Yield this process's share of the batches of the epoch set in `epoch`."""
        rank, num_ranks = self.share
        own = slice(rank * self.batch_size // num_ranks, (rank + 1) * self.batch_size // num_ranks)
        draws = self._draw(self.epoch)
        for batch in range(self.first_iteration, self.num_iterations):
            yield self._make_draws(*(one[batch, own] for one in draws))

    def batch(self, epoch: int, iteration: int) -> list[PlaceDraw]:
        """Return one batch of all processes."""
        return self._make_draws(*(one[iteration] for one in self._draw(epoch)))

    def _make_draws(self, chosen: np.ndarray, seeds: np.ndarray) -> list[PlaceDraw]:
        if chosen.ndim == 1:
            return list(map(PlaceDraw, chosen.tolist(), seeds.tolist()))
        places = np.searchsorted(self.place_set.starts, chosen[:, 0], side="right") - 1
        return list(map(PlaceDraw, places.tolist(), seeds.tolist(), map(tuple, chosen.tolist())))

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of an epoch, or their images, and a seed for each.

        Returns:
            int64 [num_iterations, batch_size], or [..., images_per_place], and the former again.
        """
        rng, size = np.random.default_rng((self.seed, epoch)), self.batch_size
        if self.mined is not None:
            order = self.mined[rng.permutation(len(self.mined))]
            return order, rng.integers(2**62, size=order.shape[:2])
        orders = [self._shuffle(part, rng) for part in range(len(self.place_set.parts))]
        if not self.place_set.is_joined:
            orders = [order[: len(order) // size * size] for order in orders]
        order = np.concatenate(orders)[: self._num_batches * size].reshape(-1, size)
        if self.num_iterations < len(order):
            order = order[np.sort(rng.permutation(len(order))[: self.num_iterations])]
        return order, rng.integers(2**62, size=order.shape)

    def _shuffle(self, part: int, rng: np.random.Generator) -> np.ndarray:
        places, starts = self.place_set.places(part), self.place_set.starts
        if not self.place_set.is_joined:
            return places.start + rng.permutation(len(places))
        first, last = starts[places.start], starts[places.stop]
        ranks = rng.permutation(last - first)  # of the part's images, in random order
        return places.start + np.argsort(np.minimum.reduceat(ranks, starts[places] - first))


class PlaceDataset(Dataset):
    """The images of places, augmented, all of one size."""

    def __init__(
        self,
        place_set: PlaceSet,
        images_per_place: int,
        augmentation: Callable[[torch.Tensor, int], torch.Tensor],
        io_retries: int = 0,
    ) -> None:
        """Load places of a set.

        Args:
            place_set: Places and their images.
            images_per_place: How many of each are drawn, without repetition.
            augmentation: An image, uint8 [3, H, W], and its seed to float32 [3, height, width].
            io_retries: How often a failed read is tried again, see `load_image`.
        """
        self.place_set, self.images_per_place = place_set, images_per_place
        self.augmentation, self.io_retries = augmentation, io_retries

    def __getitem__(self, draw: PlaceDraw) -> Sample:
        """Load images of a place, [images_per_place, 3, height, width], with its label.

        An image that cannot be read is replaced by another one of its place. A place that has too
        few is replaced by the next one of its city or group.

        Raises:
            ValueError: If 20 places in a row have too few readable images.
        """
        unreadable: list[str] = []
        seeds = self._seeds(draw.seed)
        for label, images in islice(self._candidates(draw), _MAX_TRIES):
            loaded: list[torch.Tensor] = []
            for image in images:
                try:
                    pixels = load_image(self.place_set.path(image), self.io_retries)
                except (FileNotFoundError, ValueError) as error:
                    unreadable.append(str(error))
                    continue
                loaded.append(self.augmentation(pixels, seeds[len(loaded)]))
                if len(loaded) == self.images_per_place:
                    return Sample(torch.stack(loaded), label, draw.seed, tuple(unreadable))
        raise ValueError(
            f"{_MAX_TRIES} places in a row have fewer than {self.images_per_place} images that can "
            f"be read. Is the disk there that holds {self.place_set.folder}? The first of them: "
            f"{unreadable[0]}"
        )

    def paths(self, draw: PlaceDraw) -> list[str]:
        """Return the paths of the images drawn, whether they can be read or not."""
        _, images = next(self._candidates(draw))
        return [self.place_set.path(image) for image in images[: self.images_per_place]]

    def _order(self, place: int, seed: int) -> Sequence[int]:
        """Return the images of a place in random order: the first ones are drawn."""
        images = self.place_set.images(place)
        return (images.start + np.random.default_rng(seed).permutation(len(images))).tolist()

    def _seeds(self, seed: int) -> list[int]:
        """Return a seed for the augmentation of each image."""
        return np.random.default_rng((seed, 1)).integers(2**62, size=self.images_per_place).tolist()

    def _candidates(self, draw: PlaceDraw) -> Iterator[tuple[int, Sequence[int]]]:
        """Yield label and images of a draw, then of the places that may replace it."""
        if draw.images:
            yield draw.label, draw.images
        part = int(np.searchsorted(self.place_set.part_starts, draw.place, side="right")) - 1
        places = self.place_set.places(part)
        for step in range(len(places)):
            place = places[(draw.place - places.start + step) % len(places)]
            yield place, self._order(place, draw.seed)
