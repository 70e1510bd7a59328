"""Train CosPlace.

python train.py --groups_num 8 --M 10                    the paper's run, on SF-XL
python train.py --train_set_folder F --val_set_folder G --test_set_folder H    on own images
python train.py --resume_train RUN/last_checkpoint.pth   continue after an interruption
python train.py --save_dir RUN --resume_train auto       begin or continue, whichever it is
torchrun --nproc_per_node 8 train.py                     the same run on 8 GPUs
"""

import argparse
import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import commons
from datasets.augmentations import Augmentation
from datasets.eval_dataset import EvalSet
from datasets.train_dataset import GroupSampler, TrainDataset
from evaluation import Evaluation, Protocol, evaluate
from evaluation.descriptors import Inference, Model
from evaluation.results import NUM_RANKED, write_results
from evaluation.tables import format_result
from model.checkpoints import load_network
from model.inference import optimize
from model.loading import describe_model
from parser import parse_train_arguments
from reports.pictures import save_pictures
from runs.folders import locked, run_folder
from runs.provenance import describe_software, peak_memory, record_start
from runs.signals import StopSignals
from training.batches import batches_on_device, make_loader
from training.keeper import BEST, Keeper
from training.metrics import EpochStats, describe_seconds, hint_at_data_wait
from training.progress import CHECK_EVERY
from training.resuming import (
    AUTO,
    check_flags_unchanged,
    check_folder,
    check_images_unchanged,
    find_checkpoint,
    note_changes,
    read_training_checkpoint,
    reopened_folder,
)
from training.start import (
    augments_on_device,
    load_eval_sets,
    make_network,
    make_training,
    open_index,
    read_settings,
)
from training.state import Training
from training.unreadable_images import UnreadableImages


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare data, network and heads; train and validate; test the best network."""
    args = parse_train_arguments(argv)
    path = commons.of_main_process(lambda: find_checkpoint(args.resume_train, args.save_dir))
    checkpoint = None
    with contextlib.ExitStack() as held:
        signals = held.enter_context(StopSignals("Start again", can_continue=True))
        if path is not None:
            held.enter_context(locked(path.parent))  # nobody may write it meanwhile
            args, checkpoint = read_run(path, argv, or_previous=args.resume_train == AUTO)
        with commons.usage_errors():
            settings = read_settings(args)
        device, software = settings.device, describe_software()

        index = open_index(vars(args), settings.partition)
        if args.dry_run:
            logging.info(f"{index.describe()}\nTrained are groups 0 to {args.groups_num - 1}")
            return
        check_images_unchanged(checkpoint, index.digest)
        val_set, test_set = load_eval_sets(vars(args))

        commons.seed_everything(args.seed, args.deterministic)
        network = make_network(vars(args), checkpoint, path)
        settings = settings.for_network(network)
        augmentation, protocol = Augmentation(settings.augmentation), settings.protocol
        classes = [len(index.classes(group)) for group in range(args.groups_num)]
        training = make_training(network, classes, settings, checkpoint, path)

        image_size = {"image_size": settings.augmentation.image_size}
        flags = note_changes(vars(args) | network.architecture | image_size, checkpoint)
        folder = held.enter_context(
            run_folder(args.save_dir, "train", flags)
            if path is None
            else reopened_folder(path.parent, flags)
        )
        commons.setup_logging(folder)
        record_start(folder, device)
        keeper = Keeper(
            folder,
            {"args": flags, "index_digest": index.digest},
            args.checkpoint_every,
            UnreadableImages(
                folder, args.max_bad_images, args.batch_size * args.iterations_per_epoch
            ),
            signals,
        )
        keeper.start(training, checkpoint)
        del checkpoint  # as large as the training itself
        logging.info(f"{index.describe(args.groups_num)}\nValidation: {val_set}. Test: {test_set}")

        on_device = augments_on_device(args.augmentation_device, device)
        loader = make_loader(
            TrainDataset(index, None if on_device else augmentation, args.io_retries),
            GroupSampler(
                index,
                args.groups_num,
                args.batch_size,
                args.iterations_per_epoch,
                args.seed,
                share=(commons.rank(), commons.num_ranks()),
            ),
            args.num_workers,
            pin_memory=device.type == "cuda",
        )
        inference = Inference(
            device, args.infer_batch_size, args.num_workers, io_retries=args.io_retries
        )
        fit(
            training,
            loader,
            augmentation if on_device else None,
            validate=partial(evaluate, eval_set=val_set, protocol=protocol, inference=inference),
            epochs_num=args.epochs_num,
            keeper=keeper,
        )
        pictures = (args.num_preds_to_save, args.save_only_wrong_preds)
        provenance = {"seed": args.seed} | software
        test_best(folder, test_set, protocol, inference, pictures, provenance)
        logging.info(f"Model, checkpoint, metrics and results are in {folder}")


def read_run(
    path: Path, argv: Sequence[str] | None, or_previous: bool
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the flags of a run, with those that the command line changes, and its checkpoint."""
    checkpoint = read_training_checkpoint(path, or_previous)
    args = parse_train_arguments(argv, defaults=checkpoint["args"] | {"save_dir": None})
    check_folder(path, args.save_dir)
    check_flags_unchanged(checkpoint, vars(args))
    return args, checkpoint


