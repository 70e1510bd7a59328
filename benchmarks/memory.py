"""How long a task takes and how much memory, in a process of its own, on Linux."""

import multiprocessing
import multiprocessing.connection
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

_SAMPLE_S = 0.005


class Cost(NamedTuple):
    """What a task took, and what it returned."""

    seconds: float
    cpu_seconds: float
    peak_mb: float  # anonymous memory at its most, above what the process had after its imports
    mapped_mb: float  # pages of files at their most, above those of the imports
    result: object


def measure(task: Callable, *arguments: object) -> Cost:
    """Run a task in a new process, with what its module imports.

    Anonymous memory is what a process cannot give back: pages of files that it maps are counted
    apart. Both are read from outside, every 5 ms: a loop that holds the interpreter cannot hide
    them.

    Raises:
        RuntimeError: If the process ended without a result.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, task, arguments))
    process.start()
    theirs.close()
    try:
        before_mb = ours.recv()
        peaks_mb = _watch(process.pid, ours)
        seconds, cpu_seconds, after_mb, result = ours.recv()
    except EOFError:
        raise RuntimeError(f"{task.__name__} failed, see above") from None
    finally:
        process.join()
    columns = zip(before_mb, peaks_mb, after_mb, strict=True)
    grown_mb = [max(peak, after) - before for before, peak, after in columns]
    return Cost(seconds, cpu_seconds, *grown_mb, result)


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Return the median of each number, and the first result."""
    numbers = (statistics.median(column) for column in list(zip(*costs, strict=True))[:-1])
    return Cost(*numbers, costs[0].result)


def read_memory_mb(field: str, process: int | str = "self") -> float:
    """Read a field of /proc/PROCESS/status in MB, such as VmHWM, RssAnon or RssFile.

    VmHWM is the most that the process had in memory, pages of files included. The peak that
    getrusage tells counts what the parent process used as well.
    """
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{process}/status has no {field}")


def _watch(process: int, connection: multiprocessing.connection.Connection) -> tuple[float, float]:
    own_mb = mapped_mb = 0.0
    while not connection.poll(_SAMPLE_S):
        now_own_mb, now_mapped_mb = _read_both(process)
        own_mb, mapped_mb = max(own_mb, now_own_mb), max(mapped_mb, now_mapped_mb)
    return own_mb, mapped_mb


def _read_both(process: int | str = "self") -> tuple[float, float]:
    return read_memory_mb("RssAnon", process), read_memory_mb("RssFile", process)


def _run(
    connection: multiprocessing.connection.Connection, task: Callable, arguments: tuple
) -> None:
    connection.send(_read_both())
    start, cpu_start = time.perf_counter(), time.process_time()
    result = task(*arguments)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    connection.send((seconds, cpu_seconds, _read_both(), result))
