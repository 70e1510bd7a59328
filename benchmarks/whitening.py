"""What fitting a whitening costs: 10,000 descriptors of 32,768 numbers to 512 dimensions.

python -m benchmarks.whitening
python -m benchmarks.whitening --num_images 10000 --in_dim 32768 --dim 4096 --without_plain

Ours reads descriptors that are mapped from a file, of float32 or float16, and computes in float64.
The plain program centres a copy of them, and takes scalar products and eigenvectors in float32 by
numpy. Each runs in a process of its own. The error is that of the covariance of the whitened
descriptors of the fit, which should be the unit matrix: its largest entry less that of the unit
matrix. The descriptors are made up: unit vectors, with a spectrum that decays like 1/sqrt(rank).
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import Cost, measure, write_table, write_title
from model.whitening import fit_whitening

_ROWS_PER_BLOCK = 1_000


def main() -> None:
    """Make descriptors, fit whitenings to them, print the costs."""
    args = parse_arguments()
    megabytes = 4 * args.num_images * args.in_dim / 2**20
    write_title(
        "Whitening",
        f"{args.num_images:,} descriptors of {args.in_dim:,} numbers ({megabytes:,.0f} MB as "
        f"float32), on disk with a warm page cache, to {args.dim:,} dimensions. Memory is the most "
        "of the process, its pages of the mapped file included; bar: 4 GB.",
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        write_descriptors(Path(name), args.num_images, args.in_dim)
        columns = ("what", "seconds", "CPU seconds", "memory", "of it not mapped", "error")
        write_table(columns, measure_all(Path(name), args.dim, not args.without_plain))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = cli.add_argument
    add("--num_images", type=int, default=10_000)
    add("--in_dim", type=int, default=32_768)
    add("--dim", type=int, default=512)
    add("--without_plain", action="store_true", help="leave the plain program out")
    add("--folder", help="for the descriptors, 6 bytes a number (default: a temporary one)")
    add("--quick", action="store_true", help="2,000 descriptors of 8,192 numbers")
    args = cli.parse_args()
    if args.quick:
        args.num_images, args.in_dim = 2_000, 8_192
    return args


def write_descriptors(folder: Path, num_images: int, in_dim: int) -> None:
    """Write float32.npy and float16.npy, block by block."""
    rng = np.random.default_rng(0)
    spectrum = (1 / np.sqrt(np.arange(1, in_dim + 1))).astype(np.float32)
    mean = 0.5 * rng.standard_normal(in_dim, np.float32) * spectrum
    single, half = (
        np.lib.format.open_memmap(folder / f"{dtype}.npy", "w+", dtype, (num_images, in_dim))
        for dtype in ("float32", "float16")
    )
    for first in range(0, num_images, _ROWS_PER_BLOCK):
        block = slice(first, first + _ROWS_PER_BLOCK)
        drawn = mean + spectrum * rng.standard_normal(single[block].shape, np.float32)
        drawn = np.roll(drawn, in_dim // 3, axis=1)  # the largest are not the first
        single[block] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        half[block] = single[block]


def measure_all(folder: Path, dim: int, with_plain: bool) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table."""
    for dtype in ("float32", "float16"):
        yield row(f"ours, {dtype}", measure(fit_mapped, folder, dtype, dim), folder)
    if with_plain:
        yield row("plain, float32", measure(fit_plain, folder, dim), folder)


def row(what: str, cost: Cost, folder: Path) -> tuple[str, ...]:
    """Return the cells of a row."""
    error = largest_error(folder, *cost.result)
    cells = f"{cost.seconds:.0f}", f"{cost.cpu_seconds:.0f}"
    memory = f"{cost.peak_mb + cost.mapped_mb:,.0f} MB", f"{cost.peak_mb:,.0f} MB"
    return what, *cells, *memory, f"{error:.1e}"


def fit_mapped(folder: Path, dtype: str, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit as tools.whiten does; return weight and bias."""
    descriptors = np.load(folder / f"{dtype}.npy", mmap_mode="r")
    whitening = fit_whitening(descriptors, "pca_whiten", dim)
    return whitening.weight.numpy(), whitening.bias.numpy()


def fit_plain(folder: Path, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit by a few lines of numpy; return weight and bias."""
    descriptors = np.load(folder / "float32.npy")
    mean = descriptors.mean(axis=0)
    centred = descriptors - mean
    variances, vectors = np.linalg.eigh(centred @ centred.T / (len(centred) - 1))
    variances, vectors = variances[::-1][:dim], vectors[:, ::-1][:, :dim]
    weight = (vectors / (variances * np.sqrt(len(centred) - 1))).T @ centred
    return weight, -weight @ mean


def largest_error(folder: Path, weight: np.ndarray, bias: np.ndarray) -> float:
    """Return how far the covariance of the whitened descriptors is from the unit matrix."""
    descriptors = np.load(folder / "float32.npy", mmap_mode="r")
    weight = weight.T.astype(np.float64)
    blocks = range(0, len(descriptors), _ROWS_PER_BLOCK)
    whitened = np.concatenate(
        [
            descriptors[first : first + _ROWS_PER_BLOCK].astype(np.float64) @ weight
            for first in blocks
        ]
    )
    return float(np.abs(np.cov((whitened + bias).T) - np.eye(len(bias))).max())


if __name__ == "__main__":
    main()
