"""SFRS: golden numbers of the original code, identities, and trainings through train.py."""

import copy
import sys

import numpy as np
import pytest
import tiny_backbone  # noqa: F401, LINE names it
import torch
from conftest import name, write_image
from forked_commands import run_job, wait_for_all
from golden_cases import assert_close, golden
from torch import nn
from training_runs import (
    assert_same_numbers,
    assert_same_state,
    metrics_of,
    position_of,
    stop_at,
)

import training.sfrs
from datasets.ground_truth import Neighbours
from datasets.image_lists import split_lines
from datasets.tuples import TupleSet
from model.aggregation.netvlad import NetVLAD
from model.checkpoint_files import read_checkpoint
from model.network import GeoLocalizationNet, build_network
from parser import parse_train_arguments
from train import main as train_main
from training.losses import LossParams, tuple_loss
from training.mining import cross_distances
from training.objective import Batch
from training.sfrs import SFRS, RegionNet, SFRSSettings, hardest_regions
from training.tuples import Tuples

EVALUATION = sys.modules["evaluation.evaluate"]  # the package has a function of this name
CASES = ("sfrs_a", "sfrs_b")
REGIONS = [  # top, bottom, left, right, in halves of the map
    *((0, 2, 0, 2), (0, 1, 0, 2), (1, 2, 0, 2), (0, 2, 0, 1), (0, 2, 1, 2)),
    *((0, 1, 0, 1), (0, 1, 1, 2), (1, 2, 0, 1), (1, 2, 1, 2)),
]


def settings_of(*line):
    return SFRSSettings.from_flags(vars(parse_train_arguments(["--method=sfrs", *line])))


def objective_of(*line, num_database=9, positives=((0,),)):
    """Return an objective on a set whose images are not there; all that is near is a positive."""
    offsets = np.cumsum([0, *map(len, positives)])
    neighbours = Neighbours(offsets, np.concatenate(positives).astype(np.int32))
    database, queries = (
        split_lines("/made/up", np.frombuffer(b"image\n" * num, np.uint8))
        for num in (num_database, len(positives))
    )
    return SFRS(TupleSet(database, queries, neighbours, neighbours), settings_of(*line))


def network_of(weights, part="model"):
    """Return a network of maps, in float64, with the weights of a golden case."""
    weights = {
        key.removeprefix(f"{part}.net_vlad."): torch.from_numpy(value).double()
        for key, value in weights.items()
        if key.startswith(part)
    }
    layer = NetVLAD(weights["centroids"].shape[1], 0, len(weights["centroids"])).double()
    layer.load_state_dict(weights)
    network = GeoLocalizationNet(nn.Identity(), layer)
    network.forward = lambda maps: layer(maps)  # not in float32
    network.architecture = {"aggregation": "netvlad", "fc_output_dim": 0}
    return network


class GoldenTuples:
    """A golden case as a batch: of each tuple query, positive, negatives, difficult positives."""

    def __init__(self, name, *line):
        self.case = golden(name)
        sizes = self.case.meta["cfg"]
        num_first, num_last = 2 + sizes["N"], sizes["P"]
        assert (self.case["in.diff"][:, 0] == self.case["in.easy"][:, 0]).all(), "the query"
        parts = (self.case["in.easy"], self.case["in.diff"][:, 1:])
        images = torch.from_numpy(np.concatenate(parts, axis=1)).double()
        self.images = images.flatten(0, 1).requires_grad_()
        counts = torch.full((sizes["B"],), num_first + num_last)
        self.batch = Batch(self.images, counts, [])
        self.network = network_of(self.case.weights())
        self.objective = objective_of(
            f"--negs_num_per_query={sizes['N']}", "--batch_size=1", "--num_workers=0", *line
        )
        self.objective.attach(self.network, None, (32, 32), torch.device("cpu"))
        self.teacher = RegionNet(network_of(self.case.weights(), "cache")).requires_grad_(False)
        self.objective._teacher = self.teacher
        self.model = self.objective.module(self.network)

    def loss(self, generation):
        self.objective._generation = generation
        return self.objective.loss(self.model, self.batch)


