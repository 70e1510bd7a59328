"""Fit a whitening to a model's descriptors of training images; save the model with it.

python -m tools.whiten logs/RUN/best_model.pth --dataset sf_xl --dim 128
python -m tools.whiten best_model.pth --train_set_folder F --dim 4096 --kept_dims 512
python -m tools.whiten hub:OWNER/NAME:ENTRY --train_set_folder F --dim 512 --save whitening.pth
torchrun --nproc_per_node 8 -m tools.whiten best_model.pth --dataset sf_xl      # extracts on 8 GPUs

A network of ours, or a published one, is saved whole, for --resume of eval.py. Of other models only
the whitening is saved, and --model whitened:FILE:SPEC joins the two.
"""

import argparse
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

import commons
import machine
from command_line import (
    CommandLine,
    HelpFormatter,
    add_device,
    add_io_retries,
    default_datasets_folder,
    not_negative_int,
    positive_float,
    positive_int,
)
from datasets.catalog import TRAIN_SETS, find_train_folder
from datasets.image_lists import list_images
from evaluation.descriptors import Inference
from evaluation.views import View
from evaluation.whiten import NUM_IMAGES, fit_to_images
from model.checkpoint_files import save_atomically
from model.inference import optimize
from model.network import GeoLocalizationNet, add_whitening, has_whitening, remove_whitening
from model.other_models import identify, load_model, parse_model_spec
from model.resizing import choose_resize
from model.whitening import WHITENINGS, Whitening, WhiteningParams, check_dims, pack_whitening
from runs.provenance import code_version


def main(argv: Sequence[str] | None = None) -> None:
    """Fit a whitening and save it; log what it holds and how to use it."""
    args = _parse_arguments(argv)
    with commons.usage_errors():
        params = WhiteningParams(args.kind, args.dim, args.kept_dims, args.power)
        device = machine.choose_device(args.device)
        View(args.resize_test_imgs or "none")
        checkpoint, spec = split_model(args.model)
        save = Path(args.save or default_name(checkpoint, spec, params))
        if save.suffix != ".pth":
            raise ValueError(f"--save {save}: give a file that ends in .pth")
        inference = Inference(
            device,
            args.infer_batch_size,
            args.num_workers,
            args.skip_unreadable,
            args.use_amp16,
            io_retries=args.io_retries,
        )
    if save.is_dir() or not save.parent.is_dir():
        raise FileNotFoundError(f"--save {save}: give a file in an existing folder")
    folder = args.train_set_folder or find_train_folder(args.dataset, args.datasets_folder)
    images = list_images(folder, is_mapped=True)
    with commons.main_process_first():  # it downloads for all
        model, facts = load_model(checkpoint, spec)
    if isinstance(model, GeoLocalizationNet):
        prepare(model, args.model, args.replace)
    check_dims(params.dim, min(len(images), args.images), getattr(model, "out_dim", None))
    view = View(choose_resize(args.resize_test_imgs, None, model) or "none")
    extractor = optimize(model.to(device))
    whitening = fit_to_images(extractor, images, inference, view, params, args.images, args.seed)
    if commons.rank() == 0:
        provenance = {
            "images": str(images.folder),
            "num_images": min(len(images), args.images),
            "seed": args.seed,
            "resize": view.resize,
            "kind": params.kind,
            "model": facts["model"],
            "model_sha256": facts["model_sha256"],
            "code_version": code_version(),
        }
        save_whitened(model.cpu(), whitening, facts, provenance, save)


def split_model(text: str) -> tuple[str | None, str | None]:
    """Return the file of a checkpoint, or the spec of any other model; the other one is None.

    Raises:
        ValueError: If it is a spec, and cannot be read or is of a whitened model.
    """
    if os.path.isfile(text) and not text.endswith(".py"):
        return text, None
    if ":" not in text and not text.endswith(".py"):
        return text, None  # a file that is missing, as will be said when it is read
    parsed = parse_model_spec(text)
    if parsed.kind == "whitened":
        raise ValueError(f"'{text}' has a whitening already: give {parsed.function}")
    return None, text


