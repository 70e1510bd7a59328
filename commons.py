"""What the entry points share: exits, processes, logs, atomic writes, locks.

Of this project it imports `packages` and `stops` alone; torch only where it is used: --help is
quick.
"""

import contextlib
import dataclasses
import datetime
import errno
import glob
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

import stops
from packages import explain_import_error

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB from 0 to 1; images are normalised by these two
IMAGENET_STD = (0.229, 0.224, 0.225)
T = TypeVar("T")
_NOISY_LOGGERS = (
    *("PIL", "matplotlib", "fontTools", "faiss", "tensorboard", "urllib3"),
    *("numba", "filelock"),
)
LONGEST_WAIT = datetime.timedelta(hours=2)  # for the main process; torchrun ends it if one dies
_FREEING_S = 0.2  # torch 2.4 waits for its threads, and these for this one, if they free tensors
_DISK_IS_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}

_SMALLER = "lower --batch_size, --infer_batch_size or --num_workers"
_REMEDIES = {  # parts of messages whose errors have no type of their own; the first match counts
    ("shared memory", "Bus error", "bus error", "</torch_"): (
        "The loader processes have too little shared memory: enlarge /dev/shm "
        "(docker run --shm-size=8g) or lower --num_workers"
    ),
    ("killed by signal: Killed", "exited unexpectedly"): (
        f"A loader process was killed, most likely as the memory was full: {_SMALLER}"
    ),
    ("BrokenProcessPool",): (
        "A process was killed, most likely as the memory was full: lower --num_workers"
    ),
    ("Too many open files", "items of ancdata"): (
        "Too many files are open: allow more by ulimit -n 4096, or lower --num_workers"
    ),
    ("OutOfMemoryError", "out of memory", "STATUS_ALLOC_FAILED"): (
        "The memory of the GPU is full: lower --batch_size or --infer_batch_size"
    ),
    ("deterministic implementation", "CUBLAS_WORKSPACE_CONFIG"): (
        "This training has an operation that is not deterministic on this device: leave out "
        "--deterministic, or freeze the layers that need it"
    ),
    ("MemoryError", "allocate memory", "bad_alloc"): f"The memory is full: {_SMALLER}",
}


class Stopped(BaseException):  # no Exception, so that libraries do not handle it as an error
    """A signal asked the run to stop, and the run stopped in good order."""

    def __init__(self, signal_number: int, message: str = "", can_resume: bool = True) -> None:
        """Save how the process ends.

        Args:
            signal_number: SIGTERM or SIGINT.
            message: How to continue.
            can_resume: Whether the same command, or the one in the message, continues where this
                one stopped.
        """
        stopped = f"Stopped by {signal.Signals(signal_number).name}"
        super().__init__(message or stopped + ". Start again" * (not can_resume))
        self.signal_number, self.can_resume = signal_number, can_resume

    @property
    def exit_code(self) -> int:
        """Exit code of the process; SIGTERM is no failure if nothing is lost."""
        return 130 if self.signal_number == signal.SIGINT else int(not self.can_resume)


def run_command(main: Callable[[], None]) -> None:
    """Run an entry point; however it ends, a sentence says why.

    Exit codes: 0, done, or stopped by SIGTERM so that it can be continued; 1, an error; 2, wrong
    flags; 130, Ctrl-C. Under torchrun, the process first joins the others of the job.
    """
    _read_names_as_utf8()
    setup_logging()
    try:
        with stops.raising(lambda number: Stopped(number, can_resume=False)):
            _run_in_job(main)
    except Stopped as stopped:
        _close_progress_bars()
        logging.warning(str(stopped))
        sys.exit(stopped.exit_code)
    except KeyboardInterrupt:
        _close_progress_bars()
        logging.error("Interrupted")
        sys.exit(130)
    except Exception as error:
        _close_progress_bars()
        _log_error(error)
        sys.exit(1)


def _run_in_job(main: Callable[[], None]) -> None:
    if num_ranks() > 1:
        import torch.distributed as dist

        dist.init_process_group(timeout=LONGEST_WAIT)
    main()
    if num_ranks() > 1:
        time.sleep(_FREEING_S)
        dist.destroy_process_group()


def _close_progress_bars() -> None:
    """Close those that an error left open, so that a sentence begins on a line of its own."""
    bars = getattr(getattr(sys.modules.get("tqdm"), "tqdm", None), "_instances", ())
    for bar in list(bars):
        bar.close()


