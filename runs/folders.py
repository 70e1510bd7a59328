"""Folders of runs: each belongs to one run at a time."""

import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commons

_LOCK, _UNFINISHED = ".lock", ".unfinished"  # the latter goes when a run ends well
_CHECKPOINTS = ("last_checkpoint.pth", "previous_checkpoint.pth", "best_model.pth")
_RESULTS = (
    *("results.json", "predictions.csv", "predictions.npz", "report.html", "preds"),
    *("table.md", "table.csv", "places.csv", "places.geojson", "map.html"),
)
_LEFT_OVER = re.compile(
    r"\..*\.(pth|jsonl?|csv|npz|html|md|geojson|txt|safetensors|unfinished)_\d+"
)
_EARLY_S = 60
_WAIT_S = 10  # loader processes of a killed run may hold its lock for some seconds


@contextlib.contextmanager
def run_folder(save_dir: str | None, label: str, flags: dict[str, Any]) -> Iterator[Path]:
    """Make and lock the folder of a new run, with its `args.json`, until the run ends.

    The folder of an earlier run that failed, and left no checkpoint, may be given again: its
    results are removed, its logs continue. Of several processes, the main one does all of this.

    Args:
        save_dir: The folder; logs/<label>_<time> if None, which goes again if the run fails within
            a minute and leaves nothing but logs.
        label: The kind of run, and what tells it from others.
        flags: The flags of the run, plain values.

    Yields:
        The folder.

    Raises:
        FileExistsError: If the folder holds another run, or one uses it.
        OSError: If it cannot be made or written, or vanished during the run.
    """
    with contextlib.ExitStack() as held:
        folder = commons.of_main_process(lambda: _begin(save_dir, label, flags, held))
        start_s = time.monotonic()
        try:
            with noticing_loss(folder):
                yield folder
        except (OSError, ValueError):  # what a user can mend
            has_begun = time.monotonic() - start_s > _EARLY_S
            if save_dir is None and commons.rank() == 0 and not has_begun:
                _remove_if_only_logs(folder)
            raise


@contextlib.contextmanager
def noticing_loss(folder: Path) -> Iterator[None]:
    """Explain errors that come from the loss of a run's folder.

    Raises:
        FileNotFoundError: If it vanished.
    """
    try:
        yield
    except OSError as error:
        if folder.is_dir():
            raise
        raise FileNotFoundError(f"The folder {folder} vanished during the run") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder of a resumed run; of several processes, the main one does.

    Raises:
        FileExistsError: If another run uses it.
        OSError: If the folder cannot be written.
    """

    def lock() -> None:
        with _explaining(folder):
            _lock(folder, held)
            held.enter_context(_unfinished(folder))

    with contextlib.ExitStack() as held:
        commons.of_main_process(lock)  # before any process reads the folder
        yield


def is_unused(folder: Path) -> bool:
    """Whether a folder, which need not exist, has neither checkpoints nor results of a run."""
    return not _find_checkpoints(folder) and not any(_find_results(folder))


def _begin(
    save_dir: str | None, label: str, flags: dict[str, Any], held: contextlib.ExitStack
) -> Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    label = re.sub(r"[^\w.-]+", "_", label).strip("_")
    folder = Path(save_dir or f"logs/{label}_{now}")
    with _explaining(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, held)
        _check_free(folder)
        held.enter_context(_unfinished(folder))
        _remove_results(folder)
        commons.write_json(flags, folder / "args.json")
    return folder


def _remove_if_only_logs(folder: Path) -> None:
    with contextlib.suppress(OSError):
        names = {path.name for path in folder.iterdir()}
        if names <= {"args.json", "environment.json", "info.log", "debug.log", _LOCK, _UNFINISHED}:
            shutil.rmtree(folder)


@contextlib.contextmanager
def _explaining(folder: Path) -> Iterator[None]:
    """Turn errors of the operating system, when a run starts, into a sentence with a remedy."""
    try:
        yield
    except OSError as error:
        if not error.strerror:
            raise
        raise type(error)(
            f"The folder {folder} cannot be used for a run: {error.strerror} "
            f"({error.filename or folder}); give another --save_dir"
        ) from None


def _lock(folder: Path, held: contextlib.ExitStack) -> None:
    try:
        held.enter_context(commons.file_lock(folder / _LOCK, _WAIT_S))
    except TimeoutError:
        raise FileExistsError(
            f"{folder} is in use by {_read_holder(folder)}: wait until it ends, or give another "
            "--save_dir"
        ) from None
    for place in (folder, *_find_set_folders(folder)):
        for file in place.glob(".*_*"):  # by killed runs, see `commons.temporary_path`
            if _LEFT_OVER.fullmatch(file.name):
                file.unlink()


def _read_holder(folder: Path) -> str:
    """Return which process has, or last had, a folder."""
    try:
        holder = json.loads((folder / _UNFINISHED).read_text())
        return f"process {holder['process']} on host {holder['host']}"
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # it has just started, or just ended
        return "another process"


def _check_free(folder: Path) -> None:
    """Raise a FileExistsError if a folder holds a finished run, or a training to resume."""
    if _find_checkpoints(folder):
        raise FileExistsError(
            f"{folder} already holds a training: give another --save_dir, or resume it with "
            f"--save_dir {folder} --resume_train auto"
        )
    if any(_find_results(folder)) and not (folder / _UNFINISHED).exists():
        raise FileExistsError(f"{folder} already holds a run: give another --save_dir")


def _remove_results(folder: Path) -> None:
    """Remove the results of an interrupted run, possibly of other sets and other networks."""
    for path in list(_find_results(folder)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _find_checkpoints(folder: Path) -> list[Path]:
    return [folder / name for name in _CHECKPOINTS if (folder / name).exists()]


def _find_results(folder: Path) -> Iterator[Path]:
    """Yield results of a run, first those of its single test sets; not of runs in subfolders."""
    places = [*_find_set_folders(folder, "results.json"), folder]
    yield from (path for place in places for name in _RESULTS if (path := place / name).exists())


def _find_set_folders(folder: Path, file: str = ".*") -> list[Path]:
    """Return the folders of single test sets that have such a file; those of runs are left out."""
    places = dict.fromkeys(found.parent for found in folder.glob(f"*/{file}"))
    return [place for place in places if not (place / "args.json").exists()]


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """Mark a folder with its process until the run ends; errors leave the mark."""
    holder = {"process": os.getpid(), "host": platform.node()}
    commons.write_json(holder, folder / _UNFINISHED)
    yield
    (folder / _UNFINISHED).unlink(missing_ok=True)
