"""Processes that work for this one: how many the machine allows, and pools of them.

Each takes handles and, under Linux, some pages of /dev/shm for its locks. Imports no torch.
"""

import contextlib
import errno
import functools
import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from itertools import islice
from typing import TypeVar

try:
    import resource
except ImportError:  # Windows
    resource = None

_HANDLES_PER_WORKER = 4  # two ends of the pipes to it and from it
_SPARE_HANDLES = 20  # of this process, for images, logs and checkpoints
_ENOUGH_HANDLES = 1024  # to hold the tensors of some batches in shared memory
_SHARED_BYTES_PER_WORKER = 4 * 4096  # three locks; and those of all processes together
_ENOUGH_SHARED_BYTES = 1 << 29
S, T = TypeVar("S"), TypeVar("T")


def limit_workers(num_workers: int) -> int:
    """Return how many of so many processes the machine has room for; log it if they are fewer.

    Half of the room is left to others: a training's validation loads images, too.
    """
    handles, shared_bytes = _free_handles(), _free_shared_bytes()
    by_handles = (handles - _SPARE_HANDLES) // (2 * _HANDLES_PER_WORKER)
    by_memory = shared_bytes // (2 * _SHARED_BYTES_PER_WORKER) - 1
    allowed = max(0, min(num_workers, by_handles, by_memory))
    if allowed < num_workers:
        scarce = f"only {handles} more files may be opened (ulimit -n 4096 allows more)"
        if by_memory < by_handles:
            scarce = f"/dev/shm has only {shared_bytes // 1000} kB left (docker run --shm-size=8g)"
        _warn(f"{allowed} processes beside this one, not --num_workers {num_workers}: {scarce}")
    return allowed


def must_copy() -> bool:
    """Return whether loader processes should send tensors through pipes; log why."""
    is_small = _free_shared_bytes() < _ENOUGH_SHARED_BYTES
    if is_small:
        _warn(
            "/dev/shm is small: loader processes send images through pipes; docker run "
            "--shm-size=8g is faster"
        )
    return is_small or _most_handles() < _ENOUGH_HANDLES


@contextlib.contextmanager
def explaining_starts() -> Iterator[None]:
    """Say what is scarce if processes cannot be started.

    Raises:
        OSError: With a sentence.
    """
    try:
        yield
    except OSError as error:
        remedies = {
            errno.ENOSPC: "/dev/shm is full: enlarge it (docker run --shm-size=8g)",
            errno.EMFILE: "too many files are open: allow more by ulimit -n 4096",
            errno.EAGAIN: "there are too many processes: allow more by ulimit -u",
            errno.ENOMEM: "the memory is full",
        }
        if error.errno not in remedies:
            raise
        raise OSError(
            f"Loader processes cannot be started, {remedies[error.errno]}; or lower --num_workers"
        ) from error


def map_in_processes(
    function: Callable[[S], T], tasks: Iterable[S], num_workers: int, chunksize: int
) -> Iterator[T]:
    """Yield the results of a function, in order, computed by processes.

    Args:
        function: Can be pickled; so can tasks and results.
        tasks: What it is called with.
        num_workers: Processes; fewer where the machine is short of room; up to 1: this one.
        chunksize: Tasks that a process gets at once.

    Raises:
        BrokenProcessPool: If a process was killed.
    """
    if num_workers <= 1 or (num_workers := limit_workers(num_workers)) <= 1:
        yield from map(function, tasks)
        return
    with explaining_starts():
        pool = ProcessPoolExecutor(num_workers, initializer=_leave_signals_to_the_main_process)
    yield from map_in_pool(pool, function, tasks, num_workers, chunksize)


def map_in_pool(
    pool: Executor,
    function: Callable[[S], T],
    tasks: Iterable[S],
    num_workers: int,
    chunksize: int,
) -> Iterator[T]:
    """Yield results in order, as `map_in_processes` does; then shut the pool down."""
    tasks = iter(tasks)
    waiting: deque[Future] = deque()  # a few for each worker: there may be millions of tasks
    try:
        while chunk := list(islice(tasks, chunksize)):
            with explaining_starts():
                waiting.append(pool.submit(_call_with_each, function, chunk))
            if len(waiting) > 4 * num_workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _call_with_each(function: Callable[[S], T], tasks: list[S]) -> list[T]:
    return [function(task) for task in tasks]


def _leave_signals_to_the_main_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the pool ends its processes so


@functools.lru_cache(maxsize=256)
def _warn(text: str) -> None:
    """Warn once: there are loaders in each epoch."""
    logging.warning(text)


def _most_handles() -> int:
    return 1 << 20 if resource is None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _free_handles() -> int:
    with contextlib.suppress(OSError):
        return _most_handles() - len(os.listdir("/dev/fd"))
    return _most_handles()


def _free_shared_bytes() -> int:
    """Return the free bytes of /dev/shm, very many where there is none."""
    try:
        status = os.statvfs("/dev/shm")
    except (OSError, AttributeError):
        return 1 << 60
    return status.f_bavail * status.f_frsize
