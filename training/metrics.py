"""Numbers of each epoch, as lines of JSON and as TensorBoard events."""

import json
import os
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class Metrics:
    """Writes `metrics.jsonl`, one line per epoch, and event files for TensorBoard."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        """Continue at an epoch; what an interrupted run wrote about it and later ones goes."""
        self._file = folder / "metrics.jsonl"
        if self._file.exists():
            lines = self._file.read_text().splitlines(keepends=True)
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text("".join(lines[:first_epoch]))
            os.replace(temporary, self._file)
        self._events = SummaryWriter(str(folder), purge_step=first_epoch)

    def write(self, epoch: int, values: dict[str, float]) -> None:
        """Append the numbers of an epoch."""
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch} | values) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, epoch)
        self._events.flush()