@pytest.mark.parametrize("name", CASES)
def test_regions_are_those_of_the_original(name):
    case = golden(name)
    regions = RegionNet(network_of(case.weights()))
    easy = torch.from_numpy(case["in.easy"]).double()
    got = regions(easy.flatten(0, 1)).unflatten(0, easy.shape[:2]).detach()
    assert_close(got[:, :1], case["mid.vlad_anchor9"], 1e-7)
    assert_close(got[:, 1:], case["mid.vlad_pairs9"], 1e-7)
    assert_close(got[:, :, 0].flatten(0, 1), case["mid.eval_vlad_easy"], 1e-7)
    similarities = torch.einsum("bad,bprd->bpar", got[:, 0], got[:, 1:])
    assert_close(similarities, case["mid.sim_easy"], 1e-7)
    chosen = hardest_regions(got[:, 0, 0], got[:, 2:])
    indices = torch.from_numpy(case["mid.hard_region_argmax"])
    wanted = got[:, 2:].gather(2, indices[:, :, None, None].expand(-1, -1, 1, got.shape[-1]))
    assert torch.equal(chosen, wanted[:, :, 0])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("generation", range(4))
def test_losses_are_those_of_the_original(name, generation):
    tuples = GoldenTuples(name)
    assert_close(tuples.loss(generation).item(), tuples.case[f"loss.gen{generation}.total"], 1e-7)
    alone = GoldenTuples(name, "--soft_weight=0")
    assert_close(alone.loss(generation).item(), tuples.case[f"loss.gen{generation}.hard"], 1e-7)
    joint = GoldenTuples(name, "--soft_weight=0", "--loss=sare_joint").loss(generation)
    assert_close(joint.item(), tuples.case[f"loss.gen{generation}.hard_joint"], 1e-7)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("generation", [0, 3])
def test_gradients_are_those_of_the_original(name, generation):
    tuples = GoldenTuples(name)
    tuples.loss(generation).backward()
    case, prefix = tuples.case, f"grad.gen{generation}"
    wanted = case[f"{prefix}.easy"].astype(np.float64)
    last = np.zeros_like(case["in.diff"])
    if generation > 0:
        last = case[f"{prefix}.diff"].astype(np.float64)
    wanted[:, 0] += last[:, 0]  # of the query, which is in both
    wanted = np.concatenate((wanted, last[:, 1:]), axis=1)
    assert_close(tuples.images.grad.numpy(), wanted.reshape(tuples.images.shape), 1e-6)
    layer = tuples.network.aggregation
    assert_close(layer.centroids.grad, case[f"{prefix}.centroids"], 1e-6)
    assert_close(layer.conv.weight.grad, case[f"{prefix}.conv.weight"], 1e-6)
    assert all(parameter.grad is None for parameter in tuples.teacher.parameters())


def test_tuples_of_different_sizes_have_the_mean_of_their_losses():
    tuples = GoldenTuples("sfrs_a")  # of 9 images each
    tuples.objective._generation = 2
    images, losses = tuples.images.detach().split(9), []
    parts = images[0][:8], images[1][:6]
    for part in parts:
        batch = Batch(part, torch.tensor([len(part)]), [])
        losses.append(tuples.objective.loss(tuples.model, batch).item())
    batch = Batch(torch.cat(parts), torch.tensor([8, 6]), [])
    assert tuples.objective.loss(tuples.model, batch).item() == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("side", [(6, 8), (7, 9), (2, 3)])
