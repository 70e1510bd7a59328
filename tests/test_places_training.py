"""Trainings on places, through train.py; their loss; learning rates by iteration."""

import json
import signal
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_backbone  # noqa: F401, PLACES names it
import torch
from conftest import name, write_image
from forked_commands import run_forked, run_job, wait_for_all, wait_until
from golden_cases import assert_close, golden
from gsv_files import write_gsv_cities
from training_runs import (
    assert_same_state,
    metrics_of,
    position_of,
    stand_still_after,
    stop_at,
)

import commons
from methods import METHODS
from model.checkpoints import load_network
from parser import parse_train_arguments
from train import main as train_main
from training.objective import Batch
from training.optimizers import OptimizerParams
from training.places import Places, PlacesSettings

PLACES = [
    *("--method=gsv_cities", "--dataset=mini_city", "--backbone=Tiny", "--backbone_weights=none"),
    *("--image_size=32x40", "--resize_test_imgs=32x40", "--lr=0.001", "--batch_size=4"),
    *(
        "--aggregation=gem",
        "--fc_output_dim=8",
        "--lr_warmup=2",
        "--lr_milestones",
        "1",
        "--lr_gamma=0.3",
    ),
    *("--epochs_num=2", "--num_workers=0", "--device=cpu", "--no-use_amp16"),
    "--max_bad_images=0.1",
]  # 3 iterations an epoch: 12 places of 3 cities


@pytest.fixture(scope="module")
def line(datasets_folder, tmp_path_factory):
    """Return flags of a training on a small GSV-Cities, one of whose images is missing."""
    folder = write_gsv_cities(tmp_path_factory.mktemp("gsv"), missing=(2,))
    return [*PLACES, f"--datasets_folder={datasets_folder}", f"--train_set_folder={folder}"]


@pytest.fixture(scope="module")
def whole(line, tmp_path_factory):
    """Return the folder of a training that nothing happened to."""
    folder = tmp_path_factory.mktemp("places") / "whole"
    train_main([*line, "--log_every=1", f"--save_dir={folder}"])
    return folder


def settings_of(*flags):
    return PlacesSettings.from_flags(vars(parse_train_arguments([*PLACES, *flags])))


def objective_of(num_places, per_place):
    """Return an objective with a loss, without images."""
    starts = np.arange(num_places + 1) * per_place
    place_set = SimpleNamespace(
        digest="", folder="", num_batches=lambda size: 1, starts=starts, path=str
    )
    flags = (f"--images_per_place={per_place}", f"--batch_size={num_places}")
    objective = Places(place_set, settings_of(*flags))
    objective.attach(None, None, (8, 8), torch.device("cpu"))
    return objective


@pytest.mark.parametrize("case", ["a", "mid", "easy", "unnorm"])
def test_the_loss_is_that_of_the_published_code(case):
    case = golden(f"msloss_{case}")
    places, per_place = case.meta["cfg"]["P"], case.meta["cfg"]["K"]
    objective = objective_of(places, per_place)
    descriptors = torch.tensor(case["in.descriptors"], requires_grad=True)
    labels = torch.tensor(case["in.labels"])
    loss = objective._pair_loss(descriptors, labels)
    loss.backward()
    assert_close(loss.item() + 1, case["loss.ms_mined"] + 1, 1e-6)
    assert_close(descriptors.grad + 1, case["grad.descriptors_mined"] + 1, 1e-5)
    metrics, num = objective.epoch_metrics(0), places * per_place
    assert metrics["mined_share"] == pytest.approx(1 - case["out.b_acc"], abs=1e-6)
    positives, negatives = num * (per_place - 1), num * (num - per_place)
    assert metrics["mined_positives"] == pytest.approx(
        len(case["mid.miner_p"]) / positives, abs=1e-6
    )
    assert metrics["mined_negatives"] == pytest.approx(
        len(case["mid.miner_n"]) / negatives, abs=1e-6
    )
    pairs = [case[f"mid.miner_{name}"].tolist() for name in ("a1", "p", "a2", "n")]
    got = [one.tolist() for one in objective._miner(descriptors.detach(), labels)]
    for first, second in ((0, 1), (2, 3)):
        wanted = set(zip(pairs[first], pairs[second], strict=True))
        assert set(zip(got[first], got[second], strict=True)) == wanted


