"""SFRS's objective: generations of networks, the later ones taught by the one before.

Self-supervised fine-grained region similarities (Ge et al., ECCV 2020), in the way of its public
code, OpenIBL: generation 0 is an epoch of SARE. In each later one the network becomes the teacher
of one that begins anew. That learns the teacher's similarities of a query to nine regions of
difficult positives, and from the regions of its negatives that are most similar to the query.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import commons
from datasets.tuples import TupleSet
from evaluation.descriptors import gather
from model.network import GeoLocalizationNet
from training.mining import Draws
from training.objective import Batch
from training.reranking import RerankParams, find_difficult
from training.tuples import Tuples, TupleSettings

_NO_FILES = ("imagenet", "none")  # values of --backbone_weights


@dataclass(frozen=True)
class SFRSSettings(TupleSettings):
    """What the flags say about generations, teachers and difficult positives."""

    fixed_flags: ClassVar = (*TupleSettings.fixed_flags, "generations", "epochs_per_generation")

    generations: int
    epochs_per_generation: int  # but for generation 0, which has one
    teacher_temperatures: tuple[float, ...]  # that similarities are divided by, of each generation
    soft_weight: float  # of the loss on the teacher's similarities
    reranking: RerankParams
    backbone_weights: str  # if a file, generations start from it

    def __post_init__(self) -> None:
        """Check that each generation has a temperature."""
        super().__post_init__()
        if len(self.teacher_temperatures) < self.generations:
            raise ValueError(
                f"--teacher_temperatures has {len(self.teacher_temperatures)} numbers for "
                f"--generations {self.generations}: give one for each"
            )

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> "SFRSSettings":
        """Read the flags of train.py; raise a ValueError if one is out of its range."""
        parts = {
            "reranking": commons.from_flags(RerankParams, flags),
            "teacher_temperatures": tuple(flags["teacher_temperatures"]),
        }
        return super().from_flags({**flags, **parts})

    def open(self) -> "SFRS":
        """Find the positives of all queries; see `open_set`."""
        return SFRS(self.open_set(), self)

    def place(self, epoch: int) -> tuple[int, int]:
        """Return the generation of an epoch, and which of its epochs that is, from 0 on.

        The last generation has all epochs that are left. The one epoch of generation 0 counts as
        the last of a generation: OpenIBL draws its queries in that order.
        """
        length = self.epochs_per_generation
        generation = min(-(-epoch // length), self.generations - 1)
        return generation, epoch + length - 1 - generation * length


class RegionNet(nn.Module):
    """Images [B, 3, H, W] to unit descriptors of nine regions, [B, 9, D].

    They are: the whole image, which has the descriptor of the network; the top, bottom, left and
    right halves; the quarters top left, top right, bottom left, bottom right. The backbone sees
    the image once: residuals of NetVLAD are summed over the quarters of its map, and those of
    quarters add up to those of larger regions. Maps of an odd side have larger quarters at the top
    or at the left.
    """

    def __init__(self, network: GeoLocalizationNet) -> None:
        """Read the regions out of a network.

        Raises:
            ValueError: If its descriptors are not those of NetVLAD itself.
        """
        super().__init__()
        architecture = network.architecture
        if (
            architecture.get("aggregation") != "netvlad"
            or architecture["fc_output_dim"]
            or "whiten_dim" in architecture
        ):
            raise ValueError(
                "--method sfrs sums residuals of NetVLAD over regions: the network must have "
                "--aggregation netvlad, --fc_output_dim 0 and no whitening"
            )
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the descriptors of all regions, float32 also under autocast."""
        maps, aggregation = self.network.feature_maps(images), self.network.aggregation
        quarters = [
            aggregation(quarter, normalise=False)  # [B, K, C]
            for half in maps.tensor_split(2, dim=2)
            for quarter in half.tensor_split(2, dim=3)
        ]
        top_left, top_right, bottom_left, bottom_right = quarters
        top, bottom = top_left + top_right, bottom_left + bottom_right
        left, right = top_left + bottom_left, top_right + bottom_right
        regions = torch.stack((top + bottom, top, bottom, left, right, *quarters), dim=1)
        return F.normalize(F.normalize(regions, dim=3).flatten(2), dim=2)


