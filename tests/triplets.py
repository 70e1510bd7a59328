"""A second objective, for tests only: a triplet loss on made-up tuples, mined with the network."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from datasets.image_lists import image_paths_of
from methods import METHODS
from objective_flags import OBJECTIVE_FLAGS
from training.objective import Batch
from training.setup import OBJECTIVES


@dataclass(frozen=True)
class TripletSettings:
    fixed_flags: ClassVar = ("batch_size",)
    flags: Mapping[str, Any]

    @classmethod
    def from_flags(cls, flags):
        return cls(flags)

    def open(self):
        return Triplets(self.flags)


class Triplets:
    digest = "made up"

    def __init__(self, flags):
        self.flags, self.images_per_epoch = flags, 3 * flags["batch_size"]
        self.generator = torch.Generator().manual_seed(flags["seed"])
        self.seeds = torch.empty(0)  # of the tuples of this epoch; each decides three images

    def describe(self, whole=False):
        return "Made-up tuples"

    def module(self, network):
        return network

    def attach(self, network, optimizer, image_size, device):
        self.shape = (self.flags["batch_size"], 3, *image_size)

    def sample_images(self, num):
        return image_paths_of([])

    def num_iterations(self, epoch):
        return self.flags["iterations_per_epoch"]

    def turn(self, epoch):
        return contextlib.nullcontext([])

    def batches(self, model, epoch, first):
        if first == 0:
            self.seeds = self.mine(model)
        for seed in self.seeds[first:].tolist():
            yield Batch(self.images(seed), torch.empty(0, dtype=torch.int64), [])

    @torch.no_grad()
    def mine(self, model):
        """Draw seeds; keep those with the largest losses."""
        candidates = torch.randint(10**9, (2 * self.num_iterations(0),), generator=self.generator)
        model.eval()
        losses = [self.loss(model, Batch(self.images(s), None, [])) for s in candidates.tolist()]
        model.train()
        return candidates[torch.stack(losses).topk(self.num_iterations(0)).indices]

    def images(self, seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([torch.randn(self.shape, generator=generator) for _ in range(3)])

    def loss(self, model, batch):
        return F.triplet_margin_loss(*model(batch.images).chunk(3), margin=0.1)

    def image_paths(self, epoch, iteration):
        return ["made up"]

    def epoch_metrics(self, epoch):
        return {"mined": len(self.seeds)}

    def state_dict(self):
        return {"seeds": self.seeds, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.seeds = state["seeds"]
        self.generator.set_state(state["generator"])


def install():
    """Make it a method of train.py in this process."""
    OBJECTIVES["triplets"] = TripletSettings
    OBJECTIVE_FLAGS["triplets"] = OBJECTIVE_FLAGS["classification"]
    METHODS["triplets"] = METHODS["cosplace"] | {"objective": "triplets", "epochs_num": 3}
