"""Commands on machines that are short of handles, shared memory, or that lose processes."""

import json
from functools import partial

import pytest
from breakages import allow_handles, can_mount, shrink_shared_memory
from forked_commands import run_forked
from training_runs import SMALL, metrics_of

NETVLAD = [
    *("--method=netvlad", "--dataset=mini_city", "--backbone=Tiny", "--backbone_weights=none"),
    *("--image_size=32", "--resize_test_imgs=32", "--batch_size=2", "--epochs_num=1"),
    *("--negs_num_per_query=2", "--neg_samples_num=10", "--cache_refresh_rate=20"),
    *("--queries_per_epoch=20", "--device=cpu", "--lr=0.001"),
]
FEWER = "processes beside this one, not --num_workers 8"
AS_ROOT = pytest.mark.skipif(not can_mount(), reason="only root may mount a small /dev/shm")
SCARCE = [
    pytest.param(partial(allow_handles, 60), FEWER, id="60 handles"),
    pytest.param(partial(allow_handles, 256), "", id="256 handles", marks=pytest.mark.long),
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
    module = "train" if name == "netvlad" else name
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
        pytest.param("eval", marks=pytest.mark.long),
        pytest.param("localize", marks=pytest.mark.long),
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