class SFRS(Tuples):
    """Tuples with difficult positives, and a network that teaches the next one."""

    settings: SFRSSettings

    def __init__(self, tuple_set: TupleSet, settings: SFRSSettings) -> None:
        """Train on a set; see `Tuples`."""
        super().__init__(tuple_set, settings)
        self._generation = 0
        self._initial: dict[str, torch.Tensor] = {}  # weights that a generation starts from
        self._teacher: RegionNet | None = None  # the network of the generation before

    def describe(self, whole: bool = False) -> str:
        """Return the set, mining and generations, in words."""
        length = self.settings.epochs_per_generation
        return (
            f"{super().describe(whole)}\n{self.settings.generations} generations: epoch 0, then "
            f"{length} epochs each"
        )

    def module(self, network: nn.Module) -> nn.Module:
        """Return the network of regions; see `Objective.module`."""
        return RegionNet(network)

    def batches(self, model: nn.Module, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the images of tuples; begin a generation before its first one."""
        self._generation, place = self.settings.place(epoch)
        if epoch == first == 0:
            self._initial = self._initial_weights()
        if self._generation > 0 and place == first == 0:
            self._teacher = self._make_teacher()
            self.network.load_state_dict(self._initial, strict=False)
            self.optimizer.state.clear()
        yield from super().batches(model, epoch, first)

    def _initial_weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of NetVLAD's weights, of the backbone's only if they are of a file.

        That is what OpenIBL's generations start from: a backbone with weights of torchvision is
        trained on and on.
        """
        parts = ("aggregation.", "backbone.")
        if self.settings.backbone_weights in _NO_FILES:
            parts = parts[:1]
        state = self.network.state_dict()
        return {
            name: tensor.to("cpu", copy=True)
            for name, tensor in state.items()
            if name.startswith(parts)
        }

    def _make_teacher(self) -> RegionNet:
        """Return a copy of the network that is not trained, in training mode as the original's."""
        return RegionNet(copy.deepcopy(self.network)).requires_grad_(False).train()

    def _draw(self, epoch: int, round_: int) -> Draws:
        _, place = self.settings.place(epoch)
        return self.miner.draw(epoch, round_, order=place)

    def _choose(
        self, draws: Draws, distances: np.ndarray, queries: np.ndarray, database: np.ndarray
    ) -> np.ndarray:
        """Return tuples, after generation 0 with difficult positives at their end."""
        tuples = super()._choose(draws, distances, queries, database)
        if self._generation == 0:
            return tuples
        params, parts = self.settings.reranking, [queries, *gather(database)]
        positives = self.miner.nearest_positives(draws, distances, params.pos_pool)
        places = len(queries) + np.searchsorted(draws.database, positives)
        places[positives < 0] = -1
        found = commons.of_main_process(
            lambda: find_difficult(places, np.concatenate(parts), params, self.device)
        )
        difficult = np.where(found < 0, -1, draws.database[found - len(queries)])
        order = np.argsort(draws.queries)  # a tuple may be that of another query, see `Miner.mine`
        rows = order[np.searchsorted(draws.queries, tuples[:, 0], sorter=order)]
        return np.column_stack((tuples, difficult[rows]))

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss of the batch's tuples, and after generation 0 of what is taught.

        The first part takes whole images, after generation 0 the hardest region of each negative.
        """
        settings, num_images = self.settings, batch.labels.tolist()
        num_first = 2 + self.mining.num_negatives  # the rest are difficult positives
        students = model(batch.images).split(num_images)  # [num_images, 9, D] of each tuple
        queries = torch.stack([regions[0, 0] for regions in students])
        positives = torch.stack([regions[1, 0] for regions in students])
        negatives = torch.stack([regions[2:num_first] for regions in students])
        if self._generation == 0:
            return self._tuple_loss(queries, positives, negatives[:, :, 0])
        places = [[0, *range(num_first, num)] for num in num_images]  # of query and difficult ones
        images = [one[p] for one, p in zip(batch.images.split(num_images), places, strict=True)]
        with torch.no_grad():
            teachers = self._teacher(torch.cat(images)).split(list(map(len, places)))
        with torch.autocast(batch.images.device.type, enabled=False):
            hard = self._tuple_loss(queries, positives, hardest_regions(queries, negatives))
            teacher_temperature = settings.teacher_temperatures[self._generation]
            soft = [
                soft_loss(student[place], teacher, settings.loss.temperature, teacher_temperature)
                for student, teacher, place in zip(students, teachers, places, strict=True)
            ]
            return hard + settings.soft_weight * torch.stack(soft).mean()

    def epoch_metrics(self, epoch: int) -> dict[str, float]:
        """Return the generation, what mining took, and how hard the tuples of the epoch were."""
        return {"generation": self.settings.place(epoch)[0]} | super().epoch_metrics(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return that of tuples, the teacher and the initial weights."""
        teacher = {} if self._teacher is None else dict(self._teacher.network.state_dict())
        return super().state_dict() | {"teacher": teacher, "initial": self._initial}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume with the tuples and the teacher of a state."""
        super().load_state_dict(state)
        self._initial = state["initial"]
        if state["teacher"]:
            self._teacher = self._make_teacher()
            self._teacher.network.load_state_dict(state["teacher"])


def hardest_regions(queries: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Return of each negative the region that is most similar to the query; it has the gradient.

    Args:
        queries: [B, D].
        negatives: Regions of N negatives of each query. [B, N, 9, D].

    Returns:
        [B, N, D].
    """
    similarities = torch.einsum("bd,bnrd->bnr", queries.detach(), negatives.detach())
    best = similarities.argmax(dim=2)[:, :, None, None]
    return negatives.take_along_dim(best, dim=2)[:, :, 0]


def soft_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    temperature: float,
    teacher_temperature: float,
) -> torch.Tensor:
    """Return the cross-entropy of similarities to a teacher's, of all regions together.

    The similarities are those of the query, as a whole, with each region of difficult positives.

    Args:
        student: Regions of a query, and of its difficult positives. [1 + P, 9, D].
        teacher: The same regions by the teacher.
        temperature: That the student's similarities are divided by.
        teacher_temperature: The same of the teacher's.
    """
    logits, targets = ((one[1:] @ one[0, 0]).flatten() for one in (student, teacher))
    targets = (targets / teacher_temperature).softmax(0)
    return -(targets * (logits / temperature).log_softmax(0)).sum()
