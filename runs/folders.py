"""Folders of runs: each belongs to one run, which no other one disturbs."""

import contextlib
import datetime
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commons
from runs.locks import held

_log = logging.getLogger(__name__)
_LOCK, _UNFINISHED = ".lock", ".unfinished"  # the latter goes when a run comes to its end
_CHECKPOINTS = ("last_checkpoint.pth", "previous_checkpoint.pth", "best_model.pth")
_RESULTS = (
    *("results.json", "predictions.csv", "predictions.npz", "report.html", "preds"),
    *("table.md", "table.csv", "places.csv", "places.geojson", "map.html"),
)
_LEFT_OVER = re.compile(r"\..*\.(pth|jsonl?|csv|npz|html|md|geojson|txt|unfinished)_\d+")
_SAYS_AFTER_S, _GIVES_UP_AFTER_S = 1, 30  # what a killed run has forked lives for some seconds


@contextlib.contextmanager
def run_folder(save_dir: str | None, label: str, flags: dict[str, Any]) -> Iterator[Path]:
    """Make the folder of a new run with its `args.json` and have it alone until the run ends.

    The folder of a run that did not come to its end, and left no checkpoint, may be given again:
    results that it has are removed, its logs go on. Of several processes, the main one does all of
    this.

    Args:
        save_dir: The folder; logs/<label>_<time> if None.
        label: What the run does.
        flags: The flags of the run, plain values.

    Yields:
        The folder.

    Raises:
        FileExistsError: If the folder holds another run, or one is using it.
        OSError: If it cannot be made or written, or has vanished before the run was at its end.
    """
    with contextlib.ExitStack() as kept:
        folder = commons.of_main_process(lambda: _begin(save_dir, label, flags, kept))
        with noticing_loss(folder):
            yield folder


@contextlib.contextmanager
def noticing_loss(folder: Path) -> Iterator[None]:
    """Say so if errors come from the folder of a run being there no longer.

    Raises:
        FileNotFoundError: If it has vanished.
    """
    try:
        yield
    except OSError as error:
        if folder.is_dir():
            raise
        raise FileNotFoundError(f"The folder {folder} vanished during the run") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have the folder of a run that is continued alone; of several processes, the main one does.

    Raises:
        FileExistsError: If another run is using it, after some seconds.
        OSError: If the folder cannot be written.
    """

    def lock() -> None:
        with _writing_into(folder):
            _lock(folder, kept)
            kept.enter_context(_unfinished(folder))

    with contextlib.ExitStack() as kept:
        commons.of_main_process(lock)  # until then, nobody reads what is in it
        yield


def is_unused(folder: Path) -> bool:
    """Tell whether nothing is lost if a run begins in a folder: it has neither network nor result.

    The folder need not be there.
    """
    return not _find_checkpoints(folder) and not any(_find_results(folder))


def _begin(
    save_dir: str | None, label: str, flags: dict[str, Any], kept: contextlib.ExitStack
) -> Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    folder = Path(save_dir or f"logs/{label}_{now}")
    with _writing_into(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, kept)
        _check_free(folder)
        kept.enter_context(_unfinished(folder))
        _remove_results(folder)
        commons.write_json(flags, folder / "args.json")
    return folder


@contextlib.contextmanager
def _writing_into(folder: Path) -> Iterator[None]:
    """Turn what the operating system says while a folder is made into a sentence."""
    try:
        yield
    except OSError as error:
        if not error.strerror:
            raise
        raise type(error)(
            f"The folder {folder} cannot be used for a run: {error.strerror} "
            f"({error.filename or folder}); give another --save_dir"
        ) from None


def _lock(folder: Path, kept: contextlib.ExitStack) -> None:
    has_said = False

    def while_waiting(waited_s: float) -> None:
        nonlocal has_said
        if waited_s < _SAYS_AFTER_S:
            return
        holder, is_alive = _read_holder(folder)
        if is_alive or waited_s > _GIVES_UP_AFTER_S:
            raise FileExistsError(
                f"{folder} is in use by {holder}: wait until it ends, or give another --save_dir"
            )
        if not has_said:
            _log.info(f"Waiting for {folder}, which {holder} has used")
            has_said = True

    kept.enter_context(held(folder / _LOCK, while_waiting))
    _remove_left_over(folder)


def _remove_left_over(folder: Path) -> None:
    """Remove files that killed runs have written in part, see `commons.temporary_path`."""
    for file in folder.iterdir():
        if _LEFT_OVER.fullmatch(file.name):
            file.unlink()


def _read_holder(folder: Path) -> tuple[str, bool]:
    """Return who has, or last had, a folder in words, and whether it is alive on this machine."""
    try:
        holder = json.loads((folder / _UNFINISHED).read_text())
        host, process = str(holder["host"]), int(holder["process"])
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        return "another process", False
    is_alive = host == platform.node() and os.name == "posix" and _is_alive(process)
    return f"process {process} on host {host}", is_alive


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def _check_free(folder: Path) -> None:
    """Raise a FileExistsError if a folder holds a run that is finished, or can be continued."""
    if _find_checkpoints(folder):
        raise FileExistsError(
            f"{folder} already holds a training: give another --save_dir, or continue it with "
            f"--save_dir {folder} --resume_train auto"
        )
    if any(_find_results(folder)) and not (folder / _UNFINISHED).exists():
        raise FileExistsError(f"{folder} already holds a run: give another --save_dir")


def _remove_results(folder: Path) -> None:
    """Remove what an interrupted run has found; it may be of other sets and other networks."""
    for path in list(_find_results(folder)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _find_checkpoints(folder: Path) -> list[Path]:
    return [folder / name for name in _CHECKPOINTS if (folder / name).exists()]


def _find_results(folder: Path) -> Iterator[Path]:
    """Yield results of a run, those of its single test sets first; not those of runs below it."""
    sets = [file.parent for file in folder.glob("*/results.json")]
    places = [*(place for place in sets if not (place / "args.json").exists()), folder]
    yield from (path for place in places for name in _RESULTS if (path := place / name).exists())


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """Mark a folder with who works on it, until that is done; errors leave the mark."""
    holder = {"process": os.getpid(), "host": platform.node()}
    commons.write_json(holder, folder / _UNFINISHED)
    yield
    (folder / _UNFINISHED).unlink(missing_ok=True)
