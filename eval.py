"""Measure the recalls of a model.

python eval.py --resume model.pth --dataset sf_xl_test_v1
python eval.py --resume model.pth --datasets all
python eval.py --model list                                      # the published networks, by name
python eval.py --resume model.pth --test_set_folder FOLDER --queries_folder queries
torchrun --nproc_per_node 8 eval.py --resume model.pth --dataset sf_xl_test_v1     # on 8 GPUs

The same command starts an evaluation over that was stopped or killed, also with the same
--save_dir. With --save_descriptors it resumes the extraction: SIGTERM is no failure then, exit code
0; without, 1. Ctrl-C: 130.
"""

import packages  # first: says which package of those below is missing

if __name__ == "__main__":  # before torch is imported, which takes seconds
    import stops

    stops.begin()

    import machine
    from parser import parse_eval_arguments

    machine.prepare()
    parse_eval_arguments()  # ends here for --help and for flags that are wrong

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import commons
import machine
from datasets.catalog import look_up_test_set
from datasets.eval_set import EvalSet, Labels, load_named_sets, load_own_sets
from evaluation import Evaluation, Protocol
from evaluation.descriptor_files import DescriptorFiles
from evaluation.descriptors import Inference
from evaluation.evaluate import DEFAULT_MAJORITY_WEIGHT, Database, evaluate_all
from evaluation.place_index import PlaceIndex, check_place_index_folder, save_place_index
from evaluation.poses import load_poses, measure_poses
from evaluation.rerank import open_reranker, rerank_all
from evaluation.results import (
    NUM_RANKED,
    format_poses,
    format_result,
    format_table,
    write_results,
)
from evaluation.search import EXACT, FP16, check_fits, choose_search
from model.inference import optimize
from model.network import build_network, choose_architecture
from model.other_models import hash_tensors, identify, load_model, parse_model_spec
from model.published_list import format_list
from model.resizing import choose_resize
from parser import LIST, parse_eval_arguments
from reports.pictures import save_pictures
from reports.report import write_report
from runs.folders import run_folder
from runs.provenance import describe_software, name_device, peak_memory, record_start
from runs.signals import StopSignals

