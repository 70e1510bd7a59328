"""Write a trained network as TorchScript or ONNX, for use without this code.

python -m tools.export best_model.pth --format onnx --out model.onnx
python -m tools.export ResNet50_512_cosplace.pth --format torchscript --out model.pt

Batch size, height and width of the images stay free in both, the latter two unless the aggregation
is for maps of one size, as MixVPR is. The ONNX file is made out of the
TorchScript: torch 2.4 to 2.15 have an ONNX exporter for scripts, which keeps the padding of
EfficientNet_Lite0, a function of the size of the images, as a computation.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import commons
from command_line import CommandLine
from commons import IMAGENET_MEAN, IMAGENET_STD
from model.checkpoint_files import require_packages
from model.checkpoints import load_network
from model.network import GeoLocalizationNet
from model.other_models import load_onnx, load_torchscript
from model.resizing import IMAGE_SIZE, describe_resize, parse_resize
from runs.provenance import code_version

TOLERANCE = 1e-5  # between the values of two descriptors, whose length is 1
METADATA_FILE = "metadata.json"  # inside a TorchScript file; in ONNX each entry is a property
OPSET = 17  # ONNX operators; the first with computed padding is 11, with attention 14


def main(argv: Sequence[str] | None = None) -> None:
    """Export the network of a checkpoint and log how exact the file is."""
    cli = CommandLine(prog="python -m tools.export", description=__doc__.split("\n")[0])
    add = cli.add_argument
    add("checkpoint", help="whole network, ours or published")
    add("--format", choices=("torchscript", "onnx"), required=True, help="what to write")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="where to; replaced if it exists",
    )
    add(
        "--image_size",
        type=int,
        help="side in pixels of the images that the file is checked with (default: 512, or the "
        "backbone's, or mixvpr's in training); the file takes any size, that of mixvpr this one",
    )
    args = cli.parse_args(argv)
    if args.image_size is not None and args.image_size < 1:
        cli.error("--image_size must be at least 1")
    difference = export_network(args.checkpoint, args.format, args.out, args.image_size)
    logging.info(f"Wrote {args.out}: descriptors differ from the network's by {difference:.1g}")


def export_network(
    checkpoint: str | os.PathLike,
    file_format: str,
    out: Path,
    image_size: int | None = None,
) -> float:
    """Write the network of a checkpoint; keep the file only if it gives the same descriptors.

    Args:
        checkpoint: See `load_network`.
        file_format: "torchscript" or "onnx".
        out: The file to write.
        image_size: Side of the images to compare on, in pixels; None for the backbone's.

    Returns:
        The largest difference between a value of the network's descriptors and of the file's.

    Raises:
        FileNotFoundError: If there is no such checkpoint, or no folder for the file.
        ValueError: If the network cannot be exported, or its descriptors change.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: give a file in an existing folder")
    if file_format == "onnx":
        require_packages("ONNX", "onnx", "onnxruntime")
    network = load_network(checkpoint).eval().requires_grad_(False)
    own_sides = parse_resize(network.resize or "none")
    image_size = image_size or network.image_size or (own_sides or [IMAGE_SIZE])[0]
    is_fixed = hasattr(network.aggregation, "map_size")
    metadata = _describe(network, checkpoint, image_size, is_fixed)
    with commons.atomic_write(out) as temporary:
        with warnings.catch_warnings():
            # Deprecations, and remarks on tracing; the file is compared below.
            warnings.simplefilter("ignore")
            script = torch.jit.script(network)
            if file_format == "onnx":
                write_onnx(script, temporary, image_size, is_fixed)
                _add_metadata(temporary, metadata)
            else:
                content = {METADATA_FILE: json.dumps(metadata, indent=2)}
                with open(temporary, "wb") as file:  # torch names records after a path
                    torch.jit.save(script, file, _extra_files=content)
        read = load_onnx if file_format == "onnx" else load_torchscript
        difference = largest_difference(network, read(temporary), image_size, is_fixed)
        if not difference <= TOLERANCE:  # nor NaN
            raise ValueError(
                f"{out} was not written: its descriptors differ from the network's by "
                f"{difference:.1g}, more than {TOLERANCE:.0e}"
            )
    return difference


@torch.inference_mode()
def largest_difference(
    network: nn.Module,
    exported: Callable[[torch.Tensor], torch.Tensor],
    image_size: int,
    is_fixed: bool = False,
) -> float:
    """Compare descriptors of random images, of two batch sizes and, unless it is fixed, two sizes.

    Returns:
        The largest difference between two values; NaN if one is NaN.
    """
    generator = torch.Generator().manual_seed(0)
    differences = []
    other = image_size if is_fixed else image_size * 3 // 4 + 1
    for batch, width in ((1, image_size), (3, other)):
        images = torch.randn((batch, 3, image_size, width), generator=generator)
        differences.append((network(images) - exported(images)).abs().max())
    return torch.stack(differences).max().item()


def write_onnx(script: nn.Module, path: Path, image_size: int, is_fixed: bool = False) -> None:
    """Write a scripted network; batch size, height and width stay free.

    Args:
        script: From `torch.jit.script`.
        path: The file.
        image_size: Side in pixels of an image that the network accepts.
        is_fixed: Whether height and width are this size, and only the batch size is free.
    """
    free = {0: "batch"} if is_fixed else {0: "batch", 2: "height", 3: "width"}
    torch.onnx.export(
        script,
        (torch.zeros(2, 3, image_size, image_size),),
        os.fspath(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["descriptors"],
        dynamic_axes={"images": free, "descriptors": {0: "batch"}},
    )


def _add_metadata(path: Path, metadata: dict[str, Any]) -> None:
    import onnx  # here, so that TorchScript does not need it

    content = onnx.load(path)
    texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in metadata.items()}
    onnx.helper.set_model_props(content, texts)
    onnx.save(content, path)


def _describe(
    network: GeoLocalizationNet, checkpoint: str | os.PathLike, image_size: int, is_fixed: bool
) -> dict[str, Any]:
    """Return what a user of the file must know, and its provenance."""
    made_for = ""
    if is_fixed or network.image_size is not None:
        side = image_size if is_fixed else network.image_size
        made_for = f"; made for {side} x {side} pixels" + is_fixed * ", and for no other size"
    if network.resize is not None:
        made_for += f"; test images {describe_resize(network.resize)}"
    return network.architecture | {
        "input": "images, float32 [B, 3, H, W]: RGB from 0 to 1, minus mean, divided by std"
        + made_for,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "output": f"descriptors, float32 [B, {network.out_dim}]"
        + ", of length 1" * _is_normalised(network, image_size),
        "checkpoint": os.path.basename(checkpoint),
        "checkpoint_sha256": commons.sha256_of(checkpoint),
        "code_version": code_version(),
        "torch": str(torch.__version__),
    }


@torch.inference_mode()
def _is_normalised(network: GeoLocalizationNet, image_size: int) -> bool:
    """Return whether descriptors have unit length; all but GeM's of some options do."""
    images = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    return bool((network(images).norm() - 1).abs() < TOLERANCE)


if __name__ == "__main__":
    commons.run_command(main)
