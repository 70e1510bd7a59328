"""Parts that benchmarks share: time and memory of a task, output as Markdown, painted photos."""

import multiprocessing
import multiprocessing.connection
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

_SAMPLE_S = 0.005


class Cost(NamedTuple):
    """Cost of a task, and its result."""

    seconds: float
    cpu_seconds: float
    peak_mb: float  # peak of anonymous memory, above that after imports
    mapped_mb: float  # peak of mapped file pages, above those after imports
    result: object


def measure(task: Callable, *arguments: object) -> Cost:
    """Run a task in a new process that imports its module.

    Anonymous memory and pages of mapped files are counted separately, and read from outside every
    5 ms, since the task may hold the interpreter.

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

    VmHWM is the peak of memory, pages of files included. The peak of getrusage includes the parent
    process.
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


def write_title(title: str, explanation: str) -> None:
    """Print a heading and an explanation."""
    _write(f"## {title}\n\n{explanation}\n\n")


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, row by row as they arrive; columns but the first are right-aligned."""
    _write(f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}\n")
    for row in rows:
        _write(f"| {' | '.join(map(str, row))} |\n")
    _write("\n")


def write_remark(text: str) -> None:
    """Print a paragraph."""
    _write(f"{text}\n\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def write_photos(folder: Path, count: int, side: int, quality: int = 92) -> list[Path]:
    """Write square JPEGs with detail at all scales, about 0.3 bytes a pixel, like street views.

    Returns:
        Their paths: 000.jpg, 001.jpg and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        _paint(np.random.default_rng(number), side).save(path, quality=quality)
    return paths


def _paint(rng: np.random.Generator, side: int) -> Image.Image:
    """Add noise of every scale; coarse scales are stronger."""
    pixels = np.zeros((side, side, 3))
    cells = 2
    while cells <= side:
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
        pixels += (np.asarray(layer) - 127.5) * (1.6 / cells**0.55)
        cells *= 2
    return Image.fromarray((pixels + 127.5).clip(0, 255).astype(np.uint8))
