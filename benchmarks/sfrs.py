"""SFRS: what nine regions cost beside one image, and re-ranking against the loops of public code.

python -m benchmarks.sfrs
python -m benchmarks.sfrs --device cuda --batch_size 22

Regions are read out of VGG-16 with NetVLAD, random weights, 480 x 640, against the network itself;
the first one must be the network's descriptor. Re-ranking is of random descriptors around places,
against loops over images and over queries with one matrix of all distances, as public code has it;
the distances of positives must agree.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.common import measure, write_remark, write_table, write_title
from model.network import build_network
from training.mining import cross_distances
from training.reranking import DISTANCE_WEIGHT, NUM_NEAREST, jaccard_distances
from training.sfrs import RegionNet

IMAGE_SIZE = (480, 640)
IMAGES_PER_PLACE = 30
POSITIVES = 20  # of a query, that are compared
REGIONS_BAR, RERANKING_BAR_S = 1.3, 10


def main() -> None:
    """Measure both; print Markdown tables."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = cli.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--batch_size", type=int, default=2)
    add("--repetitions", type=int, default=5)
    add("--num_database", type=int, default=10_000)
    add("--num_queries", type=int, default=1_000)
    add("--dim", type=int, default=64, help="of the descriptors that are re-ranked")
    add("--quick", action="store_true", help="3 repetitions")
    args = cli.parse_args()
    repetitions = 3 if args.quick else args.repetitions
    device = torch.device(args.device)
    write_title(
        "SFRS: nine regions",
        f"VGG-16 and NetVLAD with 64 clusters on {args.batch_size} images of 480 x 640, float32, "
        f"on {'CUDA' if device.type == 'cuda' else f'{torch.get_num_threads()} threads'}: medians "
        f"of {repetitions} runs in turns.",
    )
    columns = ("what", "nine regions", "the image alone", "ratio", "bar")
    write_table(columns, race_regions(args.batch_size, device, repetitions))
    sizes = args.num_queries, args.num_database, args.dim
    write_title(
        "SFRS: re-ranking",
        f"{args.num_queries:,} queries and {args.num_database:,} database images of length "
        f"{args.dim}, {POSITIVES} positives a query, from descriptors to distances, each in a "
        "process of its own: short, since the product of all descriptors with all, which both "
        "need, grows with the length and is the same. Memory is beyond the descriptors.",
    )
    write_table(("what", "ours", "loops", "ratio", "bar"), race_reranking(*sizes))
    write_remark("Both gave the same distances, to 1e-4.")


def race_regions(
    batch_size: int, device: torch.device, repetitions: int
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of regions."""
    torch.manual_seed(0)
    network = build_network("VGG16", 0, "netvlad", "none").to(
        device, memory_format=torch.channels_last
    )
    models = {"regions": RegionNet(network), "image": network}
    images = torch.randn(batch_size, 3, *IMAGE_SIZE, device=device)
    images = images.to(memory_format=torch.channels_last)
    with torch.no_grad():
        difference = (models["regions"](images)[:, 0] - network(images)).abs().max().item()
    if difference > 1e-5:
        raise ValueError(f"the descriptor of the whole image is off by {difference}")

    def forward(model: torch.nn.Module) -> None:
        with torch.no_grad():
            model(images)

    def step(model: torch.nn.Module) -> None:
        model.zero_grad()
        model(images).square().sum().backward()

    for what, work, bar in (
        ("forward", forward, f"<= {REGIONS_BAR}"),
        ("forward and backward", step, ""),
    ):
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(1 + repetitions):  # the first calls are slower
            for name, model in models.items():
                seconds[name].append(time_of(lambda m=model, w=work: w(m), device))
        ours, plain = (times[1:] for times in seconds.values())
        ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
        cells = (f"{statistics.median(times):.3f} s" for times in (ours, plain))
        yield what, *cells, f"{ratio:.2f}", bar


def time_of(work: Callable[[], None], device: torch.device) -> float:
    """Return the seconds that a piece of work takes."""
    start_s = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start_s


def race_reranking(*sizes: int) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of re-ranking."""
    costs = [measure(rerank, way, sizes) for way in (jaccard_distances, loop_over_images)]
    (ours, *times), (wanted, *loop_times) = (cost.result for cost in costs)
    if not np.abs(ours - wanted).max() < 1e-4:
        raise ValueError(f"distances differ by {np.abs(ours - wanted).max()}")
    for what, seconds, loop_seconds, bar in zip(
        ("time", "of a processor"), times, loop_times, (f"< {RERANKING_BAR_S} s", ""), strict=True
    ):
        cells = f"{seconds:.1f} s", f"{loop_seconds:.1f} s", f"{loop_seconds / seconds:.0f}"
        yield what, *cells, bar
    memory = [cost.peak_mb for cost in costs]
    cells = (f"{peak_mb:,.0f} MB" for peak_mb in memory)
    yield "memory", *cells, f"{memory[1] / memory[0]:.0f}", ""


def rerank(way: Callable, sizes: tuple[int, int, int]) -> tuple[np.ndarray, float, float]:
    """Return distances from queries to positives; the seconds, and those of a processor."""
    num_queries, num_database, dim = sizes
    rng = np.random.default_rng(0)
    num_images = num_queries + num_database
    places = rng.integers(num_images // IMAGES_PER_PLACE, size=num_images)
    descriptors = rng.standard_normal((places.max() + 1, dim), np.float32)[places]
    descriptors += 0.7 * rng.standard_normal(descriptors.shape, np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    distances = cross_distances(descriptors[:num_queries], descriptors[num_queries:])
    columns = num_queries + np.argsort(distances, axis=1)[:, :POSITIVES]
    del distances
    rows = np.repeat(np.arange(num_queries), POSITIVES)
    starts_s = time.perf_counter(), time.process_time()
    found = way(descriptors, rows, columns.ravel())
    return found, time.perf_counter() - starts_s[0], time.process_time() - starts_s[1]


def loop_over_images(descriptors: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Do what `jaccard_distances` does, image by image, then query by query."""
    scaled = cross_distances(descriptors, descriptors) ** 2
    scaled /= scaled.max(axis=1, keepdims=True)
    ranks = np.argsort(scaled, axis=1)[:, : NUM_NEAREST + 1]
    weights = np.zeros_like(scaled)

    def reciprocal(image: int, num: int) -> np.ndarray:
        others = ranks[image, : num + 1]
        return others[(ranks[others, : num + 1] == image).any(axis=1)]

    for image, line in enumerate(weights):
        own = members = reciprocal(image, NUM_NEAREST)
        for other in own:
            brought = reciprocal(other, NUM_NEAREST // 2)
            if len(np.intersect1d(brought, own)) > 2 / 3 * len(brought):
                members = np.union1d(members, brought)
        line[members] = np.exp(-scaled[image, members])
        line[members] /= line[members].sum()
    holders = [np.flatnonzero(column) for column in weights.T]  # images with this one in their set
    num_queries = rows.max() + 1
    jaccard = np.empty((num_queries, len(weights)))
    for query in range(num_queries):
        common = np.zeros(len(weights))
        for member in np.flatnonzero(weights[query]):
            images = holders[member]
            common[images] += np.minimum(weights[query, member], weights[images, member])
        jaccard[query] = 1 - common / (2 - common)
    pairs = rows, columns
    return (1 - DISTANCE_WEIGHT) * jaccard[pairs] + DISTANCE_WEIGHT * scaled[pairs]


if __name__ == "__main__":
    main()
