"""What the entry points share: logging, seeds, devices, run folders, processes, exits."""

import argparse
import contextlib
import dataclasses
import datetime
import errno
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
import torch.distributed as dist

VERSION = "0.1.0"
T = TypeVar("T")
USER_ERRORS = (ValueError, OSError)  # bad data, missing files: their text is a sentence
_NOISY_LOGGERS = (
    *("PIL", "matplotlib", "fontTools", "faiss", "tensorboard", "urllib3"),
    *("numba", "filelock"),
)
_LONGEST_WAIT = datetime.timedelta(hours=2)  # for the main process; torchrun ends it if one dies


def run_command(main: Callable[[], None]) -> None:
    """Run an entry point; a user's error ends it with one message and exit code 1.

    Under torchrun, the process first joins the others of the job.
    """
    setup_logging()
    whose = f" in process {rank()}" if num_ranks() > 1 else ""
    try:
        if num_ranks() > 1:
            dist.init_process_group(timeout=_LONGEST_WAIT)
        main()
        if num_ranks() > 1:
            dist.destroy_process_group()
    except USER_ERRORS as error:
        logging.debug("Where it happened:", exc_info=True)
        message = _without_worker_traceback(str(error), type(error).__name__)
        logging.error(f"Error{whose}: {message}")
        sys.exit(1)
    except KeyboardInterrupt:
        logging.error("Interrupted")
        sys.exit(130)
    except Exception as error:
        logging.debug("Unexpected error:", exc_info=True)
        if num_ranks() > 1 and _is_lost_connection(error):
            reason = str(error).splitlines()[0]
            logging.error(
                f"Ended{whose}: the connection to another process of this job is lost, see its "
                f"error ({reason})"
            )
            sys.exit(1)
        raise


def rank() -> int:
    """Return the number of this process in its job, 0 for the main one."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else 0


def num_ranks() -> int:
    """Return how many processes torchrun started for this job, on all nodes; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def of_main_process(make: Callable[[], T]) -> T:
    """Call a function in the main process only; return what it returns in every process.

    Args:
        make: Returns something that can be pickled.
    """
    if num_ranks() == 1:
        return make()
    result = [make() if rank() == 0 else None]
    dist.broadcast_object_list(result)
    return result[0]


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """Let the main process go first: the others find what it has made."""
    if rank() > 0:
        _wait_for_all()
    yield
    if rank() == 0 and num_ranks() > 1:
        _wait_for_all()


def _wait_for_all() -> None:
    dist.all_reduce(torch.zeros(1))  # on the CPU: a barrier may choose GPUs that are not in use