def test_sums_of_quarters_are_descriptors_of_crops(side):
    torch.manual_seed(0)
    network = network_of(golden("sfrs_a").weights())
    maps = torch.randn(3, 6, *side, dtype=torch.float64)
    got = RegionNet(network)(maps)
    assert got.shape == (3, 9, network.out_dim)
    torch.testing.assert_close(got[:, 0], network(maps))
    ends = [(0, (length + 1) // 2, length) for length in side]
    for region, (top, bottom, left, right) in zip(got.unbind(1), REGIONS, strict=True):
        crop = maps[:, :, ends[0][top] : ends[0][bottom], ends[1][left] : ends[1][right]]
        torch.testing.assert_close(region, network(crop))


def test_generation_0_is_sare_on_dot_products():
    tuples = GoldenTuples("sfrs_a")
    descriptors = tuples.network(tuples.images).unflatten(0, (2, 9))
    params = LossParams("sare_ind", similarity="dot", reduction="mean")
    parts = descriptors[:, 0], descriptors[:, 1], descriptors[:, 2:5]
    torch.testing.assert_close(tuples.loss(0), tuple_loss(params, *parts))


def test_epochs_have_their_generation_and_order():
    settings = settings_of()
    places = [(generation, place) for generation in range(1, 4) for place in range(5)]
    assert [settings.place(epoch) for epoch in range(16)] == [(0, 4), *places]
    assert settings.place(17) == (3, 6), "the last one goes on"
    short = settings_of("--generations=2", "--epochs_per_generation=1")
    assert [short.place(epoch) for epoch in range(3)] == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize("weights", ["none", "file"])
def test_a_generation_begins_anew(weights, tmp_path, monkeypatch):
    if weights == "file":
        weights = tmp_path / "weights.pth"
    monkeypatch.setattr(Tuples, "batches", lambda *_: iter(()))
    network = build_network("Tiny", 0, "netvlad", "none", aggregation_args={"clusters": 4})
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    objective = objective_of(f"--backbone_weights={weights}", "--batch_size=1", "--num_workers=0")
    objective.attach(network, optimizer, (32, 32), torch.device("cpu"))
    initial = copy.deepcopy(network.state_dict())
    model = objective.module(network)

    def begin(epoch, first=0):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        before = copy.deepcopy(network.state_dict())
        list(objective.batches(model, epoch, first))
        return before, network.state_dict()

    list(objective.batches(model, 0, 0))
    for epoch, first in ((0, 3), (1, 3), (2, 0)):
        before, after = begin(epoch, first)
        assert all(torch.equal(after[key], before[key]) for key in before)
        assert optimizer.state and objective._teacher is None
    before, after = begin(6)
    assert not optimizer.state
    assert objective._teacher.training
    taught = objective._teacher.network.state_dict()
    assert all(torch.equal(taught[key], before[key]) for key in before)
    for key in before:
        is_new = key.startswith("aggregation") or weights != "none"
        assert torch.equal(after[key], (initial if is_new else before)[key]), key
    assert not torch.equal(initial["aggregation.centroids"], before["aggregation.centroids"])


def test_tuples_have_difficult_positives_of_their_own_query():
    """Also those that repeat others, in place of tuples of unreadable queries."""
    rng, rows = np.random.default_rng(0), [np.arange(5 * q, 5 * q + 1 + q % 5) for q in range(12)]
    line = "--negs_num_per_query=3", "--neg_samples_num=20", "--pos_num=3", "--batch_size=1"
    objective = objective_of(*line, num_database=60, positives=rows)
    objective.device, objective._generation = torch.device("cpu"), 1
    draws = objective._draw(1, 0)
    assert draws.queries.tolist() != list(range(12)), "in another order"
    orders = [objective._draw(epoch, 0).queries.tolist() for epoch in (0, 1, 5, 6, 10)]
    assert orders[0] == orders[2] == orders[4] != orders[1] == orders[3]
    queries = rng.standard_normal((12, 8), np.float32)
    database = rng.standard_normal((60, 8), np.float32)
    queries[[2, 7]], database[[1, 40]] = np.nan, np.nan
    tuples = objective._choose(draws, cross_distances(queries, database), queries, database)
    assert tuples.shape == (12, 2 + 3 + 3) and len(set(tuples[:, 0])) == 10
    for query, *images in tuples:
        positives = [image for image in rows[query] if image not in (1, 40)]
        difficult = [image for image in images[4:] if image >= 0]
        assert images[0] in positives and difficult and set(difficult) <= set(positives)
        assert len(set(difficult)) == len(difficult)


# ------------------------------------------------------------------ trainings


LINE = [
    *("--method=sfrs", "--dataset=mini_city", "--backbone=Tiny", "--backbone_weights=none"),
    *("--aggregation_args", "clusters=4", "--image_size=32x48", "--resize_test_imgs=32x48"),
    *("--queries_per_epoch=12", "--cache_refresh_rate=6", "--neg_samples_num=30"),
    *("--negs_num_per_query=3", "--batch_size=2", "--num_workers=0", "--device=cpu"),
    *("--generations=2", "--epochs_per_generation=2", "--epochs_num=3", "--whitening=none"),
]  # 2 rounds of 3 iterations an epoch


@pytest.fixture(scope="module")
def line(datasets_folder, tmp_path_factory):
    """Return flags of a training on 12 places 1 km apart, with 1 to 5 database images each."""
    folder = tmp_path_factory.mktemp("places")
    rng = np.random.default_rng(0)
    for place in range(12):
        colour = rng.integers(20, 200, 3)
        roles = [*["database"] * (1 + place % 5), "queries"]
        for number, role in enumerate(roles):
            file = name(1000.0 * place + number, 5000.0, pano_id=f"{role}{number}")
            write_image(folder / role / file, colour=(colour + 9 * number).tolist())
    return [*LINE, f"--datasets_folder={datasets_folder}", f"--train_set_folder={folder}"]


@pytest.fixture(scope="module")
def whole(line, tmp_path_factory):
    """Return the folder of a training that nothing happened to."""
    folder = tmp_path_factory.mktemp("sfrs") / "whole"
    train_main([*line, f"--save_dir={folder}"])
    return folder


def test_a_training_has_generations_with_difficult_positives(whole):
    assert [line["generation"] for line in metrics_of(whole)] == [0, 1, 1]
    state = read_checkpoint(whole / "last_checkpoint.pth")["objective_state_dict"]
    difficult = state["tuples"][:, 2 + 3 :]
    assert difficult.shape == (6, 10)
    counts = (difficult >= 0).sum(1)
    assert counts.min() >= 1 and counts.max() > counts.min()
    assert state["teacher"].keys() > state["initial"].keys() > set()
    assert "2 generations: epoch 0, then 2 epochs each" in (whole / "info.log").read_text()


def test_a_training_interrupted_in_each_phase_continues_with_the_same_bits(
    line, whole, tmp_path, monkeypatch
):
    run = [*line, f"--save_dir={tmp_path}", "--resume_train=auto", "--checkpoint_every=1"]
    for owner, function, number, position in (
        (training.sfrs, "find_difficult", 1, (1, 0)),  # mining of generation 1
        (SFRS, "_make_teacher", 1, (1, 0)),  # between generations
        (training.sfrs, "soft_loss", 3, (1, 1)),  # there are 2 tuples in an iteration
        (training.sfrs, "find_difficult", 1, (1, 3)),
        (EVALUATION, "compute_recalls", 1, (1, 6)),  # validation
        (training.sfrs, "soft_loss", 9, (2, 4)),  # in the middle of a generation and a round
    ):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_at(patch, owner, function, number)
            train_main(run)
        assert position_of(tmp_path) == position
    train_main(run)
    assert_same_state(tmp_path, whole)
    assert metrics_of(tmp_path) == metrics_of(whole)


def test_two_processes_train_as_one(line, tmp_path):
    calm = [*line, "--backbone=TinyPlain", "--lr=1e-3", "--batch_size=4", "--epochs_num=2"]
    train_main([*calm, f"--save_dir={tmp_path / 'one'}"])
    wait_for_all(run_job(2, "train", [*calm, f"--save_dir={tmp_path / 'two'}"], tmp_path / "said"))
    assert_same_numbers(tmp_path / "two", tmp_path / "one")
