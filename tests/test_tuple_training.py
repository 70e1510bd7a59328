"""Trainings on tuples, through train.py."""

import json
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny_backbone  # noqa: F401, TUPLES names it
import torch
from conftest import name, write_image
from forked_commands import run_forked, run_job, wait_for_all, wait_until
from PIL import Image
from training_runs import (
    assert_same_numbers,
    assert_same_state,
    metrics_of,
    position_of,
    stop_at,
)

import training.tuples
from eval import main as eval_main
from methods import METHODS
from model.aggregation.sralnet import ShadowedVLAD
from model.checkpoints import load_network
from parser import parse_train_arguments
from train import main as train_main
from training.losses import tuple_loss
from training.mining import Miner
from training.objective import Batch
from training.tuples import TupleSampler, TupleSettings

TUPLES = [
    *("--method=gem", "--dataset=mini_city", "--backbone=Tiny", "--backbone_weights=none"),
    *("--image_size=32x48", "--resize_test_imgs=32x48", "--lr=0.001", "--batch_size=2"),
    *("--queries_per_epoch=12", "--cache_refresh_rate=6", "--neg_samples_num=30"),
    *("--negs_num_per_query=3", "--epochs_num=2", "--num_workers=0", "--device=cpu"),
]  # 2 rounds of 3 iterations an epoch


ORIGINAL = ShadowedVLAD.initialise
EVALUATION = sys.modules["evaluation.evaluate"]  # the package has a function of this name


@pytest.fixture(scope="module")
def line(datasets_folder, tmp_path_factory):
    """Return flags of a training on 12 places 1 km apart, each of a colour of its own."""
    folder = tmp_path_factory.mktemp("places")
    rng = np.random.default_rng(0)
    for place in range(12):
        colour = rng.integers(20, 230, 3)
        for number in range(4):
            role = ("database", "queries")[number % 2]
            file = name(1000.0 * place + 3 * number, 5000.0, pano_id=f"{role}{number}")
            write_image(folder / role / file, colour=(colour + 5 * number).tolist())
    return [*TUPLES, f"--datasets_folder={datasets_folder}", f"--train_set_folder={folder}"]


@pytest.fixture(scope="module")
def whole(line, tmp_path_factory):
    """Return the folder of a training that nothing happened to."""
    folder = tmp_path_factory.mktemp("tuples") / "whole"
    train_main([*line, f"--save_dir={folder}"])
    return folder


