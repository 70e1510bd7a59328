import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

import commons
from runs import provenance
from runs.provenance import code_version, peak_memory, record_start

CPU = torch.device("cpu")


def read(folder):
    return json.loads((folder / "environment.json").read_text())


def test_every_start_has_its_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--save_dir", "a b"])
    record_start(tmp_path, CPU)
    [first] = read(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("WANDB_API_KEY", "hidden")
    record_start(tmp_path, CPU)
    before, second = read(tmp_path)
    assert before == first
    assert second["command"].endswith("train.py --save_dir 'a b'")
    assert second["working_folder"] == os.getcwd()
    assert second["variables"]["OMP_NUM_THREADS"] == "7" and "hidden" not in json.dumps(second)
    expected = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "code_version": code_version(),
        "host": platform.node(),
        "num_cores": os.cpu_count(),
        "num_processes": 1,
        "num_threads": torch.get_num_threads(),
        "device": "cpu",
    }
    assert {key: second[key] for key in expected} == expected
    assert {"pillow", "numba", "torchvision"} <= second["packages"].keys()
    assert second["cpu"] and second["os"]


@pytest.mark.parametrize("content", ["{", "{}", '"text"'])
def test_a_damaged_history_does_not_stop_a_run(tmp_path, content):
    (tmp_path / "environment.json").write_text(content)
    record_start(tmp_path, CPU)
    assert len(read(tmp_path)) == 1


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(commons, "rank", lambda: 1)
    record_start(tmp_path, CPU)
    assert not list(tmp_path.iterdir())


def test_a_machine_without_nvidia_tools_has_no_driver(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance._driver() is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_the_peak_of_memory_stays_when_it_is_given_back():
    code = (
        "import torch, numpy; from runs.provenance import peak_memory; cpu = torch.device('cpu');"
        "before = peak_memory(cpu)['peak_ram_mb']; numpy.ones(400_000_000, numpy.uint8);"
        "print(peak_memory(cpu)['peak_ram_mb'] - before)"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    said = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    assert 350 < float(said) < 450
    assert set(peak_memory(CPU)) == {"peak_ram_mb"}


def test_systems_that_do_not_tell_are_left_out(monkeypatch):
    def no_such_file(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(provenance.Path, "read_text", no_such_file)
    if provenance.resource is not None:
        linux = peak_memory(CPU)["peak_ram_mb"]
        assert linux > 50
        monkeypatch.setattr(sys, "platform", "darwin")
        assert peak_memory(CPU)["peak_ram_mb"] == pytest.approx(linux / 1024, abs=0.2)
    monkeypatch.setattr(provenance, "resource", None)
    assert peak_memory(CPU) == {}
