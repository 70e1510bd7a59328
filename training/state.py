"""All that changes while training, and how it is continued after an interruption."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Adam

from cosface_loss import MarginCosineProduct
from model import GeoLocalizationNet
from model.files import read_checkpoint

NOT_TO_CHANGE = (  # flags that a continued training must share with the one before
    *("M", "alpha", "N", "L", "min_images_per_class", "groups_num"),
    *("backbone", "pooling", "fc_output_dim", "train_all_layers", "freeze_te", "save_dir"),
)
NO_INFLUENCE = {  # flags that say where, how fast or how long, not what is trained
    *("save_dir", "datasets_folder", "cache_folder", "resume_train", "dry_run", "epochs_num"),
    *("device", "num_workers", "augmentation_device", "infer_batch_size"),
    *("test_set_folder", "queries_folder", "num_preds_to_save", "save_only_wrong_preds"),
    "recall_values",
}


class Training:
    """All that changes while training: what a checkpoint holds."""

    def __init__(
        self,
        network: GeoLocalizationNet,
        class_counts: Sequence[int],
        learning_rates: tuple[float, float],
        amp_dtype: torch.dtype | None,
        device: torch.device,
    ) -> None:
        """Put the network on the device and make a CosFace head for each group.

        Args:
            network: What is trained.
            class_counts: Number of classes of each group.
            learning_rates: Of the network and of the heads.
            amp_dtype: 16-bit type of mixed precision, None for none.
            device: Where to train.
        """
        self.device = device
        self.amp_dtype = amp_dtype
        self.learning_rates = learning_rates
        self.network = network.to(device, memory_format=torch.channels_last)
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16)
        self.optimizer = self._adam(network, learning_rates[0])
        self.heads = [MarginCosineProduct(network.out_dim, count) for count in class_counts]
        self.head_optimizers = [self._adam(head, learning_rates[1]) for head in self.heads]
        self.epoch_num = 0  # epochs that are done
        self.best_val_recall1 = -1.0

    def _adam(self, module: torch.nn.Module, learning_rate: float) -> Adam:
        parameters = [p for p in module.parameters() if p.requires_grad]
        is_fused = self.device.type in ("cpu", "cuda")  # one pass over the weights
        return Adam(parameters, learning_rate, fused=is_fused)

    @property
    def current_group(self) -> int:
        """The group whose turn it is."""
        return self.epoch_num % len(self.heads)

    @contextlib.contextmanager
    def current_head(self) -> Iterator[tuple[MarginCosineProduct, Adam]]:
        """Lend the head and optimizer of the current group; on the device only meanwhile."""
        head = self.heads[self.current_group]
        optimizer = self.head_optimizers[self.current_group]
        try:
            yield _move(head, optimizer, self.device)
        finally:
            optimizer.zero_grad()
            _move(head, optimizer, torch.device("cpu"))

    def end_epoch(self, val_recall1: float) -> bool:
        """Count an epoch; return whether its network is the best so far."""
        self.epoch_num += 1
        is_best = val_recall1 > self.best_val_recall1
        self.best_val_recall1 = max(val_recall1, self.best_val_recall1)
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, under the official code's names where it has one."""
        return {
            "epoch_num": self.epoch_num,
            "model_state_dict": self.network.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "classifiers_state_dict": [head.state_dict() for head in self.heads],
            "optimizers_state_dict": [adam.state_dict() for adam in self.head_optimizers],
            "best_val_recall1": self.best_val_recall1,
            "scaler_state_dict": self.scaler.state_dict(),
            "rng_state": torch.get_rng_state(),
            "cuda_rng_state": (
                torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
            ),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, with the learning rates given now."""
        self.epoch_num = state["epoch_num"]
        self.best_val_recall1 = state["best_val_recall1"]
        self.network.load_state_dict(state["model_state_dict"])
        _load_adam(self.optimizer, state["optimizer_state_dict"], self.learning_rates[0])
        saved_heads = zip(
            state["classifiers_state_dict"], state["optimizers_state_dict"], strict=True
        )
        for head, adam, (weights, moments) in zip(
            self.heads, self.head_optimizers, saved_heads, strict=True
        ):
            head.load_state_dict(weights)
            _load_adam(adam, moments, self.learning_rates[1])
        if state["scaler_state_dict"]:  # empty if the run did not scale
            self.scaler.load_state_dict(state["scaler_state_dict"])
        torch.set_rng_state(state["rng_state"])
        if state["cuda_rng_state"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng_state"], self.device)


def _load_adam(optimizer: Adam, state: dict[str, Any], learning_rate: float) -> None:
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _move(
    head: MarginCosineProduct, optimizer: Adam, device: torch.device
) -> tuple[MarginCosineProduct, Adam]:
    head.to(device)
    optimizer.load_state_dict(optimizer.state_dict())  # moments go where the weights are
    return head, optimizer


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
