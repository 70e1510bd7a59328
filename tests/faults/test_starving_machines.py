"""Commands on machines that are short of handles, shared memory, or that lose processes."""

import json
import os
import signal
import time
from functools import partial

import pytest
from breakages import allow_handles, can_mount, do_at, send, shrink_shared_memory
from forked_commands import run_forked
from training_runs import SMALL, metrics_of

NETVLAD = [
    *("--method=netvlad", "--dataset=mini_city", "--backbone=Tiny", "--backbone_weights=none"),
    *("--image_size=32", "--resize_test_imgs=32", "--batch_size=2", "--epochs_num=1"),
    *("--negs_num_per_query=2", "--neg_samples_num=10", "--cache_refresh_rate=20"),
    *("--queries_per_epoch=20", "--device=cpu", "--lr=0.001"),
]
PLACES = [
    *("--method=gsv_cities", "--dataset=mini_city", "--backbone=Tiny", "--backbone_weights=none"),
    *("--image_size=32", "--resize_test_imgs=32", "--batch_size=2", "--epochs_num=1"),
    *("--aggregation_args", "out_channels=2", "--device=cpu", "--lr=0.001", "--no-use_amp16"),
    *("--iterations_per_epoch=4", "--N=2", "--L=1"),
]
LONG = pytest.mark.long
FEWER = "processes beside this one, not --num_workers 8"
AS_ROOT = pytest.mark.skipif(not can_mount(), reason="only root may mount a small /dev/shm")
SCARCE = [
    pytest.param(partial(allow_handles, 60), FEWER, id="60 handles"),
    pytest.param(partial(allow_handles, 256), "", id="256 handles", marks=LONG),
    pytest.param(partial(shrink_shared_memory, 1 << 15), FEWER, id="32 kB", marks=AS_ROOT),
    pytest.param(
        *(partial(shrink_shared_memory, 1 << 18), "through pipes"), id="256 kB", marks=AS_ROOT
    ),
]


@pytest.fixture(scope="module")
def commands(datasets_folder, model_file, tmp_path_factory):
    """Return the flags of each command, but for --save_dir and --num_workers."""
    places = [f"--datasets_folder={datasets_folder}"]
    cache = f"--cache_folder={tmp_path_factory.mktemp('cache')}"
    city = datasets_folder / "mini_city" / "processed" / "test"
    return {
        "train": [*SMALL, *places, cache, "--epochs_num=1"],
        "netvlad": [*NETVLAD, *places],
        "places": [*PLACES, *places, cache],
        "eval": [f"--resume={model_file}", "--device=cpu", *places, "--dataset=mini_city_val"],
        "localize": [
            *(f"--resume={model_file}", "--device=cpu", f"--database={city / 'database'}"),
            str(city / "queries_v1"),
        ],
    }


@pytest.fixture(scope="module")
def whole(commands, tmp_path_factory):
    """Return a function that returns what a command finds that nothing disturbs."""
    found = {}

    def of(name):
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            command = start(commands, name, folder, num_workers=0)
            assert command.wait() == 0, command.stderr
            found[name] = found_in(folder / "run")
        return found[name]

    return of


def start(commands, name, folder, num_workers=8, before=None):
    module = "train" if name in ("netvlad", "places") else name
    flags = [*commands[name], f"--save_dir={folder / 'run'}", f"--num_workers={num_workers}"]
    return run_forked(module, flags, folder / "said", before)


def found_in(run):
    """Return the numbers that a run has found."""
    if (run / "places.csv").exists():
        return (run / "places.csv").read_text()
    recalls = json.loads((run / "results.json").read_text())["recalls"]
    return recalls, metrics_of(run) if (run / "metrics.jsonl").exists() else None


@pytest.mark.parametrize(
    "name",
    [
        *("train", "netvlad"),
        pytest.param("places", marks=LONG),
        pytest.param("eval", marks=LONG),
        pytest.param("localize", marks=LONG),
    ],
)
@pytest.mark.parametrize(("before", "text"), SCARCE)
def test_scarce_machines_find_the_same(commands, whole, tmp_path, name, before, text):
    command = start(commands, name, tmp_path, before=before)
    assert command.wait() == 0, command.stderr
    assert text in command.stdout
    assert "Traceback" not in command.stderr
    assert found_in(tmp_path / "run") == whole(name)


@AS_ROOT
@pytest.mark.parametrize("num_bytes", [1 << 15, 1 << 18])  # those of shared/data/cases/16_small_shm
def test_an_evaluation_in_a_container(commands, whole, tmp_path, num_bytes):
    before = partial(shrink_shared_memory, num_bytes)
    command = start(commands, "eval", tmp_path, num_workers=2, before=before)
    assert command.wait() == 0, command.stderr
    assert found_in(tmp_path / "run") == whole("eval")
    assert "/dev/shm" in command.stdout and "Traceback" not in command.stderr


def lose_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("name", "loads"),
    [
        ("train", "datasets.groups:load_image"),
        ("netvlad", "datasets.loading:load_image"),  # in mining
        ("places", "datasets.places:load_image"),
        pytest.param("netvlad", "datasets.tuples:load_image", marks=LONG),
        pytest.param("eval", "datasets.loading:load_image", marks=LONG),
        pytest.param("localize", "datasets.loading:load_image", marks=LONG),
    ],
)
def test_a_loader_process_that_is_lost_ends_the_run(commands, tmp_path, name, loads):
    before = partial(do_at, loads, 5, lose_this_process)
    command = start(commands, name, tmp_path, num_workers=2, before=before)
    assert command.wait(60) == 1
    assert "Error: A loader process was killed, most likely as the memory" in command.stderr
    assert "Traceback" not in command.stdout + command.stderr


def make_city(tmp_path, before):
    flags = ["--preset=tiny", f"--folder={tmp_path / 'city'}", "--num_workers=2"]
    return run_forked("mini_city.__main__", flags, tmp_path / "said", before)


def test_a_process_that_is_lost_ends_the_making_of_a_city(tmp_path):
    command = make_city(tmp_path, partial(do_at, "mini_city.writer:take", 3, lose_this_process))
    assert command.wait(60) == 1
    assert "Error: A process was killed, most likely as the memory was full" in command.stderr
    assert "Traceback" not in command.stderr
    assert sorted(os.listdir(tmp_path)) == ["said.err", "said.out"], "nothing is left"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=LONG)])
def test_a_signal_ends_the_making_of_a_city(tmp_path, number):
    command = make_city(tmp_path, partial(do_at, "mini_city.writer:take", 3, partial(send, number)))
    start_s = time.monotonic()
    assert command.wait(60) == (130 if number == signal.SIGINT else 1)
    assert time.monotonic() - start_s < 30
    assert f"Stopped by {number.name}. Start again" in command.stdout
    assert "Traceback" not in command.stderr and not (tmp_path / "city").exists()


@LONG
def test_a_process_that_is_lost_ends_a_check(commands, tmp_path, datasets_folder):
    folder = datasets_folder / "mini_city" / "processed" / "val"
    before = partial(do_at, "tools.check.image_files:inspect_image", 3, lose_this_process)
    flags = [folder, "--decode", "--num_workers=2"]
    command = run_forked("tools.check.__main__", flags, tmp_path / "said", before)
    assert command.wait(60) == 1
    assert "was ended by the system, probably because memory ran out" in command.stderr
