"""What the networks of methods cost: descriptors, parameters and operations, counted, not timed.

python -m benchmarks.method_costs
python -m benchmarks.method_costs --methods salad boq

Networks are those of the rows of `methods`, with random weights: an image of the size of the test
is passed through each. A multiply-add is two operations; those of products, convolutions and
attention are counted, by torch.
"""

import argparse
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import write_table, write_title
from methods import METHODS
from model.network import build_network
from model.resizing import IMAGE_SIZE, parse_resize
from parser import parse_train_arguments

_PARTS = ("backbone", "fc_output_dim", "aggregation", "aggregation_args")
_FREEZING = ("train_all_layers", "freeze_te", "train_last_blocks")


class NetworkCosts(NamedTuple):
    """Of a method's network."""

    dim: int  # of a descriptor
    num_parameters: int
    num_trained: int  # of the parameters
    size: tuple[int, int]  # height and width of the test image, in pixels
    gflops: float  # of an image


def main() -> None:
    """Print a Markdown table."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    cli.add_argument("--quick", action="store_true", help="changes nothing")
    write_title("Costs of methods", "Of the networks of the rows, before whitenings.")
    header = ("method", "descriptor", "GB per million images", "parameters", "of which trained")
    rows = []
    for method in cli.parse_args().methods:
        costs = count_costs(method)
        rows.append(
            (
                *(method, f"{costs.dim:,}", f"{costs.dim * 4e6 / 1e9:.1f}"),
                *(f"{costs.num_parameters / 1e6:.1f} M", f"{costs.num_trained / 1e6:.1f} M"),
                *("{} x {}".format(*costs.size), f"{costs.gflops:.1f}"),
            )
        )
    write_table((*header, "test image", "GFLOPs"), rows)


def count_costs(method: str) -> NetworkCosts:
    """Return what a method's network costs, without the whitening that some end with.

    Args:
        method: Key of METHODS.
    """
    # --dry_run: CRN asks for no network to start from.
    flags = vars(parse_train_arguments(["--method", method, "--dry_run"]))
    parts = {name: flags[name] for name in (*_PARTS, *_FREEZING)}
    network = build_network(**parts, backbone_weights="none").eval()
    side = flags["image_size"] or network.image_size or IMAGE_SIZE
    height, width = (2 * parse_resize(flags["resize_test_imgs"] or str(side)))[:2]
    images = torch.zeros(1, 3, height, width)
    # Attention in two products, which are counted on any device.
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(images)
    parameters = list(network.parameters())
    return NetworkCosts(
        network.out_dim,
        sum(one.numel() for one in parameters),
        sum(one.numel() for one in parameters if one.requires_grad),
        (height, width),
        counter.get_total_flops() / 1e9,
    )


if __name__ == "__main__":
    main()
