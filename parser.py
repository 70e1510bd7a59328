"""Every flag of train.py, eval.py and localize.py, with unit and default.

Names are the official code's where it has one. Nothing here needs torch: --help is quick.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from command_line import (
    CommandLine,
    HelpFormatter,
    Pairs,
    add_device,
    add_io_retries,
    default_datasets_folder,
    fraction,
    image_size,
    key_and_value,
    not_negative_float,
    not_negative_int,
    positive_float,
    positive_int,
    read_flag,
    read_pair,
    set_defaults,
)
from datasets.catalog import TRAIN_SETS
from datasets.tables import read_json
from methods import DEFAULT_METHOD, METHODS
from model.aggregation import AGGREGATIONS
from model.backbones import BACKBONES, INPUT_SCALINGS
from objective_flags import OBJECTIVE_FLAGS

TEST_METHODS = (
    *("hard_resize", "single_query", "central_crop", "five_crops", "nearest_crop"),
    "maj_voting",
)
LIST = "list"  # --model list shows the published networks


_NOT_REPEATED = {"save_dir", "resume_train", "dry_run", "flags_from"}  # of a run, by another


def parse_train_arguments(
    argv: Sequence[str] | None = None, defaults: dict[str, Any] | None = None
) -> argparse.Namespace:
    """Read the command line of train.py.

    Defaults are those of --method; the flags of a resumed run take their place, or those of the
    run that --flags_from names.

    Args:
        argv: The arguments; those of the process if None.
        defaults: Flags of a resumed run. Names that are no flags (any more) are ignored.
    """
    cli = _make_cli("Train a method for visual place recognition.")
    cli.hints = {
        "--resume": "--resume_train RUN/last_checkpoint.pth resumes a run, --resume_model "
        "NETWORK.pth starts from the weights of a network"
    }
    whose = "the checkpoint"
    if defaults is None and (file := read_flag("--flags_from", argv)):
        whose, defaults = file, _read_flags_of_run(cli, file)
    method = _read_method(argv, defaults)
    _add_method(cli)
    OBJECTIVE_FLAGS[METHODS[method]["objective"]](cli)
    _refuse_flags_of_others(cli, argv, method)
    _add_training(cli)
    _add_optimizer(cli)
    _add_train_data(cli)
    _add_start(cli)
    _add_architecture(cli)
    _add_freezing(cli)
    _add_whitening(cli)
    _add_protocol(cli)
    _add_pictures(cli)
    _add_run(cli)
    cli.add_argument("--dry_run", action="store_true", help="print what is trained on, and stop")
    set_defaults(cli, METHODS[method])
    set_defaults(cli, defaults or {}, whose)
    args = cli.parse_args(argv)
    _check_common(cli, args)
    is_early = bool(args.resume_train) and defaults is None  # without the flags of the run
    if METHODS[method]["objective"] == "places" and not is_early:
        _refuse_flags_of_other_mining(cli, argv, args.mining)
    if args.resume_train == "auto" and not args.save_dir:
        cli.error("--resume_train auto resumes the run in --save_dir: say which folder that is")
    takes_labels = args.aggregation and AGGREGATIONS[args.aggregation].takes_labels
    if args.semantic_labels and (args.resume_model or not takes_labels):
        cli.error("--semantic_labels starts the shadows of a new sralnet or appsvr")
    if args.cluster_file and args.resume_model:
        cli.error("--cluster_file starts a new NetVLAD: the one of --resume_model has its clusters")
    first = AGGREGATIONS[args.aggregation].extends if args.aggregation else ""
    if first and not (args.resume_model or args.resume_train or args.dry_run):
        cli.error(
            f"--aggregation {args.aggregation} starts from a network with {first}, trained on the "
            "same training set: --resume_model RUN/best_model.pth"
        )
    return args


def parse_eval_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of eval.py; that of the process if `argv` is None."""
    cli = _make_cli("Measure the recalls of a model.")
    _add_eval_data(cli)
    _add_model(cli)
    _add_architecture(cli, " of an untrained network")
    _add_protocol(cli)
    _add_pictures(cli)
    _add_ground_truth(cli)
    _add_search(cli)
    _add_inference(cli)
    _add_files(cli)
    _add_run(cli)
    args = cli.parse_args(argv)
    if args.model == LIST:
        return args
    _check_common(cli, args)
    _check_evaluation(cli, args)
    return args


