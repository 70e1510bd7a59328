"""Trainings by several processes, as torchrun starts them."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import WITH_TINY, name, run, write_image
from forked_commands import run_job, wait_for_all
from processes_at_work import make_batch, make_head, make_network
from training_runs import SMALL, metrics_of, tensors_of

from datasets.class_index import load_index
from datasets.groups import GroupSampler
from datasets.partition import PartitionParams
from model.checkpoint_files import read_checkpoint
from train import main as train_main


@pytest.fixture(scope="module", params=[2, 3])
def step(request, tmp_path_factory):
    """Return what some processes computed together."""
    file = tmp_path_factory.mktemp("step") / "step.pth"
    wait_for_all(run_job(request.param, "processes_at_work", [file], file.with_name("said")))
    step = torch.load(file, weights_only=True)
    assert step["sum_of_ranks"] == sum(range(request.param))
    return step


def test_gradients_of_several_processes_are_those_of_one(step):
    images, labels = make_batch()
    network, head = make_network(), make_head()
    F.cross_entropy(head(network(images), labels), labels).backward()
    expected = [parameter.grad for parameter in (*network.parameters(), *head.parameters())]
    torch.testing.assert_close(step["gradients"], expected, rtol=2e-5, atol=2e-6)


def test_no_image_is_drawn_by_two_processes(datasets_folder, tmp_path):
    params = PartitionParams(min_images_per_class=3)
    index = load_index(datasets_folder / "mini_city" / "processed" / "train", params, tmp_path)
    whole = GroupSampler(index, 2, batch_size=6, iterations=20, seed=3)
    shares = [GroupSampler(index, 2, 6, 20, 3, share=(number, 3)) for number in range(3)]
    for epoch in (0, 1):
        for sampler in (whole, *shares):
            sampler.epoch = epoch
        for batch, *parts in zip(whole, *shares, strict=True):
            assert [len(part) for part in parts] == [2, 2, 2]
            assert [draw for part in parts for draw in part] == batch
            assert len({draw.label for draw in batch}) == 6


CALM = [  # rounding grows in a training: not much with these
    *SMALL,
    "--backbone=TinyPlain",  # without BatchNorm, which sees all of a batch on GPUs only
    *("--image_size=64", "--batch_size=8", "--lr=1e-5", "--classifiers_lr=1e-3"),
]


@pytest.fixture(scope="module")
def places(datasets_folder, tmp_path_factory):
    """Return the flags of a training that several tests compare with, and its folder."""
    folder = tmp_path_factory.mktemp("processes")
    flags = [*CALM, f"--datasets_folder={datasets_folder}", f"--cache_folder={folder / 'cache'}"]
    train_main([*flags, f"--save_dir={folder / 'one'}"])
    return flags, folder


def assert_same_training(folder: Path, other: Path) -> None:
    """Compare losses, recalls, and what is kept, within what rounding explains."""
    for line, expected in zip(metrics_of(folder), metrics_of(other), strict=True):
        for number in ("loss", "gradient_norm"):
            assert line.pop(number) == pytest.approx(expected.pop(number), rel=1e-4)
        assert line == expected
    state, expected = (
        tensors_of(read_checkpoint(run / "last_checkpoint.pth") | {"args": None, "rng_state": None})
        for run in (folder, other)
    )
    assert {key: getattr(value, "shape", None) for key, value in state.items()} == {
        key: getattr(value, "shape", None) for key, value in expected.items()
    }
    weights = [key for key in state if "classifiers_state_dict" in key]
    assert len(weights) == 2
    for key in weights:
        torch.testing.assert_close(state[key], expected[key], rtol=0, atol=2e-3)
    moments = [key for key in state if key.endswith("/exp_avg")]  # means of gradients
    assert len(moments) == 7
    for key in moments:
        difference = (state[key] - expected[key]).norm() / expected[key].norm()
        assert difference < 0.2, key  # rounding only; a factor of 2 would be 0.5 or more
    results = [json.loads((run / "results.json").read_text()) for run in (folder, other)]
    assert results[0]["recalls"] == results[1]["recalls"]


def test_several_processes_train_like_one(places):
    flags, folder = places
    several = folder / "several"
    flags = [*flags, "--num_preds_to_save=1", f"--save_dir={several}"]
    job = run_job(2, "train", flags, folder / "said")
    wait_for_all(job)
    assert [command.stdout.count("Epoch 3/3  group 1") for command in job] == [1, 0]
    assert (several / "info.log").read_text().count("Epoch 3/3  group 1") == 1
    assert len(list(several.glob("events.out.*"))) == 1
    assert_same_training(several, folder / "one")


def test_another_number_of_processes_continues(places):
    flags, folder = places
    parts = folder / "parts"
    first = [*flags, "--epochs_num=2", f"--save_dir={parts}"]
    wait_for_all(run_job(2, "train", first, folder / "said"))
    train_main([f"--resume_train={parts / 'last_checkpoint.pth'}", "--epochs_num=3"])
    again = [f"--resume_train={parts / 'last_checkpoint.pth'}", "--epochs_num=4"]
    wait_for_all(run_job(4, "train", again, folder / "said"))
    assert_same_training(parts, folder / "one")


def test_a_process_that_fails_ends_the_job_with_its_own_error(places, tmp_path):
    """Slow: torchrun itself ends the other processes, and each imports torch."""
    flags, _ = places
    for number in range(8):
        write_image(tmp_path / "train" / name(1, 1, 10, pano_id=f"{number}"))
        broken = tmp_path / "train" / name(101, 101, 10, pano_id=f"{number}")
        broken.write_bytes(b"no image")
    own = [f"--train_set_folder={tmp_path / 'train'}", "--groups_num=1", "--batch_size=2"]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *WITH_TINY)
    result = run(*torchrun, "train.py", *flags, *own, f"--save_dir={tmp_path / 'run'}")
    assert result.returncode != 0
    assert "Error in process" in result.stderr and "cannot be read" in result.stderr
    assert 'Traceback (most recent call last):\n  File "/' not in result.stderr.split("torchrun")[0]


def test_batches_that_cannot_be_shared_evenly_are_refused(places):
    flags, folder = places
    flags = [*flags, f"--save_dir={folder / 'refused'}"]
    for command in run_job(3, "train", flags, folder / "said"):
        assert command.wait() == 2
        assert "--batch_size 8 are the images of an iteration in all processes" in command.stderr
    assert not (folder / "refused").exists()
