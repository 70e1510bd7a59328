"""The flags of train.py that only methods with some objective have: classes, tuples, places.

Nothing here needs torch: `parser` adds them for the objective of a method.
"""

import argparse
from collections.abc import Callable

from command_line import (
    not_negative_float,
    not_negative_int,
    positive_float,
    positive_int,
)

# Names of tables of `training`, which needs torch: a test keeps them the same.
MINING = ("full", "partial", "random", "openibl")
LOSSES = ("triplet", "sare_ind", "sare_joint", "contrastive")
SIMILARITIES = ("euclid", "exponential", "cauchy", "dot")
REDUCTIONS = ("triplets", "mean", "sum", "violating")


def _add_groups(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group(
        "classes and groups, of --method cosplace (paper, section 3.2)"
    ).add_argument
    _add_cells(add)
    _add_headings(add)
    _add_classification(add)
    _add_colours(cli)


def _add_eigenplaces(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("classes, groups and views, of --method eigenplaces").add_argument
    _add_cells(add)
    add(
        "--focal_dist",
        type=positive_float,
        default=10.0,
        help="from the middle of a class to the points that its views look at, in metres",
    )
    add(
        "--train_images",
        choices=("auto", "panoramas", "crops"),
        default="auto",
        help="panoramas of 360 degrees, which views are cut out of, or crops of them, of which the "
        "nearest one is taken; auto: panoramas if the first image is four times as wide as high",
    )
    _add_classification(add)
    _add_colours(cli)


def _add_classification(add: Callable[..., argparse.Action]) -> None:
    add(
        "--groups_num",
        type=positive_int,
        default=8,
        help="how many groups to train on, of N*N*L (cosplace) or N*N (eigenplaces)",
    )
    add(
        "--min_images_per_class",
        type=not_negative_int,
        default=10,
        help="classes with fewer images (eigenplaces: panoramas) are dropped",
    )
    add("--iterations_per_epoch", type=positive_int, help="iterations of an epoch")
    add(
        "--classifiers_lr",
        type=positive_float,
        default=0.01,
        help="learning rate of the CosFace heads",
    )
    add("--s", type=positive_float, default=30.0, help="scale of the CosFace heads' logits")
    add("--m", type=not_negative_float, default=0.4, help="margin of the CosFace heads, in cosine")
    add(
        "--augmentation_device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="cpu augments in the loader's workers, cuda on the training device; "
        "auto is cuda where training runs there",
    )
    add(
        "--random_resized_crop",
        type=float,
        default=0.5,
        help="a crop covers at least 1 - this of the image's area",
    )


def _add_colours(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("augmentation of colours").add_argument
    add("--brightness", type=float, default=0.7, help="factor within 1 +- this")
    add("--contrast", type=float, default=0.7, help="factor within 1 +- this")
    add("--saturation", type=float, default=0.7, help="factor within 1 +- this")
    add("--hue", type=float, default=0.5, help="shift within +- this, in turns, at most 0.5")


def _add_cells(add: Callable[..., argparse.Action]) -> None:
    add("--M", type=positive_int, default=10, help="side of a cell, in metres")
    add(
        "--N",
        type=positive_int,
        default=5,
        help="classes of a group are N cells apart, east and north",
    )
    add(
        "--cache_folder",
        default="cache",
        help="folder of class indices, the splits of training folders into classes",
    )


def _add_headings(add: Callable[..., argparse.Action]) -> None:
    add("--alpha", type=positive_int, default=30, help="range of headings of a class, in degrees")
    add("--L", type=positive_int, default=2, help="classes of a group are L heading ranges apart")


def _add_places(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group(
        "batches of places, of methods such as gsv_cities: those of GSV-Cities, or classes of a "
        "folder with '@' names"
    ).add_argument
    _add_cells(add)
    _add_headings(add)
    add(
        "--cities",
        nargs="*",
        default=[],
        metavar="CITY",
        help="of GSV-Cities, in the order in which an epoch takes them (default: all, by name)",
    )
    add(
        "--images_per_place",
        type=positive_int,
        default=4,
        help="images of each of the --batch_size places of an iteration",
    )
    add(
        "--min_images_per_place",
        type=positive_int,
        default=4,
        help="places with fewer images are dropped",
    )
    add(
        "--iterations_per_epoch",
        type=positive_int,
        help="batches of an epoch, at most, drawn among all (default: all, each place once)",
    )
    add(
        "--mining",
        choices=("none", "cliques"),
        default="none",
        help="cliques: batches of places that look alike, of folders with '@' names, instead of "
        "random ones: images near each other are a place",
    )
    add(
        "--mining_epochs",
        type=positive_int,
        default=1,
        metavar="NUM",
        help="epochs from one mining of cliques to the next",
    )
    add(
        "--mining_images",
        type=positive_int,
        default=100_000,
        metavar="NUM",
        help="images to mine among, at most",
    )
    add(
        "--similar_clusters",
        type=positive_int,
        default=15,
        metavar="NUM",
        help="classes drawn for each one that a batch begins with, similar ones more likely",
    )
    add(
        "--clique_radius",
        type=positive_float,
        default=25.0,
        metavar="METRES",
        help="images of a clique are nearer to each other, those of others are not",
    )
    add(
        "--loss",
        choices=("multi_similarity",),
        default="multi_similarity",
        help="of the pairs of a batch that its miner finds hard",
    )
    add(
        "--rand_augment",
        type=not_negative_int,
        default=3,
        metavar="NUM",
        help="operations of RandAugment on each image",
    )
    add(
        "--rand_augment_magnitude",
        type=not_negative_int,
        default=9,
        metavar="M",
        help="their strength, 0 to 30",
    )
    add(
        "--train_interpolation",
        choices=("bilinear", "bicubic"),
        default="bilinear",
        help="of the resize of training images",
    )


def _add_tuples(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group(
        "tuples of a query, a positive and negatives, of methods such as netvlad"
    ).add_argument
    add(
        "--mining",
        choices=("auto", *MINING),
        default="auto",
        help="where negatives are searched, among random images: full, those drawn for each query "
        "and its last negatives; partial, those drawn for all queries together; random, nowhere, "
        "they are drawn; openibl, as full, and no positives of the query's panorama; auto: full "
        "for databases of at most 20,000 images, else partial",
    )
    add(
        "--queries_per_epoch",
        type=not_negative_int,
        default=5000,
        help="tuples of an epoch, rounded up to a multiple of --cache_refresh_rate (0: each query "
        "once)",
    )
    add(
        "--cache_refresh_rate",
        type=positive_int,
        default=1000,
        help="queries from one mining to the next",
    )
    add(
        "--neg_samples_num",
        type=positive_int,
        default=1000,
        help="database images drawn, among which negatives are searched",
    )
    add("--negs_num_per_query", type=positive_int, default=10, help="negatives of a tuple")
    add(
        "--train_positives_dist_threshold",
        type=positive_float,
        default=10.0,
        help="largest distance of a positive in training, in metres",
    )
    add(
        "--negatives_dist_threshold",
        type=positive_float,
        default=25.0,
        help="database images this near are no negatives, in metres",
    )
    add(
        "--tuple_panoramas",
        type=positive_int,
        default=20_000,
        metavar="NUM",
        help="of a training set without queries/, such as SF-XL, draw this many panoramas, half "
        "of them as queries",
    )
    add(
        "--loss",
        "--criterion",
        choices=LOSSES,
        default="triplet",
        help="of a tuple: triplet, max(0, d(q,p) - d(q,n) + margin); sare_ind and sare_joint; "
        "contrastive",
    )
    add("--margin", type=positive_float, default=0.1, help="of triplet and contrastive")
    add(
        "--power",
        type=int,
        choices=(1, 2),
        default=1,
        help="distances of triplet: 1 as they are, 2 squared",
    )
    add(
        "--similarity",
        choices=SIMILARITIES,
        default="euclid",
        help="of sare: minus the squared distance, or its other kernels; or the dot product over "
        "the temperature",
    )
    add("--temperature", type=positive_float, default=0.07, help="of --similarity dot")
    add(
        "--reduction",
        choices=REDUCTIONS,
        default="triplets",
        help="the loss of a batch: the sum over tuples and negatives, divided by their number, "
        "also where a tuple has one term, as the benchmark has it; the mean of all terms, as "
        "OpenIBL; their sum; or the mean of those that are not 0, as NetVLAD's authors",
    )
    add(
        "--augment",
        choices=("none", "queries", "all"),
        default="none",
        help="images whose colours are changed",
    )
    add(
        "--mining_dtype",
        choices=("float32", "float16"),
        default="float32",
        help="type of the descriptors that are mined with, in memory",
    )
    _add_colours(cli)


def _add_sfrs(cli: argparse.ArgumentParser) -> None:
    _add_tuples(cli)
    add = cli.add_argument_group(
        "generations and difficult positives, of --method sfrs"
    ).add_argument
    add("--generations", type=positive_int, default=4, help="each is taught by the one before")
    add(
        "--epochs_per_generation",
        type=positive_int,
        default=5,
        metavar="NUM",
        help="but for generation 0, which is one epoch; --epochs_num are those of all together",
    )
    add(
        "--teacher_temperatures",
        type=positive_float,
        nargs="+",
        default=[0.07, 0.07, 0.06, 0.05],
        metavar="T",
        help="that the teacher's similarities are divided by, one for each generation; the first "
        "one has no teacher",
    )
    add(
        "--soft_weight",
        type=not_negative_float,
        default=0.5,
        help="of the loss on the teacher's similarities",
    )
    add("--pos_num", type=positive_int, default=10, help="difficult positives of a tuple, at most")
    add(
        "--pos_pool",
        type=positive_int,
        default=20,
        help="nearest positives of a query, among which difficult ones are searched",
    )
    add(
        "--rerank_distances",
        choices=("openibl", "paper"),
        default="openibl",
        help="of descriptors, in the re-ranking that finds difficult positives: paper, squared; "
        "openibl, squared twice and divided by the largest, as the public code has them",
    )


OBJECTIVE_FLAGS = {  # flags that only methods with this objective have
    "classification": _add_groups,
    "eigenplaces": _add_eigenplaces,
    "tuples": _add_tuples,
    "sfrs": _add_sfrs,
    "places": _add_places,
}