def by_hand(descriptors, labels, epsilon=0.1, alpha=1.0, beta=50.0):
    """Return the multi-similarity loss of mined pairs, by loops over anchors."""
    unit = descriptors / descriptors.norm(dim=1, keepdim=True)
    similarities, total = unit @ unit.T, 0.0
    for anchor in range(len(labels)):
        same = [i for i in range(len(labels)) if labels[i] == labels[anchor] and i != anchor]
        other = [i for i in range(len(labels)) if labels[i] != labels[anchor]]
        s = similarities[anchor]
        hardest, easiest = max(s[i] for i in other), min(s[i] for i in same)
        positives = [s[i] for i in same if s[i] < hardest + epsilon]
        negatives = [s[i] for i in other if s[i] > easiest - epsilon]
        total = total + torch.log1p(sum(torch.exp(-alpha * one) for one in positives)) / alpha
        total = total + torch.log1p(sum(torch.exp(beta * one) for one in negatives)) / beta
    return total / len(labels)


def test_labels_are_places_of_several_images(line):
    objective = objective_of(num_places=3, per_place=4)
    rows = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    loss = objective.loss(lambda images: images, Batch(rows, torch.tensor([7, 2, 9]), []))
    wanted = by_hand(rows.double(), torch.tensor([7, 2, 9]).repeat_interleave(4))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_without_mined_pairs_the_loss_is_0_and_can_be_differentiated():
    objective = objective_of(num_places=2, per_place=2)
    rows = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]], requires_grad=True)
    loss = objective.loss(lambda images: images, Batch(rows, torch.tensor([0, 1]), []))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(rows.grad, torch.zeros(4, 2))
    assert set(objective.epoch_metrics(0).values()) == {0.0}


def test_a_training_says_how_much_its_batches_still_teach(whole):
    lines = metrics_of(whole)
    assert len(lines) == 2
    for numbers in lines:
        assert 0 < numbers["mined_share"] <= 1 and 0 < numbers["loss"] < 5
        assert 0 < numbers["mined_positives"] <= 1 and 0 < numbers["mined_negatives"] <= 1
    assert lines[-1]["unreadable_images"] in (1, 2)
    log = (whole / "info.log").read_text()
    assert "60 images of 12 places in 3 cities" in log
    assert "of 3 iterations of 16 images of 32x40 pixels" in log
    assert "positives as of the set; test images resized to 32x40; " in log
    result = json.loads((whole / "results.json").read_text())
    assert (result["method"], result["descriptor_dim"]) == ("gsv_cities", 8)


def test_a_warm_up_that_does_not_end_is_told(line, whole, tmp_path):
    train_main([*line, "--lr_warmup=30", "--epochs_num=1", f"--save_dir={tmp_path / 'run'}"])
    log = (tmp_path / "run" / "info.log").read_text()
    assert "30 iterations, the training has 3: learning rates end at 10.0% of --lr" in log
    assert "Warm-up" not in (whole / "info.log").read_text()


def test_learning_rates_of_iterations_are_written(whole):
    points = [json.loads(text) for text in (whole / "iterations.jsonl").read_text().splitlines()]
    rates = [point["lr"] for point in points]
    assert rates == pytest.approx([0.0005, 0.001, 0.001, 0.0003, 0.0003, 0.0003])


@pytest.mark.parametrize(
    ("number", "position"), [(2, (0, 1)), (3, (0, 2)), (6, (1, 2))], ids=["2", "3", "6"]
)
def test_an_interrupted_training_continues_with_the_same_bits(
    line, whole, tmp_path, monkeypatch, number, position
):
    run = [*line, f"--save_dir={tmp_path / 'run'}", "--resume_train=auto", "--checkpoint_every=1"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, Places, "_pair_loss", number)
        train_main(run)
    assert position_of(tmp_path / "run") == position
    train_main(run)
    assert_same_state(tmp_path / "run", whole)
    assert metrics_of(tmp_path / "run") == metrics_of(whole)


