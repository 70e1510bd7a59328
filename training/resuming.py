"""Whether and how a training can be continued from a checkpoint."""

from pathlib import Path
from typing import Any

from model.files import read_checkpoint

NOT_TO_CHANGE = (  # flags that a continued training must share with the one before
    *("M", "alpha", "N", "L", "min_images_per_class", "groups_num"),
    *("backbone", "pooling", "fc_output_dim", "train_all_layers", "freeze_te", "save_dir"),
)
NO_INFLUENCE = {  # flags that say where, how fast or how long, not what is trained
    *("save_dir", "datasets_folder", "cache_folder", "resume_train", "dry_run", "epochs_num"),
    *("device", "num_workers", "augmentation_device", "infer_batch_size"),
    *("compile", "shard_classifier"),
    *("test_set_folder", "queries_folder", "num_preds_to_save", "save_only_wrong_preds"),
    "recall_values",
}


def read_training_checkpoint(path: str) -> dict[str, Any]:
    """Read the `last_checkpoint.pth` of a run to continue it.

    Raises:
        FileNotFoundError: If it is not there, or the run's best network is not beside it.
        ValueError: If it is something else.
    """
    checkpoint = read_checkpoint(path)
    if "optimizers_state_dict" not in checkpoint or "args" not in checkpoint:
        raise ValueError(
            f"{path} is not a checkpoint to continue from: --resume_train takes the "
            "last_checkpoint.pth of a run; to start from a network's weights use --resume_model"
        )
    best_model = Path(path).with_name("best_model.pth")
    if not best_model.is_file():
        raise FileNotFoundError(f"There is no {best_model}: it belongs to {path}")
    return checkpoint


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


def check_images_unchanged(checkpoint: dict[str, Any], index_digest: str) -> None:
    """Raise a ValueError if a training would be continued on other images."""
    if checkpoint["index_digest"] != index_digest:
        raise ValueError(
            "This training cannot be continued: the names of the training images have changed"
        )
