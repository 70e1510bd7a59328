"""Measure the recalls of a model.

python eval.py --resume model.pth --dataset sf_xl_test_v1
python eval.py --resume model.pth --datasets all
python eval.py --resume model.pth --test_set_folder FOLDER --queries_folder queries
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

import commons
from datasets.catalog import TEST_SETS, look_up_test_set
from datasets.eval_dataset import EvalSet
from datasets.eval_sets import Labels, load_test_set
from evaluation import Protocol
from evaluation.descriptor_files import DescriptorFiles
from evaluation.descriptors import Inference
from evaluation.indexes import build_index, parse_index
from evaluation.place_index import check_place_index_folder, save_place_index
from evaluation.protocol import evaluate_all
from evaluation.results import NUM_RANKED, write_results
from evaluation.retrieval import Database
from evaluation.tables import format_result, format_table
from model import build_network
from model.any_model import hash_tensors, parse_model_spec
from model.loading import load_model
from parser import parse_arguments
from reports.pictures import save_pictures
from reports.report import write_report


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate one model on test sets and write the folder of the run."""
    args = parse_arguments(argv, is_training=False)
    software = commons.describe_software()
    commons.seed_everything(args.seed)
    with commons.usage_errors():
        for name in set(args.dataset) - {"all"}:
            look_up_test_set(name)
        if args.model:
            parse_model_spec(args.model)
        protocol = Protocol(
            tuple(args.recall_values),
            str(args.image_size) if args.resize_test_imgs == "" else args.resize_test_imgs,
            args.test_method,
            args.majority_weight,
            parse_index(args.index),
        )
        device = commons.choose_device(args.device)
    labels = Labels(args.positive_dist_threshold, args.positives, args.no_labels, args.per_city)
    if args.dataset:
        eval_sets = load_named_sets(args.dataset, args.datasets_folder, labels)
    else:
        eval_sets = [
            load_test_set(None, args.datasets_folder, args.test_set_folder, queries, labels)
            for queries in args.queries_folder or [None]
        ]
    if args.save_index:
        check_one_database(eval_sets)
        check_place_index_folder(args.save_index)
    if args.resume_model or args.model:
        model, provenance = load_model(args.resume_model, args.model)
    else:
        model, provenance = build_untrained(
            args.backbone, args.fc_output_dim, args.pooling, args.backbone_weights
        )
    files = DescriptorFiles(
        provenance["model_sha256"] or provenance["model"],  # a function may have no weights
        args.save_descriptors and Path(args.save_descriptors),
        args.load_descriptors and Path(args.load_descriptors),
    )

    run_folder = commons.make_run_folder(args.save_dir, "eval", vars(args) | provenance)
    commons.setup_logging(run_folder)
    logging.info(f"Evaluating {provenance['model']} on {', '.join(map(str, eval_sets))}")
    for eval_set in eval_sets:
        warn(eval_set)
    num_listed = max(*protocol.recall_values, args.num_preds_to_save)
    provenance |= {"seed": args.seed} | software
    results = []
    for evaluation in evaluate_all(
        model.to(device),
        eval_sets,
        protocol,
        Inference(device, args.infer_batch_size, args.num_workers, args.skip_unreadable),
        max(num_listed, NUM_RANKED),
        files,
        partial(keep_index, args.save_index, provenance) if args.save_index else None,
    ):
        folder = folder_of(run_folder, evaluation.eval_set, len(eval_sets))
        results.append(write_results(evaluation, provenance, folder, num_listed))
        logging.info(format_result(results[-1]))
        warn(evaluation.eval_set)  # again: this is where people look
        if args.num_preds_to_save:
            save_pictures(folder, args.num_preds_to_save, args.save_only_wrong_preds)
        if not args.no_report:
            logging.info(f"Report: {write_report(folder)}")
    write_tables(results, run_folder)
    logging.info(f"Results are in {run_folder}")


def load_named_sets(names: Sequence[str], datasets_folder: str, labels: Labels) -> list[EvalSet]:
    """Load test sets; "all" are those that are on disk, and the others are listed.

    Raises:
        ValueError: If a name is unknown, or a set is not as it should be.
        FileNotFoundError: If a set that is named is not there, or none of all is.
    """
    if "all" not in names:
        return [
            load_test_set(name, datasets_folder, labels=labels) for name in dict.fromkeys(names)
        ]
    eval_sets, absent = [], []
    for name in TEST_SETS:
        try:
            eval_sets.append(load_test_set(name, datasets_folder, labels=labels))
        except FileNotFoundError as error:
            logging.debug(error)
            absent.append(name)
    if not eval_sets:
        raise FileNotFoundError(
            f"No test set is below {datasets_folder}: give another --datasets_folder, or say "
            "--dataset NAME to see what is expected where"
        )
    if absent:
        logging.info(f"Not below {datasets_folder}: {', '.join(absent)}")
    return eval_sets


def check_one_database(eval_sets: Sequence[EvalSet]) -> None:
    """Raise a ValueError if sets have different databases: an index is of one."""
    folders = list(dict.fromkeys(str(eval_set.database.folder) for eval_set in eval_sets))
    if len(folders) > 1:
        raise ValueError(f"--save_index keeps one database, there are {', '.join(folders)}")


def warn(eval_set: EvalSet) -> None:
    """Log what a reader of the recalls must know."""
    for note in eval_set.notes:
        logging.warning(f"{eval_set.name}: {note}")


def keep_index(folder: str, provenance: dict[str, Any], database: Database) -> None:
    """Save a database that `localize.py` can search."""
    index = database.index or build_index(database.descriptors, database.spec)
    facts = provenance | {"resize": database.view.resize}
    save_place_index(folder, index, database.spec, database.readable_paths, facts)
    logging.info(f"The index of {database.paths.folder} is in {folder}")


def build_untrained(*architecture: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network that training starts from, and what identifies it, as `load_model`."""
    network = build_network(*architecture).eval()
    name = {"model": "the untrained network", "model_file": None}
    return network, name | {"model_sha256": hash_tensors(network)} | network.architecture


def folder_of(run_folder: Path, eval_set: EvalSet, num_sets: int) -> Path:
    """Return the folder of the results of one set: that of the run, or one in it if several."""
    if num_sets == 1:
        return run_folder
    folder = run_folder / eval_set.name.replace("/", "_")
    folder.mkdir()
    return folder


def write_tables(results: Sequence[dict[str, Any]], run_folder: Path) -> None:
    """Write `table.md` and `table.csv`, and show the table if it is of several sets."""
    for form, name in (("markdown", "table.md"), ("csv", "table.csv")):
        with commons.written_whole(run_folder / name) as path:
            path.write_text(format_table(results, form), encoding="utf-8")
    if len(results) > 1:
        logging.info(format_table(results, "text"))


if __name__ == "__main__":
    commons.run_command(main)