def default_name(checkpoint: str | None, spec: str | None, params: WhiteningParams) -> Path:
    """Return the file to save: beside the checkpoint, or in the current folder."""
    source = Path(checkpoint or re.sub(r"[^\w.-]+", "_", spec))
    stem = source.stem if checkpoint else source.name
    return source.with_name(f"{stem}_{params.kind}_{params.kept_dims or params.dim}.pth")


def prepare(network: GeoLocalizationNet, name: str, replace: bool) -> None:
    """Take the whitening of a network away, if it has one and that is asked for.

    Raises:
        ValueError: If it has one, and that is not asked for.
    """
    if has_whitening(network) and not replace:
        raise ValueError(
            f"{name} ends in a whitening to {network.out_dim:,} dimensions already: --replace fits "
            "a new one in its place"
        )
    remove_whitening(network)


def save_whitened(
    model: nn.Module,
    whitening: Whitening,
    facts: dict[str, Any],
    provenance: dict[str, Any],
    save: Path,
) -> None:
    """Save a network of ours with its whitening, or only the whitening of another model."""
    if isinstance(model, GeoLocalizationNet):
        state = add_whitening(model, whitening).state_dict()
        flags = {"backbone": model.architecture["backbone"], "image_size": model.image_size}
        content = {"model_state_dict": state, "args": flags}  # as a checkpoint of train.py
        usage = f"--resume {save}"
    else:
        content = pack_whitening(whitening, facts["model"], identify(facts))
        usage = f"--model whitened:{save}:{facts['model']}"
    save_atomically(content | {"whitening": provenance}, save)
    logging.info(f"Wrote {save}: descriptors of {whitening.out_dim:,} dimensions, by {usage}")


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = CommandLine(
        prog="python -m tools.whiten",
        description=__doc__.split("\n")[0],
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = cli.add_argument
    add(
        "model",
        metavar="MODEL",
        help="file of a network, ours or published, or the spec of any other model, as --resume "
        "and --model of eval.py",
    )
    images = cli.add_mutually_exclusive_group(required=True)
    images.add_argument(
        "--dataset", choices=TRAIN_SETS, metavar="NAME", help="training set: %(choices)s"
    )
    images.add_argument("--train_set_folder", metavar="FOLDER", help="folder of training images")
    add(
        "--datasets_folder",
        default=default_datasets_folder(),
        help="folder of the named data sets; also the variable DATASETS_FOLDER",
    )
    add(
        "--images",
        type=positive_int,
        default=NUM_IMAGES,
        metavar="N",
        help="fit to a sample of so many of them",
    )
    add("--dim", type=positive_int, required=True, help="whitened dimensions")
    add(
        "--kept_dims",
        type=positive_int,
        metavar="K",
        help="cut descriptors to the first K of these, before L2 (default: all)",
    )
    add(
        "--kind",
        choices=WHITENINGS,
        default="pca_whiten",
        help="pca projects, and leaves the length; pca_whiten also divides by the standard "
        "deviations, then L2; pca_power divides by less, does not centre, then L2",
    )
    add(
        "--power",
        type=positive_float,
        help="a of pca_power, which divides by variances to the power a / 2 (default: 0.5)",
    )
    add(
        "--replace",
        action="store_true",
        help="replace the whitening that a network has; without it, such a network is refused",
    )
    add(
        "--save",
        metavar="FILE",
        help="where to; replaced if it exists (default: MODEL_KIND_DIM.pth beside MODEL)",
    )
    add(
        "--resize_test_imgs",
        metavar="{none,SIDE,HxW}",
        help="resize the images, as --resize_test_imgs of eval.py (default: the network's own "
        "rule, for transformers the square of their size, else none)",
    )
    add("--infer_batch_size", type=positive_int, default=16, help="images per batch")
    add("--use_amp16", action="store_true", help="16-bit automatic mixed precision, on GPUs")
    add_device(add)
    add_io_retries(add)
    add("--skip_unreadable", action="store_true", help="leave out images that cannot be read")
    add("--seed", type=not_negative_int, default=0, help="decides the sample")
    return cli.parse_args(argv)


if __name__ == "__main__":
    commons.run_command(main)