def _is_lost_connection(error: Exception) -> bool:
    """Tell whether this is what processes meet when another one of the job is gone."""
    words = ("connection closed", "connection reset", "connection was refused", "broken pipe")
    is_of_group = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
    return is_of_group and any(word in str(error).lower() for word in words)


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
    """Log to the console, and to `info.log` and `debug.log` if there is a run folder.

    Of several processes, the main one does; the others only show errors.
    """
    errors, console = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.stdout)
    errors.setLevel(logging.ERROR)
    console.setLevel(logging.INFO)
    console.addFilter(lambda record: record.levelno < logging.ERROR)
    handlers: list[logging.Handler] = [console, errors] if rank() == 0 else [errors]
    if rank() > 0:
        folder = None
    for name, level in (("info.log", logging.INFO), ("debug.log", logging.DEBUG)):
        if folder is not None:
            file = logging.FileHandler(folder / name, encoding="utf-8")
            file.setLevel(level)
            file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
            handlers.append(file)
    logging.basicConfig(level=logging.DEBUG, handlers=handlers, format="%(message)s", force=True)
    for noisy in _NOISY_LOGGERS:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def make_run_folder(save_dir: str | None, label: str, flags: dict[str, Any]) -> Path:
    """Make the folder of a new run and write its `args.json`, which marks it as taken.

    Args:
        save_dir: The folder; logs/<label>_<time> if None.
        label: What the run does.
        flags: The flags of the run, plain values.

    Raises:
        FileExistsError: If the folder already holds a run.
    """
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
    folder = Path(save_dir or f"logs/{label}_{now}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(folder / "args.json", "x", encoding="utf-8") as file:
            json.dump(flags, file, indent=2)
    except FileExistsError:
        checkpoint = folder / "last_checkpoint.pth"
        hint = f", or continue it with --resume_train {checkpoint}" if checkpoint.exists() else ""
        raise FileExistsError(
            f"{folder} already holds a run: give another --save_dir{hint}"
        ) from None
    return folder


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Lend a temporary path that takes the place of `path` if all goes well, else is removed.

    When this returns, the file is on the disk: a power cut no longer takes it away.

    Raises:
        OSError: If it cannot be written; the text says which file and what to do. Errors about
            other files, which the caller may read meanwhile, stay as they are.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        replace_durably(temporary, path)
    except OSError as error:
        explained = _explain_write_error(error, temporary, path)
        if explained is error:
            raise
        raise explained from error
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone or read-only by now
            temporary.unlink()


def temporary_path(path: Path) -> Path:
    """Return the name under which this process writes a file before it is whole."""
    return path.with_name(f".{path.name}_{os.getpid()}")


def replace_durably(temporary: Path, path: Path) -> None:
    """Rename a file when its content is on the disk, and bring the new name there as well."""
    with open(temporary, "r+b") as file:  # Windows syncs only what may be written
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "nt":  # cannot open folders, and needs not
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder to write into only
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # network file systems
            raise
    finally:
        os.close(handle)


def _explain_write_error(error: OSError, temporary: Path, path: Path) -> OSError:
    """Return an error that names the file and a remedy; the same if it is about something else."""
    ours = ("None", str(temporary), str(path.parent))
    if error.errno is None or str(error.filename) not in ours:
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OSError(
            f"There is no space left to write {path} ({error.strerror}): free some, or write to "
            "another disk"
        )
    if not path.parent.is_dir():
        return FileNotFoundError(
            f"The folder {path.parent} is not there (any more), to write {path.name} into: make "
            "it, or mount its disk again"
        )
    return type(error)(
        f"{path} cannot be written ({error.strerror}): check the rights of its folder and its "
        "disk, or write elsewhere"
    )


def write_json(content: Any, path: Path) -> None:
    """Write plain values as JSON, whole or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def seed_everything(seed: int) -> None:
    """Seed torch's generators, the only global ones in use; samplers have their own."""
    torch.manual_seed(seed)


def choose_device(name: str) -> torch.device:
    """Return a device by name; "auto" is CUDA, Apple's GPU or the CPU, the first that is there.

    Of several processes on a node, each gets a CUDA device of its own.

    Raises:
        ValueError: If there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return _own_cuda_device()
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name, True):
        raise ValueError(f"--device {name}: no such device is available; try --device auto or cpu")
    return _own_cuda_device() if name == "cuda" else torch.device(name)


def _own_cuda_device() -> torch.device:
    if num_ranks() == 1:
        return torch.device("cuda")
    local_rank, num_devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local_rank >= num_devices:
        raise ValueError(
            f"torchrun started more processes on a node than it has GPUs ({num_devices}): "
            f"--nproc_per_node {num_devices}, or --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def describe_software() -> dict[str, str]:
    """Return the versions that a result may depend on; at the start, before files change."""
    return {
        "code_version": code_version(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def describe_model(path: str | os.PathLike) -> dict[str, str]:
    """Return the file of a model and its SHA-256."""
    return {
        "model": os.fspath(path),
        "model_file": os.fspath(path),
        "model_sha256": _file_hash(path),
    }


def code_version() -> str:
    """Return the version of this code, with the git commit if it is a checkout of its own."""
    folder = Path(__file__).resolve().parent
    if not (folder / ".git").exists():
        return VERSION
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
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
