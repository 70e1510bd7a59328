"""Write the checkpoints, metrics and best network of a run, and resume it from them."""

import contextlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import commons
from model.checkpoint_files import (
    DamagedFileError,
    read_checkpoint,
    save_atomically,
    save_keeping_previous,
    save_safetensors,
)
from model.other_models import hash_state
from runs.folders import noticing_loss
from runs.signals import StopSignals
from training.curves import EPOCHS_ONLY, Curves, CurvesParams
from training.metrics import Metrics, NotFiniteError, UnreadableImages
from training.state import Training

LAST, PREVIOUS, BEST = "last_checkpoint.pth", "previous_checkpoint.pth", "best_model.pth"
WHITENED = "whitened_model.pth"  # the best network and a whitening fitted to its descriptors
AUTO = "auto"  # instead of a checkpoint: the one in --save_dir, if there is one
FIXED_FLAGS = (  # a resumed run must not change these, nor those of its objective
    *("method", "backbone", "aggregation", "aggregation_args", "fc_output_dim"),
    *("input_scaling", "train_all_layers", "freeze_te", "train_last_blocks"),
)
NO_INFLUENCE = {  # flags that say where, how fast or how long, but do not change what is trained
    *("save_dir", "datasets_folder", "cache_folder", "resume_train", "dry_run", "epochs_num"),
    "flags_from",
    *("device", "num_workers", "augmentation_device", "infer_batch_size"),
    *("compile", "deterministic", "checkpoint_every", "max_bad_images", "io_retries"),
    *("test_set_folder", "queries_folder", "num_preds_to_save", "save_only_wrong_preds"),
    *("recall_values", "save_format", "log_every", "wandb", "num_val_preds_to_save"),
}
_KINDS = {  # of the entries of a checkpoint; its tensors are compared with the training's
    "args": dict,
    "data_digest": str,
    "metrics": list,
    "progress": dict,
    "epoch_num": int,
    "best_epoch": int,
    "best_val_recall": (int, float),
    "num_unreadable": int,
    "model_state_dict": dict,
    "objective_state_dict": dict,
}


