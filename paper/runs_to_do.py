"""Plan the runs behind tables and figures, and start the missing ones.

A network takes up to three: train.py; tools.whiten, if it ends in another whitening than that of
the training's own flags; and eval.py.
"""

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

import commons
from model.published import fetch_published, parse_published
from paper.networks import Released, Source, Trained
from paper.run_log import Missing, RunLog, TrainingRun
from runs.folders import is_unused
from training.metrics import describe_seconds

FAILED = "failed"
# Threads that wait actively slow small networks several times where another program runs.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
_REPOSITORY = Path(__file__).resolve().parents[1]
_WHITEN = "tools/whiten.py"
_BAR_EVERY_S, _BAR_BYTES = 1.0, 600  # a bar of a command is shown again; its longest line


@dataclass(frozen=True)
class Need:
    """A network that a table or figure needs, and its test sets.

    Attributes:
        source: The network.
        datasets: Names of test sets; none if the validation of the training suffices.
    """

    source: Source
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One network with one seed, and its test sets."""

    source: Trained | Released
    seed: int
    datasets: tuple[str, ...]

    def __str__(self) -> str:
        """Return network and seed."""
        return str(self.source) + (f", seed {self.seed}" * isinstance(self.source, Trained))


@dataclass(frozen=True)
class RunOptions:
    """Folders and devices of runs; none of it changes results."""

    runs_folder: Path  # new runs go here
    datasets_folder: str
    device: str
    num_workers: int


def make_steps(needs: Iterable[Need], seeds: Sequence[int]) -> list[Step]:
    """Join the needs of several tables and figures by network, in order.

    A training that another one starts from comes before it.

    Args:
        needs: Of all requested tables and figures.
        seeds: Of trainings; a released network is one network.
    """
    asked: dict[tuple[Trained | Released, int], dict[str, None]] = {}
    for need in needs:
        for seed in seeds if isinstance(need.source, Trained) else seeds[:1]:
            for start in _starts_of(need.source):
                asked.setdefault((start, seed), {})
            asked.setdefault((need.source, seed), {}).update(dict.fromkeys(need.datasets))
    return [Step(source, seed, tuple(names)) for (source, seed), names in asked.items()]


def _starts_of(source: Source) -> list[Trained]:
    """Return the trainings that a network starts from, the first one first."""
    start = getattr(source, "start", None)
    return [*_starts_of(start), start] if start else []


def take_shard(steps: Sequence[Step], number: int, num_shards: int) -> list[Step]:
    """Return a part of the steps; those that need the same training are in one part.

    Args:
        steps: All.
        number: Of the part, from 1.
        num_shards: Number of parts.
    """
    families: dict[tuple[Trained | Released, int], list[Step]] = {}
    for step in steps:
        families.setdefault((getattr(step.source, "origin", step.source), step.seed), []).append(
            step
        )
    return list(itertools.chain.from_iterable([*families.values()][number - 1 :: num_shards]))


def missing_evaluations(step: Step, log: RunLog) -> list[str]:
    """Return the test sets of a step on disk without results."""
    return [
        name
        for name in step.datasets
        if log.has_set(name) and isinstance(log.evaluation(step.source, step.seed, name), Missing)
    ]


def why_blocked(step: Step, log: RunLog) -> tuple[str, str]:
    """Return why a step cannot run here, short and long; empty if it can.

    Files of released networks are downloaded.
    """
    if isinstance(step.source, Released) and missing_evaluations(step, log):
        try:
            fetch_published(parse_published(step.source.spec))
        except (FileNotFoundError, ValueError) as error:
            return "no weights", str(error)
    elif not is_made(step, log) and (missing := log.missing_for_training(step.source)):
        return f"no {missing}", f"{missing} is not below {log.datasets_folder}"
    return "", ""


def is_trained(step: Step, log: RunLog) -> bool:
    """Whether the network of a step is trained, or needs no training."""
    return isinstance(step.source, Released) or isinstance(_finished(step, log), TrainingRun)


def is_made(step: Step, log: RunLog) -> bool:
    """Whether the network of a step is there: trained and, if it is to be, whitened."""
    if isinstance(step.source, Released):
        return True
    training = _finished(step, log)
    return isinstance(training, TrainingRun) and training.model.is_file()


def _finished(step: Step, log: RunLog) -> TrainingRun | Missing:
    return log.finished_training(step.source, step.seed)


def carry_out(steps: Sequence[Step], log: RunLog, options: RunOptions) -> dict[Step, str]:
    """Run the missing parts of each step; continue with the next one if a run fails.

    Returns:
        The reasons of steps that could not run.
    """
    blocked = {step: why for step in steps if any(why := why_blocked(step, log))}
    for short in dict.fromkeys(short for short, _ in blocked.values()):
        reasons = [long for other, long in blocked.values() if other == short]
        are = f"{commons.plural(len(reasons), 'network')} {'is' if len(reasons) == 1 else 'are'}"
        logging.warning(f"{are} left out, {short}: {reasons[0]}")
    failures = {step: short for step, (short, _) in blocked.items()}
    todo = [
        step
        for step in steps
        if step not in failures and (not is_made(step, log) or missing_evaluations(step, log))
    ]
    first_s = time.monotonic()
    for number, step in enumerate(todo, start=1):
        start_s = time.monotonic()
        logging.info(f"[{number}/{len(todo)}] {step}")
        try:
            _carry_out(step, log, options)
        except RuntimeError as error:
            failures[step] = FAILED
            logging.error(f"{step} failed: {error}")
        now_s = time.monotonic()
        left_s = (now_s - first_s) / number * (len(todo) - number)
        left = f"; about {describe_seconds(left_s)} left, if the others take as long"
        logging.info(f"  {describe_seconds(now_s - start_s)}{left * (number < len(todo))}")
        log.refresh()
    return failures


def _carry_out(step: Step, log: RunLog, options: RunOptions) -> None:
    if not is_trained(step, log):
        _train(step, log, options)
        log.refresh()
        if not is_trained(step, log):
            raise RuntimeError("train.py was stopped before its end")
    if not is_made(step, log):
        _whiten(step, log, options)
    if names := missing_evaluations(step, log):
        _evaluate(step, names, log, options)


def _evaluate(step: Step, names: Sequence[str], log: RunLog, options: RunOptions) -> None:
    """Evaluate on several sets at once, which may share a database; one by one if that fails."""
    try:
        _evaluate_at_once(step, names, log, options)
    except RuntimeError:
        if len(names) == 1:
            raise
        errors = []
        for name in names:
            try:
                _evaluate_at_once(step, [name], log, options)
            except RuntimeError as error:
                errors.append(f"{name}: {error}")
        if errors:
            raise RuntimeError("\n".join(errors)) from None


def _evaluate_at_once(step: Step, names: Sequence[str], log: RunLog, options: RunOptions) -> None:
    if isinstance(step.source, Trained):
        model = f"--resume={_finished(step, log).model}"
    else:
        model = f"--model={step.source.spec}"
    resize = [f"--resize_test_imgs={step.source.resize}"] if step.source.resize else []
    folder = _new_folder(options.runs_folder, f"eval_{step.source.slug(step.seed)}")
    argv = [*resize, "--no_report", f"--save_dir={folder}"]
    _run("eval.py", [model, "--datasets", *names, *argv], folder, options)


def _train(step: Step, log: RunLog, options: RunOptions) -> None:
    training = log.training(step.source, step.seed)
    if training is not None:
        line = [f"--save_dir={training.folder}", "--resume_train=auto"]
        _run("train.py", line, training.folder, options)
        return
    argv = step.source.argv(step.seed)
    if start := step.source.start:
        found = log.finished_training(start, step.seed)
        if isinstance(found, Missing):
            where = f"{start}, seed {step.seed}"
            raise RuntimeError(f"it starts from {where}, which is missing: {found.reason}")
        argv.append(f"--resume_model={found.best_model}")
    folder = _new_folder(options.runs_folder, f"train_{step.source.slug(step.seed)}")
    _run("train.py", [*argv, f"--save_dir={folder}"], folder, options)


def _whiten(step: Step, log: RunLog, options: RunOptions) -> None:
    """Fit a whitening to images of the training set, as train.py does at its end."""
    source, training = step.source, _finished(step, log)
    argv = [str(training.best_model), f"--save={training.model}", f"--kind={source['whitening']}"]
    argv += [f"--dim={source['whiten_dim']}", f"--kept_dims={source['kept_dims'] or source.dim}"]
    argv += [f"--images={source['whiten_images']}", f"--dataset={source['dataset']}"]
    resize = [f"--resize_test_imgs={source.resize}"] if source.resize else []
    _run(_WHITEN, [*argv, *resize], training.model, options)


def _new_folder(parent: Path, name: str) -> Path:
    """Return a folder without results and networks: the name, or the name with a number."""
    number = 1
    while not is_unused(folder := parent / (f"{name}_{number}" if number > 1 else name)):
        number += 1
    return folder


def _run(script: str, argv: Sequence[str], place: Path, options: RunOptions) -> None:
    """Run a script in a process of its own; raise a RuntimeError with its error.

    Args:
        script: Its path in the repository.
        argv: Its command line, without data sets and devices.
        place: The folder or file that it writes.
        options: Of all runs.
    """
    command = [
        *(sys.executable, _REPOSITORY / script, *argv),
        f"--datasets_folder={options.datasets_folder}",
        f"--device={options.device}",
        f"--num_workers={options.num_workers}",
    ]
    logging.info(f"  {script}, into {place}")
    search_path = os.pathsep.join(filter(None, (str(_REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = _ENVIRONMENT | os.environ | {"PYTHONPATH": search_path}
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        code = run_script(command, said, environment)
        said.seek(0)
        _, found, message = said.read().rpartition("Error: ")
    if code:
        raise RuntimeError(message.strip() if found else f"{script} ended with exit code {code}")


def read_bar(stderr: IO[str]) -> str:
    """Return the progress bar that a command wrote last, with the time that is left; "" if none.

    Args:
        stderr: A file that the command writes to: its position stays as it is.
    """
    try:
        size = os.fstat(stderr.fileno()).st_size
        end = os.pread(stderr.fileno(), _BAR_BYTES, max(0, size - _BAR_BYTES))
    except (OSError, AttributeError):  # a pipe, or Windows
        return ""
    line = end.decode("utf-8", "replace").rpartition("\r")[2].strip()
    return line if "%|" in line else ""


def run_script(command: Sequence[object], stderr: IO[str], env: Mapping[str, str]) -> int:
    """Run a command to its end and return its exit code; its output is in its log.

    Raises:
        Stopped: If this process has to stop; the command was stopped first, and saved its state.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=env,
        start_new_session=True,  # Ctrl-C reaches it through this process, once
    )
    bar = tqdm(bar_format="    {desc}", leave=False, disable=None)  # none if this is no terminal
    try:
        with bar:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_BAR_EVERY_S)
                bar.set_description_str(read_bar(stderr))
        return process.returncode
    except commons.Stopped:
        process.terminate()
        process.wait()
        raise
