"""Train CosPlace.

python train.py --groups_num 8 --M 10                    the paper's run, on SF-XL
python train.py --train_set_folder F --val_set_folder G --test_set_folder H    on own images
python train.py --resume_train RUN/last_checkpoint.pth   continue after an interruption
torchrun --nproc_per_node 8 train.py                     the same run on 8 GPUs
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import commons
from datasets.augmentations import Augmentation
from datasets.catalog import TRAIN_SETS, find_train_folder
from datasets.class_index import ClassIndex, load_index
from datasets.eval_dataset import EvalSet
from datasets.eval_sets import Labels, load_test_set
from datasets.partition import PartitionParams
from datasets.train_dataset import GroupSampler, TrainDataset
from evaluation import Evaluation, Protocol, evaluate
from evaluation.descriptors import Inference, Model
from evaluation.results import NUM_RANKED, write_results
from evaluation.tables import format_result
from model.checkpoints import load_network
from model.files import save_atomically
from model.inference import optimize
from model.network import IMAGE_SIZE, choose_resize
from parser import parse_arguments
from reports.pictures import save_pictures
from training.batches import batches_on_device, make_loader
from training.collectives import mean_over_processes
from training.metrics import Clock, EpochStats, Metrics, check_finite
from training.resuming import (
    check_flags_unchanged,
    check_images_unchanged,
    note_changes,
    read_training_checkpoint,
)
from training.start import (
    augmentation_params,
    augments_on_device,
    check_batch_size,
    make_network,
)
from training.state import Optimization, Training

SHOW_EVERY = 20  # iterations between updates of the bar: reading the loss waits for the device


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare data, network and heads; train and validate; test the best network."""
    args, checkpoint = read_arguments(argv)
    with commons.usage_errors():
        params = commons.from_flags(PartitionParams, args)
        strength = augmentation_params(vars(args))
        protocol = Protocol(tuple(args.recall_values), args.resize_test_imgs or None)
        check_batch_size(args.batch_size)
        device = commons.choose_device(args.device)
        optimization = commons.from_flags(Optimization, args)
        optimization.check(device)
    software = commons.describe_software()

    root, named = args.datasets_folder, TRAIN_SETS[args.dataset]
    train_folder = args.train_set_folder or find_train_folder(args.dataset, root)
    index = ClassIndex(
        commons.of_main_process(
            lambda: load_index(train_folder, params, args.cache_folder).index_folder
        )
    )
    index.require_groups(args.groups_num)
    if args.dry_run:
        logging.info(f"{index.describe()}\nTrained are groups 0 to {args.groups_num - 1}")
        return
    labels = Labels(args.positive_dist_threshold)
    val_set = load_test_set(named.val, root, args.val_set_folder, labels=labels)
    test_set = load_test_set(named.test, root, args.test_set_folder, args.queries_folder, labels)

    commons.seed_everything(args.seed)
    network = make_network(vars(args), checkpoint)
    image_size = args.image_size or network.image_size or IMAGE_SIZE
    augmentation = Augmentation(replace(strength, image_size=image_size))
    protocol = replace(protocol, resize=choose_resize(args.resize_test_imgs, image_size, network))
    training = Training(
        network,
        [len(index.classes(group)) for group in range(args.groups_num)],
        optimization,
        device,
    )
    flags = note_changes(vars(args) | network.architecture | {"image_size": image_size}, checkpoint)
    run_folder = open_run(training, checkpoint, flags, index.digest)
    del checkpoint  # as large as the training itself
    logging.info(index.describe(args.groups_num))
    logging.info(f"Validation: {val_set}. Test: {test_set}. Device: {device}")

    on_device = augments_on_device(args.augmentation_device, device)
    loader = make_loader(
        TrainDataset(index, None if on_device else augmentation),
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
    inference = Inference(device, args.infer_batch_size, args.num_workers)
    fit(
        training,
        loader,
        augmentation if on_device else None,
        validate=partial(evaluate, eval_set=val_set, protocol=protocol, inference=inference),
        epochs_num=args.epochs_num,
        settings={"args": flags, "index_digest": index.digest},
        run_folder=run_folder,
    )
    pictures = (args.num_preds_to_save, args.save_only_wrong_preds)
    provenance = {"seed": args.seed} | software
    test_best(run_folder, test_set, protocol, inference, pictures, provenance)
    logging.info(f"Model, checkpoint, metrics and results are in {run_folder}")


def read_arguments(
    argv: Sequence[str] | None,
) -> tuple[argparse.Namespace, dict[str, Any] | None]:
    """Read the command line, and the checkpoint of the run that is continued, if one is."""
    args = parse_arguments(argv)
    if not args.resume_train:
        return args, None
    checkpoint = read_training_checkpoint(args.resume_train)
    args = parse_arguments(argv, defaults=checkpoint["args"])
    check_flags_unchanged(checkpoint, vars(args))
    return args, checkpoint


def open_run(
    training: Training, checkpoint: dict[str, Any] | None, flags: dict[str, Any], digest: str
) -> Path:
    """Make the folder of a new run, or continue one: load its state; log into the folder."""
    if checkpoint is None:
        folder = commons.of_main_process(
            partial(commons.make_run_folder, flags["save_dir"], "train", flags)
        )
    else:
        check_images_unchanged(checkpoint, digest)
        training.load_state_dict(checkpoint)
        folder = Path(flags["resume_train"]).parent
        if commons.rank() == 0:
            (folder / "results.json").unlink(missing_ok=True)  # of a shorter training
            commons.write_json(flags, folder / "args.json")
    commons.setup_logging(folder)
    if checkpoint is not None:
        logging.info(f"Continuing with epoch {training.epoch_num} of {flags['epochs_num']}")
    logging.info(f"If interrupted, continue with --resume_train {folder / 'last_checkpoint.pth'}")
    return folder


def fit(
    training: Training,
    loader: DataLoader,
    augmentation: Augmentation | None,
    validate: Callable[[Model], Evaluation],
    epochs_num: int,
    settings: dict[str, Any],
    run_folder: Path,
) -> None:
    """Train and validate epoch after epoch; keep the last state and the best network.

    Args:
        training: Network and heads, at the epoch to begin with.
        loader: Its sampler is a `GroupSampler`.
        augmentation: For batches on the device; None if the loader augments.
        validate: Called after each epoch; the best R@1 decides on the best network.
        epochs_num: Epoch to end before.
        settings: Plain values to keep in the checkpoint.
        run_folder: Where to write checkpoints and metrics.
    """
    is_main = commons.rank() == 0
    metrics = Metrics(run_folder, training.epoch_num) if is_main else None
    for epoch in range(training.epoch_num, epochs_num):
        loader.batch_sampler.epoch = epoch
        stats = train_one_epoch(training, loader, augmentation)
        validation = validate(optimize(training.network.eval()))
        is_best = training.end_epoch(validation.recall_at_1)
        state = training.state_dict()
        if not is_main:
            continue
        metrics.write(epoch, stats._asdict() | validation.result["recalls"])
        logging.info(
            f"Epoch {epoch}: group {stats.group}, loss {stats.loss:.4f}, "
            f"{stats.images_per_second:.1f} images/s, {stats.data_wait_share:.0%} data wait. "
            f"{format_result(validation.result)}{' (best)' if is_best else ''}"
        )
        if is_best:
            save_atomically(training.network.state_dict(), run_folder / "best_model.pth")
        save_atomically(state | settings, run_folder / "last_checkpoint.pth")


def train_one_epoch(
    training: Training, loader: DataLoader, augmentation: Augmentation | None
) -> EpochStats:
    """Train the network and the head of the group whose turn it is.

    Args:
        training: Network, head, optimizers.
        loader: Batches of images, labels and seeds, see `datasets.train_dataset.collate`.
        augmentation: For batches on the device; None if they come augmented.
    """
    training.to_train_mode()
    device, dtype, scaler = training.device, training.optimization.autocast_dtype, training.scaler
    loss_sum = torch.zeros((), device=device)
    progress = tqdm(
        total=len(loader), desc=f"Epoch {training.epoch_num}", unit="it", disable=commons.rank() > 0
    )
    # All batches have one size: the fastest kernels are looked for once.
    fastest = torch.backends.cudnn.flags(enabled=True, benchmark=True)
    with fastest, progress, training.current_head() as (group_loss, head_optimizer):
        clock = Clock()
        batches = batches_on_device(loader, device, augmentation)
        for iteration, (images, labels) in enumerate(clock.waiting(batches), start=1):
            training.optimizer.zero_grad()
            head_optimizer.zero_grad()
            with torch.autocast(device.type, dtype, dtype is not None):
                loss = group_loss(training.model(images), labels)
            scaler.scale(loss).backward()
            scaler.step(training.optimizer)
            scaler.step(head_optimizer)
            scaler.update()

            loss_sum += loss.detach()
            clock.num_images += len(images) * commons.num_ranks()
            progress.update()
            if iteration % SHOW_EVERY == 0:
                mean_loss = loss_sum.item() / iteration
                check_finite(mean_loss, training.epoch_num, iteration)
                speed, wait, _ = clock.totals()
                progress.set_postfix(
                    loss=f"{mean_loss:.3f}", img_s=f"{speed:.1f}", data_wait=f"{wait:.0%}"
                )
        mean_loss = mean_over_processes(loss_sum).item() / iteration
        totals = clock.totals()
    check_finite(mean_loss, training.epoch_num, iteration)
    return EpochStats(training.current_group, mean_loss, *totals)


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
    best_model = run_folder / "best_model.pth"
    with commons.main_process_first():  # it has written it
        network = load_network(best_model).eval().to(inference.device)
    num_listed = max(*protocol.recall_values, num_preds)
    test = evaluate(optimize(network), test_set, protocol, inference, max(num_listed, NUM_RANKED))
    if commons.rank() > 0:
        return
    provenance = commons.describe_model(best_model) | network.architecture | provenance
    result = write_results(test, provenance, run_folder, num_listed)
    logging.info(f"Test of the best network: {format_result(result)}")
    if num_preds:
        save_pictures(run_folder, num_preds, only_wrong)


if __name__ == "__main__":
    commons.run_command(main)