def test_a_killed_training_continues_with_the_same_bits(line, whole, tmp_path):
    run = [*line, f"--save_dir={tmp_path / 'run'}", "--resume_train=auto", "--checkpoint_every=1"]
    stop = partial(stand_still_after, 1, 2)
    command = run_forked("train", [*run, "--num_workers=1"], tmp_path / "said", stop)
    checkpoint = tmp_path / "run" / "last_checkpoint.pth"
    wait_until(lambda: checkpoint.exists() and position_of(tmp_path / "run") == (1, 1), command)
    command.kill()
    assert command.wait() == -signal.SIGKILL
    train_main(run)
    assert_same_state(tmp_path / "run", whole)
    assert metrics_of(tmp_path / "run") == metrics_of(whole)


def test_two_processes_train_as_one(line, tmp_path):
    calm = [*line, "--backbone=TinyPlain", "--lr=1e-4"]
    train_main([*calm, f"--save_dir={tmp_path / 'one'}"])
    wait_for_all(run_job(2, "train", [*calm, f"--save_dir={tmp_path / 'two'}"], tmp_path / "said"))
    pairs = list(zip(metrics_of(tmp_path / "two"), metrics_of(tmp_path / "one"), strict=True))
    assert len(pairs) == 2
    for two, one in pairs:
        for number in ("loss", "gradient_norm"):
            assert two[number] == pytest.approx(one[number], rel=1e-4), number
        for number in ("mined_share", "mined_positives", "mined_negatives"):
            assert two[number] == pytest.approx(one[number], abs=0.02), number
        assert two["unreadable_images"] == one["unreadable_images"]


