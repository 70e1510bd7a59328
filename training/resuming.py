"""Whether and how a training can be continued from a checkpoint."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commons
from model.files import DamagedFileError, read_checkpoint, save_atomically
from runs.folders import noticing_loss
from training.keeper import BEST, LAST, PREVIOUS

AUTO = "auto"  # instead of a checkpoint: the one in --save_dir, if there is one
NOT_TO_CHANGE = (  # flags that a continued training must share with the one before
    *("M", "alpha", "N", "L", "min_images_per_class", "groups_num"),
    *("backbone", "pooling", "fc_output_dim", "train_all_layers", "freeze_te"),
)
_KINDS = {  # of what a checkpoint holds; its tensors are compared with the training's
    "args": dict,
    "index_digest": str,
    "metrics": list,
    "progress": dict,
    "epoch_num": int,
    "best_epoch": int,
    "best_val_recall1": (int, float),
    "num_unreadable": int,
    "model_state_dict": dict,
    "optimizers_state_dict": list,
    "classifiers_state_dict": list,
}
NO_INFLUENCE = {  # flags that say where, how fast or how long, not what is trained
    *("save_dir", "datasets_folder", "cache_folder", "resume_train", "dry_run", "epochs_num"),
    *("device", "num_workers", "augmentation_device", "infer_batch_size"),
    *("compile", "shard_classifier", "deterministic"),
    *("checkpoint_every", "max_bad_images", "io_retries"),
    *("test_set_folder", "queries_folder", "num_preds_to_save", "save_only_wrong_preds"),
    "recall_values",
}


def find_checkpoint(resume_train: str | None, save_dir: str | None) -> Path | None:
    """Return the checkpoint that a training is to go on from, None if a new one begins.

    Args:
        resume_train: The file, or "auto": that of an earlier run in `save_dir`, if there is one.
        save_dir: The folder of the run.

    Raises:
        FileNotFoundError: If the file is not there.
    """
    if resume_train is None:
        return None
    if resume_train != AUTO:
        if not Path(resume_train).is_file():
            raise FileNotFoundError(f"There is no checkpoint {resume_train} to continue from")
        return Path(resume_train)
    files = [Path(save_dir, name) for name in (LAST, PREVIOUS)]
    return next((file for file in files if file.exists()), None)


def read_training_checkpoint(path: Path, or_previous: bool = False) -> dict[str, Any]:
    """Read a checkpoint of a run, the last one or the one before it, to continue from there.

    From then on it is the last one: a damaged file of that name is replaced by it.

    Args:
        path: The file.
        or_previous: Take the one before it, if it is damaged.

    Raises:
        FileNotFoundError: If it is not there, or the run's best network is not beside it.
        ValueError: If it is damaged, or something else.
    """
    try:
        checkpoint = read_checkpoint(path, needs_digest=True)
    except DamagedFileError as error:
        return _read_previous(path, error, or_previous)
    _check_content(path, checkpoint)
    best_model = path.with_name(BEST)
    if _needs_best_model(checkpoint) and not best_model.is_file():
        raise FileNotFoundError(f"There is no {best_model}: it belongs to {path}")
    if path.name == PREVIOUS and commons.rank() == 0:
        save_atomically(checkpoint, path.with_name(LAST))
    return checkpoint


def _check_content(path: Path, checkpoint: dict[str, Any]) -> None:
    """Raise a ValueError if a checkpoint is none of a run."""
    bad = [name for name, kind in _KINDS.items() if not isinstance(checkpoint.get(name), kind)]
    if bad:
        raise ValueError(
            f"{path} is not a checkpoint to continue from (it has no {bad[0]}, or something else "
            "in its place): --resume_train takes the last_checkpoint.pth of a run; to start from a "
            "network's weights use --resume_model"
        )


def _needs_best_model(checkpoint: dict[str, Any]) -> bool:
    """Tell whether the best network so far cannot be made from a checkpoint."""
    if checkpoint["best_epoch"] < 0:
        return False
    is_at_start = checkpoint["progress"].get("iteration") == 0
    return not (is_at_start and checkpoint["best_epoch"] == checkpoint["epoch_num"] - 1)


def _read_previous(path: Path, error: DamagedFileError, or_previous: bool) -> dict[str, Any]:
    previous = path.with_name(PREVIOUS)
    if path == previous or not previous.exists():
        raise error
    if not or_previous:
        read_checkpoint(previous, needs_digest=True)
        raise ValueError(
            f"{error}. The one before it is whole: continue with --resume_train {previous}"
        ) from None
    logging.warning(f"{error}. Continuing with the one before it, {previous}")
    return read_training_checkpoint(previous)


def check_folder(path: Path, save_dir: str | None) -> None:
    """Raise a ValueError if a training would be continued in another folder."""
    if save_dir and os.path.realpath(save_dir) != os.path.realpath(path.parent):
        raise ValueError(
            f"This training cannot be continued: --save_dir is {save_dir}, the checkpoint is in "
            f"{path.parent}"
        )


def check_flags_unchanged(checkpoint: dict[str, Any], flags: dict[str, Any]) -> None:
    """Raise a ValueError if a training would be continued with other classes or network."""
    before = flags | checkpoint["args"]  # what an older version did not have is as it is now
    changed = [
        f"--{name} is {flags[name]}, in the checkpoint {before[name]}"
        for name in NOT_TO_CHANGE
        if flags[name] != before[name]
    ]
    if changed:
        raise ValueError(f"This training cannot be continued: {'; '.join(changed)}")


def note_changes(flags: dict[str, Any], checkpoint: dict[str, Any] | None) -> dict[str, Any]:
    """Return flags with those of influence that a continuation changed, now or before.

    Args:
        flags: Of the training as it goes on.
        checkpoint: Of the run that is continued, None for a new one.
    """
    if checkpoint is None:
        return flags
    before = checkpoint["args"]
    changed = [
        f"{name} from {before[name]} to {flags[name]}"
        for name in sorted(before.keys() & flags.keys() - NO_INFLUENCE)
        if flags[name] != before[name]
    ]
    return flags | {"changed_on_resume": [*before.get("changed_on_resume", []), *changed]}


@contextlib.contextmanager
def reopened_folder(folder: Path, flags: dict[str, Any]) -> Iterator[Path]:
    """Make the folder of a run, which is locked, ready to be continued with flags; yield it.

    Raises:
        FileNotFoundError: If it vanishes before the run is at its end.
    """
    if commons.rank() == 0:
        (folder / "results.json").unlink(missing_ok=True)  # of a shorter training
        commons.write_json(flags, folder / "args.json")
    with noticing_loss(folder):
        yield folder


def check_images_unchanged(checkpoint: dict[str, Any] | None, index_digest: str) -> None:
    """Raise a ValueError if a training would be continued on other images."""
    if checkpoint is not None and checkpoint["index_digest"] != index_digest:
        raise ValueError(
            "This training cannot be continued: the names of the training images have changed"
        )