ARCHITECTURE = ("backbone", "fc_output_dim", "aggregation", "aggregation_args", "input_scaling")
UNTRAINED = {"backbone": "ResNet18"}  # unless flags say
FLAGS_IN_RESULTS = ("seed", "use_amp16", "descriptors_dtype")


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate one model on test sets and write the folder of the run."""
    args = parse_eval_arguments(argv)
    if args.model == LIST:
        return show_published()
    software = describe_software()
    commons.seed_everything(args.seed, args.deterministic)
    with commons.usage_errors():
        check_names(args.dataset, args.model)
        check_processes(args.search, args.save_place_index)
        protocol = Protocol(
            tuple(args.recall_values),
            choose_resize(args.resize_test_imgs, args.image_size),
            args.test_method,
            args.majority_weight or DEFAULT_MAJORITY_WEIGHT,
            args.search,
            args.exclude_self,
        )
        device = machine.choose_device(args.device)
        inference = Inference(
            device,
            args.infer_batch_size,
            args.num_workers,
            args.skip_unreadable,
            args.use_amp16,
            args.descriptors_dtype,
            args.io_retries,
        )
        reranker = open_reranker(args.rerank, args.rerank_k, args.io_retries)
        architecture = {name: getattr(args, name) for name in ARCHITECTURE}
        if not args.resume_model and not args.model:
            choose_architecture(**of_untrained(architecture))
    labels = Labels(args.positive_dist_threshold, args.positives, args.no_labels, args.per_city)
    with commons.main_process_first():  # it downloads for all
        eval_sets, left_out = (
            load_named_sets(args.dataset, args.datasets_folder, labels)
            if args.dataset
            else (load_own_sets(args.test_set_folder, args.queries_folder, labels), [])
        )
        poses = {eval_set.name: load_poses(eval_set) for eval_set in eval_sets}
        if args.save_place_index:
            check_one_database(eval_sets)
            check_place_index_folder(args.save_place_index)
        model, provenance = open_model(
            args.resume_model, args.model, architecture, args.backbone_weights
        )
    protocol = replace(protocol, resize=choose_rule(args.resize_test_imgs, args.image_size, model))
    check_sizes(protocol.search, eval_sets, model)
    files = DescriptorFiles(
        identify(provenance) + (" in 16 bits" if args.use_amp16 else ""),
        args.save_descriptors,
        args.load_descriptors,
    )
    model = optimize(model.to(device))

    flags = vars(args) | provenance
    with (
        StopSignals(*how_to_resume(args.save_descriptors)),
        run_folder(
            args.save_dir, f"eval_{args.model or flags['backbone'] or 'model'}", flags
        ) as folder,
    ):
        commons.setup_logging(folder)
        record_start(folder, device)
        logging.info(
            f"Evaluating {provenance['model']} on {', '.join(map(str, eval_sets))}\n"
            f"Device: {name_device(device)}. Run: {folder}"
        )
        for sentence in left_out + [note for one in eval_sets for note in one.named_notes]:
            logging.warning(sentence)
        num_listed = max(*protocol.recall_values, args.num_preds_to_save)
        provenance |= {name: flags[name] for name in FLAGS_IN_RESULTS} | software
        provenance["num_processes"] = commons.num_ranks()
        save = partial(save_database, args.save_place_index, provenance)
        evaluations = evaluate_all(
            model,
            eval_sets,
            protocol,
            inference,
            max(num_listed, NUM_RANKED, args.pose_top_k, reranker.k if reranker else 0),
            files,
            save if args.save_place_index else None,
        )
        show = partial(
            draw,
            num_preds=args.num_preds_to_save,
            only_wrong=args.save_only_wrong_preds,
            has_report=not args.no_report,
        )
        write_run(
            rerank_all(evaluations, reranker),
            len(eval_sets),
            provenance,
            partial(peak_memory, device),
            partial(measure_poses, poses, args.pose_top_k),
            folder,
            num_listed,
            show,
        )


def show_published() -> None:
    """Show the table of published networks."""
    commons.setup_logging()
    logging.info(format_list())


def how_to_resume(save_descriptors: str | None) -> tuple[str, bool]:
    """Return a sentence for an evaluation that is stopped, and whether it can be resumed."""
    if save_descriptors is None:
        return "Start again; with --save_descriptors FOLDER it could be resumed", False
    return f"Descriptors so far are in {save_descriptors}: the same command resumes", True


def check_names(test_sets: Sequence[str], model_spec: str | None) -> None:
    """Raise a ValueError if there is no such test set, or a model's name cannot be read."""
    for name in set(test_sets) - {"all"}:
        look_up_test_set(name)
    if model_spec:
        parse_model_spec(model_spec)


def check_processes(search: str, save_place_index: str | None) -> None:
    """Raise a ValueError if several processes are to build an index, which takes one."""
    flag = "--save_place_index" if save_place_index else f"--search {search}"
    if commons.num_ranks() > 1 and (save_place_index or search not in (EXACT, FP16)):
        raise ValueError(
            f"{flag} builds an index in one process: extract with torchrun and --save_descriptors "
            f"FOLDER, then run eval.py without torchrun, with --load_descriptors FOLDER {flag}"
        )


def check_one_database(eval_sets: Sequence[EvalSet]) -> None:
    """Raise a ValueError if sets have different databases: a place index holds one."""
    folders = list(dict.fromkeys(str(eval_set.database.folder) for eval_set in eval_sets))
    if len(folders) > 1:
        raise ValueError(f"--save_place_index saves one database, not {', '.join(folders)}")


