"""Every flag of train.py and eval.py, with unit and default. Names are the official code's."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

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
]
POOLINGS = ("gem", "avg", "max")
TRAIN_SETS = ("sf_xl", "sf_xl_raw", "sf_xl_small", "mini_city")
TEST_SETS = [
    "sf_xl_val",
    "sf_xl_test_v1",
    "sf_xl_test_v2",
    "sf_xl_test_night",
    "sf_xl_test_occlusion",
    "sf_xl_small_val",
    "sf_xl_small_test",
    "mini_city_val",
    "mini_city_test_v1",
    "mini_city_test_v2",
]


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
        _add_groups(cli)
        _add_training(cli)
        _add_augmentation(cli)
    _add_data(cli, is_training)
    _add_model(cli, is_training)
    _add_evaluation(cli)
    _add_run(cli)
    known = {action.dest for action in cli._actions}
    cli.set_defaults(**{key: value for key, value in (defaults or {}).items() if key in known})
    args = cli.parse_args(argv)
    if not is_training and bool(args.dataset) == bool(args.test_set_folder):
        cli.error("say what to evaluate on: either --dataset NAME or --test_set_folder FOLDER")
    if args.queries_folder and not args.test_set_folder:
        cli.error("--queries_folder goes with --test_set_folder; a --dataset has its own queries")
    return args


def positive_int(text: str) -> int:
    """Read a whole number above 0."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def not_negative_int(text: str) -> int:
    """Read a whole number, 0 or above."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, not {value}")
    return value


def positive_float(text: str) -> float:
    """Read a finite number above 0."""
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {value}")
    return value


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str:
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


def _add_groups(cli: argparse.ArgumentParser) -> None:
    group = cli.add_argument_group("classes and groups (paper, section 3.2)")
    add = group.add_argument
    add("--M", type=positive_int, default=10, help="side of a cell, in metres")
    add("--alpha", type=positive_int, default=30, help="range of headings of a class, in degrees")
    add(
        "--N",
        type=positive_int,
        default=5,
        help="classes of a group are N cells apart, east and north",
    )
    add("--L", type=positive_int, default=2, help="classes of a group are L heading ranges apart")
    add(
        "--groups_num",
        type=positive_int,
        default=8,
        help="how many of the N*N*L groups to train on",
    )
    add(
        "--min_images_per_class",
        type=not_negative_int,
        default=10,
        help="classes with fewer images are dropped",
    )
    add("--dry_run", action="store_true", help="print the groups and stop")
    add(
        "--cache_folder",
        default="cache",
        help="where the split of a training folder into classes is kept",
    )


def _add_training(cli: argparse.ArgumentParser) -> None:
    group = cli.add_argument_group("training")
    add = group.add_argument
    add("--batch_size", type=positive_int, default=32, help="images per iteration")
    add(
        "--epochs_num",
        type=positive_int,
        default=50,
        help="epochs; epoch t trains group t mod groups_num",
    )
    add("--iterations_per_epoch", type=positive_int, default=10000, help="iterations of an epoch")
    add("--lr", type=positive_float, default=1e-5, help="learning rate of the network (Adam)")
    add(
        "--classifiers_lr",
        type=positive_float,
        default=0.01,
        help="learning rate of the CosFace heads",
    )
    add("--use_amp16", action="store_true", help="16-bit automatic mixed precision")
    add(
        "--amp_dtype",
        choices=("fp16", "bf16"),
        default="fp16",
        help="the 16-bit type of --use_amp16",
    )
    add(
        "--resume_train",
        metavar="CHECKPOINT",
        help="continue a run from its last_checkpoint.pth, in its folder, with its flags",
    )


def _add_augmentation(cli: argparse.ArgumentParser) -> None:
    group = cli.add_argument_group("augmentation")
    add = group.add_argument
    add(
        "--augmentation_device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="cpu augments in the loader's workers, cuda on the training device; "
        "auto is cuda where training runs there",
    )
    add("--brightness", type=float, default=0.7, help="factor within 1 +- this")
    add("--contrast", type=float, default=0.7, help="factor within 1 +- this")
    add("--saturation", type=float, default=0.7, help="factor within 1 +- this")
    add("--hue", type=float, default=0.5, help="shift within +- this, in turns, at most 0.5")
    add(
        "--random_resized_crop",
        type=float,
        default=0.5,
        help="a crop covers at least 1 - this of the image's area",
    )


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
        add("--dataset", choices=TEST_SETS, metavar="NAME", help="test set: %(choices)s")
    add("--test_set_folder", help="folder with database/ and queries, instead of the dataset's")
    add(
        "--queries_folder",
        help="folder of the queries of --test_set_folder: a name inside it, or a path "
        "(queries_v1 if it is there, else queries)",
    )
    add(
        "--datasets_folder",
        default=os.environ.get("DATASETS_FOLDER", "data"),
        help="where data sets are looked for by name; also the variable DATASETS_FOLDER",
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
    add("--backbone", choices=BACKBONES, default="ResNet18", help="the convolutional part")
    add(
        "--backbone_weights",
        default="imagenet",
        metavar="{imagenet,none,PATH}",
        help="what the backbone starts from: ImageNet weights (V1), random, or a file of weights",
    )
    add("--fc_output_dim", type=positive_int, default=512, help="length of the descriptors")
    add("--pooling", choices=POOLINGS, default="gem", help="from the feature map to a vector")
    if is_training:
        add("--train_all_layers", action="store_true", help="freeze no layer of the backbone")


def _add_evaluation(cli: argparse.ArgumentParser) -> None:
    group = cli.add_argument_group("validation and test")
    add = group.add_argument
    add(
        "--image_size",
        type=positive_int,
        default=512,
        help="side of training images, in pixels; see --resize_test_imgs",
    )
    add(
        "--resize_test_imgs",
        nargs="?",
        const="",
        default="none",
        metavar="{none,SIDE,HxW}",
        help="resize database and queries: shorter side in pixels, or height x width; "
        "without a value, shorter side to --image_size",
    )
    add("--infer_batch_size", type=positive_int, default=16, help="images per batch, of equal size")
    add(
        "--positive_dist_threshold",
        type=positive_float,
        default=25.0,
        help="largest distance of a right prediction, in metres",
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
        help="loader processes",
    )
    add("--seed", type=not_negative_int, default=0, help="decides every random choice")
    add("--save_dir", help="folder of this run (default: logs/<what>_<time>)")