def parse_localize_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of localize.py."""
    cli = _make_cli("Find where photos were taken: the places of the most similar images.")
    add = cli.add_argument
    add("photos", nargs="+", metavar="PHOTO_OR_FOLDER", help="photos, or folders of them")
    models = cli.add_mutually_exclusive_group(required=True)
    models.add_argument(
        "--resume",
        "--resume_model",
        dest="resume_model",
        metavar="CHECKPOINT",
        help="weights of a network, ours or published",
    )
    models.add_argument("--model", metavar="SPEC", help="any other model, as of eval.py")
    add("--place_index", metavar="INDEX", help="folder written by --save_place_index, to search")
    add(
        "--database",
        metavar="IMAGES",
        help="images with '@' names to search, instead of a place index",
    )
    add(
        "--save_place_index", metavar="INDEX", help="save descriptors and names of --database there"
    )
    _add_search_kind(add)
    _add_rerank(add)
    add("--top_k", type=positive_int, default=5, help="places a photo")
    add(
        "--positive_dist_threshold",
        type=positive_float,
        default=25.0,
        help="largest distance within one place in the heuristic confidence, in metres",
    )
    add(
        "--calibration",
        metavar="FILE",
        help="makes confidences probabilities; written by python -m tools.calibrate",
    )
    add(
        "--min_confidence",
        type=fraction,
        help="below it, a photo is said to be not in the database (default: the calibration's)",
    )
    add(
        "--resize",
        metavar="{none,SIDE,HxW,multiple14}",
        help="resize photos, as --resize_test_imgs of eval.py (default: as the place index; for "
        "--database the network's own rule, the square of its size if it has one, else none)",
    )
    add("--infer_batch_size", type=positive_int, default=16, help="images per batch")
    add_device(add)
    add_io_retries(add)
    add("--skip_unreadable", action="store_true", help="skip photos that cannot be read")
    add(
        "--csv",
        metavar="FILE",
        help="write the table of places there too; - is stdout, which then shows nothing else",
    )
    add("--quiet", action="store_true", help="show warnings and errors only")
    add("--save_dir", help="folder of this run (default: logs/localize_<time>)")
    args = cli.parse_args(argv)
    _check_rerank(cli, args)
    if bool(args.place_index) == bool(args.database):
        cli.error("say where to search: either --place_index INDEX or --database IMAGES")
    if args.place_index and (args.save_place_index or args.search != "exact"):
        cli.error("--save_place_index and --search go with --database: a place index has its own")
    return args


def _make_cli(description: str) -> argparse.ArgumentParser:
    return CommandLine(description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def _read_method(argv: Sequence[str] | None, defaults: dict[str, Any] | None) -> str:
    """Return the method whose defaults the flags have; the full parser refuses unknown names."""
    asked = read_flag("--method", argv) or (defaults or {}).get("method") or _method_of_run(argv)
    return asked if isinstance(asked, str) and asked in METHODS else DEFAULT_METHOD


def _method_of_run(argv: Sequence[str] | None) -> Any:
    """Return the method of the run that is resumed, whose checkpoint takes torch to read."""
    resumed, folder = read_flag("--resume_train", argv), read_flag("--save_dir", argv)
    run = folder if resumed == "auto" else resumed and Path(resumed).parent
    try:
        return read_json(Path(run, "args.json")).get("method") if run else None
    except (OSError, ValueError):  # the checkpoint says it
        return None


def _read_flags_of_run(cli: argparse.ArgumentParser, file: str) -> dict[str, Any]:
    """Return the flags of a training that is to be repeated; exit code 2 if there are none."""
    try:
        flags = read_json(Path(file))
    except (OSError, ValueError) as error:
        cli.error(f"--flags_from {file} cannot be read: {error}")
    if str(flags.get("method")) not in METHODS:
        cli.error(f"--flags_from {file}: it takes the args.json of a run of train.py")
    return {name: value for name, value in flags.items() if name not in _NOT_REPEATED}


def _names_of_flags(argv: Sequence[str] | None) -> set[str]:
    """Return what a command line gives, without values: --N of --N=5."""
    return {text.split("=")[0] for text in (sys.argv[1:] if argv is None else argv)}


def _refuse_flags_of_others(
    cli: argparse.ArgumentParser, argv: Sequence[str] | None, method: str
) -> None:
    """End with exit code 2 if there are flags that only methods with another objective have."""
    given = _names_of_flags(argv)
    for objective, add_flags in OBJECTIVE_FLAGS.items():
        other = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        add_flags(other)
        foreign = given & other._option_string_actions.keys() - cli._option_string_actions.keys()
        if foreign:
            having = [name for name, row in METHODS.items() if row["objective"] == objective]
            cli.error(
                f"--method {method} has no {' and no '.join(sorted(foreign))}: it is a flag of "
                f"--method {', '.join(having)}"
            )


def _refuse_flags_of_other_mining(
    cli: argparse.ArgumentParser, argv: Sequence[str] | None, mining: str
) -> None:
    """End with exit code 2 if batches of places are found without some of the flags."""
    if mining == "cliques":
        unused, advice = {"--N", "--L"}, "its places are apart without groups, leave it out"
    else:
        unused = {"--mining_epochs", "--mining_images", "--similar_clusters", "--clique_radius"}
        advice = "add --mining cliques, or leave it out"
    if given := sorted(_names_of_flags(argv) & unused):
        cli.error(f"--mining {mining} has no {' and no '.join(given)}: {advice}")


def _check_common(cli: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with exit code 2 if flags of train.py or eval.py contradict each other."""
    if args.queries_folder and not args.test_set_folder:
        cli.error("--queries_folder goes with --test_set_folder; a --dataset has its own queries")
    if args.save_only_wrong_preds and not args.num_preds_to_save:
        cli.error("--save_only_wrong_preds selects pictures: say how many by --num_preds_to_save")


