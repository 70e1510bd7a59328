"""Costs of each backbone, with its default head.

python -m benchmarks.backbones
python -m benchmarks.backbones --backbone ResNet18 ViT_B16

Weights and images are random: neither changes the costs. Images have the size that the backbone is
trained with. A multiply-add counts as 2 floating point operations.
"""

import argparse
import time
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import write_table, write_title
from model.backbones import BACKBONES
from model.network import GeoLocalizationNet, build_network
from model.resizing import IMAGE_SIZE

COLUMNS = ("backbone", "descriptor", "image size", "parameters", "GFLOPs", "images/s")
QUICK = ("ResNet18", "ResNet50", "VGG16", "EfficientNet_Lite0", "ViT_B16", "DINOv2_S")


class BackboneCost(NamedTuple):
    """Of one network."""

    dim: int  # of its descriptors
    image_size: int  # side in pixels
    num_parameters: int
    flops: int  # of one image
    images_per_second: float  # of inference


def main() -> None:
    """Measure backbones one after the other, print a Markdown table."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = cli.add_argument
    add("--backbone", nargs="+", choices=BACKBONES, default=list(BACKBONES), metavar="NAME")
    add("--batch_size", type=int, default=4, help="images per batch")
    add("--seconds", type=float, default=10.0, help="repeat for at least this time")
    add("--device", default="cpu", help="cpu or cuda")
    add("--quick", action="store_true", help="a few backbones, for 2 seconds each")
    args = cli.parse_args()
    if args.quick:
        args.backbone, args.seconds = QUICK, 2.0
    device = torch.device(args.device)
    where = f"{torch.get_num_threads()} threads" if args.device == "cpu" else args.device
    write_title(
        "Backbones",
        f"Each with its default head: batches of {args.batch_size} images, float32, {where}. A "
        "multiply-add is 2 operations.",
    )
    costs = ((name, measure(name, args.batch_size, args.seconds, device)) for name in args.backbone)
    write_table(
        COLUMNS,
        (
            (
                name,
                cost.dim,
                f"{cost.image_size} x {cost.image_size}",
                f"{cost.num_parameters / 1e6:.1f} M",
                f"{cost.flops / 1e9:.1f}",
                f"{cost.images_per_second:.1f}",
            )
            for name, cost in costs
        ),
    )


def measure(name: str, batch_size: int, seconds: float, device: torch.device) -> BackboneCost:
    """Count and time the network of a backbone."""
    with torch.device("meta"):
        network = build_network(name, backbone_weights="none").eval()
    side = network.image_size or IMAGE_SIZE
    flops = count_flops(network, side)
    network = build_network(name, backbone_weights="none").eval().to(device)
    return BackboneCost(
        network.out_dim,
        side,
        sum(parameter.numel() for parameter in network.parameters()),
        flops,
        time_inference(network, torch.randn(batch_size, 3, side, side, device=device), seconds),
    )


def count_flops(network: GeoLocalizationNet, side: int) -> int:
    """Count the operations of one square image in a network on the meta device."""
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops()


def time_inference(network: nn.Module, images: torch.Tensor, seconds: float) -> float:
    """Return images a second in the fastest batch, which other programs disturbed least."""

    def run() -> float:
        network(images)[0, 0].item()  # waits for the device
        return time.perf_counter()

    with torch.inference_mode():
        times = [run()]  # the first batch is not counted
        while len(times) < 2 or times[-1] - times[0] < seconds:
            times.append(run())
    return len(images) / min(end - start for start, end in pairwise(times))


if __name__ == "__main__":
    main()
