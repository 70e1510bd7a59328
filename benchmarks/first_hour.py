"""What a new user waits for: --help, and trainings beside other work on the same cores.

python -m benchmarks.first_hour
python -m benchmarks.first_hour --neighbours 12 --quick

Help is measured in processor seconds, which other work hardly changes. Trainings are of train.py,
as it is, with OpenMP's own way of waiting (threads spin), and with one thread, in turns; neighbours
are processes that compute without a pause.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mini_city
from benchmarks.common import write_remark, write_table, write_title
from machine import num_usable_cores

COMMANDS = {  # name: words after python
    **{f"{name}.py": [f"{name}.py"] for name in ("train", "eval", "localize")},
    **{name: ["-m", name] for name in ("tools.check", "tools.convert", "tools.whiten")},
    **{name: ["-m", name] for name in ("mini_city", "reports.report", "paper.reproduce")},
}
WAITING = {  # how threads wait: variables of the training
    "ours: asleep": {},
    "OpenMP's default: they spin": {"KMP_BLOCKTIME": "200"},  # its default; so ours sets nothing
    "one thread": {"OMP_NUM_THREADS": "1"},
}
TRAINING = (
    *("--backbone=ResNet18", "--backbone_weights=none", "--image_size=128", "--batch_size=8"),
    *("--min_images_per_class=3", "--groups_num=1", "--epochs_num=1", "--num_workers=1"),
)


def main() -> None:
    """Print both tables."""
    args = parse_arguments()
    write_title(
        "The first hour",
        f"{num_usable_cores()} cores. Processor seconds of --help, median of {args.repetitions}; "
        "seconds an iteration of train.py (ResNet-18, 8 images of 128 x 128), from metrics.jsonl, "
        f"median of {args.repetitions} trainings of {args.iterations} iterations.",
    )
    rows = []
    for name, words in COMMANDS.items():
        seconds = [measure_help(words) for _ in range(args.repetitions)]
        rows.append((name, f"{statistics.median(seconds):.2f}"))
    write_table(("command", "--help, s"), rows)
    with tempfile.TemporaryDirectory() as folder:
        mini_city.generate(Path(folder, "mini_city"), "tiny")
        counts = (0, args.neighbours)
        rows = [[name] for name in WAITING]
        for count in counts:
            with neighbours(count):
                found = [
                    [train(Path(folder), args.iterations, more) for more in WAITING.values()]
                    for _ in range(args.repetitions)
                ]
            for row, seconds in zip(rows, zip(*found, strict=True), strict=True):
                row.append(f"{statistics.median(seconds):.2f}")
        write_table(("threads wait", "alone, s", f"beside {args.neighbours} others, s"), rows)
    write_remark("Variables that a user sets himself stay as they are.")


def measure_help(words: Sequence[str]) -> float:
    """Return the processor seconds of a command's --help."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words, "--help"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Let some processes compute meanwhile."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def train(folder: Path, iterations: int, variables: dict[str, str]) -> float:
    """Return the seconds an iteration of a training on the city in a folder."""
    with tempfile.TemporaryDirectory() as run:
        line = [*TRAINING, f"--iterations_per_epoch={iterations}", f"--datasets_folder={folder}"]
        line += ["--dataset=mini_city", f"--save_dir={run}/run", f"--cache_folder={folder}/cache"]
        unset = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        done = subprocess.run(
            [sys.executable, "train.py", *line],
            env=environment | variables,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        (metrics,) = Path(run, "run", "metrics.jsonl").read_text().splitlines()
        return json.loads(metrics)["seconds_per_iteration"]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--neighbours", type=int, default=2 * num_usable_cores())
    cli.add_argument("--iterations", type=int, default=10)
    cli.add_argument("--repetitions", type=int, default=3)
    cli.add_argument("--quick", action="store_true", help="one repetition of 5 iterations")
    args = cli.parse_args()
    if args.quick:
        args.iterations, args.repetitions = 5, 1
    return args


if __name__ == "__main__":
    main()