def _check_evaluation(cli: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with exit code 2 if flags of eval.py contradict each other."""
    if bool(args.dataset) == bool(args.test_set_folder):
        cli.error("say what to evaluate on: either --dataset NAME or --test_set_folder FOLDER")
    if bool(args.resume_model) + bool(args.model) + args.untrained != 1:
        cli.error(
            "say which model to evaluate, and only one: --resume CHECKPOINT, --model SPEC, or "
            "--untrained, the network before training"
        )
    if args.no_labels and (args.positives or args.positive_dist_threshold):
        cli.error("--no_labels counts no recalls: it goes without other labels")
    if args.positives and args.positive_dist_threshold:
        cli.error("--positives lists the positives: --positive_dist_threshold has no meaning")
    if args.majority_weight and args.test_method != "maj_voting":
        cli.error("--majority_weight belongs to --test_method maj_voting")
    _check_rerank(cli, args)
    if args.per_city and args.search != "exact":
        cli.error("--per_city searches each city exactly: leave --search out")
    several = len(args.dataset) > 1 or "all" in args.dataset or len(args.queries_folder or []) > 1
    if args.positives and several:
        cli.error("--positives belongs to one test set: evaluate on one at a time")


def _add_method(cli: argparse.ArgumentParser) -> None:
    cli.add_argument(
        "--method",
        choices=METHODS,
        default=DEFAULT_METHOD,
        help="method to train, which decides the defaults of other flags: --method NAME --help",
    )


def _add_training(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("training").add_argument
    add(
        "--batch_size",
        type=positive_int,
        help="images, tuples of images or places, per iteration, in all processes together; "
        "eigenplaces: images of each view",
    )
    add(
        "--epochs_num",
        type=not_negative_int,
        help="epochs; cosplace and eigenplaces train group t mod groups_num in epoch t; 0 tests "
        "the network that training would start from",
    )
    add(
        "--patience",
        type=not_negative_int,
        default=0,
        help="stop once this number of epochs in a row brought no better network (0: never)",
    )
    add(
        "--best_by",
        type=positive_int,
        default=1,
        metavar="N",
        help="the network with the highest R@N in validation is the best",
    )
    add(
        "--use_amp16",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="16-bit automatic mixed precision",
    )
    add(
        "--amp_dtype",
        choices=("fp16", "bf16"),
        default="fp16",
        help="the 16-bit type of --use_amp16",
    )
    add(
        "--max_grad_norm",
        type=positive_float,
        help="shorten longer gradients, of all that is trained together, to this length",
    )
    add(
        "--freeze_bn",
        nargs="?",
        choices=("frozen", "all"),
        const="frozen",
        help="BatchNorm of frozen layers, or of all, keeps its initial statistics (in the paper "
        "they move). Batches of tuples are of few places: with theirs a network may do worse than "
        "before",
    )
    add("--compile", action="store_true", help="compile the network by torch.compile")
    add(
        "--save_format",
        choices=("pth", "safetensors"),
        default="pth",
        help="safetensors: write the best network as best_model.safetensors, too",
    )
    add(
        "--resume_train",
        metavar="{CHECKPOINT,auto}",
        help="resume a run from its last_checkpoint.pth, in its folder, with its flags; auto: "
        "resume the run in --save_dir, or begin one there",
    )
    add(
        "--flags_from",
        metavar="RUN/args.json",
        help="repeat a run: its flags are the defaults, but for its folder",
    )
    add(
        "--checkpoint_every",
        type=not_negative_int,
        default=1000,
        help="iterations from one checkpoint to the next; each epoch ends with one anyway (0: no "
        "others)",
    )
    add(
        "--log_every",
        type=not_negative_int,
        default=100,
        help="iterations from one point of the curves in iterations.jsonl and TensorBoard to the "
        "next (0: only epochs)",
    )
    add(
        "--wandb",
        nargs="?",
        const="vpr",
        metavar="PROJECT",
        help="write the curves to a project of Weights & Biases, too (without a value: vpr)",
    )
    add(
        "--num_val_preds_to_save",
        type=not_negative_int,
        default=0,
        metavar="N",
        help="draw some validation queries with their top-N predictions after each epoch (0: none)",
    )
    add(
        "--max_bad_images",
        type=fraction,
        default=0.01,
        help="stop if more than this fraction of the drawn images cannot be read and is replaced",
    )


def _add_optimizer(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("optimizer of the network").add_argument
    add("--optimizer", choices=("adam", "adamw", "sgd"), default="adam", help="kind of optimizer")
    add("--lr", type=positive_float, help="learning rate")
    add("--momentum", type=float, default=0.9, help="of sgd")
    add("--weight_decay", type=not_negative_float, default=0.0, help="factor of the weight decay")
    add(
        "--lr_step",
        type=positive_int,
        default=1,
        metavar="EPOCHS",
        help="epochs after which learning rates are multiplied by --lr_gamma, again and again",
    )
    add("--lr_gamma", type=positive_float, default=1.0, help="1 leaves learning rates as they are")
    add(
        "--lr_milestones",
        type=positive_int,
        nargs="*",
        default=[],
        metavar="EPOCH",
        help="epochs from which on learning rates are multiplied by --lr_gamma, at each of them "
        "once more, instead of every --lr_step",
    )
    add(
        "--lr_warmup",
        type=not_negative_int,
        default=0,
        metavar="ITERATIONS",
        help="first iterations, over which learning rates rise from 0",
    )
    add("--lr_warmup_epochs", type=not_negative_int, default=0, help="the same in epochs")
    add(
        "--lr_linear",
        type=not_negative_int,
        default=0,
        metavar="ITERATIONS",
        help="iterations over which learning rates fall evenly to --lr_end times theirs",
    )
    add("--lr_end", type=positive_float, default=1.0, metavar="FACTOR", help="see --lr_linear")
    add(
        "--lr_factors",
        nargs="*",
        type=read_pair,
        action=Pairs,
        default={},
        metavar="PATTERN=FACTOR",
        help="learning rates of parts: patterns of names of parameters, aggregation.crn.*=10",
    )
    add(
        "--no_weight_decay",
        nargs="*",
        default=[],
        metavar="PATTERN",
        help="patterns of names of parameters without weight decay, such as *.bias",
    )


def _add_train_data(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("data").add_argument
    add(
        "--dataset",
        choices=TRAIN_SETS,
        default="sf_xl",
        metavar="NAME",
        help="training set: %(choices)s",
    )
    add("--train_set_folder", help="folder with training images, instead of the dataset's")
    add("--val_set_folder", help="folder with database/ and queries/, instead of the dataset's")
    add(
        "--queries_folder",
        help="folder of the queries of --test_set_folder: a name inside it, or a path "
        "(queries_v1 if it exists, else queries)",
    )
    _add_folders(add)


def _add_eval_data(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("data").add_argument
    add(
        "--dataset",
        "--datasets",
        nargs="+",
        default=[],
        metavar="NAME",
        help="test sets by name, or 'all': all that are below the datasets folder",
    )
    add(
        "--queries_folder",
        nargs="+",
        help="folder of the queries of --test_set_folder: a name inside it, or a path "
        "(queries_v1 if it exists, else queries); or several",
    )
    _add_folders(add)


def _add_folders(add: Callable[..., argparse.Action]) -> None:
    add("--test_set_folder", help="folder with database/ and queries, instead of the dataset's")
    add(
        "--datasets_folder",
        default=default_datasets_folder(),
        help="folder of the named data sets; also the variable DATASETS_FOLDER",
    )
    add_io_retries(add)


def _add_start(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("model").add_argument
    add(
        "--resume_model",
        metavar="CHECKPOINT",
        help="initial weights of a network, ours or published, with its backbone, "
        "aggregation and dimension; or the name of a published one, such as salad:DINOv2 "
        "(eval.py --model list)",
    )
    add(
        "--semantic_labels",
        metavar="FOLDER",
        help="what sralnet and appsvr start from: label maps of the training images, as "
        "tools.segment writes them: PNG of the training ids of Cityscapes, with the images' paths",
    )
    add(
        "--cluster_file",
        metavar="FILE.hdf5",
        help="clusters that a NetVLAD starts from, centroids and local descriptors in a file of "
        "OpenIBL (by default they are searched in training images)",
    )


def _add_model(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("model").add_argument
    add(
        "--resume",
        "--resume_model",
        dest="resume_model",
        metavar="CHECKPOINT",
        help="weights of a network, ours or published, with its backbone, "
        "aggregation and dimension",
    )
    add("--untrained", action="store_true", help="the network before training")
    add(
        "--model",
        metavar="SPEC",
        help="a published network by name, such as cosplace:ResNet50:512, netvlad:pitts30k, "
        "salad:DINOv2 or megaloc (--model list shows them all, and stops); any "
        "other model(images) -> [B, D]: hub:OWNER/NAME[:REF]:ENTRY, hub:FOLDER:ENTRY, "
        "FILE.py[:FUNCTION] (get_model by default), with :KEY=VALUE for every argument, "
        "torchscript:FILE (all of these run code of others) or onnx:FILE; @322x322 or another "
        "rule of --resize_test_imgs after any of them resizes its test images",
    )


def _add_architecture(cli: argparse.ArgumentParser, of_what: str = "") -> None:
    """Add the flags of a new network; without defaults where most networks come from files."""
    add = cli.add_argument_group(f"architecture{of_what}").add_argument
    add(
        "--backbone",
        choices=BACKBONES,
        help="the pretrained part, from images to feature maps"
        + (" (default: ResNet18)" if of_what else ""),
    )
    add(
        "--backbone_weights",
        default="imagenet",
        metavar="{imagenet,none,PATH}",
        help="initial weights of the backbone: ImageNet's (V1; of transformers the published "
        "ones), random, or a file of weights",
    )
    add(
        "--input_scaling",
        choices=INPUT_SCALINGS,
        help="the images that --backbone_weights are for, which the network makes of its own: "
        "vgg_caffe are grey levels minus their mean, for VGG16 by Caffe or MatConvNet (default: "
        "imagenet, the network's own)",
    )
    add(
        "--fc_output_dim",
        type=not_negative_int,
        help="length of the descriptors, by the linear layer of the aggregation; 0: no such layer "
        "(default: that of the backbone, 512; 0 for ViT and CCT, and for all aggregations from cls "
        "on)",
    )
    add(
        "--aggregation",
        "--pooling",
        choices=AGGREGATIONS,
        help="from the feature map to the descriptor (default: that of the backbone, gem; seqpool "
        "for CCT, none for ViT)",
    )
    add(
        "--aggregation_args",
        nargs="*",
        type=key_and_value,
        action=Pairs,
        metavar="KEY=VALUE",
        help="options of the aggregation, such as l2=before_pool of gem; none of them without a "
        "value (default: those of the aggregation itself)",
    )


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
    add(
        "--train_last_blocks",
        type=not_negative_int,
        default=0,
        metavar="N",
        help="of a transformer: train only the last N blocks and the normalisation after them "
        "(0: train all)",
    )


def _add_protocol(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("validation and test").add_argument
    add(
        "--image_size",
        type=image_size,
        metavar="{SIDE,HxW}",
        help="size of training images, in pixels, of squares or as height x width; see "
        "--resize_test_imgs (default: that of the backbone, 512; ViT, CCT14_224 and DINOv2 224, "
        "CCT14_384 384)",
    )
    add(
        "--resize_test_imgs",
        nargs="?",
        const="",
        metavar="{none,SIDE,HxW,multiple14}",
        help="resize database and queries: shorter side in pixels, or height x width, with "
        "-bicubic, -pillow (whole grey levels, as Pillow's) or -no_antialias after it or not; or "
        "each side to the nearest multiple of 14; "
        "without a value, shorter side to --image_size (default: the network's own rule, if it "
        "was validated with one; for transformers the square of "
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
        help="largest distance of a positive, in metres (default: that of the test set, 25 for all "
        "of the paper's)",
    )
    add(
        "--recall_values",
        type=positive_int,
        nargs="+",
        default=[1, 5, 10, 20],
        metavar="N",
        help="N of R@N",
    )


def _add_pictures(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("pictures").add_argument
    add(
        "--num_preds_to_save",
        type=not_negative_int,
        default=0,
        metavar="N",
        help="save a picture of each query with its top-N predictions (0: none)",
    )
    add(
        "--save_only_wrong_preds",
        action="store_true",
        help="only pictures of queries whose top-1 prediction is wrong",
    )


def _add_ground_truth(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("ground truth").add_argument
    add(
        "--positives",
        metavar="FILE",
        help=".csv (query,database) or .npy with the positives of each query, instead of distances",
    )
    add(
        "--exclude_self",
        action="store_true",
        help="leave queries that are database images (same file or same bytes) out of their own "
        "predictions",
    )
    add("--no_labels", action="store_true", help="only retrieve: no recalls, positions not needed")
    add(
        "--per_city",
        action="store_true",
        help="search only the city of the query: the end of the note of '@' names, or the "
        "sub-folder",
    )
    add(
        "--pose_top_k",
        type=positive_int,
        default=5,
        metavar="K",
        help="where queries have 6-DoF poses: fuse the poses of the first K predictions",
    )


def _add_search(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("queries and search").add_argument
    add(
        "--test_method",
        choices=TEST_METHODS,
        help="how query images are resized and cropped, as in the deep visual geo-localization "
        "benchmark; they are resized to 480x640 unless --resize_test_imgs is given",
    )
    add(
        "--majority_weight",
        type=positive_float,
        help="of --test_method maj_voting: subtracted from the squared distances of shared "
        "predictions (default: 0.01)",
    )
    _add_search_kind(add)
    _add_rerank(add)


def _add_rerank(add: Callable[..., argparse.Action]) -> None:
    add(
        "--rerank",
        metavar="{sift,MODULE:FUNCTION}",
        help="compare each query with its top predictions: by SIFT (needs OpenCV), or by a "
        "function of two images that returns a score, which runs the code of that module",
    )
    add(
        "--rerank_k",
        type=positive_int,
        metavar="K",
        help="number of predictions that --rerank compares (default: 20)",
    )


def _check_rerank(cli: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.rerank_k and not args.rerank:
        cli.error("--rerank_k says how many predictions --rerank compares: say by what")


def _add_search_kind(add: Callable[..., argparse.Action]) -> None:
    add(
        "--search",
        default="exact",
        metavar="{exact,fp16,ivf_pq,FACTORY}",
        help="how the database is searched: exact; fp16, in half the memory; ivf_pq, by codes of "
        "some of it; or a factory string of faiss, with parameters: 'IVF1024,Flat;nprobe=32'",
    )


def _add_inference(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("inference").add_argument
    add("--use_amp16", action="store_true", help="16-bit automatic mixed precision, on GPUs")
    add(
        "--descriptors_dtype",
        choices=("float32", "float16"),
        default="float32",
        help="type of stored descriptors, in memory and in files",
    )


def _add_files(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("files").add_argument
    add(
        "--save_descriptors",
        metavar="FOLDER",
        help="save descriptors there, as .npy, as they are extracted; those already there are "
        "loaded, also those of an interrupted run",
    )
    add(
        "--load_descriptors",
        metavar="FOLDER",
        help="load descriptors from there if they exist, and resume those of an interrupted run",
    )
    add("--save_place_index", metavar="FOLDER", help="save the database for localize.py")
    add(
        "--skip_unreadable",
        action="store_true",
        help="continue past images that cannot be read: such queries count as misses",
    )
    add("--no_report", action="store_true", help="write no report.html")


def _add_whitening(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("whitening, fitted to training images in the end").add_argument
    add(
        "--whitening",
        choices=("none", "pca", "pca_whiten", "pca_power"),
        default="none",
        help="last layer of the network: principal components; the same with unit variances, or "
        "with a power of them",
    )
    add("--whiten_dim", type=positive_int, default=512, help="number of its dimensions")
    add(
        "--kept_dims",
        type=positive_int,
        help="length of the descriptors, the first of the whitened dimensions (default: all)",
    )
    add("--whiten_images", type=positive_int, default=10_000, help="images that it is fitted to")


def _add_run(cli: argparse.ArgumentParser) -> None:
    add = cli.add_argument_group("run").add_argument
    add_device(add)
    add("--seed", type=not_negative_int, default=0, help="decides every random choice")
    add(
        "--deterministic",
        action="store_true",
        help="only operations that give the same bits each time, slower; CPUs do so anyway",
    )
    add("--save_dir", help="folder of this run (default: logs/<script>_<model>_<time>)")
