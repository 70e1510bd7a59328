"""Train a method for visual place recognition; see `methods`.

python train.py --groups_num 8 --M 10                    the paper's run: CosPlace on SF-XL
python train.py --train_set_folder F --val_set_folder G --test_set_folder H    on own images
python train.py --resume_train RUN/last_checkpoint.pth   resume after an interruption
python train.py --save_dir RUN --resume_train auto       begin or resume
torchrun --nproc_per_node 8 train.py                     the same run on 8 GPUs
"""

import packages  # noqa: F401, first: says which package of those below is missing

if __name__ == "__main__":  # before torch is imported, which takes seconds
    import stops

    stops.begin(can_resume=True)

    import machine
    from parser import parse_train_arguments

    machine.prepare()
    parse_train_arguments()  # ends here for --help and for flags that are wrong

import argparse
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import commons
from datasets.eval_set import EvalSet
from evaluation import Evaluation, Protocol, evaluate
from evaluation.descriptors import Inference, Model
from evaluation.results import (
    NUM_RANKED,
    PREDICTIONS_COLUMNS,
    format_result,
    list_predictions,
    write_results,
)
from evaluation.views import View
from evaluation.whiten import fit_to_images
from methods import METHODS
from model.checkpoint_files import save_atomically
from model.checkpoints import load_network
from model.inference import optimize
from model.network import add_whitening
from model.other_models import describe_model
from parser import parse_train_arguments
from reports.pictures import save_pictures, save_sheet
from runs.folders import locked, run_folder
from runs.provenance import describe_software, peak_memory, record_start
from runs.signals import StopSignals
from training.checkpoints import (
    AUTO,
    BEST,
    FIXED_FLAGS,
    WHITENED,
    Checkpointer,
    check_data_unchanged,
    check_unchanged,
    find_checkpoint,
    note_changes,
    read_training_checkpoint,
    reopened_folder,
)
from training.metrics import (
    CHECK_EVERY,
    EpochStats,
    UnreadableImages,
    hint_at_data_wait,
)
from training.objective import Objective
from training.setup import (
    Settings,
    load_eval_sets,
    make_network,
    make_training,
    objective_of,
    read_settings,
)
from training.state import Training
from training.summary import format_epoch, format_start

NUM_DRAWN = 12  # validation queries of each epoch's picture


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare data and network; train and validate; test the best network."""
    args = parse_train_arguments(argv)
    path = commons.of_main_process(lambda: find_checkpoint(args.resume_train, args.save_dir))
    checkpoint = None
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals("Start again", can_resume=True))
        if path is not None:
            stack.enter_context(locked(path.parent))  # nobody may write it meanwhile
            args, checkpoint = read_run(path, argv, or_previous=args.resume_train == AUTO)
        with commons.usage_errors():
            settings = read_settings(vars(args))
        device, software = settings.device, describe_software()

        objective = settings.objective.open()
        if args.dry_run:
            logging.info(objective.describe(whole=True))
            return
        check_data_unchanged(checkpoint, objective.digest)
        val_set, test_set = load_eval_sets(vars(args))

        commons.seed_everything(args.seed, args.deterministic)
        network = make_network(vars(args), checkpoint, path)
        settings = settings.for_network(network, (val_set, test_set))
        training = make_training(network, objective, settings, checkpoint, path)

        absent = {"aggregation_args": {}, "input_scaling": None}  # where the network has none
        flags = vars(args) | absent | network.architecture
        flags |= {
            "image_size": settings.image_size,
            "use_amp16": settings.optimization.use_amp16,
        }
        flags = note_changes(flags, checkpoint, val_set.digest)
        folder = stack.enter_context(
            run_folder(args.save_dir, f"train_{args.method}_{flags['backbone']}", flags)
            if path is None
            else reopened_folder(path.parent, flags)
        )
        commons.setup_logging(folder)
        record_start(folder, device)
        checkpointer = stack.enter_context(
            Checkpointer(
                folder,
                {"args": flags, "data_digest": objective.digest, "val_digest": val_set.digest},
                args.checkpoint_every,
                UnreadableImages(folder, args.max_bad_images, objective.images_per_epoch),
                signals,
                replace(settings.curves, flags=flags),
            )
        )
        checkpointer.start(training, checkpoint)
        del checkpoint  # as large as the training itself
        logging.info(
            format_start(flags, training, settings.protocol, (val_set, test_set), software, folder)
        )

        validate = partial(
            evaluate,
            eval_set=val_set,
            protocol=settings.protocol,
            inference=settings.inference,
            min_predictions=max(args.best_by, args.num_val_preds_to_save),
        )
        draw = partial(draw_validation, folder=folder, num_preds=args.num_val_preds_to_save)
        fit(training, checkpointer, validate, args.epochs_num, args.best_by, draw)
        model_file = whiten_best(folder, objective, settings, args.whiten_images)
        pictures = (args.num_preds_to_save, args.save_only_wrong_preds)
        provenance = {"method": args.method, "seed": args.seed} | software
        test(model_file, test_set, settings.protocol, settings.inference, pictures, provenance)
        logging.info(f"Model, checkpoint, metrics and results are in {folder}")


def read_run(
    path: Path, argv: Sequence[str] | None, or_previous: bool
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the flags of a run, with those that the command line changes, and its checkpoint."""
    checkpoint = read_training_checkpoint(path, or_previous)
    args = parse_train_arguments(argv, defaults=checkpoint["args"] | {"save_dir": None})
    if args.method not in METHODS:
        raise ValueError(
            f"{path} is of the method {args.method}; this code has {', '.join(METHODS)}"
        )
    fixed = (*FIXED_FLAGS, *objective_of(args.method).fixed_flags)
    check_unchanged(path, checkpoint, vars(args), fixed)
    return args, checkpoint


