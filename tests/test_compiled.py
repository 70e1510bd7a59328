import subprocess
import sys

import numba
import numpy as np
import pytest
from conftest import REPOSITORY

from datasets.compiled import compiled


def add_up(values):
    total = 0
    for value in values:
        total += value
    return total


def test_a_compiled_loop_is_the_plain_one():
    values = np.arange(1000)
    fast = compiled(add_up)
    assert fast(values) == fast.__wrapped__(values) == 499_500
    assert fast.__name__ == "add_up"


def test_without_a_place_for_machine_code_loops_are_compiled_each_time(monkeypatch):
    def njit(cache=False, **flags):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba_njit(**flags)

    numba_njit = numba.njit
    monkeypatch.setattr("numba.njit", njit)
    assert compiled(add_up)(np.arange(4)) == 6


@pytest.mark.parametrize("module", ["datasets.class_index", "datasets.eval_sets"])
def test_importing_does_not_wait_for_the_compiler(module):
    code = f"import sys, {module}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