def fit(
    training: Training,
    loader: DataLoader,
    augmentation: Augmentation | None,
    validate: Callable[[Model], Evaluation],
    epochs_num: int,
    keeper: Keeper,
) -> None:
    """Train and validate epoch after epoch, from where the training is.

    Args:
        training: Network and heads.
        loader: Its sampler is a `GroupSampler`.
        augmentation: For batches on the device; None if the loader augments.
        validate: Called after each epoch; the best R@1 decides on the best network.
        epochs_num: Epoch to end before.
        keeper: Keeps the state, and the best network.
    """
    sampler = loader.batch_sampler
    for epoch in range(training.epoch_num, epochs_num):
        sampler.epoch, sampler.first_iteration = epoch, training.progress.iteration
        with keeper.explaining(training, loader):
            with keeper.signals.postponed():
                stats = train_one_epoch(training, loader, augmentation, keeper.after_iteration)
                keeper.save(training)  # the validation may take long, or be interrupted
                keeper.stop_if_asked(training)
            validation = validate(optimize(training.network.eval()))
            numbers = stats._asdict() | peak_memory(training.device) | validation.result["recalls"]
            is_best = keeper.end_epoch(training, validation.recall_at_1, numbers)
        seconds_left = (epochs_num - training.epoch_num) * stats.seconds
        logging.info(
            f"Epoch {epoch}: {stats}; {describe_seconds(seconds_left)} of training are left. "
            f"{format_result(validation.result)}{' (best)' if is_best else ''}"
        )
        if hint := hint_at_data_wait(stats, loader.num_workers):
            logging.warning(hint)


def train_one_epoch(
    training: Training,
    loader: DataLoader,
    augmentation: Augmentation | None,
    after_iteration: Callable[[Training, Sequence[str]], None],
) -> EpochStats:
    """Train the network and the head of the group whose turn it is, for what is left of the epoch.

    Args:
        training: Network, head, optimizers.
        loader: Batches of images, labels and seeds, see `datasets.train_dataset.collate`.
        augmentation: For batches on the device; None if they come augmented.
        after_iteration: Is told of images that could not be read; may end the training.
    """
    training.to_train_mode()
    device, dtype, progress = (
        training.device,
        training.optimization.autocast_dtype,
        training.progress,
    )
    bar = tqdm(
        total=progress.iteration + len(loader),
        initial=progress.iteration,
        desc=f"Epoch {training.epoch_num}",
        unit="it",
        disable=commons.rank() > 0,
    )
    # All batches have one size: the fastest kernels are looked for once.
    is_free = not torch.are_deterministic_algorithms_enabled()
    fastest = torch.backends.cudnn.flags(enabled=True, benchmark=is_free, deterministic=not is_free)
    with fastest, bar, training.current_head() as (group_loss, head_optimizer):
        batches = batches_on_device(loader, device, augmentation)
        for images, labels, unreadable in progress.clock.waiting(batches):
            with torch.autocast(device.type, dtype, dtype is not None):
                loss = group_loss(training.model(images), labels)
            gradient_norm = training.step(loss, head_optimizer)
            progress.note(loss, gradient_norm, len(images))
            after_iteration(training, unreadable)
            bar.update()
            if progress.iteration % CHECK_EVERY == 0:
                bar.set_postfix(progress.describe())
    return progress.stats(training.current_group)


def test_best(
    run_folder: Path,
    test_set: EvalSet,
    protocol: Protocol,
    inference: Inference,
    pictures: tuple[int, bool],
    provenance: dict[str, Any],
) -> None:
    """Evaluate the network of the best epoch; write results, and pictures if asked for.

    Args:
        run_folder: Holds the network, gets the results.
        test_set: What it is evaluated on.
        protocol: How recalls are counted.
        inference: How images go through the network.
        pictures: Number of predictions to show for each query, and whether only for those whose
            first prediction is wrong.
        provenance: What the results depend on, beside network and protocol.
    """
    num_preds, only_wrong = pictures
    best_model = run_folder / BEST
    with commons.main_process_first():  # it has written it
        network = load_network(best_model).eval().to(inference.device)
    num_listed = max(*protocol.recall_values, num_preds)
    test = evaluate(optimize(network), test_set, protocol, inference, max(num_listed, NUM_RANKED))
    if commons.rank() > 0:
        return
    provenance = describe_model(best_model) | network.architecture | provenance
    result = write_results(test, provenance, run_folder, num_listed)
    logging.info(f"Test of the best network: {format_result(result)}")
    if num_preds:
        save_pictures(run_folder, num_preds, only_wrong)


if __name__ == "__main__":
    commons.run_command(main)