def fit(
    training: Training,
    checkpointer: Checkpointer,
    validate: Callable[[Model], Evaluation],
    epochs_num: int,
    best_by: int = 1,
    draw: Callable[[Evaluation, int], None] = lambda validation, epoch: None,
) -> None:
    """Train and validate epoch after epoch, from where the training is.

    Args:
        training: Network and objective.
        checkpointer: Saves the state, and the best network.
        validate: Called after each epoch.
        epochs_num: Epoch to end before; 0: the network is the best as it is.
        best_by: N: the network with the highest R@N is the best.
        draw: Gets the validation of each epoch, and its number, for pictures.
    """
    while training.epoch_num < epochs_num and not training.has_stalled:
        epoch = training.epoch_num
        with checkpointer.explaining_errors(training):
            with checkpointer.signals.postponed():
                stats = train_one_epoch(training, checkpointer.after_iteration)
                checkpointer.save(training)  # validation may take long, or be interrupted
                checkpointer.stop_if_asked(training)
            validation = validate(optimize(training.network.eval()))
            turn = training.objective.epoch_metrics(epoch)
            memory, recalls = peak_memory(training.device), validation.result["recalls"]
            numbers = turn | stats._asdict() | memory | recalls
            is_best = checkpointer.end_epoch(training, validation.recall_at(best_by), numbers)
            draw(validation, epoch)
        epoch_s = stats.seconds + turn.get("mining_seconds", 0.0)
        seconds_left = (epochs_num - training.epoch_num) * epoch_s
        place = (epoch, epochs_num - 1)
        logging.info(format_epoch(place, turn, stats, recalls, is_best, seconds_left))
        logging.debug(f"{numbers} {format_result(validation.result)}")
        if hint := hint_at_data_wait(stats):
            logging.warning(hint)
    if training.epoch_num == epochs_num == 0:
        checkpointer.save_best(training)
    if training.has_stalled:
        logging.info(
            f"Stopped: no epoch since {training.best_epoch} had a higher R@{best_by} (--patience "
            f"{training.optimization.patience})"
        )


