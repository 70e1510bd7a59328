"""Training images that could not be read."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

import commons
from training.collectives import sum_over_processes

NUM_SHOWN = 10  # in the log; the file has all
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}


class UnreadableImages:
    """Counts them, lists them in `unreadable_images.txt`, and says when there are too many.

    They were replaced by others of their classes, see `datasets.train_dataset`.
    """

    def __init__(self, folder: Path, max_share: float, images_per_epoch: int) -> None:
        """Go on with what is listed.

        Args:
            folder: Of the run.
            max_share: The largest allowed part of the images that were drawn, 0 to 1.
            images_per_epoch: As many are always taken as drawn: at the start there are few.
        """
        self.count = 0  # in this process; as often as they were drawn
        self._max_share, self.images_per_epoch = max_share, images_per_epoch
        self._file = folder / "unreadable_images.txt"
        self._listed = set()
        if self._file.exists():
            self._listed.update(self._file.read_text(**_TEXT).splitlines())

    def note(self, sentences: Sequence[str], num_drawn: int) -> None:
        """Take over those of a batch.

        Args:
            sentences: What is wrong, one of each image.
            num_drawn: Images that all processes have drawn in the whole run.

        Raises:
            ValueError: If there are too many.
        """
        if not sentences:
            return
        self.count += len(sentences)
        for line in (" ".join(sentence.splitlines()) for sentence in sentences):
            if line not in self._listed:
                self._list(line)
        allowed = self._max_share * max(num_drawn, self.images_per_epoch)
        if self.count * commons.num_ranks() > allowed:
            raise ValueError(
                f"{self.count:,} images could not be read, of {num_drawn // commons.num_ranks():,} "
                f"that were drawn, the last one because: {sentences[-1]} They are listed in "
                f"{self._file}. Repair them, or allow more by --max_bad_images (now "
                f"{self._max_share})"
            )

    def count_of_all(self) -> int:
        """Return the sum over all processes, all of which must ask."""
        return round(sum_over_processes(torch.tensor(float(self.count))).item())

    def _list(self, line: str) -> None:
        self._listed.add(line)
        level = logging.WARNING if len(self._listed) <= NUM_SHOWN else logging.DEBUG
        logging.log(level, f"{line} Another image of its class is trained on")
        with open(self._file, "a", **_TEXT) as file:
            file.write(line + "\n")