def test_a_training_says_how_hard_its_tuples_are(whole):
    lines = [json.loads(text) for text in (whole / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for numbers in lines:
        assert 0 <= numbers["violating_share"] <= 1 and numbers["mining_seconds"] > 0
        assert numbers["positive_distance"] < numbers["negative_distance"]
        assert numbers["data_wait_share"] <= 1
    log = (whole / "info.log").read_text()
    assert "Mining: full, 3 negatives of each query, 2 rounds an epoch of 6 queries" in log
    assert json.loads((whole / "results.json").read_text())["method"] == "gem"


@pytest.mark.parametrize(
    ("owner", "function", "number", "position"),
    [
        (Miner, "mine", 1, None),  # before anything is kept
        (Miner, "mine", 2, (0, 3)),
        (Miner, "mine", 4, (1, 3)),
        (training.tuples, "tuple_loss", 5, (0, 4)),  # in the middle of a round
        (training.tuples, "tuple_loss", 10, (1, 3)),
        (EVALUATION, "compute_recalls", 3, (1, 6)),  # in validation: an epoch calls it twice
    ],
    ids=["first mining", "mining", "mining again", "training", "round", "validation"],
)
def test_an_interrupted_training_continues_with_the_same_bits(
    line, whole, tmp_path, monkeypatch, owner, function, number, position
):
    run = [*line, f"--save_dir={tmp_path / 'run'}", "--resume_train=auto", "--checkpoint_every=1"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, owner, function, number)
        train_main(run)
    if position is None:
        assert not (tmp_path / "run" / "last_checkpoint.pth").exists()
    else:
        assert position_of(tmp_path / "run") == position
    train_main(run)
    assert_same_state(tmp_path / "run", whole)
    assert metrics_of(tmp_path / "run") == metrics_of(whole)


def stand_still_in(file, module, name, number):
    """Let a training wait for ever in a call of a function, counted from 1; a file says so."""
    owner = sys.modules[module] if name != "mine" else Miner
    function, calls = getattr(owner, name), iter(range(1, 10**6))

    def call(*arguments, **named):
        if next(calls) == number:
            file.touch()
            while True:
                time.sleep(0.005)
        return function(*arguments, **named)

    setattr(owner, name, call)


@pytest.mark.long
def test_a_training_killed_in_mining_training_and_validation_has_the_same_bits(
    line, whole, tmp_path
):
    run = tmp_path / "run"
    command_line = [*line, f"--save_dir={run}", "--resume_train=auto", "--checkpoint_every=1"]
    moments = [
        ("training.mining", "mine", 1),  # of the first round
        ("training.mining", "mine", 2),  # of the second one
        ("training.tuples", "tuple_loss", 2),
        ("evaluation.evaluate", "compute_recalls", 1),
        ("training.mining", "mine", 1),  # of the next epoch
        ("training.tuples", "tuple_loss", 5),
        ("evaluation.evaluate", "compute_recalls", 1),
    ]
    for number, moment in enumerate(moments):
        file = tmp_path / f"reached{number}"
        before = partial(stand_still_in, file, *moment)
        command = run_forked("train", command_line, tmp_path / "said", before)
        wait_until(file.exists, command)
        command.kill()
        assert command.wait() == -signal.SIGKILL
    command = run_forked("train", command_line, tmp_path / "said")
    assert command.wait() == 0, command.stderr
    assert_same_state(run, whole)
    assert metrics_of(run) == metrics_of(whole)


def test_two_processes_train_as_one(line, tmp_path):
    calm = [*line, "--backbone=TinyPlain", "--lr=1e-4"]
    train_main([*calm, f"--save_dir={tmp_path / 'one'}"])
    wait_for_all(run_job(2, "train", [*calm, f"--save_dir={tmp_path / 'two'}"], tmp_path / "said"))
    assert_same_numbers(tmp_path / "two", tmp_path / "one")


def test_the_loss_is_that_of_the_descriptors_of_each_tuple(line):
    settings = TupleSettings.from_flags(vars(parse_train_arguments([*line, "--margin=0.4"])))
    objective = settings.open()
    objective.attach(torch.nn.Identity(), None, (32, 48), torch.device("cpu"))
    rows = torch.randn(10, 7, generator=torch.Generator().manual_seed(1))
    loss = objective.loss(lambda images: images, Batch(rows, torch.tensor([4, 9]), []))
    queries, positives = rows[[0, 5]], rows[[1, 6]]
    negatives = torch.stack((rows[2:5], rows[7:10]))
    assert loss == tuple_loss(settings.loss, queries, positives, negatives) > 0
    to_negatives = (queries[:, None] - negatives).norm(dim=-1)
    to_positives = (queries - positives).norm(dim=-1)
    numbers = objective.epoch_metrics(0)
    assert numbers["positive_distance"] == pytest.approx(to_positives.mean().item(), rel=1e-4)
    assert numbers["negative_distance"] == pytest.approx(to_negatives.mean().item(), rel=1e-4)
    is_violating = to_negatives < to_positives[:, None] + 0.4
    assert numbers["violating_share"] == pytest.approx(is_violating.float().mean().item())


def test_images_of_a_bad_batch_are_named_in_whichever_round_it_was(line):
    objective = TupleSettings.from_flags(vars(parse_train_arguments(line))).open()
    rounds = [np.arange(30).reshape(6, 5) % 12, np.arange(7, 37).reshape(6, 5) % 12]
    objective._earlier = dict(enumerate(rounds))
    for iteration in range(6):  # 3 of 2 tuples in each round
        tuples = rounds[iteration // 3][iteration % 3 * 2 :][:2]
        paths = [path for one in tuples for path in objective.tuple_set.tuple_paths(one.tolist())]
        assert objective.image_paths(0, iteration) == paths


def test_each_tuple_of_a_round_is_trained_on_once_by_one_process():
    tuples = np.arange(22).reshape(11, 2)
    shares = []
    for rank in range(2):
        sampler = TupleSampler(4, (rank, 2))
        sampler.begin(tuples, (1, 2, 3), first=0)
        shares.append([[(draw.tuples[0].tolist(), draw.seed) for draw in b] for b in sampler])
    whole = TupleSampler(4, (0, 1))
    whole.begin(tuples, (1, 2, 3), first=0)
    batches = [[(draw.tuples[0].tolist(), draw.seed) for draw in batch] for batch in whole]
    assert [one + two for one, two in zip(*shares, strict=True)] == batches
    assert [images for batch in batches for images, _ in batch] == tuples[:8].tolist()
    assert len({seed for batch in batches for _, seed in batch}) == 8
    whole.begin(tuples, (1, 2, 3), first=1)
    assert len(whole) == 1
    assert [[(d.tuples[0].tolist(), d.seed) for d in batch] for batch in whole] == batches[1:]


def test_it_stops_when_patience_ends(line, tmp_path, monkeypatch):
    recalls = iter([50.0, 60.0, 60.0, 40.0, 70.0])
    monkeypatch.setattr(EVALUATION.Evaluation, "recall_at", lambda self, n: next(recalls))
    line = [*line, "--epochs_num=5", "--patience=2", "--queries_per_epoch=6"]
    train_main([*line, f"--save_dir={tmp_path}"])
    assert len(metrics_of(tmp_path)) == 4
    assert (
        "Stopped: no epoch since 1 had a higher R@5 (--patience 2)"
        in (tmp_path / "info.log").read_text()
    )


def test_the_whitened_network_is_tested_and_can_be_evaluated(
    line, whole, tmp_path, datasets_folder
):
    run = tmp_path / "run"
    train_main([*line, f"--save_dir={run}", "--whitening=pca_whiten", "--whiten_dim=6"])
    assert_same_state(run, whole)
    result = json.loads((run / "results.json").read_text())
    assert (result["descriptor_dim"], result["whiten_dim"]) == (6, 6)
    assert result["model_file"] == str(run / "whitened_model.pth")
    eval_main(
        [
            *(f"--resume={run / 'whitened_model.pth'}", f"--datasets_folder={datasets_folder}"),
            *("--dataset=mini_city_test_v1", "--resize_test_imgs=32x48", "--device=cpu"),
            *(f"--save_dir={tmp_path / 'eval'}", "--num_workers=0"),
        ]
    )
    again = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert again["recalls"] == result["recalls"]
    assert load_network(run / "best_model.pth").out_dim == 16


def test_shadows_start_from_labels_of_the_images(line, tmp_path, monkeypatch):
    """The left half of each image is a building, the right half is sky or one of 4 things."""
    folder = Path(line[-1].partition("=")[2])
    for number, file in enumerate(sorted(file for file in folder.rglob("*") if file.is_file())):
        labels = np.full((24, 32), 2, np.uint8)
        labels[:, 16:] = 10 + number % 5
        out = (tmp_path / "labels" / file.relative_to(folder)).with_suffix(".png")
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(out)
    given = {}

    def initialise(self, local_descriptors, seed, labels=None):
        given.update(descriptors=local_descriptors, labels=labels)
        return ORIGINAL(self, local_descriptors, seed, labels)

    monkeypatch.setattr(ShadowedVLAD, "initialise", initialise)
    line = [*line, "--method=sralnet", "--aggregation_args", "clusters=3"]
    line += [f"--semantic_labels={tmp_path / 'labels'}", "--whitening=none", "--epochs_num=1"]
    train_main([*line, f"--save_dir={tmp_path / 'run'}"])
    values, counts = given["labels"].unique(return_counts=True)
    assert values.tolist() == [2, 10, 11, 12, 13, 14]
    assert len(given["labels"]) == len(given["descriptors"])
    assert counts[0] / counts.sum() == pytest.approx(2 / 5)  # maps are 5 wide: 2 begin on the left


def test_without_epochs_the_network_is_tested_as_it_starts(line, tmp_path):
    run, clusters = tmp_path / "run", ["--method=netvlad", "--aggregation_args", "clusters=3"]
    whitening = ["--whitening=pca_whiten", "--whiten_dim=6"]
    train_main([*line, *clusters, *whitening, "--epochs_num=0", f"--save_dir={run}"])
    result = json.loads((run / "results.json").read_text())
    assert (result["descriptor_dim"], metrics_of(run)) == (6, [])
    assert not (run / "last_checkpoint.pth").exists()
    start = [*line, *clusters, "--whitening=none", "--lr=1e-30", "--queries_per_epoch=2"]
    train_main([*start, "--epochs_num=1", f"--save_dir={tmp_path / 'other'}"])
    untrained, trained = (
        load_network(folder / "best_model.pth").aggregation for folder in (run, tmp_path / "other")
    )
    assert torch.equal(untrained.centroids, trained.centroids)


def make_folder(folder, database, queries):
    """Write images at (east_m, north_m)."""
    for role, positions in (("database", database), ("queries", queries)):
        for number, (east_m, north_m) in enumerate(positions):
            write_image(folder / role / name(east_m, north_m, pano_id=f"{role}{number}"))


def test_unreadable_images_are_replaced_and_counted(line, tmp_path):
    places = [(1000.0 * place, 5000.0 + side) for place in range(8) for side in (0, 4)]
    make_folder(tmp_path / "train", places, [(east + 3, north) for east, north in places])
    files = sorted((tmp_path / "train" / "database").iterdir())
    files[3].write_bytes(b"no image")
    run = [*line, f"--train_set_folder={tmp_path / 'train'}", f"--save_dir={tmp_path / 'run'}"]
    train_main([*run, "--queries_per_epoch=0", "--cache_refresh_rate=16"])
    lines = metrics_of(tmp_path / "run")
    assert len(lines) == 2 and all(np.isfinite(line["loss"]) for line in lines)


def test_what_cannot_be_trained_on_is_refused_with_a_sentence(line, tmp_path, refused):
    make_folder(tmp_path / "far", [(0.0, 0.0), (50.0, 0.0)], [(20.0, 0.0)])
    far = [*line, f"--train_set_folder={tmp_path / 'far'}"]
    assert "has a positive" in refused(train_main, far, 1)
    make_folder(tmp_path / "one", [(0.0, 0.0)], [])
    assert "queries" in refused(train_main, [*line, f"--train_set_folder={tmp_path / 'one'}"], 1)
    said = refused(train_main, ["--mining=full"], 2)
    assert "--method cosplace has no --mining: it is a flag of --method gem" in said
    assert "--M" in refused(train_main, ["--method=gem", "--M=5"], 2)
    assert "invalid choice: 'netvlat'" in refused(train_main, ["--method=netvlat"], 2)
    assert "at most 1" not in refused(train_main, [*line, "--momentum=1.5"], 2)
    assert "--batch_size" in refused(train_main, [*line, "--batch_size=20"], 1)
    assert "new sralnet or appsvr" in refused(train_main, [*line, "--semantic_labels=L"], 2)
    assert "starts from a network with netvlad" in refused(train_main, ["--method=crn"], 2)


def test_crn_starts_from_a_netvlad_that_starts_from_clusters(line, tmp_path):
    netvlad = tmp_path / "netvlad"
    line = [*line, "--method=netvlad", "--aggregation_args", "clusters=3", "--epochs_num=1"]
    whitening = ["--whiten_dim=5"]
    scaling = "--input_scaling=vgg_caffe"  # of the backbone, which CRN takes over
    train_main([*line, *whitening, scaling, f"--save_dir={netvlad}", "--lr=1e-12"])
    trained = load_network(netvlad / "best_model.pth")
    centroids = trained.aggregation.centroids
    assert trained.out_dim == 3 * 16
    assert load_network(netvlad / "whitened_model.pth").out_dim == 5
    # Clusters of places of one colour each: centroids are their local descriptors' means.
    assert torch.all((centroids.norm(dim=1) > 0.5) & (centroids.norm(dim=1) <= 1 + 1e-5))
    weight = trained.aggregation.conv.weight.flatten(1)
    torch.testing.assert_close(
        torch.nn.functional.normalize(weight),
        torch.nn.functional.normalize(centroids),
        rtol=0,
        atol=1e-4,
    )
    crn = [*line, "--method=crn", f"--resume_model={netvlad / 'whitened_model.pth'}"]
    train_main([*crn, *whitening, f"--save_dir={tmp_path / 'crn'}", "--lr=1e-12"])
    started = load_network(tmp_path / "crn" / "best_model.pth")
    assert started.architecture["aggregation"] == "crn"
    torch.testing.assert_close(started.aggregation.centroids, centroids, rtol=0, atol=1e-6)
    result = json.loads((tmp_path / "crn" / "results.json").read_text())
    assert (result["aggregation"], result["descriptor_dim"]) == ("crn", 5)
    assert result["input_scaling"] == "vgg_caffe"
    args = json.loads((tmp_path / "crn" / "args.json").read_text())
    assert args["lr_factors"] == {"aggregation.crn.*": 10.0} and args["optimizer"] == "sgd"
    assert args["input_scaling"] == "vgg_caffe"


@pytest.mark.parametrize("method", ["sare", "apanet", "sralnet", "appsvr"])
def test_every_method_trains_whitens_and_is_tested(line, tmp_path, method):
    line = [*line, f"--method={method}", "--image_size=56x72", "--resize_test_imgs=56x72"]
    if "aggregation_args" in METHODS[method]:
        line += ["--aggregation_args", "clusters=5"]
    dims = ["--whiten_dim=6", "--epochs_num=1"] + ["--kept_dims=4"] * (method != "apanet")
    train_main([*line, *dims, f"--save_dir={tmp_path}"])
    (numbers,) = metrics_of(tmp_path)
    assert numbers["loss"] > 0 and numbers["gradient_norm"] > 0
    result = json.loads((tmp_path / "results.json").read_text())
    assert (result["method"], result["descriptor_dim"]) == (method, 6 if method == "apanet" else 4)
    assert result["model_file"] == str(tmp_path / "whitened_model.pth")
