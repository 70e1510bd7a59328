"""Cores that a process may use, and how its threads wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

import machine


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Return a function that makes control groups; eight cores are allowed by the affinity."""

    def make(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return make


SECOND, FIRST = "0::/a/b\n", "5:cpu,cpuacct:/docker/x\n4:memory:/y\n"
PERIOD = {"cpu,cpuacct/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        (SECOND, {}, 8),
        (SECOND, {"a/b/cpu.max": "max 100000\n"}, 8),
        (SECOND, {"a/b/cpu.max": "350000 100000\n"}, 3),
        (SECOND, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        (SECOND, {"a/b/cpu.max": "50000 100000\n"}, 1),
        (SECOND, {"a/b/cpu.max": "6400000 100000\n"}, 8),
        (SECOND, {"a/b/cpu.max": "?\n"}, 8),
        ("0::/../c\n", {"cpu.max": "200000 100000\n"}, 2),  # a container sees itself as the root
        (FIRST, PERIOD | {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}, 8),
        (FIRST, PERIOD | {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n"}, 2),
    ],
)
def test_cores_are_those_of_the_affinity_and_of_the_quota(groups, own, files, cores):
    groups(own, files)
    assert machine.num_usable_cores() == cores


def test_without_control_groups_the_cores_are_those_of_the_affinity(groups, monkeypatch):
    monkeypatch.setattr(machine, "_OWN_CGROUPS", Path("/gone"))
    assert machine.num_usable_cores() == 8


PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


@pytest.mark.parametrize(
    ("quota", "before", "after"),
    [
        ("max 100000", {}, PASSIVE),
        ("200000 100000", {}, PASSIVE | {"OMP_NUM_THREADS": "2"}),
        ("200000 100000", {"OMP_NUM_THREADS": "5"}, PASSIVE | {"OMP_NUM_THREADS": "5"}),
        ("max 100000", {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ("max 100000", {"KMP_BLOCKTIME": "9"}, {"KMP_BLOCKTIME": "9"}),
    ],
)
def test_threads_wait_asleep_and_variables_of_the_user_stay(groups, quota, before, after):
    groups(SECOND, {"a/b/cpu.max": quota})
    environment = {"HOME": "/home/me"} | before
    machine.prepare(environment)
    assert environment == {"HOME": "/home/me"} | after


def test_entry_points_prepare_before_torch_is_there():
    command = (
        "import atexit, os, runpy, sys; sys.argv[1:] = ['--help']\n"
        "atexit.register(lambda: print('policy', os.environ['OMP_WAIT_POLICY']))\n"
        "runpy.run_module('train', run_name='__main__')"
    )
    free = {name: value for name, value in os.environ.items() if name not in PASSIVE}
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=REPOSITORY, env=free, capture_output=True, text=True
    )
    assert done.stdout.endswith("policy PASSIVE\n")