def open_model(
    checkpoint: str | None, spec: str | None, architecture: dict[str, Any], weights: str
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model that flags name, else the one that training starts from; see `load_model`.

    Args:
        checkpoint: File of a network.
        spec: Of any other model.
        architecture: What flags say about the network, None where they do not.
        weights: Of the backbone of an untrained network.
    """
    if checkpoint is None and spec is None:
        return build_untrained(architecture, weights)
    model, provenance = load_model(checkpoint, spec)
    check_architecture(architecture, provenance)
    return model, provenance


def choose_rule(asked: str | None, image_size: int | str | None, model: nn.Module) -> str | None:
    """Do what `choose_resize` does; raise a ValueError if --image_size would have no effect."""
    rule = getattr(model, "resize", None)
    if image_size is not None and asked is None and rule is not None:
        raise ValueError(
            f"--image_size {image_size}: the model's own rule for test images is {rule}; give "
            "--resize_test_imgs to resize otherwise"
        )
    return choose_resize(asked, image_size, model)


def check_architecture(asked: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise a ValueError if flags ask for another network than the one that was loaded."""
    for name, value in asked.items():
        if value is not None and value != found.get(name):
            has = f"has {found[name]}" if name in found else "is not built by this flag"
            raise ValueError(f"--{name} {value}: {found['model']} {has}; leave the flag out")


def check_sizes(search: str, eval_sets: Sequence[EvalSet], model: nn.Module) -> None:
    """Raise a ValueError, before hours of extraction, if a search does not suit a database."""
    dim = getattr(model, "out_dim", None)  # other models: known with the first descriptor
    if dim is not None:
        for eval_set in eval_sets:
            check_fits(search, len(eval_set.database), dim)


def write_run(
    evaluations: Iterable[Evaluation],
    num_sets: int,
    provenance: dict[str, Any],
    measure_memory: Callable[[], dict[str, float]],
    measure: Callable[[Evaluation], dict[str, Any]],
    folder: Path,
    num_listed: int,
    show: Callable[[Path], None],
) -> None:
    """Write and show evaluations one after the other, then the tables; only the main process does.

    Args:
        evaluations: Made as they are asked for, in all processes.
        num_sets: How many there are.
        provenance: See `write_results`.
        measure_memory: Returns the peak memory so far.
        measure: Returns errors of poses, see `measure_poses`.
        folder: Of the run.
        num_listed: See `write_results`.
        show: Draws the results in the folder of one set.
    """
    results, start_s = [], time.monotonic()
    for evaluation in evaluations:
        if commons.rank() > 0:
            continue
        cost = {"seconds": round(time.monotonic() - start_s, 3)} | measure_memory()
        place = folder_of(folder, evaluation.eval_set, num_sets)
        more = provenance | {"cost": cost} | measure(evaluation)
        results.append(write_results(evaluation, more, place, num_listed))
        logging.info(format_result(results[-1]))
        if "poses" in more:
            logging.info(format_poses(more["poses"]))
        for sentence in evaluation.eval_set.named_notes:  # again: this is where people look
            logging.warning(sentence)
        show(place)
        start_s = time.monotonic()
    if commons.rank() == 0:
        write_tables(results, folder)
        logging.info(f"Results are in {folder}")


def draw(folder: Path, num_preds: int, only_wrong: bool, has_report: bool) -> None:
    """Draw pictures and a report of the results in a folder."""
    if num_preds:
        save_pictures(folder, num_preds, only_wrong)
    if not has_report:
        return
    try:
        logging.info(f"Report: {write_report(folder)}")
    except ImportError as error:  # only the page needs what draws it
        if not (sentence := packages.explain_import_error(error)):
            raise
        logging.warning(f"No report page is written. {sentence}")


def save_database(folder: str, provenance: dict[str, Any], database: Database) -> None:
    """Save a database as a place index, which `localize.py` can search."""
    index, rows, paths = database.index, database.extraction.rows, database.paths
    if rows is not None:  # a place index has readable images only
        index = index[rows] if isinstance(index, np.ndarray) else index
        paths = paths.subset(rows)
    search = choose_search(database.search, len(paths), database.extraction.descriptors.shape[1])
    metadata = provenance | {"resize": database.view.resize}
    save_place_index(folder, PlaceIndex(index, search, paths, metadata))
    logging.info(f"The place index of {database.paths.folder} is in {folder}")


def build_untrained(architecture: dict[str, Any], weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network that training starts from and its provenance, as `load_model`."""
    network = build_network(**of_untrained(architecture), backbone_weights=weights).eval()
    name = {"model": "the untrained network", "model_file": None}
    return network, name | {"model_sha256": hash_tensors(network)} | network.architecture


def of_untrained(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return what flags say about a network, with the backbone that it has by default."""
    return UNTRAINED | {name: value for name, value in architecture.items() if value is not None}


def folder_of(run_folder: Path, eval_set: EvalSet, num_sets: int) -> Path:
    """Return the folder of the results of one set: that of the run, or one in it if several."""
    if num_sets == 1:
        return run_folder
    folder = run_folder / eval_set.name.replace("/", "_")
    folder.mkdir(exist_ok=True)
    return folder


def write_tables(results: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write `table.md` and `table.csv`, and show the table if it is of several sets."""
    for form, name in (("markdown", "table.md"), ("csv", "table.csv")):
        with commons.atomic_write(folder / name) as path:
            path.write_text(format_table(results, form), encoding="utf-8")
    if len(results) > 1:
        logging.info(format_table(results, "text"))


if __name__ == "__main__":
    commons.run_command(main)
