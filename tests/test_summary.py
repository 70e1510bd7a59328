"""The line of an epoch, and the hint at slow iterations."""

import os

import pytest
import torch

from training import metrics
from training.metrics import EpochStats, Progress
from training.summary import MAX_EPOCH_LINE, format_epoch

STATS = EpochStats(5.12345, 2.0, 64.0, 0.1, 750.0, 0.75, 0)


def test_an_epoch_is_one_line():
    turn = {"group": 1, "mining_seconds": 2.5}
    recalls = {"R@1": 45.25, "R@5": 60.0, "R@10": 70.0}
    assert format_epoch((3, 49), turn, STATS, recalls, True, 3 * 86400.0) == (
        "Epoch 3/49  group 1  loss 5.1235  R@1 45.2  R@5 60.0  (best)  12 min  3.0 days left"
    )
    skipped = STATS._replace(skipped_steps=1)
    assert format_epoch((0, 1), {}, skipped, {}, False, 30.0) == (
        "Epoch 0/1  loss 5.1235  12 min  30 s left  skipped 1 step"
    )


def test_the_longest_line_fits_into_a_terminal():
    recalls = dict.fromkeys(("R@1", "R@5"), 100.0)
    stats = EpochStats(123.4567, 2.0, 64.0, 0.1, 99 * 86400.0, 123.45, 1234)
    line = format_epoch((199, 199), {"generation": 3}, stats, recalls, True, 99 * 86400.0)
    assert len(line) <= MAX_EPOCH_LINE


@pytest.fixture
def make_progress(monkeypatch):
    """Return a function that goes through iterations of some seconds, by a clock of its own."""
    now_s = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now_s[0])
    monkeypatch.setattr(os, "getloadavg", lambda: (11.25, 0, 0), raising=False)

    def make(seconds, waiting_s=0.0):
        def batches():
            for _ in seconds:
                now_s[0] += waiting_s
                yield metrics.Batch(torch.zeros(2), torch.zeros(2), [])

        progress = Progress(0, torch.device("cpu"), skips_steps=False)
        for _, taken_s in zip(progress.waiting(batches()), seconds, strict=True):
            now_s[0] += taken_s
            progress.note(torch.tensor(1.0), torch.tensor(1.0), 2)
        return progress

    return make


def test_iterations_that_wait_for_other_processes_are_hinted_at(make_progress):
    hint = make_progress([0.5] * 5 + [3.5] * 15).hint_at_neighbours()
    assert "took 2.75 s on average, the fastest one 0.50 s" in hint
    assert "the load is 11.2" in hint and "OMP_NUM_THREADS" in hint


@pytest.mark.parametrize(
    ("seconds", "waiting_s"),
    [([0.5] * 20, 0.0), ([0.5] * 10 + [1.5] * 10, 0.0), ([0.5] * 20, 5.0), ([0.5, 9.0], 0.0)],
)
def test_no_hint_at_even_iterations_at_waiting_for_images_or_at_few(
    make_progress, seconds, waiting_s
):
    assert make_progress(seconds, waiting_s).hint_at_neighbours() is None