class Checkpointer:
    """Writes checkpoints, metrics and the best network of a training, in the main process.

    A checkpoint is written first: the other files can be made from it, and are on resume.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        checkpoint_every: int,
        unreadable: UnreadableImages,
        signals: StopSignals,
        curves: CurvesParams = EPOCHS_ONLY,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            folder: Of the run.
            settings: Plain values that a checkpoint holds beside the state of the training.
            checkpoint_every: Iterations from one checkpoint to the next within an epoch; 0: none.
            unreadable: Counts images that could not be read.
            signals: That ask to stop.
            curves: What is written of iterations and epochs, beside metrics.jsonl.
        """
        self.folder = folder
        self._settings, self._every = settings, checkpoint_every
        self._unreadable, self.signals = unreadable, signals
        self._saved = (-1, -1)  # epoch and iteration of the last checkpoint
        self._metrics: Metrics | None = None  # of the main process
        self._best_sha256 = ""  # of the tensors of the best network; in the main process
        self._curves_params = curves
        self._curves: Curves | None = None  # of the main process

    def start(self, training: Training, checkpoint: dict[str, Any] | None) -> None:
        """Begin a run; or bring its folder to the state of the checkpoint it is resumed from."""
        if commons.rank() == 0:
            self._metrics = Metrics(self.folder, checkpoint["metrics"] if checkpoint else [])
            position = (training.epoch_num, training.progress.iteration)
            per_epoch = training.objective.num_iterations(0)
            self._curves = Curves(self.folder, self._curves_params, position, per_epoch)
        if checkpoint is None:
            return
        self._unreadable.count = checkpoint["num_unreadable"] // commons.num_ranks()
        self._best_sha256 = checkpoint.get("best_model_sha256", "")
        if training.best_epoch == training.epoch_num - 1 and training.progress.iteration == 0:
            self.save_best(training)
        self._say_how_to_resume()
        self._log_start(training, checkpoint)
        if _has_other_val_set(checkpoint, self._settings.get("val_digest")):
            logging.warning(
                "The validation set has changed since this training was last interrupted (compared "
                "are the names of its images and their order): recalls before and after, by which "
                "the best network is chosen, are of different images"
            )

    def _log_start(self, training: Training, checkpoint: dict[str, Any]) -> None:
        """Log where a training is resumed, with the flags that are no longer the checkpoint's."""
        flags = self._settings.get("args", {})
        changed = list_changes(checkpoint["args"], flags, {"save_dir", "resume_train"})
        if changed:
            logging.info(f"Changed since the checkpoint: {'; '.join(changed)}")
        epochs_num = flags.get("epochs_num", math.inf)
        if training.epoch_num < epochs_num and not training.has_stalled:
            where = f"epoch {training.epoch_num}, iteration {training.progress.iteration}"
            logging.info(f"Resuming at {where}")
            return
        num_done = commons.plural(training.epoch_num, "epoch")
        logging.info(
            f"This training is finished, after {num_done} of {epochs_num:,}. Its best network is "
            "tested again; to train on, give a larger --epochs_num"
            + ", and another --patience"
            * training.has_stalled
        )

    def after_iteration(self, training: Training, unreadable: Sequence[str]) -> None:
        """Check images and losses, write a checkpoint if one is due, stop if a signal came.

        Args:
            training: Has done the iteration.
            unreadable: See `training.objective.Batch`.

        Raises:
            ValueError: If too many images cannot be read.
            NotFiniteError: If losses are not finite.
            Stopped: If a signal came; the state is saved.
        """
        progress = training.progress
        num_before = training.epoch_num * self._unreadable.images_per_epoch
        self._unreadable.note(unreadable, num_before + progress.num_images)
        progress.check()
        every = self._curves_params.log_every
        if self._curves is not None and every and progress.iteration % every == 0:
            self._curves.write_iteration(training)
        if self._every and progress.iteration % self._every == 0:
            self.save(training)
        self.stop_if_asked(training)

    def stop_if_asked(self, training: Training) -> None:
        """Save the state and raise `Stopped` if a signal came."""
        if signal := self.signals.received():
            self.save(training)
            raise self.signals.stopped(signal)

    def save(self, training: Training) -> None:
        """Write a checkpoint if the last one is older; all processes must call it."""
        position = (training.epoch_num, training.progress.iteration)
        if position == self._saved:
            return
        self._saved = position
        training.progress.check(now=True)
        state = training.state_dict() | {"num_unreadable": self._unreadable.count_of_all()}
        if self._metrics is not None:
            state |= {"metrics": self._metrics.lines, "best_model_sha256": self._best_sha256}
            state |= self._settings
            save_keeping_previous(state, self.folder / LAST, self.folder / PREVIOUS)
        self._say_how_to_resume()

    def _say_how_to_resume(self) -> None:
        self.signals.how_to_resume = f"Resume with --resume_train {self.folder / LAST}"

    def end_epoch(self, training: Training, val_recall: float, numbers: dict[str, Any]) -> bool:
        """End an epoch: write its metrics, a checkpoint, and the network if it is the best.

        Args:
            training: Has been validated.
            val_recall: Decides which network is the best.
            numbers: For the metrics.

        Returns:
            Whether it is the best.
        """
        numbers = numbers | {"unreadable_images": self._unreadable.count_of_all()}
        if self._metrics is not None:
            self._metrics.lines.append({"epoch": training.epoch_num} | numbers)
        is_best = training.end_epoch(val_recall)
        if is_best and self._metrics is not None:
            self._best_sha256 = hash_state(training.network.state_dict())
        self.save(training)
        if self._metrics is not None:
            self._metrics.write_last()
            self._curves.write_epoch(self._metrics.lines[-1])
        if is_best:
            self.save_best(training)
        return is_best

    def __enter__(self) -> "Checkpointer":
        """Close the curves at the end of a `with` block, also where an error ends it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._curves is not None:
            self._curves.close(exit_code=0 if kind is None else 1)

    def save_best(self, training: Training) -> None:
        """Save the network as the best one, in the main process."""
        if commons.rank() == 0:
            state = training.network.state_dict()
            save_atomically(state, self.folder / BEST)
            if self._settings.get("args", {}).get("save_format") == "safetensors":
                save_safetensors(state, (self.folder / BEST).with_suffix(".safetensors"))

    def _list_batch(self, training: Training, error: NotFiniteError) -> Path:
        """Write the paths of the images of a bad iteration to a file; return its path."""
        file = self.folder / f"bad_batch_epoch{error.epoch}_iteration{error.iteration}.txt"
        if commons.rank() == 0:
            paths = training.objective.image_paths(error.epoch, error.iteration)
            with commons.atomic_write(file) as temporary:
                lines = "".join(path.replace("\n", "\\n") + "\n" for path in paths)
                temporary.write_text(lines, "utf-8", "surrogateescape")
        return file

    @contextlib.contextmanager
    def explaining_errors(self, training: Training) -> Iterator[None]:
        """Log, if the training ends early, where it was and how to resume it."""
        try:
            yield
        except Exception as error:
            if isinstance(error, NotFiniteError):
                file = self._list_batch(training, error)
                logging.error(f"The images of that iteration are listed in {file}")
            logging.error(
                f"Ended in epoch {training.epoch_num} after {training.progress.iteration} "
                f"iterations. {self.signals.how_to_resume}"
            )
            raise


def find_checkpoint(resume_train: str | None, save_dir: str | None) -> Path | None:
    """Return the checkpoint to resume from, None if a new run begins.

    Args:
        resume_train: The file, or "auto": that of an earlier run in `save_dir`, if there is one.
        save_dir: The folder of the run.

    Raises:
        FileNotFoundError: If the file does not exist.
    """
    if resume_train is None:
        return None
    if resume_train != AUTO:
        if not Path(resume_train).is_file():
            raise FileNotFoundError(f"There is no checkpoint {resume_train} to resume from")
        return Path(resume_train)
    files = [Path(save_dir, name) for name in (LAST, PREVIOUS)]
    return next((file for file in files if file.exists()), None)


def read_training_checkpoint(path: Path, or_previous: bool = False) -> dict[str, Any]:
    """Read the last checkpoint of a run, or the previous one, to resume from it.

    From then on it is the last one: it replaces a damaged file of that name.

    Args:
        path: The file.
        or_previous: Take the previous one if it is damaged.

    Raises:
        FileNotFoundError: If it does not exist, or the run's best network is not beside it.
        ValueError: If it is damaged, or something else; or the network beside it is another one.
    """
    try:
        checkpoint = read_checkpoint(path)
    except DamagedFileError as error:
        return _read_previous(path, error, or_previous)
    _check_content(path, checkpoint)
    best_model = path.with_name(BEST)
    if _needs_best_model(checkpoint) and not best_model.is_file():
        raise FileNotFoundError(f"There is no {best_model}: it belongs to {path}")
    if _needs_best_model(checkpoint):
        _check_best_model(best_model, path, checkpoint)
    if path.name == PREVIOUS and commons.rank() == 0:
        save_atomically(checkpoint, path.with_name(LAST))
    return checkpoint


def _check_content(path: Path, checkpoint: dict[str, Any]) -> None:
    """Raise a ValueError if a checkpoint is not one of a run."""
    bad = [
        name
        for name, kind in _KINDS.items()
        if not isinstance(checkpoint.get(name), kind) or isinstance(checkpoint[name], bool)
    ]
    lines = checkpoint.get("metrics")
    if not bad and not all(isinstance(line, dict) and _are_numbers(line) for line in lines):
        bad = ["metrics"]
    if not bad and not isinstance(checkpoint["args"].get("changed_on_resume", []), list):
        bad = ["changed_on_resume"]
    if not bad:
        return
    if "classifiers_state_dict" in checkpoint:
        raise ValueError(
            f"{path} is not a checkpoint to resume from: an older version wrote it. Its network "
            "can be evaluated, and a new run can start from it by --resume_model"
        )
    raise ValueError(
        f"{path} is not a checkpoint to resume from (it has no {bad[0]}, or something else in its "
        "place): --resume_train takes the last_checkpoint.pth of a run; to start from a network's "
        "weights use --resume_model"
    )


def _are_numbers(line: dict[str, Any]) -> bool:
    plain = (int, float, str, type(None))
    return isinstance(line.get("epoch"), int) and all(isinstance(v, plain) for v in line.values())


def _needs_best_model(checkpoint: dict[str, Any]) -> bool:
    """Return whether the best network so far cannot be made from a checkpoint."""
    if checkpoint["best_epoch"] < 0:
        return False
    is_at_start = checkpoint["progress"].get("iteration") == 0
    return not (is_at_start and checkpoint["best_epoch"] == checkpoint["epoch_num"] - 1)


def _check_best_model(best_model: Path, path: Path, checkpoint: dict[str, Any]) -> None:
    """Raise a ValueError if a best network is not the one of a checkpoint, at `path`.

    Where the last checkpoint is lost, it may be of the epoch that the previous one ends.
    """
    if not (sha256 := checkpoint.get("best_model_sha256")):  # an older version did not save it
        return
    found = hash_state(read_checkpoint(best_model))
    if found not in (sha256, hash_state(checkpoint["model_state_dict"])):
        raise ValueError(
            f"{best_model} is not the best network of the training in {path} (compared are its "
            "tensors, by their SHA-256): put that file back, or start a new run from a network by "
            "--resume_model"
        )


def _has_other_val_set(checkpoint: dict[str, Any], digest: str | None) -> bool:
    """Whether a run is resumed with another validation set; no for checkpoints without a digest."""
    return checkpoint.get("val_digest") not in (None, digest)


def _read_previous(path: Path, error: DamagedFileError, or_previous: bool) -> dict[str, Any]:
    previous = path.with_name(PREVIOUS)
    if path == previous or not previous.exists():
        raise error
    if not or_previous:
        read_checkpoint(previous)
        raise ValueError(
            f"{error}. The previous one is intact: resume with --resume_train {previous}"
        ) from None
    logging.warning(f"{error}. Resuming from the previous one, {previous}")
    return read_training_checkpoint(previous)


def check_unchanged(
    path: Path, checkpoint: dict[str, Any], flags: dict[str, Any], fixed: Iterable[str]
) -> None:
    """Raise a ValueError if a run would be resumed in another folder or as another training.

    Args:
        path: Of the checkpoint.
        checkpoint: Its content.
        flags: Of the resumed run.
        fixed: Names of flags that must be those of the checkpoint.
    """
    before = flags | checkpoint["args"]  # flags that an older version did not have are unchanged
    changed = [
        f"--{name} is {flags[name]}, in the checkpoint {before[name]}"
        for name in fixed
        if flags[name] != before[name]
    ]
    save_dir = flags["save_dir"]
    if save_dir and os.path.realpath(save_dir) != os.path.realpath(path.parent):
        changed.append(f"--save_dir is {save_dir}, the checkpoint is in {path.parent}")
    if changed:
        raise ValueError(f"This training cannot be resumed: {'; '.join(changed)}")


def check_data_unchanged(checkpoint: dict[str, Any] | None, digest: str) -> None:
    """Raise a ValueError if a run would be resumed on other images."""
    if checkpoint is not None and checkpoint["data_digest"] != digest:
        raise ValueError(
            "This training cannot be resumed: the names of the training images have changed"
        )


def list_changes(
    before: dict[str, Any], flags: dict[str, Any], without: Iterable[str]
) -> list[str]:
    """Return a text for each flag that is no longer as before, but for some names."""
    names = before.keys() & flags.keys() - {"changed_on_resume", *without}
    return [
        f"{name} from {before[name]} to {flags[name]}"
        for name in sorted(names)
        if flags[name] != before[name]
    ]


def note_changes(
    flags: dict[str, Any], checkpoint: dict[str, Any] | None, val_digest: str | None = None
) -> dict[str, Any]:
    """Return flags, with a list of those that a resumed run changed, now or before.

    Args:
        flags: Of the training from now on.
        checkpoint: Of the resumed run, None for a new one.
        val_digest: Of the validation set; its change is listed, too.
    """
    if checkpoint is None:
        return flags
    before = checkpoint["args"]
    changed = list_changes(before, flags, NO_INFLUENCE)
    if _has_other_val_set(checkpoint, val_digest):
        changed.append("the images of the validation set")
    return flags | {"changed_on_resume": [*before.get("changed_on_resume", []), *changed]}


@contextlib.contextmanager
def reopened_folder(folder: Path, flags: dict[str, Any]) -> Iterator[Path]:
    """Prepare the folder of a run, which is locked, to be resumed with flags; yield it.

    Raises:
        FileNotFoundError: If it vanishes before the run ends.
    """
    if commons.rank() == 0:
        for name in ("results.json", WHITENED):  # of a shorter training
            (folder / name).unlink(missing_ok=True)
        commons.write_json(flags, folder / "args.json")
    with noticing_loss(folder):
        yield folder
