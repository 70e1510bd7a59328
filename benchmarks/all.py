"""Run all benchmarks at sizes that take a quarter of an hour; write benchmarks/results.md.

python -m benchmarks.all
python -m benchmarks.all --only partition training
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import commons
from machine import num_usable_cores
from runs.provenance import code_version

FOLDER = Path(__file__).resolve().parent
BENCHMARKS = (
    *("partition", "listing", "data_path", "training", "extraction", "search", "indexes"),
    *("eval_sets", "evaluation", "name_figures", "backbones", "netvlad", "whitening", "mining"),
    *("sfrs", "self_matches", "first_hour", "finetuning", "method_costs", "panoramas"),
)
PACKAGES = ("torch", "torchvision", "numpy", "numba", "faiss-cpu", "onnxruntime", "pillow")


def main() -> None:
    """Run them one after the other, each in a process of its own."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, metavar="NAME")
    cli.add_argument("--out", type=Path, default=FOLDER / "results.md")
    args = cli.parse_args()
    parts, failed = [describe_machine()], []
    for name in args.only:
        text, has_failed = run(name)
        parts.append(text)
        failed += [name] * has_failed
    with commons.atomic_write(args.out) as path:
        path.write_text("\n".join(parts), encoding="utf-8")
    sys.stderr.write(f"Results are in {args.out}\n")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def run(name: str) -> tuple[str, bool]:
    """Run a benchmark; return its output, and whether it failed."""
    command, start_s = [sys.executable, "-m", f"benchmarks.{name}", "--quick"], time.perf_counter()
    sys.stderr.write(f"{' '.join(command[1:])}\n")
    result = subprocess.run(command, cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start_s
    how = f"`python -m benchmarks.{name} --quick`, {seconds:.0f} s\n"
    problem = "\n**It failed.**\n" if result.returncode else ""
    return f"{result.stdout.rstrip()}\n{problem}\n{how}", bool(result.returncode)


def describe_machine() -> str:
    """Return a heading with machine and versions."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    packages = ", ".join(f"{name} {version_of(name)}" for name in PACKAGES)
    return (
        "# Benchmarks\n\n"
        f"Written by `make bench` on {datetime.date.today()}, code {code_version()}. "
        "Sizes are those that fit a quarter of an hour; without `--quick` each benchmark has those "
        "of its description. Ratios are of runs side by side; times are of this machine.\n\n"
        f"{processor()}, {num_usable_cores()} cores, {memory_gb:.0f} GB, {gpu}; "
        f"{platform.system()} {platform.release()}; Python {platform.python_version()}, "
        f"{packages}.\n"
    )


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def version_of(package: str) -> str:
    """Return the version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
