"""Flags of train.py alone: classes and groups, optimisation, augmentation."""

import argparse

from flags.types import not_negative_int, positive_float, positive_int, share


def add_training_flags(cli: argparse.ArgumentParser) -> None:
    """Add them in groups."""
    _add_groups(cli)
    _add_training(cli)
    _add_augmentation(cli)


def check_training_flags(cli: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with exit code 2 if flags contradict each other."""
    if args.resume_train == "auto" and not args.save_dir:
        cli.error("--resume_train auto continues the run in --save_dir: say which folder that is")


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
    add(
        "--batch_size",
        type=positive_int,
        default=32,
        help="images per iteration, in all processes together",
    )
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
        "--max_grad_norm",
        type=positive_float,
        help="shorten longer gradients, of the network and a head together, to this length",
    )
    add(
        "--freeze_bn",
        action="store_true",
        help="BatchNorm of frozen layers keeps the statistics it starts with (the paper's moves)",
    )
    add("--compile", action="store_true", help="compile the network by torch.compile")
    add(
        "--shard_classifier",
        action="store_true",
        help="under torchrun: each process holds its share of the classes of a head, for groups "
        "whose classes x dimensions are too many for one GPU",
    )
    add(
        "--resume_train",
        metavar="{CHECKPOINT,auto}",
        help="continue a run from its last_checkpoint.pth, in its folder, with its flags; auto: "
        "the run in --save_dir, or begin one there",
    )
    add(
        "--checkpoint_every",
        type=not_negative_int,
        default=1000,
        help="iterations from one checkpoint to the next; each epoch ends with one anyway (0: no "
        "others)",
    )
    add(
        "--max_bad_images",
        type=share,
        default=0.01,
        help="stop if more than this part of the images that are drawn cannot be read; others of "
        "their classes are taken instead",
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