def _read_names_as_utf8() -> None:
    """Start again in UTF-8 mode, as our files are, where locale and PYTHONUTF8 say otherwise."""
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # of loader processes
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


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
        files = [one for one in logging.getLogger().handlers if isinstance(one, LogFile)]
        logs = [file.baseFilename for file in files if file.level == logging.DEBUG]
        log = f"; the whole log is in {logs[0]}" if logs else ""
        logging.error(f"Unexpected error{whose}: {_describe_place(error)}{log}")


def describe_failure(error: Exception) -> str:
    """Return a sentence on an error that the user can do something about, else an empty text."""
    is_of_data = isinstance(error, (ValueError, OSError))  # their text is a sentence
    if is_of_data and getattr(error, "errno", None) != errno.ENOMEM:
        return _describe_user_error(error)
    if isinstance(error, ImportError) and (sentence := explain_import_error(error)):
        return sentence
    text = f"{type(error).__name__}: {error}"
    for signs, remedy in _REMEDIES.items():
        if any(sign in text for sign in signs):
            return f"{remedy} ({text.splitlines()[0]})"
    return ""


def _describe_user_error(error: Exception) -> str:
    """Return the text of an error; for those of the operating system, the file and the reason."""
    if not isinstance(error, OSError) or not error.strerror:
        message, marker = str(error), f"{type(error).__name__}: "
        if "Original Traceback" in message:  # a loader process puts it before the message
            message = message.rpartition(marker)[2].strip()
        return message
    file = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    remedy = "; free some space, or write to another disk" * (error.errno in _DISK_IS_FULL)
    return f"{file}{error.strerror}{remedy}"


def _describe_place(error: Exception) -> str:
    """Return an unexpected error in one line: its kind, its message and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(place.filename)}, line {place.lineno}, in {place.name}"
    return f"{type(error).__name__}: {error} ({where})"


def rank() -> int:
    """Return the number of this process in its job, 0 for the main one."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def num_ranks() -> int:
    """Return how many processes torchrun started for this job, on all nodes; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def of_main_process(make: Callable[[], T]) -> T:
    """Call a function in the main process only; return what it returns in every process.

    Args:
        make: Returns something that can be pickled.
    """
    if num_ranks() == 1:
        return make()
    import torch.distributed as dist

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
    import torch
    import torch.distributed as dist

    dist.all_reduce(torch.zeros(1))  # on the CPU: a barrier may choose GPUs that are not in use


def is_lost_connection(error: Exception) -> bool:
    """Tell whether this is what processes meet when another one of the job is gone."""
    import torch.distributed as dist

    words = ("connection closed", "connection reset", "connection was refused", "broken pipe")
    is_of_group = isinstance(error, dist.DistError) or "gloo" in str(error).lower()
    return is_of_group and any(word in str(error).lower() for word in words)


def from_flags(kind: type[T], flags: Mapping[str, Any]) -> T:
    """Make a dataclass out of the flags that have the names of its fields."""
    return kind(**{field.name: flags[field.name] for field in dataclasses.fields(kind)})


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError about a flag into exit code 2, as argparse does."""
    try:
        yield
    except ValueError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)


