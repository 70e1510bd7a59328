"""Memory and time of training the last blocks of a transformer, against all of them.

python -m benchmarks.finetuning
python -m benchmarks.finetuning --device cuda --batch_size 60

Every training is a process of its own: forward, backward and a step of AdamW, on random images,
from the same random weights. Gradients of the blocks that both train are compared. Peak memory of
a process is above that of its imports, on CUDA what torch counts there; weights, gradients and
states of the optimizer are part of it. Tensors kept for gradients are those that autograd packs in
the forward pass, each storage once, without the weights.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.common import Cost, measure, write_remark, write_table, write_title
from model.backbones import BACKBONES
from model.network import build_network
from training.optimizers import OptimizerParams, make_optimizer

MEMORY_BAR = 0.6
TOLERANCE = 1e-4  # of the length of gradients, relative


class FineTuning(NamedTuple):
    """What is trained."""

    backbone: str
    batch_size: int
    image_size: int
    num_iterations: int
    device: str


class Figures(NamedTuple):
    """Of one training."""

    seconds: float  # of an iteration, the median of all but the first
    kept_mb: float  # for gradients
    trained_mb: float  # gradients and states of the optimizer
    cuda_peak_mb: float  # 0 on the CPU
    gradient: float  # length of that of the last blocks, in the first iteration


def main() -> None:
    """Train both in turn; print a Markdown table."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = cli.add_argument
    names = [name for name, spec in BACKBONES.items() if spec.class_token]
    add("--backbone", choices=names, default="DINOv2_B", metavar="NAME")
    add("--blocks", type=int, default=4, help="last blocks to train")
    add("--batch_size", type=int, default=8)
    add("--image_size", type=int, default=224)
    add("--iterations", type=int, default=5)
    add("--device", default="cpu", help="cpu or cuda")
    add("--quick", action="store_true", help="2 iterations")
    args = cli.parse_args()
    num_iterations = 2 if args.quick else args.iterations
    setting = FineTuning(
        args.backbone, args.batch_size, args.image_size, num_iterations, args.device
    )
    write_title(
        "The last blocks of a transformer",
        f"{args.backbone} with its class token as descriptor, batches of {args.batch_size} images "
        f"of {args.image_size} x {args.image_size}, float32, on {args.device}: {num_iterations} "
        "iterations each.",
    )
    few, whole = (measure(train, setting, num, args.blocks) for num in (args.blocks, 0))
    check_equal(few.result, whole.result)
    columns = ("what", f"last {args.blocks} blocks", "all blocks", "share", "bar")
    write_table(columns, compare(few, whole, args.device == "cuda"))
    write_remark(
        f"Gradients of the last {args.blocks} blocks are as long as in the training of all, to "
        f"{TOLERANCE:g} of their length."
    )


def compare(few: Cost, whole: Cost, is_cuda: bool) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table."""
    a, b = few.result, whole.result
    peaks = (a.cuda_peak_mb, b.cuda_peak_mb) if is_cuda else (few.peak_mb, whole.peak_mb)
    rows = [("peak memory, MB", *peaks), ("kept for gradients, MB", a.kept_mb, b.kept_mb)]
    rows.append(("gradients and optimizer, MB", a.trained_mb, b.trained_mb))
    for name, ours, reference in rows:
        bar = f"<= {MEMORY_BAR:.0%}" if name.startswith("peak") else ""
        yield name, f"{ours:,.0f}", f"{reference:,.0f}", f"{ours / reference:.0%}", bar
    times = [f"{one.seconds:.2f}" for one in (a, b)]
    yield "an iteration, s", *times, f"{a.seconds / b.seconds:.0%}", ""


def train(setting: FineTuning, train_last_blocks: int, compared_blocks: int) -> Figures:
    """Train for some iterations; see `Figures`.

    Args:
        setting: What is trained.
        train_last_blocks: 0 for all blocks.
        compared_blocks: Last blocks whose gradients are measured.
    """
    torch.manual_seed(0)
    network = build_network(
        setting.backbone, 0, "cls", "none", train_last_blocks=train_last_blocks
    ).to(setting.device)
    optimizer = make_optimizer(
        network, OptimizerParams(optimizer="adamw", lr=1e-5), torch.device(setting.device)
    )
    network.train()
    shape = (setting.batch_size, 3, setting.image_size, setting.image_size)
    images = torch.randn(shape, device=setting.device)
    wanted = torch.randn(setting.batch_size, network.out_dim, device=setting.device)
    kept, length, seconds = {}, 0.0, []
    for iteration in range(setting.num_iterations):
        start_s = time.perf_counter()
        loss = (forward(network, images, kept if iteration == 0 else None) * wanted).sum()
        loss.backward()
        if iteration == 0:
            length = gradient_length(network.backbone.blocks[-compared_blocks:])
        optimizer.step()
        trained_mb = trained_bytes(network, optimizer) / 2**20
        optimizer.zero_grad()
        loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start_s)
    is_cuda = setting.device == "cuda"
    return Figures(
        statistics.median(seconds[1:] or seconds),
        sum(kept.values()) / 2**20,
        trained_mb,
        torch.cuda.max_memory_allocated() / 2**20 if is_cuda else 0.0,
        length,
    )


def forward(network: nn.Module, images: torch.Tensor, kept: dict[int, int] | None) -> torch.Tensor:
    """Return descriptors; note bytes by address of what is kept for gradients, unless it is None.

    Storages are alive until the backward pass, so that no address comes twice.
    """
    if kept is None:
        return network(images)
    weights = {one.untyped_storage().data_ptr() for one in network.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        return network(images)


def gradient_length(blocks: nn.Module) -> float:
    """Return the length of the gradients of all parameters together."""
    lengths = [parameter.grad.norm() for parameter in blocks.parameters()]
    return torch.stack(lengths).norm().item()


def trained_bytes(network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of gradients and of the optimizer's states."""
    gradients = [one.grad for one in network.parameters() if one.grad is not None]
    states = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    ]
    return sum(tensor.untyped_storage().nbytes() for tensor in gradients + states)


def check_equal(few: Figures, whole: Figures) -> None:
    """Raise a ValueError if the gradients of the blocks that both train differ."""
    if not abs(few.gradient - whole.gradient) <= TOLERANCE * whole.gradient:
        raise ValueError(f"the gradients differ: {few.gradient} and {whole.gradient}")


if __name__ == "__main__":
    main()