def draw_validation(validation: Evaluation, epoch: int, folder: Path, num_preds: int) -> None:
    """Draw some queries, in each epoch the same, with their predictions.

    Args:
        validation: Of the epoch.
        epoch: Counted from 0.
        folder: Of the run, gets `val_preds/epoch_<number>.jpg`.
        num_preds: Predictions of each query; 0: draw nothing.
    """
    if not num_preds or commons.rank() > 0:
        return
    num_queries = len(validation.predictions)
    queries = range(0, num_queries, max(1, num_queries // NUM_DRAWN))[:NUM_DRAWN]
    listed = [
        [
            dict(zip(PREDICTIONS_COLUMNS, map(str, row), strict=True))
            for row in list_predictions(validation, query, num_preds)
        ]
        for query in queries
    ]
    try:
        save_sheet(list(filter(None, listed)), folder / "val_preds" / f"epoch_{epoch:03d}.jpg")
    except (OSError, ValueError) as error:
        logging.warning(f"The pictures of epoch {epoch} are not drawn: {error}")


def train_one_epoch(
    training: Training, after_iteration: Callable[[Training, Sequence[str]], None]
) -> EpochStats:
    """Train for the rest of the current epoch.

    Args:
        training: Network, objective, optimizers.
        after_iteration: Gets the training and the images that could not be read; may end it.
    """
    training.to_train_mode()
    objective, device, progress = training.objective, training.device, training.progress
    dtype = training.optimization.autocast_dtype
    bar = tqdm(
        total=objective.num_iterations(training.epoch_num),
        initial=progress.iteration,
        desc=f"Epoch {training.epoch_num}",
        unit="it",
        disable=commons.rank() > 0,
    )
    # All batches have one size: the fastest kernels are looked for once.
    is_free = not torch.are_deterministic_algorithms_enabled()
    fastest = torch.backends.cudnn.flags(enabled=True, benchmark=is_free, deterministic=not is_free)
    with fastest, bar, training.turn() as optimizers:
        batches = objective.batches(training.model, training.epoch_num, progress.iteration)
        for batch in progress.waiting(batches):
            with torch.autocast(device.type, dtype, dtype is not None):
                loss = objective.loss(training.model, batch)
            gradient_norm = training.step(loss, optimizers)
            progress.note(loss, gradient_norm, len(batch.images))
            after_iteration(training, batch.unreadable)
            bar.update()
            if progress.iteration % CHECK_EVERY == 0:
                bar.set_postfix(progress.describe())
    if hint := progress.hint_at_neighbours():
        logging.warning(hint)
    return progress.stats()


def whiten_best(
    run_folder: Path,
    objective: Objective,
    settings: Settings,
    num_images: int,
) -> Path:
    """Save the network of the best epoch with a whitening as its last layer, if it is to have one.

    Args:
        run_folder: Holds the network, gets the whitened one.
        objective: Its training images are what the whitening is fitted to.
        settings: Have the whitening, the size of training images, and how to extract.
        num_images: To fit to, at most.

    Returns:
        The file of the network to test.
    """
    if settings.whitening is None:
        return run_folder / BEST
    with commons.main_process_first():  # it has written it
        network = load_network(run_folder / BEST).eval().to(settings.device)
    whitening = fit_to_images(
        optimize(network),
        objective.sample_images(num_images),
        replace(settings.inference, skip_unreadable=True),
        View("{}x{}".format(*settings.height_width)),
        settings.whitening,
        num_images,
    )
    if commons.rank() == 0:
        save_atomically(add_whitening(network, whitening).state_dict(), run_folder / WHITENED)
    return run_folder / WHITENED


def test(
    model_file: Path,
    test_set: EvalSet,
    protocol: Protocol,
    inference: Inference,
    pictures: tuple[int, bool],
    provenance: dict[str, Any],
) -> None:
    """Evaluate the network of the best epoch; write results, and pictures if asked for.

    Args:
        model_file: The network; its folder gets the results.
        test_set: What it is evaluated on.
        protocol: How recalls are counted.
        inference: How images go through the network.
        pictures: Number of predictions to show for each query, and whether only for those whose
            top-1 prediction is wrong.
        provenance: What the results depend on, beside network and protocol.
    """
    num_preds, only_wrong = pictures
    run_folder = model_file.parent
    with commons.main_process_first():  # it has written it
        network = load_network(model_file).eval().to(inference.device)
    num_listed = max(*protocol.recall_values, num_preds)
    test = evaluate(optimize(network), test_set, protocol, inference, max(num_listed, NUM_RANKED))
    if commons.rank() > 0:
        return
    provenance = describe_model(model_file) | network.architecture | provenance
    result = write_results(test, provenance, run_folder, num_listed)
    logging.info(f"Test of the best network: {format_result(result)}")
    for sentence in test.eval_set.named_notes:
        logging.warning(sentence)
    if num_preds:
        save_pictures(run_folder, num_preds, only_wrong)


if __name__ == "__main__":
    commons.run_command(main)
