"""The objective of NetVLAD and those after it: tuples of a query, a positive and mined negatives.

An epoch has several rounds. A round mines tuples for some queries with the network as it is then,
and trains on each of them once, in the order in which they were mined (deep visual
geo-localization benchmark, section 3; OpenIBL). All that is drawn is a function of (seed, epoch,
round); negatives that are remembered and the tuples of the current round are in the checkpoint.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Sampler

import commons
import machine
from datasets.augmentation import Augmentation, AugmentationParams
from datasets.catalog import find_train_folder
from datasets.groups import collate
from datasets.image_lists import ImagePaths
from datasets.loading import Loader
from datasets.tuples import TupleDataset, TupleDraw, TupleSet, TupleSetParams, open_tuple_set
from evaluation.descriptors import Inference, gather
from evaluation.evaluate import extract_shard
from evaluation.views import View
from model.inference import optimize
from training.losses import LossParams, tuple_loss, tuple_statistics
from training.metrics import sum_over_processes
from training.mining import Draws, Miner, MiningParams, cross_distances
from training.objective import Batch, ImageSize, batches_on_device, check_share

FULL_MINING = 20_000  # images of the largest database that --mining auto searches whole


@dataclass(frozen=True)
class TupleSettings:
    """What the flags say about tuples, mining and loss."""

    fixed_flags: ClassVar = (
        *("mining", "negs_num_per_query", "neg_samples_num", "cache_refresh_rate", "batch_size"),
        *("queries_per_epoch", "train_positives_dist_threshold", "negatives_dist_threshold"),
    )

    tuple_set: TupleSetParams
    mining: MiningParams
    is_mining_auto: bool  # `mining` is "full" where the database is small, else "partial"
    loss: LossParams
    augmentation: AugmentationParams  # of colours only
    inference: Inference  # of the images to mine among
    augment: str  # images whose colours change: "none", "queries" or "all"
    dataset: str  # key of datasets.catalog.TRAIN_SETS
    datasets_folder: str
    train_set_folder: str | None  # None: that of the data set
    queries_per_epoch: int  # tuples of an epoch, rounded up to whole rounds; 0: each query once
    batch_size: int  # tuples of an iteration, in all processes together
    num_workers: int  # loader processes
    io_retries: int  # how often a failed read is tried again
    seed: int

    def __post_init__(self) -> None:
        """Check that processes can share a batch evenly."""
        check_share(self.batch_size, "tuples")

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> "TupleSettings":
        """Read the flags of train.py; raise a ValueError if one is out of its range."""
        is_auto = flags["mining"] == "auto"
        params = {
            "tuple_set": TupleSetParams(
                positive_radius_m=flags["train_positives_dist_threshold"],
                negative_radius_m=flags["negatives_dist_threshold"],
                tuple_panoramas=flags["tuple_panoramas"],
            ),
            "mining": MiningParams(
                "full" if is_auto else flags["mining"],
                flags["negs_num_per_query"],
                flags["neg_samples_num"],
                flags["cache_refresh_rate"],
            ),
            "is_mining_auto": is_auto,
            "loss": commons.from_flags(LossParams, flags),
            "augmentation": commons.from_flags(
                AugmentationParams, {**flags, "image_size": 1, "random_resized_crop": 0.0}
            ),
            "inference": Inference(
                machine.choose_device(flags["device"]),
                flags["infer_batch_size"],
                flags["num_workers"],
                skip_unreadable=True,
                dtype=flags["mining_dtype"],
                io_retries=flags["io_retries"],
            ),
        }
        return commons.from_flags(cls, {**flags, **params})

    def open(self) -> "Tuples":
        """Find the positives of all queries; see `open_set`."""
        return Tuples(self.open_set(), self)

    def open_set(self) -> TupleSet:
        """Find the positives of all queries of the training set.

        Raises:
            FileNotFoundError: If there are no images.
            ValueError: If names have no position, no query has a positive, or they are too few.
        """
        folder = self.train_set_folder
        folder = folder or find_train_folder(self.dataset, self.datasets_folder)
        return open_tuple_set(folder, self.tuple_set)


class Tuples:
    """Tuples of a training set, mined round after round, and a loss on their descriptors."""

    def __init__(self, tuple_set: TupleSet, settings: TupleSettings) -> None:
        """Train on a set.

        Raises:
            ValueError: If there are fewer queries than tuples in a batch.
        """
        self.tuple_set, self.settings = tuple_set, settings
        self.digest = tuple_set.digest
        folders = tuple_set.database.folder, tuple_set.queries.folder
        self.folder = os.path.commonpath(folders)
        self.mining = settings.mining
        if settings.is_mining_auto and len(tuple_set.database) > FULL_MINING:
            self.mining = replace(self.mining, mining="partial")
        self.miner = Miner(tuple_set, self.mining, settings.seed)
        num_queries, per_round = self.miner.num_usable, self.mining.queries_per_refresh
        self._num_rounds = -(-(settings.queries_per_epoch or num_queries) // per_round)
        if self.miner.num_queries(0) < settings.batch_size:
            raise ValueError(
                f"{self.miner.num_queries(0)} queries can be trained on in a round, --batch_size "
                f"are {settings.batch_size} tuples: lower it, or raise --cache_refresh_rate"
            )
        num_images = 2 + self.mining.num_negatives
        self.images_per_epoch = self.num_iterations(0) * settings.batch_size * num_images
        self._position = (-1, -1)  # epoch and round of the mined tuples
        self._tuples = np.empty((0, num_images), np.int64)
        self._earlier: dict[int, np.ndarray] = {}  # tuples of rounds of this epoch, to name images
        self._sampler = TupleSampler(settings.batch_size, (commons.rank(), commons.num_ranks()))
        self._mining_s = 0.0  # in this epoch

    def describe(self, whole: bool = False) -> str:
        """Return the set, and how tuples are mined, in words."""
        mining = self.mining
        return (
            f"{self.tuple_set.describe()}\nMining: {mining.mining}, {mining.num_negatives} "
            f"negatives of each query, {self._num_rounds} rounds an epoch of "
            f"{self.miner.num_queries(0):,} queries"
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
        """Make the loader; see `Objective.attach`."""
        settings = self.settings
        self.network, self.optimizer = network, optimizer
        self.device, self._size = device, image_size
        dataset = TupleDataset(
            self.tuple_set,
            image_size,
            Augmentation(settings.augmentation),
            settings.augment,
            settings.io_retries,
        )
        self._loader = Loader(
            dataset, self._sampler, settings.num_workers, collate, device, keeps_workers=True
        )
        # share of violating negatives, distances to positives and to negatives; iterations
        self._sums = torch.zeros(4, device=device)

    def sample_images(self, num: int) -> ImagePaths:
        """Return images of database and queries; see `Objective.sample_images`."""
        return self.tuple_set.sample_paths(num, self.settings.seed)

    def num_iterations(self, epoch: int) -> int:
        """Return the number of batches of an epoch; tuples that fill none are left out."""
        return sum(map(self._iterations_of, range(self._num_rounds)))

    def _iterations_of(self, round_: int) -> int:
        return self.miner.num_queries(round_) // self.settings.batch_size

    def turn(self, epoch: int) -> contextlib.AbstractContextManager[list[Optimizer]]:
        """Yield no optimizers: only the network is trained."""
        return contextlib.nullcontext([])

    def batches(self, model: nn.Module, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the images of tuples, those of a tuple side by side: query, positive, negatives."""
        if first == 0:
            self._sums.zero_()
            self._mining_s = 0.0
        for round_ in range(self._num_rounds):
            num_iterations = self._iterations_of(round_)
            if first >= num_iterations:
                first -= num_iterations
                continue
            start_s = time.perf_counter()
            if self._position != (epoch, round_):
                self._tuples, self._position = self._mine(epoch, round_), (epoch, round_)
            self._earlier[round_] = self._tuples
            mining_s = time.perf_counter() - start_s
            self._mining_s += mining_s
            self._sampler.begin(self._tuples, (self.settings.seed, epoch, round_), first)
            for batch in batches_on_device(self._loader, self.device, None):
                yield batch._replace(mining_s=mining_s)
                mining_s = 0.0
            first = 0

    def _mine(self, epoch: int, round_: int) -> np.ndarray:
        """Return the tuples of a round, the same in all processes.

        Each process extracts its share of the images, and compares it with all queries.
        """
        draws = self._draw(epoch, round_)
        with in_evaluation_mode(self.network):
            extract = self._make_extractor()
            queries = extract(self.tuple_set.queries.subset(draws.queries), "Mining, queries")
            queries = np.concatenate(gather(queries))
            database = extract(self.tuple_set.database.subset(draws.database), "Mining, database")
        distances = cross_distances(queries, database, self.device)
        distances = np.concatenate(gather(distances), axis=1)
        return self._choose(draws, distances, queries, database)

    def _draw(self, epoch: int, round_: int) -> Draws:
        return self.miner.draw(epoch, round_)

    def _choose(
        self, draws: Draws, distances: np.ndarray, queries: np.ndarray, database: np.ndarray
    ) -> np.ndarray:
        """Return the tuples of a round: a query index, then database indices or -1.

        Args:
            draws: Of the round.
            distances: See `Miner.mine`.
            queries: Their descriptors. [n, D].
            database: Those of this process's share of the database images. [num_here, D].
        """
        return self.miner.mine(draws, distances)

    def _make_extractor(self):  # noqa: ANN202
        model, inference = optimize(self.network), self.settings.inference
        view = View("{}x{}".format(*self._size))
        return lambda paths, label: extract_shard(model, paths, view, inference, label).descriptors

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss of the batch's tuples; see `training.losses`."""
        descriptors = model(batch.images).unflatten(0, (len(batch.labels), -1))
        return self._tuple_loss(descriptors[:, 0], descriptors[:, 1], descriptors[:, 2:])

    def _tuple_loss(self, *descriptors: torch.Tensor) -> torch.Tensor:
        """Return the loss of queries, positives and negatives; note how hard they are."""
        statistics = tuple_statistics(self.settings.loss, *descriptors)
        self._sums += torch.stack((*statistics, torch.ones_like(statistics[0])))
        return tuple_loss(self.settings.loss, *descriptors)

    def image_paths(self, epoch: int, iteration: int) -> list[str]:
        """Return the images of a batch of this epoch, of all processes.

        A GPU's losses are looked at every some iterations, when the next round may have begun.
        """
        round_, size = 0, self.settings.batch_size
        while iteration >= self._iterations_of(round_):
            iteration -= self._iterations_of(round_)
            round_ += 1
        tuples = self._earlier[round_][iteration * size : (iteration + 1) * size]
        return [path for images in tuples for path in self.tuple_set.tuple_paths(images.tolist())]

    def epoch_metrics(self, epoch: int) -> dict[str, float]:
        """Return what mining took, and how hard the tuples of the epoch were."""
        sums = sum_over_processes(self._sums)
        names = ("violating_share", "positive_distance", "negative_distance")
        means = (sums[:3] / sums[3].clamp(min=1)).tolist()
        rounded = {name: round(mean, 6) for name, mean in zip(names, means, strict=True)}
        return {"mining_seconds": round(self._mining_s, 3)} | rounded

    def state_dict(self) -> dict[str, Any]:
        """Return the current tuples and what is remembered; all processes must call it."""
        return {
            "position": list(self._position),
            "tuples": torch.from_numpy(self._tuples),
            "remembered": torch.from_numpy(self.miner.remembered),
            "sums": (sum_over_processes(self._sums) / commons.num_ranks()).cpu(),
            "mining_seconds": self._mining_s,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume with the tuples of a state."""
        epoch, round_ = state["position"]
        self._position, self._tuples = (epoch, round_), state["tuples"].numpy()
        self.miner.remembered[:] = state["remembered"].numpy()
        self._sums.copy_(state["sums"])
        self._mining_s = state["mining_seconds"]


class TupleSampler(Sampler[list[TupleDraw]]):
    """Batches of the tuples of a round, in their order; those that fill no batch are left out."""

    def __init__(self, batch_size: int, share: tuple[int, int]) -> None:
        """Prepare; `begin` gives the tuples.

        Args:
            batch_size: Tuples of an iteration, in all processes together.
            share: Rank of this process and number of processes; each batch is shared evenly.
        """
        self._batch_size, self._share = batch_size, share

    def begin(self, tuples: np.ndarray, seed: tuple[int, int, int], first: int) -> None:
        """Yield these tuples from now on.

        Args:
            tuples: int64 [num_tuples, 2 + num_negatives].
            seed: With the place of a tuple, decides its augmentation.
            first: Batch to begin with.
        """
        self._tuples, self._first = tuples, first
        self._seeds = np.random.default_rng(seed).integers(2**62, size=len(tuples))

    def __len__(self) -> int:
        """Return the number of remaining batches."""
        return len(self._tuples) // self._batch_size - self._first

    def __iter__(self) -> Iterator[list[TupleDraw]]:
        """Yield this process's share of each batch."""
        size, (rank, num_ranks) = self._batch_size, self._share
        for batch in range(self._first, len(self._tuples) // size):
            places = range(batch * size, (batch + 1) * size)
            own = places[rank * size // num_ranks : (rank + 1) * size // num_ranks]
            yield [TupleDraw.of(self._tuples, place, int(self._seeds[place])) for place in own]


@contextlib.contextmanager
def in_evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Bring a network to evaluation mode, then each of its layers back to where it was."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training
