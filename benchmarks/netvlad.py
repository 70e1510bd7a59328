"""NetVLAD forward and backward: batched matrix products, against the loop over clusters.

python -m benchmarks.netvlad
python -m benchmarks.netvlad --device cuda --batch_size 48

The reference computes the residuals of one cluster after the other, as public code of NetVLAD does
to save memory; its gradient keeps all of them. Both get the same maps and weights, and gradients of
maps and weights are compared. Memory is that of tensors at once, above the inputs, the outputs and
the gradients of both, in units of the assignments [B, K, h w]: on a CPU by the allocations that
torch's profiler lists, on CUDA by the peak that torch counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.common import write_remark, write_table, write_title
from model.aggregation.netvlad import NetVLAD

TOLERANCE = 1e-4  # of gradients in float32, relative to the largest number
SPEED_BAR = 3.0
MEMORY_BAR = 1.1


class Setting(NamedTuple):
    """What is aggregated."""

    batch_size: int
    channels: int
    clusters: int
    height: int
    width: int
    device: torch.device

    @property
    def assignments_bytes(self) -> int:
        """Memory of float32 assignments."""
        return 4 * self.batch_size * self.clusters * self.height * self.width


def main() -> None:
    """Race both; print a Markdown table."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = cli.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--batch_size", type=int, default=12, help="the loop takes 0.4 GB an image")
    add("--channels", type=int, default=512)
    add("--clusters", type=int, default=64)
    add("--map", type=int, nargs=2, default=(30, 40), metavar=("HEIGHT", "WIDTH"))
    add("--repetitions", type=int, default=5)
    add("--quick", action="store_true", help="8 images, 3 repetitions")
    args = cli.parse_args()
    batch_size, repetitions = (8, 3) if args.quick else (args.batch_size, args.repetitions)
    device = torch.device(args.device)
    setting = Setting(batch_size, args.channels, args.clusters, *args.map, device)
    write_title(
        "NetVLAD",
        f"Forward and backward of {batch_size} maps of {args.channels} x {args.map[0]} x "
        f"{args.map[1]}, {args.clusters} clusters, float32, on "
        f"{'CUDA' if device.type == 'cuda' else f'{torch.get_num_threads()} threads'}, against a "
        f"loop over the clusters: medians of {repetitions} runs in turns. Memory is beyond "
        "inputs, outputs and their gradients, in units of the assignments, "
        f"{setting.assignments_bytes / 2**20:.1f} MB.",
    )
    write_table(("what", "ours", "reference", "ratio", "bar"), measure_all(setting, repetitions))
    write_remark(f"Gradients of maps and weights equal the loop's to {TOLERANCE}.")


def measure_all(setting: Setting, repetitions: int) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table."""
    torch.manual_seed(0)
    layer = NetVLAD(setting.channels, 0, setting.clusters).to(setting.device)
    layer.conv.weight.data *= 20  # assignments neither all equal nor all to one cluster
    shape = (setting.batch_size, setting.channels, setting.height, setting.width)
    maps = torch.randn(shape, device=setting.device, requires_grad=True)
    grad = torch.randn(setting.batch_size, layer.out_dim, device=setting.device)
    results = {}

    def work(aggregate: Callable[[NetVLAD, torch.Tensor], torch.Tensor]) -> None:
        maps.grad = None
        layer.zero_grad()
        aggregate(layer, maps).backward(grad)
        _wait(setting.device)

    ways = {"ours": lambda layer, maps: layer(maps), "reference": loop_over_clusters}
    for name, aggregate in ways.items():  # first calls are slower; their gradients are compared
        work(aggregate)
        results[name] = [maps.grad, *(one.grad for one in layer.parameters())]
    check_equal(*results.values())
    results.clear()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, aggregate in ways.items():
            start_s = time.perf_counter()
            work(aggregate)
            seconds[name].append(time.perf_counter() - start_s)
    medians = [statistics.median(seconds[name]) for name in ways]
    ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    cells = [f"{median_s:.3f} s" for median_s in medians]
    yield "time", *cells, f"{ratio:.1f}", f">= {SPEED_BAR:g}"
    maps.grad = None
    layer.zero_grad()
    needed = sum(4 * one.numel() for one in (maps, grad, *layer.parameters()))
    beyond = []
    for aggregate in ways.values():
        peak = peak_bytes(lambda way=aggregate: work(way), setting.device)
        beyond.append((peak - needed) / setting.assignments_bytes)
    cells = [f"{times:.2f} x" for times in beyond]
    yield "memory", *cells, f"{beyond[1] / beyond[0]:.0f}", f"ours <= {MEMORY_BAR:g} x"


def loop_over_clusters(layer: NetVLAD, maps: torch.Tensor) -> torch.Tensor:
    """Return descriptors, the residuals computed cluster by cluster."""
    unit = F.normalize(maps)
    assigned = layer.conv(unit).flatten(2).softmax(1)
    unit = unit.flatten(2)
    vlad = unit.new_zeros(len(maps), *layer.centroids.shape)
    for cluster, centroid in enumerate(layer.centroids):
        residual = unit - centroid[:, None]
        vlad[:, cluster] = (residual * assigned[:, cluster, None]).sum(2)
    return F.normalize(F.normalize(vlad, dim=2).flatten(1))


def check_equal(ours: list[torch.Tensor], reference: list[torch.Tensor]) -> None:
    """Raise a ValueError if gradients differ."""
    for one, other in zip(ours, reference, strict=True):
        if not (one - other).abs().max() <= TOLERANCE * other.abs().max():
            raise ValueError("the gradients differ from the loop's")


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Return the most bytes of tensors at once that a piece of work has added."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
