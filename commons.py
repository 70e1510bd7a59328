"""What the entry points share: logging, seeds, devices, processes, exits."""

import argparse
import contextlib
import dataclasses
import datetime
import errno
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from runs.failures import DISK_IS_FULL, Stopped, describe_failure, describe_place
from runs.log_streams import ConsoleClosed, LogFile, LogStream

T = TypeVar("T")
_NOISY_LOGGERS = (
    *("PIL", "matplotlib", "fontTools", "faiss", "tensorboard", "urllib3"),
    *("numba", "filelock"),
)
LONGEST_WAIT = datetime.timedelta(hours=2)  # for the main process; torchrun ends it if one dies


def run_command(main: Callable[[], None]) -> None:
    """Run an entry point; however it ends, a sentence says why.

    Exit codes: 0, done, or stopped by SIGTERM so that it can be continued; 1, an error; 2, wrong
    flags; 130, Ctrl-C. Under torchrun, the process first joins the others of the job.
    """
    setup_logging()
    try:
        if num_ranks() > 1:
            dist.init_process_group(timeout=LONGEST_WAIT)
        main()
        if num_ranks() > 1:
            dist.destroy_process_group()
    except Stopped as stopped:
        logging.warning(str(stopped))
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        logging.error("Interrupted")
        sys.exit(130)
    except ConsoleClosed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        sys.exit(1)
    except Exception as error:
        _log_error(error)
        sys.exit(1)


def _log_error(error: Exception) -> None:
    """Log a sentence on an error; where it happened goes to `debug.log`, a bug to stderr too."""
    whose = f" in process {rank()}" if num_ranks() > 1 else ""
    logging.debug("Where it happened:", exc_info=True)
    if sentence := describe_failure(error):
        logging.error(f"Error{whose}: {sentence}")
    elif num_ranks() > 1 and is_lost_connection(error):
        reason = str(error).splitlines()[0]
        logging.error(
            f"Ended{whose}: the connection to another process of this job is lost, see its "
            f"error ({reason})"
        )
    else:
        traceback.print_exc()
        files = [one.baseFilename for one in logging.getLogger().handlers if _takes_all(one)]
        log = f"; the whole log is in {files[0]}" if files else ""
        logging.error(f"Unexpected error{whose}: {describe_place(error)}{log}")


def _takes_all(handler: logging.Handler) -> bool:
    return isinstance(handler, LogFile) and handler.level == logging.DEBUG


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


def is_lost_connection(error: Exception) -> bool:
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
    errors, console = LogStream(sys.stderr), LogStream(sys.stdout)
    errors.setLevel(logging.ERROR)
    console.setLevel(logging.INFO)
    console.addFilter(lambda record: record.levelno < logging.ERROR)
    handlers: list[logging.Handler] = [console, errors] if rank() == 0 else [errors]
    if rank() > 0:
        folder = None
    for name, level in (("info.log", logging.INFO), ("debug.log", logging.DEBUG)):
        if folder is not None:
            file = LogFile(folder / name, encoding="utf-8", errors="backslashreplace")
            file.setLevel(level)
            file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
            handlers.append(file)
    logging.basicConfig(level=logging.DEBUG, handlers=handlers, format="%(message)s", force=True)
    for noisy in _NOISY_LOGGERS:
        logging.getLogger(noisy).setLevel(logging.WARNING)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
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
    sync_file(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Bring the content of a file to the disk."""
    with open(path, "r+b") as file:  # Windows syncs only what may be written
        os.fsync(file.fileno())


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
    if error.errno in DISK_IS_FULL:
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
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def seed_everything(seed: int, is_deterministic: bool = False) -> None:
    """Seed torch's generators, the only global ones in use; samplers have their own.

    Args:
        seed: Decides every random choice.
        is_deterministic: Refuse operations that give other bits each time, as some do on GPUs.
    """
    torch.manual_seed(seed)
    if is_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS needs it
    torch.use_deterministic_algorithms(is_deterministic)


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
