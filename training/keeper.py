"""What a run keeps in its folder, so that it can be continued whatever happens."""

import contextlib
import copy
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

import commons
from datasets.train_dataset import GroupSampler, TrainDataset
from model.files import save_atomically, save_keeping_previous
from runs.signals import StopSignals
from training.metrics import Metrics
from training.progress import NotFiniteError
from training.state import Training
from training.unreadable_images import UnreadableImages

LAST, PREVIOUS, BEST = "last_checkpoint.pth", "previous_checkpoint.pth", "best_model.pth"


class Keeper:
    """Writes checkpoints, metrics and the best network of a training; the main process does.

    A checkpoint comes first: all else can be made from it, and is when the run is continued.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        checkpoint_every: int,
        unreadable: UnreadableImages,
        signals: StopSignals,
    ) -> None:
        """Keep a run, once it is started.

        Args:
            folder: Of the run.
            settings: Plain values that a checkpoint has beside the state of the training.
            checkpoint_every: Iterations from one checkpoint to the next within an epoch; 0: none.
            unreadable: Images that could not be read.
            signals: That ask to stop.
        """
        self.folder = folder
        self._settings, self._every = settings, checkpoint_every
        self._unreadable, self.signals = unreadable, signals
        self._saved = (-1, -1)  # epoch and iteration of the last checkpoint
        self._metrics: Metrics | None = None  # of the main process

    def start(self, training: Training, checkpoint: dict[str, Any] | None) -> None:
        """Begin a run; or bring its folder to the state of a checkpoint, which the training has."""
        if commons.rank() == 0:
            self._metrics = Metrics(self.folder, checkpoint["metrics"] if checkpoint else [])
        if checkpoint is None:
            return
        self._unreadable.count = checkpoint["num_unreadable"] // commons.num_ranks()
        if training.best_epoch == training.epoch_num - 1 and training.progress.iteration == 0:
            self._save_best(training)
        self._tell_how_to_go_on()
        logging.info(
            f"Continuing with epoch {training.epoch_num}, iteration {training.progress.iteration}"
        )

    def after_iteration(self, training: Training, unreadable: Sequence[str]) -> None:
        """Look after an iteration: at images, losses, checkpoints and signals.

        Args:
            training: Has done the iteration.
            unreadable: See `datasets.train_dataset.Sample`, of the batch.

        Raises:
            ValueError: If too many images cannot be read.
            NotFiniteError: If losses are not finite.
            Stopped: If a signal came; the state is kept.
        """
        progress = training.progress
        num_before = training.epoch_num * self._unreadable.images_per_epoch
        self._unreadable.note(unreadable, num_before + progress.clock.num_images)
        progress.check()
        if self._every and progress.iteration % self._every == 0:
            self.save(training)
        self.stop_if_asked(training)

    def stop_if_asked(self, training: Training) -> None:
        """Raise `Stopped`, with the state kept, if a signal has come."""
        if signal := self.signals.received():
            self.save(training)
            raise self.signals.stopped(signal)

    def save(self, training: Training) -> None:
        """Write a checkpoint, if there is something new; all processes must call it."""
        position = (training.epoch_num, training.progress.iteration)
        if position == self._saved:
            return
        self._saved = position
        training.progress.check(now=True)
        state = training.state_dict() | {"num_unreadable": self._unreadable.count_of_all()}
        if self._metrics is not None:
            state |= {"metrics": self._metrics.lines} | self._settings
            save_keeping_previous(state, self.folder / LAST, self.folder / PREVIOUS)
        self._tell_how_to_go_on()

    def _tell_how_to_go_on(self) -> None:
        self.signals.how_to_go_on = f"Continue with --resume_train {self.folder / LAST}"

    def end_epoch(self, training: Training, val_recall1: float, numbers: dict[str, Any]) -> bool:
        """Count an epoch, keep its numbers, and its network if that is the best.

        Args:
            training: Has been validated.
            val_recall1: Decides which network is the best.
            numbers: For the metrics.

        Returns:
            Whether it is the best.
        """
        numbers = numbers | {"unreadable_images": self._unreadable.count_of_all()}
        if self._metrics is not None:
            self._metrics.lines.append({"epoch": training.epoch_num} | numbers)
        is_best = training.end_epoch(val_recall1)
        self.save(training)
        if self._metrics is not None:
            self._metrics.write_last()
        if is_best:
            self._save_best(training)
        return is_best

    def _save_best(self, training: Training) -> None:
        if commons.rank() == 0:
            save_atomically(training.network.state_dict(), self.folder / BEST)

    def _list_batch(
        self, error: NotFiniteError, dataset: TrainDataset, sampler: GroupSampler
    ) -> Path:
        """Write the paths of the images of the iteration of an error to a file; return its path."""
        file = self.folder / f"bad_batch_epoch{error.epoch}_iteration{error.iteration}.txt"
        if commons.rank() == 0:
            whole = copy.copy(sampler)
            whole.share = (0, 1)  # the batch of all processes
            paths = [dataset.path(draw) for draw in whole.batch(error.epoch, error.iteration)]
            with commons.atomic_write(file) as temporary:
                temporary.write_text("\n".join(paths) + "\n", "utf-8", "surrogateescape")
        return file

    @contextlib.contextmanager
    def explaining(self, training: Training, loader: DataLoader) -> Iterator[None]:
        """Log, if the training ends early, where it was and how it can be continued."""
        try:
            yield
        except Exception as error:
            if isinstance(error, NotFiniteError):
                file = self._list_batch(error, loader.dataset, loader.batch_sampler)
                logging.error(f"The images of that iteration are listed in {file}")
            logging.error(
                f"Ended in epoch {training.epoch_num} after {training.progress.iteration} "
                f"iterations. {self.signals.how_to_go_on}"
            )
            raise