@pytest.fixture(scope="module")
def at_folder(tmp_path_factory):
    """Return a folder with '@' names: 4 x 4 cells of 10 m, with 4 images each."""
    folder = tmp_path_factory.mktemp("at") / "train"
    rng = np.random.default_rng(0)
    for cell in range(16):
        colour = rng.integers(20, 220, 3)
        for number in range(4):
            place = (10.0 * (cell % 4) + 1 + number, 10.0 * (cell // 4) + 1, 5)
            write_image(
                folder / name(*place, pano_id=f"{cell}_{number}"),
                colour=(colour + 6 * number).tolist(),
            )
    return folder


def test_classes_of_a_folder_are_places(line, at_folder, tmp_path):
    flags = [*line, f"--train_set_folder={at_folder}", f"--cache_folder={tmp_path / 'cache'}"]
    flags += ["--N=2", "--L=1", "--batch_size=2", "--epochs_num=1"]
    train_main([*flags, f"--save_dir={tmp_path / 'run'}"])
    (numbers,) = metrics_of(tmp_path / "run")
    assert numbers["loss"] > 0 and numbers["unreadable_images"] == 0
    assert "64 images of 16 places in 4 groups" in (tmp_path / "run" / "info.log").read_text()


ROWS = {  # of networks that are small, on images of their size
    "gsv_cities": ["--aggregation_args", "out_channels=4"],
    "mixvpr": ["--aggregation_args", "out_channels=4", "out_rows=2", "height=3", "width=4"],
    "salad": [
        *("--backbone=TinyDINOv2", "--train_last_blocks=1", "--image_size=56"),
        *("--aggregation_args", "clusters=4", "cluster_dim=3", "token_dim=5", "hidden=8"),
    ],
    "boq": [
        "--lr_warmup=0",  # its warm-up is in epochs
        *("--backbone=TinyDINOv2", "--train_last_blocks=1", "--image_size=56"),
        *("--aggregation_args", "proj_channels=64", "num_queries=3", "row_dim=2"),
    ],
}
DIMS = {"gsv_cities": 16, "mixvpr": 8, "salad": 4 * 3 + 5, "boq": 128}


def row_of(method, line):
    """Return the flags of a training by a row."""
    flags = [
        one for one in line if not one.startswith(("--method", "--aggregation", "--fc_output"))
    ]
    flags = [f"--method={method}", *flags, "--resize_test_imgs=56x56", *ROWS[method]]
    return [*flags, "--resize_test_imgs=32x40"] if method == "mixvpr" else flags


def test_layers_that_draw_at_random_draw_the_same_after_an_interruption(
    line, tmp_path, monkeypatch
):
    """SALAD has dropout; the row is trained by a linear fall of the learning rate."""
    flags = [*row_of("salad", line), "--epochs_num=1", "--checkpoint_every=1"]
    train_main([*flags, f"--save_dir={tmp_path / 'whole'}"])
    run = [*flags, f"--save_dir={tmp_path / 'run'}", "--resume_train=auto"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, Places, "_pair_loss", 3)
        train_main(run)
    assert position_of(tmp_path / "run") == (0, 2)
    train_main(run)
    assert_same_state(tmp_path / "run", tmp_path / "whole")
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


@pytest.mark.parametrize("method", ROWS)
def test_each_row_trains_its_own_network(line, tmp_path, method):
    flags = row_of(method, line)
    train_main([*flags, "--epochs_num=1", f"--save_dir={tmp_path / 'run'}"])
    (numbers,) = metrics_of(tmp_path / "run")
    assert 0 < numbers["loss"] < 5 and numbers["gradient_norm"] > 0
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    if method == "mixvpr":  # takes images of that size only: its file says so
        assert load_network(tmp_path / "run" / "best_model.pth").resize == "32x40"
    assert (result["method"], result["aggregation"]) == (method, METHODS[method]["aggregation"])
    assert result["descriptor_dim"] == DIMS[method]


@pytest.mark.parametrize(
    ("method", "changed", "sentence"),
    [
        ("mixvpr", ["--image_size=64"], "64x64 of training images, --image_size: mixvpr mixes"),
        ("mixvpr", ["--resize_test_imgs=64x40"], "64x40 of images of mini_city_val, --resize_te"),
        ("mixvpr", ["--resize_test_imgs=none"], "64x64 of images of mini_city_val, --resize_test"),
        ("mixvpr", ["--resize_test_imgs=32"], "32x32 of images of mini_city_val, --resize_test"),
        ("salad", ["--image_size=28"], "28x28 of training images, --image_size: salad shares"),
        ("salad", ["--resize_test_imgs=28x28"], "28x28 of images of mini_city_val, --resize_te"),
    ],
)
def test_sizes_that_an_aggregation_cannot_take_are_refused_before_training(
    line, tmp_path, refused, method, changed, sentence
):
    flags = [
        one for one in line if not one.startswith(("--method", "--aggregation", "--fc_output"))
    ]
    flags = [f"--method={method}", *flags, *ROWS[method]]
    flags += ["--resize_test_imgs=56x56"] * (method == "salad") + changed
    assert sentence in refused(train_main, [*flags, f"--save_dir={tmp_path / 'run'}"], 1)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_trained_on_is_refused_with_a_sentence(line, at_folder, tmp_path, refused):
    run = [f"--save_dir={tmp_path / 'run'}", f"--cache_folder={tmp_path / 'cache'}"]
    said = refused(train_main, [*line, *run, "--cities", "London", "Rome"], 1)
    assert "--cities Rome" in said
    flags = [*line, *run, f"--train_set_folder={at_folder}"]
    assert "--cities is of GSV-Cities" in refused(train_main, [*flags, "--cities", "London"], 1)
    said = refused(train_main, [*line, *run, "--M=20"], 1)
    assert "--M, --alpha, --N and --L split folders with '@' names" in said
    assert "has 1 of one group: a batch needs 2, or have" in refused(train_main, flags, 1)
    said = refused(train_main, [*flags, "--min_images_per_place=9"], 1)
    assert "(64 images) has 9 images: lower --min_images_per_place" in said
    said = refused(train_main, [*line, *run, "--batch_size=1"], 2)
    assert "--batch_size is 1 place: a batch teaches to tell at least 2" in said
    gsv = next(one for one in line if one.startswith("--train_set_folder=")).partition("=")[2]
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "gsv").symlink_to(gsv)
    for near in (f"{gsv}/Images", f"{gsv}/Images/London", f"{gsv}/Dataframes", tmp_path / "above"):
        said = refused(train_main, [*line, *run, f"--train_set_folder={near}"], 1)
        assert f"{near} has no Dataframes/ of GSV-Cities, but {tmp_path}/above/gsv" in said or (
            f"{near} has no Dataframes/ of GSV-Cities, but {gsv} has: give that one" in said
        )
    said = refused(train_main, [*line, *run, "--images_per_place=5"], 2)
    assert "--min_images_per_place is 4, but --images_per_place takes 5" in said
    assert "pairs need at least 2" in refused(train_main, [*line, "--images_per_place=1"], 2)
    assert "has no --brightness" in refused(train_main, [*line, "--brightness=0.1"], 2)
    assert "--rand_augment_magnitude must" in refused(
        train_main, [*line, "--rand_augment_magnitude=31"], 2
    )


def test_a_run_on_other_tables_is_not_resumed(line, tmp_path):
    folder = write_gsv_cities(tmp_path / "gsv")
    run = [*line, f"--train_set_folder={folder}", f"--save_dir={tmp_path / 'run'}"]
    train_main([*run, "--epochs_num=1"])
    again = [f"--resume_train={tmp_path / 'run' / 'last_checkpoint.pth'}", "--epochs_num=2"]
    with pytest.raises(ValueError, match="--batch_size is 3, in the checkpoint 4"):
        train_main([*again, "--batch_size=3"])
    with pytest.raises(ValueError, match=r"--cities is \['London'\], in the checkpoint \[\]"):
        train_main([*again, "--cities", "London"])  # --method is that of the run
    table = folder / "Dataframes" / "London.csv"
    table.write_text(table.read_text().replace(",pano0", ",pano99"))
    with pytest.raises(ValueError, match="names of the training images have changed"):
        train_main(again)


def test_images_of_a_bad_batch_are_named(line):
    flags = [one for one in line if one.startswith("--train_set_folder")]
    objective = settings_of(*flags).open()
    objective.attach(None, None, (32, 40), torch.device("cpu"))
    paths = objective.image_paths(1, 2)
    assert len(paths) == len(set(paths)) == 16
    assert all("/Images/" in path for path in paths)


@pytest.mark.parametrize("folder", ["gsv_cities", "GSV-Cities"])
def test_the_published_folder_is_found_by_name(tmp_path, refused, folder):
    flags = [f"--datasets_folder={tmp_path}", "--dataset=gsv_cities"]
    said = refused(train_main, [*PLACES, *flags], 1)
    assert "Dataframes/CITY.csv" in said and str(tmp_path / "GSV-Cities") in said
    write_gsv_cities(tmp_path / folder, size=(4, 4))
    assert settings_of(*flags).open().place_set.num_places == 12
    assert settings_of(*flags, "--cities", "London").open().place_set.parts == ("London",)


def test_a_dry_run_names_each_city(line, capsys, caplog):
    caplog.set_level("INFO")
    train_main([*line, "--dry_run"])
    assert "Boston" in caplog.text + capsys.readouterr().out


# ---- learning rates ----

SCHEDULES = {  # of the golden case: method, iterations of an epoch
    "gsvcities_convap_adam": ("gsv_cities", 140),
    "mixvpr_sgd": ("mixvpr", 140),
    "salad_linear": ("salad", 1041),
    "boq": ("boq", 140),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rows_have_the_learning_rates_of_the_published_code(schedule):
    method, per_epoch = SCHEDULES[schedule]
    flags = vars(parse_train_arguments([f"--method={method}"]))
    params = commons.from_flags(OptimizerParams, flags)
    wanted = golden("lr_schedules_a")[f"out.{schedule}"]
    assert len(wanted) % per_epoch == 0 and len(wanted) // per_epoch <= flags["epochs_num"]
    got = [params.lr_at(*divmod(step, per_epoch), per_epoch) for step in range(len(wanted))]
    np.testing.assert_allclose(got, wanted, rtol=1e-9)


def test_flags_of_learning_rates_that_contradict_are_refused():
    for arguments, sentence in (
        ({"lr_step": 2, "lr_milestones": [3]}, "--lr_step and --lr_milestones both"),
        ({"lr_milestones": [3]}, "--lr_milestones changes nothing while --lr_gamma is 1"),
        ({"lr_warmup": 2, "lr_warmup_epochs": 1}, "--lr_warmup and --lr_warmup_epochs both"),
        ({"lr_linear": 10}, "give both"),
        ({"lr_end": 0.5}, "give both"),
    ):
        with pytest.raises(ValueError, match=sentence):
            OptimizerParams(**arguments)
