"""The objective of GSV-Cities and those after it: batches of places, and all pairs in them.

A batch has P places with K images each. The multi-similarity loss (Wang et al., CVPR 2019) is taken
over the pairs that its miner finds hard among all pairs of the batch. Under torchrun each process
has a share of the places, and the loss is that of the whole batch.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

import commons
import machine
from datasets.catalog import find_train_folder
from datasets.class_index import ClassIndex, load_index
from datasets.groups import collate
from datasets.gsv_cities import TABLES_FOLDER, find_nearby, is_gsv_cities, read_gsv_cities
from datasets.image_lists import ImagePaths
from datasets.loading import Loader
from datasets.partition import PartitionParams
from datasets.places import PlaceDataset, PlaceSampler, PlaceSet, places_of_classes
from datasets.rand_augment import RandAugmentation, RandAugmentParams
from evaluation.descriptors import Inference
from training.cliques import CliqueParams, mine_cliques
from training.objective import Batch, ImageSize, batches_on_device, check_share


@dataclass(frozen=True)
class PlacesSettings:
    """What the flags say about places and batches."""

    fixed_flags: ClassVar = (
        *("M", "alpha", "N", "L", "min_images_per_place", "images_per_place", "cities"),
        *("batch_size", "mining"),
    )

    partition: PartitionParams  # of folders without the tables of GSV-Cities
    augmentation: RandAugmentParams
    train_set_folder: str | None  # None: that of the data set
    dataset: str  # key of datasets.catalog.TRAIN_SETS
    datasets_folder: str
    cache_folder: str  # where class indices are saved
    cliques: CliqueParams | None  # how batches are mined; None: they are drawn at random
    inference: Inference  # of the images to mine among
    cities: tuple[str, ...]  # of GSV-Cities; none: all
    images_per_place: int
    min_images_per_place: int  # places with fewer are left out
    batch_size: int  # places of an iteration, in all processes together
    iterations_per_epoch: int | None  # drawn among all batches; None: each place once
    num_workers: int  # loader processes
    io_retries: int  # how often a failed read is tried again
    seed: int

    def __post_init__(self) -> None:
        """Check that places have enough images, and that processes can share a batch evenly."""
        if self.images_per_place < 2:
            raise ValueError(
                f"--images_per_place is {self.images_per_place}: pairs need at least 2"
            )
        if self.min_images_per_place < self.images_per_place:
            raise ValueError(
                f"--min_images_per_place is {self.min_images_per_place}, but --images_per_place "
                f"takes {self.images_per_place} of each"
            )
        if self.batch_size < 2:
            raise ValueError(
                "--batch_size is 1 place: a batch teaches to tell at least 2 from each other"
            )
        check_share(self.batch_size, "places")

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> "PlacesSettings":
        """Read the flags of train.py; raise a ValueError if one is out of its range."""
        has_cliques = flags["mining"] == "cliques"
        changed = {"min_images_per_class": flags["min_images_per_place"]}
        changed |= {"N": 1, "L": 1} if has_cliques else {}  # they are apart without groups
        parts = {
            "partition": commons.from_flags(PartitionParams, {**flags, **changed}),
            "cliques": commons.from_flags(CliqueParams, flags) if has_cliques else None,
            "inference": Inference(
                machine.choose_device(flags["device"]),
                flags["infer_batch_size"],
                flags["num_workers"],
                skip_unreadable=True,
                io_retries=flags["io_retries"],
            ),
            "augmentation": commons.from_flags(RandAugmentParams, flags),
            "cities": tuple(flags["cities"]),
        }
        return commons.from_flags(cls, {**flags, **parts})

    def open(self) -> "Places":
        """Read the tables of GSV-Cities, or split the images of another folder into classes.

        Raises:
            FileNotFoundError: If there are no images.
            ValueError: If tables or names are not as they should be, or there are too few places.
        """
        folder = self.train_set_folder
        folder = folder or find_train_folder(self.dataset, self.datasets_folder)
        if is_gsv_cities(folder):
            if self.cliques is not None:
                raise ValueError(
                    f"--mining cliques is for images with '@' names: {folder} has none"
                )
            if self.partition != PartitionParams(min_images_per_class=self.min_images_per_place):
                raise ValueError(
                    "--M, --alpha, --N and --L split folders with '@' names into places: the "
                    f"tables in {folder} have their own, leave them out"
                )
            places = read_gsv_cities(folder, self.cities, self.min_images_per_place)
            return Places(places, self)
        if self.cities:
            raise ValueError(f"--cities is of GSV-Cities: {folder} has no {TABLES_FOLDER}/")
        index = ClassIndex(commons.of_main_process(lambda: self._split(folder)))
        if not (places := places_of_classes(index)).num_places:
            raise ValueError(
                f"No place of {folder} ({index.num_listed_images:,} images) has "
                f"{self.min_images_per_place} images: lower --min_images_per_place, or make places "
                "larger with --M and --alpha"
            )
        return Places(places, self)

    def _split(self, folder: str) -> Path:
        """Split images with '@' names into classes; return the folder of the class index."""
        try:
            return load_index(folder, self.partition, self.cache_folder).index_folder
        except (FileNotFoundError, ValueError) as error:
            if near := find_nearby(folder):
                raise ValueError(
                    f"{folder} has no {TABLES_FOLDER}/ of GSV-Cities, but {near} has: give that one"
                ) from error
            raise


class Places:
    """Batches of places, and the multi-similarity loss on all their descriptors."""

    def __init__(self, place_set: PlaceSet, settings: PlacesSettings) -> None:
        """Train on a set; raise a ValueError if there are fewer places than in a batch."""
        self.place_set, self.settings = place_set, settings
        self.digest, self.folder = place_set.digest, place_set.folder
        share = commons.rank(), commons.num_ranks()
        most = settings.iterations_per_epoch
        self._sampler = PlaceSampler(place_set, settings.batch_size, settings.seed, share, most)
        images_per_batch = settings.batch_size * settings.images_per_place
        self.images_per_epoch = self._sampler.num_iterations * images_per_batch
        self._mined_epoch, self._mining_s = -1, 0.0

    def describe(self, whole: bool = False) -> str:
        """Return the places in words; with `whole` those of each city or group."""
        return self.place_set.describe(whole)

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
        """Make loss, miner and loader; see `Objective.attach`."""
        from pytorch_metric_learning import losses, miners  # takes 0.7 s, and --dry_run needs none

        settings, self.device = self.settings, device
        self.network, self._size = network, image_size
        self._loss = losses.MultiSimilarityLoss(alpha=1.0, beta=50.0, base=0.0)
        self._miner = miners.MultiSimilarityMiner(epsilon=0.1)
        self._dataset = PlaceDataset(
            self.place_set,
            settings.images_per_place,
            RandAugmentation(settings.augmentation, image_size),
            settings.io_retries,
        )
        self._loader = Loader(
            *(self._dataset, self._sampler, settings.num_workers, collate, device),
            keeps_workers=True,
        )
        # shares of anchors, of positive and of negative pairs that are mined; iterations
        self._sums = torch.zeros(4, device=device)

    def sample_images(self, num: int) -> ImagePaths:
        """Return images of places, drawn at random; see `Objective.sample_images`."""
        return self.place_set.sample_images(num, self.settings.seed)

    def num_iterations(self, epoch: int) -> int:
        """Return the number of batches of an epoch; places that fill none are left out."""
        return self._sampler.num_iterations

    def turn(self, epoch: int) -> contextlib.AbstractContextManager[list[Optimizer]]:
        """Yield no optimizers: only the network is trained."""
        return contextlib.nullcontext([])

    def batches(self, model: nn.Module, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the images of places, those of a place side by side; a label is of a place."""
        if first == 0:
            self._sums.zero_()
        mining_s = self._mine(epoch) if self.settings.cliques else 0.0
        self._sampler.epoch, self._sampler.first_iteration = epoch, first
        for batch in batches_on_device(self._loader, self.device, None):
            yield batch._replace(mining_s=mining_s)
            mining_s = 0.0

    def _mine(self, epoch: int) -> float:
        """Find the batches from this epoch on, if it is time to; return the seconds it took."""
        settings, start_s = self.settings, time.perf_counter()
        due = epoch - epoch % settings.cliques.mining_epochs
        if self._mined_epoch == due:
            return 0.0
        self._sampler.mined = mine_cliques(
            *(self.network, self.place_set, settings.cliques, settings.inference, self._size),
            (self.num_iterations(epoch), settings.batch_size, settings.images_per_place),
            seed=(settings.seed, due, 1),
        )
        self._mined_epoch, self._mining_s = due, time.perf_counter() - start_s
        return self._mining_s

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss of the whole batch, in each process the same."""
        descriptors, places = model(batch.images), batch.labels
        if commons.num_ranks() > 1:
            descriptors, places = _Gather.apply(descriptors), _gather(places)
        return self._pair_loss(
            descriptors, places.repeat_interleave(self.settings.images_per_place)
        )

    def _pair_loss(self, descriptors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of the mined pairs; note how many there are.

        Without any it is 0, and so are its gradients.

        Args:
            descriptors: Of any length, they are normalised. [B, D].
            labels: Images with the same are of one place. int64 [B].
        """
        with torch.autocast(descriptors.device.type, enabled=False):
            pairs = self._miner(descriptors.float(), labels)
            loss = self._loss(descriptors.float(), labels, pairs)
        anchors, positives, _, negatives = pairs
        num, per_place = len(labels), self.settings.images_per_place
        num_positive = num * (per_place - 1)
        shares = (
            len(anchors.unique()) / num,
            len(positives) / num_positive,
            len(negatives) / max(1, num * (num - 1) - num_positive),
        )
        self._sums += self._sums.new_tensor((*shares, 1.0))
        return loss

    def image_paths(self, epoch: int, iteration: int) -> list[str]:
        """Return the images of a batch of all processes."""
        draws = self._sampler.batch(epoch, iteration)
        return [path for draw in draws for path in self._dataset.paths(draw)]

    def epoch_metrics(self, epoch: int) -> dict[str, float]:
        """Return which share of images had a mined positive, and of all pairs the mined ones.

        They fall as the network learns: near 0, batches have nothing left to teach.
        """
        names = ("mined_share", "mined_positives", "mined_negatives")
        means = (self._sums[:3] / self._sums[3].clamp(min=1)).tolist()
        rounded = {name: round(mean, 6) for name, mean in zip(names, means, strict=True)}
        is_mined = self._mined_epoch == epoch
        return rounded | ({"mining_seconds": round(self._mining_s, 3)} if is_mined else {})

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the current epoch, and what is mined, the same in all processes."""
        state = {"sums": self._sums.cpu()}
        if self._sampler.mined is not None:
            state["mined"] = torch.from_numpy(self._sampler.mined)
            state |= {"mined_epoch": self._mined_epoch, "mining_seconds": self._mining_s}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume with what a state has."""
        self._sums.copy_(state["sums"])
        # If an epoch has more batches than were mined, a changed flag, new ones are.
        if "mined" in state and len(state["mined"]) >= self._sampler.num_iterations:
            self._sampler.mined = state["mined"].numpy()
            self._mined_epoch, self._mining_s = state["mined_epoch"], state["mining_seconds"]


def _gather(own: torch.Tensor) -> torch.Tensor:
    """Return the tensors of all processes, joined in their order."""
    parts = [torch.empty_like(own) for _ in range(commons.num_ranks())]
    dist.all_gather(parts, own.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """Descriptors of all processes, with gradients of the own ones.

    Each process computes the whole loss, and DistributedDataParallel averages their gradients:
    times their number, the average is the sum over all descriptors.
    """

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor) -> torch.Tensor:
        """Join the descriptors of all processes, [B / n, D] each, to [B, D]."""
        return _gather(own)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the own descriptors, times the number of processes."""
        return gradient.chunk(commons.num_ranks())[commons.rank()] * commons.num_ranks()