class LogFile(logging.FileHandler):
    """A log file, on a disk that may be full or vanish; the run continues without it."""

    has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name of logging
        """Warn once that lines are lost, instead of a traceback for each."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.has_failed:
            self.has_failed = True
            name = getattr(self.stream, "name", self.baseFilename)
            sys.stderr.write(f"{name} cannot be written, continuing: {error.strerror}\n")


def setup_logging(folder: Path | None = None, quiet: bool = False) -> None:
    """Log to the console, and to `info.log` and `debug.log` if there is a run folder.

    Of several processes, the main one does; the others only show errors. A quiet console leaves
    stdout alone: warnings and errors go to stderr.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: names may be any bytes
    errors, console = logging.StreamHandler(sys.stderr), logging.StreamHandler(sys.stdout)
    errors.setLevel(logging.WARNING if quiet else logging.ERROR)
    console.setLevel(logging.INFO)
    console.addFilter(lambda record: record.levelno < logging.ERROR)
    handlers: list[logging.Handler] = [errors] if quiet or rank() > 0 else [console, errors]
    for name, level in (("info.log", logging.INFO), ("debug.log", logging.DEBUG)):
        if folder is not None and rank() == 0:
            file = LogFile(folder / name, encoding="utf-8", errors="backslashreplace")
            file.setLevel(level)
            file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
            handlers.append(file)
    logging.basicConfig(level=logging.DEBUG, handlers=handlers, format="%(message)s", force=True)
    for noisy in _NOISY_LOGGERS:
        logging.getLogger(noisy).setLevel(logging.WARNING)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write atomically: yield a temporary path, rename it to `path` on success, else remove it.

    When this returns, the file is on the disk: a power cut no longer takes it away.

    Raises:
        OSError: If it cannot be written; the text says which file and what to do. Errors about
            other files, which the caller may read meanwhile, stay as they are.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        explained = _explain_write_error(error, temporary, path)
        if explained is error:
            raise
        raise explained from error
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone or read-only by now
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Write a folder atomically: yield an empty one beside it, rename it to `folder` on success.

    On failure it is removed; the next run that writes `folder` removes what a killed one left.
    Files are not synced, for there may be millions: where a power cut matters, call `sync_file`.

    Args:
        folder: May exist if it is empty.
        overwrite: Whether to replace a folder that holds something.

    Raises:
        OSError: If the folder cannot be made or renamed; FileExistsError if it is not empty.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder.parent, glob.escape(folder.name))
    lock = folder.with_name(f".{folder.name}.unfinished_{uuid.uuid4().hex[:12]}.lock")
    with file_lock(lock):
        try:
            lock.with_suffix("").mkdir()
            yield lock.with_suffix("")
            if os.path.lexists(folder):
                if not overwrite and any(folder.iterdir()):
                    raise FileExistsError(f"{folder} is not empty: choose another folder")
                os.replace(folder, lock.with_suffix(".old"))
            os.replace(lock.with_suffix(""), folder)
            sync_folder(folder.parent)
        except OSError as error:
            explained = _explain_write_error(error, lock.with_suffix(""), folder)
            if explained is error:
                raise
            raise explained from error
        finally:
            _remove_unfinished(lock, folder)


def remove_unfinished(parent: Path, names: str = "*") -> None:
    """Remove what killed writers of folders left beside them, as `atomic_folder` does."""
    for left in parent.glob(f".{names}.unfinished_*.lock"):
        with contextlib.suppress(TimeoutError, PermissionError), file_lock(left, 0) as is_locked:
            if is_locked:  # where the disk has no locks, its writer may be alive
                _remove_unfinished(left, left.with_name(left.name[1:].rsplit(".unfinished_", 1)[0]))


def _remove_unfinished(lock: Path, folder: Path) -> None:
    """Remove a temporary folder and its lock; the old folder comes back unless it is replaced."""
    if os.path.lexists(old := lock.with_suffix(".old")) and not os.path.lexists(folder):
        os.replace(old, folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Return the name under which this process writes a file before it is whole."""
    return path.with_name(f".{path.name}_{os.getpid()}")


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
    if error.errno in _DISK_IS_FULL:
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
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def file_lock(file: Path, timeout_s: float = -1) -> Iterator[bool]:
    """Hold a lock that ends with its process; warn where the disk has no locks.

    Yields:
        Whether the lock is held; False where the disk has none.

    Args:
        file: The lock, in an existing folder. The file stays.
        timeout_s: Seconds to wait for another process; negative: without end.

    Raises:
        TimeoutError: If another process still holds it.
        OSError: If the file cannot be made.
    """
    lock, is_locked = FileLock(file), True
    try:
        with warnings.catch_warnings():  # filelock warns before it replaces locks of the system by
            warnings.filterwarnings("error", "flock not supported")  # files, which outlive a kill
            lock.acquire(timeout=timeout_s)
    except Timeout:
        raise TimeoutError(f"Another process holds {file}") from None
    except (OSError, UserWarning, NotImplementedError) as error:  # the last: filelock before 3.24
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        logging.warning(f"The disk of {file.parent} has no locks: let one run at a time use it")
        is_locked = False
    try:
        yield is_locked
    finally:
        lock.release()


def seed_everything(seed: int, is_deterministic: bool = False) -> None:
    """Seed torch's generators, the only global ones in use; samplers have their own.

    Args:
        seed: Decides every random choice.
        is_deterministic: Refuse operations that give other bits each time, as some do on GPUs.
    """
    import torch

    torch.manual_seed(seed)
    if is_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS needs it
    torch.use_deterministic_algorithms(is_deterministic)


def plural(num: int, noun: str) -> str:
    """Return a count with its noun: "1 image", "2,000 images", "3 queries", "4 classes"."""
    if num == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{num:,} {noun[:-1]}ies"
    return f"{num:,} {noun}{'es' if noun.endswith('s') else 's'}"


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
