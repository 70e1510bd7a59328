"""Every flag of train.py and eval.py, with unit and default. Names are the official code's."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from flags.evaluation import add_evaluation_flags, check_evaluation_flags
from flags.training import add_training_flags, check_training_flags
from flags.types import not_negative_int, positive_float, positive_int

BACKBONES = [
    "ResNet18",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "VGG16",
    "EfficientNet_B0",
    "EfficientNet_B1",
    "EfficientNet_B2",
    "EfficientNet_B3",
    "EfficientNet_B4",
    "EfficientNet_B5",
    "EfficientNet_B6",
    "EfficientNet_B7",
    "EfficientNet_Lite0",
    "MobileNetV2",
    "ViT_B16",
    "CCT14_224",
    "CCT14_384",
    "DINOv2_S",
    "DINOv2_B",
    "DINOv2_L",
]
POOLINGS = ("gem", "avg", "max", "seqpool", "none")
TRAIN_SETS = ("sf_xl", "sf_xl_raw", "sf_xl_small", "mini_city")


def parse_arguments(
    argv: Sequence[str] | None = None,
    is_training: bool = True,
    defaults: dict[str, Any] | None = None,
) -> argparse.Namespace:
    """Read the command line.

    Args:
        argv: The arguments; those of the process if None.
        is_training: Whether for train.py or for eval.py.
        defaults: Take the place of the flags' own defaults (those of a run that is continued).
    """
    cli = argparse.ArgumentParser(
        description="Train CosPlace." if is_training else "Measure the recalls of a model.",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    if is_training:
        add_training_flags(cli)
    _add_data(cli, is_training)
    _add_model(cli, is_training)
    _add_evaluation(cli)
    if not is_training:
        add_evaluation_flags(cli)
    _add_run(cli)
    known = {action.dest for action in cli._actions}
    cli.set_defaults(**{key: value for key, value in (defaults or {}).items() if key in known})
    args = cli.parse_args(argv)
    if args.queries_folder and not args.test_set_folder:
        cli.error("--queries_folder goes with --test_set_folder; a --dataset has its own queries")
    if args.save_only_wrong_preds and not args.num_preds_to_save:
        cli.error("--save_only_wrong_preds says which pictures: how many is --num_preds_to_save")
    if is_training:
        check_training_flags(cli, args)
    else:
        check_evaluation_flags(cli, args)
    return args


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str:
        has_default = action.default not in (None, False, [])
        return super()._get_help_string(action) if has_default else action.help


def _add_data(cli: argparse.ArgumentParser, is_training: bool) -> None:
    group = cli.add_argument_group("data")
    add = group.add_argument
    if is_training:
        add(
            "--dataset",
            choices=TRAIN_SETS,
            default="sf_xl",
            metavar="NAME",
            help="training set: %(choices)s",
        )
        add("--train_set_folder", help="folder with training images, instead of the dataset's")
        add("--val_set_folder", help="folder with database/ and queries/, instead of the dataset's")
    else:
        add(
            "--dataset",
            "--datasets",
            nargs="+",
            default=[],
            metavar="NAME",
            help="test sets by name, or 'all': all that are below the datasets folder",
        )
    add("--test_set_folder", help="folder with database/ and queries, instead of the dataset's")
    add(
        "--queries_folder",
        nargs=None if is_training else "+",
        help="folder of the queries of --test_set_folder: a name inside it, or a path "
        "(queries_v1 if it is there, else queries)" + ("" if is_training else "; or several"),
    )
    add(
        "--datasets_folder",
        default=os.environ.get("DATASETS_FOLDER", "data"),
        help="where data sets are looked for by name; also the variable DATASETS_FOLDER",
    )
    add(
        "--io_retries",
        type=not_negative_int,
        default=3,
        metavar="N",
        help="how often the read of an image that failed is tried again, after growing pauses",
    )


def _add_model(cli: argparse.ArgumentParser, is_training: bool) -> None:
    group = cli.add_argument_group("model")
    add = group.add_argument
    names = ("--resume_model",) if is_training else ("--resume", "--resume_model")
    add(
        *names,
        dest="resume_model",
        metavar="CHECKPOINT",
        help="weights of a whole network, ours or published; backbone, pooling and dimension are "
        "read from it" + ("" if is_training else "; without it, the network before training"),
    )
    if not is_training:
        add(
            "--model",
            metavar="SPEC",
            help="a published network, cosplace:BACKBONE:DIM or landmark:{SfM120k,GLD}:BACKBONE; "
            "any other model(images) -> [B, D]: hub:OWNER/NAME[:REF]:ENTRY, hub:FOLDER:ENTRY, "
            "MODULE:FUNCTION or FILE.py:FUNCTION, with :KEY=VALUE for every argument (runs that "
            "code), torchscript:FILE or onnx:FILE",
        )
    untrained = {} if is_training else {"default": None}  # a checkpoint has its own architecture
    shown = "" if is_training else " of an untrained network (default: {})"
    add(
        "--backbone",
        choices=BACKBONES,
        **({"default": "ResNet18"} | untrained),
        help="the pretrained part, from images to feature maps" + shown.format("ResNet18"),
    )
    add(
        "--backbone_weights",
        default="imagenet",
        metavar="{imagenet,none,PATH}",
        help="what the backbone starts from: ImageNet weights (V1; of transformers those that they "
        "were published with), random, or a file of weights",
    )
    add(
        "--fc_output_dim",
        type=not_negative_int,
        help="length of the descriptors; 0: no linear layer, they are what the pooling gives "
        "(default: that of the backbone, 512; 0 for ViT and CCT)",
    )
    add(
        "--pooling",
        choices=POOLINGS,
        help="from the feature map to a vector (default: that of the backbone, gem; seqpool for "
        "CCT, none for ViT)",
    )
    if is_training:
        _add_freezing(cli)


def _add_freezing(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("freezing").add_argument
    add(
        "--train_all_layers",
        action="store_true",
        help="freeze no layer of a CNN (transformers are trained whole anyway)",
    )
    add(
        "--freeze_te",
        type=not_negative_int,
        default=0,
        metavar="N",
        help="of a transformer: freeze the embeddings and the first N blocks (0: train all)",
    )


def _add_evaluation(cli: argparse.ArgumentParser) -> None:
    group = cli.add_argument_group("validation and test")
    add = group.add_argument
    add(
        "--image_size",
        type=positive_int,
        help="side of training images, in pixels; see --resize_test_imgs (default: that of the "
        "backbone, 512; ViT, CCT14_224 and DINOv2 224, CCT14_384 384)",
    )
    add(
        "--resize_test_imgs",
        nargs="?",
        const="",
        metavar="{none,SIDE,HxW}",
        help="resize database and queries: shorter side in pixels, or height x width; "
        "without a value, shorter side to --image_size (default: for transformers the square of "
        "their size; else as the test set prescribes, none for all of the paper's)",
    )
    add(
        "--infer_batch_size",
        type=positive_int,
        default=16,
        help="images per batch, of equal size, in each process",
    )
    add(
        "--positive_dist_threshold",
        type=positive_float,
        help="largest distance of a right prediction, in metres (default: that of the test set, 25 "
        "for all of the paper's)",
    )
    add(
        "--recall_values",
        type=positive_int,
        nargs="+",
        default=[1, 5, 10, 20],
        metavar="N",
        help="N of R@N",
    )
    add(
        "--num_preds_to_save",
        type=not_negative_int,
        default=0,
        help="write a picture of each query with its first so many predictions (0: none)",
    )
    add(
        "--save_only_wrong_preds",
        action="store_true",
        help="only pictures of queries whose first prediction is wrong",
    )


def _add_run(cli: argparse.ArgumentParser) -> None:
    group = cli.add_argument_group("run")
    add = group.add_argument
    add("--device", choices=("auto", "cuda", "cpu", "mps"), default="auto", help="where to compute")
    add(
        "--num_workers",
        type=not_negative_int,
        default=min(8, os.cpu_count() or 1),
        help="loader processes, of each process that torchrun starts",
    )
    add("--seed", type=not_negative_int, default=0, help="decides every random choice")
    add(
        "--deterministic",
        action="store_true",
        help="only operations that give the same bits each time, slower; CPUs do so anyway",
    )
    add("--save_dir", help="folder of this run (default: logs/<what>_<time>)")
