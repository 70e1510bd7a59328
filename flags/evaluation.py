"""Flags of eval.py alone: ground truth, protocol, search, files."""

import argparse

from flags.types import positive_float

TEST_METHODS = (
    "hard_resize",
    "single_query",
    "central_crop",
    "five_crops",
    "nearest_crop",
    "maj_voting",
)


def add_evaluation_flags(cli: argparse.ArgumentParser) -> None:
    """Add them in groups."""
    _add_ground_truth(cli)
    _add_search(cli)
    _add_inference(cli)
    _add_files(cli)


def check_evaluation_flags(cli: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with exit code 2 if flags contradict each other."""
    if bool(args.dataset) == bool(args.test_set_folder):
        cli.error("say what to evaluate on: either --dataset NAME or --test_set_folder FOLDER")
    if args.resume_model and args.model:
        cli.error("--resume and --model both name a model: give one of them")
    if args.no_labels and (args.positives or args.positive_dist_threshold):
        cli.error("--no_labels counts no recalls: it goes without other labels")
    if args.positives and args.positive_dist_threshold:
        cli.error("--positives tells what is right: --positive_dist_threshold has no meaning")
    if args.majority_weight and args.test_method != "maj_voting":
        cli.error("--majority_weight belongs to --test_method maj_voting")
    if args.per_city and args.index != "exact":
        cli.error("--per_city searches each city exactly: leave --index out")
    several = len(args.dataset) > 1 or "all" in args.dataset or len(args.queries_folder or []) > 1
    if args.positives and several:
        cli.error("--positives belongs to one test set: evaluate on one at a time")


def _add_ground_truth(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("ground truth").add_argument
    add(
        "--positives",
        metavar="FILE",
        help=".csv (query,database) or .npy with the right database images of each query, instead "
        "of distances",
    )
    add("--no_labels", action="store_true", help="only retrieve: no recalls, positions not needed")
    add(
        "--per_city",
        action="store_true",
        help="search only the city of the query: the end of the note of '@' names, or the "
        "sub-folder",
    )


def _add_search(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("queries and search").add_argument
    add(
        "--test_method",
        choices=TEST_METHODS,
        help="how queries are looked at, as in the deep visual geo-localization benchmark; images "
        "are resized to 480x640 unless --resize_test_imgs says otherwise",
    )
    add(
        "--majority_weight",
        type=positive_float,
        help="of --test_method maj_voting: taken off the squared distances of shared predictions "
        "(default: 0.01)",
    )
    add(
        "--index",
        default="exact",
        metavar="NAME[:KEY=VALUE,...]",
        help="search: exact, flat_fp16, flat_int8, pq_fastscan, ivf, ivf_pq, hnsw, or "
        "faiss:FACTORY_STRING",
    )


def _add_inference(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("inference").add_argument
    add(
        "--inference_engine",
        choices=("torch", "onnxruntime"),
        default="torch",
        help="what runs the network; onnxruntime is faster on CPUs, with the same descriptors to "
        "1e-5 (pip install onnx onnxruntime)",
    )
    add("--use_amp16", action="store_true", help="16-bit automatic mixed precision, on GPUs")
    add(
        "--descriptors_dtype",
        choices=("float32", "float16"),
        default="float32",
        help="how descriptors are kept, in memory and in files",
    )


def _add_files(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("files").add_argument
    add(
        "--save_descriptors",
        metavar="FOLDER",
        help="keep descriptors there, as .npy, as they are made; those that are there are taken, "
        "also those of an interrupted run",
    )
    add(
        "--load_descriptors",
        metavar="FOLDER",
        help="take descriptors from there if they are, and complete those of an interrupted run",
    )
    add("--save_index", metavar="FOLDER", help="keep the database's index, for localize.py")
    add(
        "--skip_unreadable",
        action="store_true",
        help="go on past images that cannot be read: such queries count as misses",
    )
    add("--no_report", action="store_true", help="write no report.html")
