"""Trainings that are killed, again and again, and end as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise

import pytest
from breakages import do_all
from conftest import REPOSITORY
from forked_commands import run_forked, wait_until
from training_runs import SMALL, assert_same_state, metrics_of, position_of, stand_still_after

EVERY = 2  # iterations from checkpoint to checkpoint
EPOCHS, ITERATIONS = 3, 12
TINY = [
    *SMALL,
    *("--backbone=MobileNetV2", f"--epochs_num={EPOCHS}", f"--iterations_per_epoch={ITERATIONS}"),
    *(f"--checkpoint_every={EVERY}", "--num_workers=2"),
]


@pytest.fixture(scope="module")
def places(datasets_folder, tmp_path_factory):
    """Return flags, and a folder to work in."""
    folder = tmp_path_factory.mktemp("killed")
    return [f"--datasets_folder={datasets_folder}", f"--cache_folder={folder / 'cache'}"], folder


@pytest.fixture(scope="module")
def whole(places):
    """Return the folder of a training that nothing happened to."""
    flags, folder = places
    command = run_forked("train", [*TINY, *flags, f"--save_dir={folder / 'whole'}"], folder / "w")
    assert command.wait() == 0, command.stderr
    return folder / "whole"


def note_iterations(file, number_type="float32", iterations=ITERATIONS):
    """Append a line to a file after each iteration, before anything is kept of it."""
    from training.metrics import Progress

    note = Progress.note

    def note_and_tell(self, *arguments):
        note(self, *arguments)
        with open(file, "a") as lines:
            lines.write(f"{self.epoch * iterations + self.iteration}\n")

    Progress.note = note_and_tell
    if number_type != "float32":
        import training.state

        training.state.cpu_computes_in = lambda name: True


def assert_ended_alike(folder, whole):
    """Compare all that a training leaves."""
    assert_same_state(folder, whole)
    assert metrics_of(folder) == metrics_of(whole)
    recalls, expected = (
        json.loads((run / "results.json").read_text())["recalls"] for run in (folder, whole)
    )
    assert recalls == expected
    leftovers = {file.name for file in folder.iterdir()} - {file.name for file in whole.iterdir()}
    assert not {name for name in leftovers if "tfevents" not in name}


def kill_repeatedly(start, folder, reached, limits):
    """Start a training again and again; kill it at random moments, while it writes, or trains.

    Args:
        start: Starts it, given the iteration after which it stands still until it is killed: so it
            does not end before the last kill, however fast it trains.
        folder: Of the run.
        reached: File of `note_iterations`.
        limits: That iteration for each kill, counted over all epochs.

    Yields:
        After each kill, the number of iterations that the last checkpoint has.
    """
    moments = random.Random(0)
    for number, (first, last) in enumerate(pairwise([0, *limits])):
        command = start(last)

        def stands_still():
            return done(reached) >= last  # noqa: B023

        if number % 3 == 0:  # as soon as a checkpoint is being written, after some iterations
            some = first + moments.randint(0, last - first - 2 * EVERY)
            wait_until(lambda: done(reached) >= some, command)  # noqa: B023
            wait_until(lambda: is_being_written(folder) or stands_still(), command)  # noqa: B023
        elif number % 3 == 1:  # after some time
            end_s = time.monotonic() + moments.uniform(0, 3)
            wait_until(lambda: time.monotonic() > end_s or stands_still(), command)  # noqa: B023
        else:  # after some iterations
            some = moments.randint(first + EVERY + 1, last)
            wait_until(lambda: done(reached) >= some, command)  # noqa: B023
        command.kill()
        assert command.wait() == -signal.SIGKILL
        yield iterations_kept(folder) if (folder / "last_checkpoint.pth").exists() else 0


def is_being_written(folder):
    return any(".last_checkpoint" in name for name in os.listdir(folder))


def done(reached):
    """Return how many iterations were done at most, in all epochs."""
    return max(map(int, reached.read_text().split()), default=0) if reached.exists() else 0


def iterations_kept(run):
    """Return how many iterations the last checkpoint has seen, in all epochs."""
    epoch, iteration = position_of(run)
    return epoch * json.loads((run / "args.json").read_text())["iterations_per_epoch"] + iteration


@pytest.mark.parametrize(
    ("num_kills", "amp_dtype"),
    [
        (3, "float32"),
        pytest.param(36, "float32", marks=pytest.mark.long),
        pytest.param(5, "fp16", marks=pytest.mark.long),
    ],
)
def test_a_training_that_is_killed_ends_in_the_same_bits(places, request, num_kills, amp_dtype):
    """Slow: checkpoints must take so long that a kill hits one while it is written."""
    flags, folder = places
    flags = [*TINY, *flags]
    run, reached = folder / f"run{num_kills}", folder / f"reached{num_kills}"
    iterations = ITERATIONS * (num_kills + 1) // 4  # enough to do for all kills
    flags += [f"--iterations_per_epoch={iterations}"]
    if amp_dtype != "float32":
        flags += ["--use_amp16", f"--amp_dtype={amp_dtype}"]
    note = partial(note_iterations, reached, amp_dtype, iterations)
    if num_kills == 3:
        expected = request.getfixturevalue("whole")
    else:
        expected = folder / f"whole{num_kills}"
        before_it = partial(note_iterations, os.devnull, amp_dtype, iterations)
        command = run_forked("train", [*flags, f"--save_dir={expected}"], folder / "w2", before_it)
        assert command.wait(300) == 0, command.stderr

    run.mkdir()
    command_line = [*flags, f"--save_dir={run}", "--resume_train=auto"]

    def start(last):
        stop = partial(stand_still_after, *divmod(last, iterations))
        return run_forked("train", command_line, folder / "said", partial(do_all, note, stop))

    num_iterations = EPOCHS * iterations
    limits = [num_iterations * (1 + kill) // (1 + num_kills) for kill in range(num_kills)]
    kept = 0
    for kept_now in kill_repeatedly(start, run, reached, limits):
        assert kept_now >= kept
        kept = kept_now
        assert done(reached) - kept <= EVERY
    command = run_forked("train", command_line, folder / "last", note)
    assert command.wait(300) == 0, command.stderr
    assert_ended_alike(run, expected)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_training_after_its_iteration(places, whole, number, code):
    flags, folder = places
    run, reached = folder / f"signal{number}", folder / f"reached_signal{number}"
    command_line = [*TINY, *flags, f"--save_dir={run}", "--checkpoint_every=0"]
    is_sent = folder / f"sent{number}"
    stop = partial(stand_still_after, EPOCHS - 1, ITERATIONS - 1, until=is_sent)
    before = partial(do_all, partial(note_iterations, reached), stop)
    command = run_forked("train", command_line, folder / "s", before)
    wait_until(lambda: done(reached) > ITERATIONS, command)
    command.send(number, to_workers=True)
    is_sent.touch()
    assert command.wait() == code, command.stderr
    assert "Traceback" not in command.stdout + command.stderr
    assert iterations_kept(run) == int(reached.read_text().split()[-1])
    assert f"--resume_train {run / 'last_checkpoint.pth'}" in command.stdout
    assert not (run / "results.json").exists()
    command = run_forked("train", ["--resume_train", run / "last_checkpoint.pth"], folder / "s")
    assert command.wait() == 0, command.stderr
    assert_ended_alike(run, whole)


def start_job(argv, said):
    """Start a training by two processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *torchrun, "tests/tiny_backbone.py", "train.py", *map(str, argv)]
    with open(said, "w") as file:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=file, stderr=file)


@pytest.mark.long
def test_a_signal_for_one_process_of_a_job_stops_all_at_one_iteration(places):
    flags, folder = places
    run, whole, said = (folder / f"{name}_processes" for name in ("run", "whole", "said"))
    line = [*TINY, *flags, "--iterations_per_epoch=60", "--resume_train=auto"]
    assert start_job([*line, f"--save_dir={whole}"], said).wait(300) == 0, said.read_text()
    line += [f"--save_dir={run}", "--checkpoint_every=0"]
    job = start_job(line, said)
    while "Epoch 1:" not in said.read_text():
        assert job.poll() is None, said.read_text()
        time.sleep(0.05)
    ranks = subprocess.check_output(["pgrep", "-P", str(job.pid)], text=True).split()
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGTERM)
    assert job.wait(60) == 0, said.read_text()
    assert f"Stopped by SIGTERM. Resume with --resume_train {run}" in said.read_text()
    epoch, iteration = position_of(run)
    assert epoch in (1, 2) and (iteration > 0 or epoch == 2)
    assert start_job(line, said).wait(300) == 0, said.read_text()
    assert_ended_alike(run, whole)
