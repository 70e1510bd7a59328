"""Numbers of each epoch, as lines of JSON and as TensorBoard events."""

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

import commons


class Metrics:
    """Writes `metrics.jsonl`, one line per epoch, and event files for TensorBoard."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        """Continue at an epoch; what an interrupted run wrote about it and later ones goes."""
        self._file = folder / "metrics.jsonl"
        if self._file.exists():
            lines = self._file.read_text().splitlines(keepends=True)
            with commons.written_whole(self._file) as temporary:
                temporary.write_text("".join(lines[:first_epoch]))
        self._events = SummaryWriter(str(folder), purge_step=first_epoch)

    def write(self, epoch: int, values: dict[str, float]) -> None:
        """Append the numbers of an epoch."""
        with open(self._file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch} | values) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, epoch)
        self._events.flush()
