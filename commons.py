"""What the entry points share: logging, seeds, devices, run folders, exits."""

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

VERSION = "0.1.0"
T = TypeVar("T")
USER_ERRORS = (
    ValueError,
    OSError,
)  # bad data, missing files; their text is a sentence for the user


def run_command(main: Callable[[], None]) -> None:
    """Run an entry point; a user's error ends it with one message and exit code 1."""
    setup_logging()
    try:
        main()
    except USER_ERRORS as error:
        logging.debug("Where it happened:", exc_info=True)
        message = _without_worker_traceback(str(error), type(error).__name__)
        logging.error(f"Error: {message}")
        sys.exit(1)
    except KeyboardInterrupt:
        logging.error("Interrupted")
        sys.exit(130)


def from_flags(kind: type[T], args: argparse.Namespace) -> T:
    """Make a dataclass out of the flags that have the names of its fields."""
    return kind(**{field.name: getattr(args, field.name) for field in dataclasses.fields(kind)})


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError about a flag into exit code 2, as argparse does."""
    try:
        yield
    except ValueError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)


def setup_logging(folder: Path | None = None) -> None:
    """Log to the console, and to `info.log` and `debug.log` if there is a run folder."""
    errors, console = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.stdout)
    errors.setLevel(logging.ERROR)
    console.setLevel(logging.INFO)
    console.addFilter(lambda record: record.levelno < logging.ERROR)
    handlers: list[logging.Handler] = [console, errors]
    for name, level in (("info.log", logging.INFO), ("debug.log", logging.DEBUG)):
        if folder is not None:
            file = logging.FileHandler(folder / name)
            file.setLevel(level)
            file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
            handlers.append(file)
    logging.basicConfig(level=logging.DEBUG, handlers=handlers, format="%(message)s", force=True)
    for noisy in ("PIL", "matplotlib", "faiss", "tensorboard", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def make_run_folder(save_dir: str | None, label: str) -> Path:
    """Make the folder of a new run: `save_dir`, or logs/<label>_<time> if none is given.

    Raises:
        FileExistsError: If it already holds a run.
    """
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder = Path(save_dir or f"logs/{label}_{now}")
    if (folder / "args.json").exists():
        raise FileExistsError(
            f"{folder} already holds a run: give another --save_dir, or continue that training "
            f"with --resume_train {folder / 'last_checkpoint.pth'}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(content: Any, path: Path) -> None:
    """Write plain values as JSON, under a temporary name first."""
    temporary = path.with_name(f".{path.name}_{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def seed_everything(seed: int) -> None:
    """Seed torch's generators, the only global ones in use; samplers have their own."""
    torch.manual_seed(seed)


def choose_device(name: str) -> torch.device:
    """Return a device by name; "auto" is CUDA, Apple's GPU or the CPU, the first that is there.

    Raises:
        ValueError: If CUDA is asked for and there is none.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available; try --device auto or cpu")
    return torch.device(name)


def provenance(model_file: str | os.PathLike | None, seed: int) -> dict[str, Any]:
    """Return what a result may depend on beside data and protocol, as plain values."""
    return {
        "model_file": model_file and str(model_file),
        "model_sha256": model_file and _file_hash(model_file),
        "seed": seed,
        "code_version": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def code_version() -> str:
    """Return the version of this code, with the git commit if it is a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        folder = Path(__file__).parent
        commit = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return VERSION
    return f"{VERSION}+{commit}"


def _file_hash(path: str | os.PathLike) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _without_worker_traceback(message: str, kind: str) -> str:
    """Cut what a loader process puts before the message of an error that it passes on."""
    marker = f"{kind}: "
    return message.rsplit(marker, 1)[-1].strip() if "Original Traceback" in message else message
