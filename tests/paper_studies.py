"""Studies whose numbers are given, not looked up."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from paper.networks import Source
from paper.results_of_runs import Study
from paper.run_log import NO_DATA_SET, NOT_RUN, Missing
from paper.scales import PAPER


@dataclass
class KnownNumbers:
    """Stands for a RunLog: answers with the numbers that it was given."""

    test: dict[tuple[Source, int, str], dict[str, float]] = field(default_factory=dict)
    val: dict[tuple[Source, int], float] = field(default_factory=dict)
    folders: dict[tuple[Source, str], Path] = field(default_factory=dict)
    absent_sets: tuple[str, ...] = ()
    datasets_folder: str = "data"

    def evaluation(self, source: Source, seed: int, dataset: str) -> Path | Missing:
        """Return a folder as RunLog does."""
        if dataset in self.absent_sets:
            return NO_DATA_SET
        if (source, seed, dataset) not in self.test:
            return NOT_RUN
        return self.folders.get((source, dataset), Path(f"logs/{source}_{seed}_{dataset}"))

    def result(self, folder: Path) -> dict[str, Any]:
        """Return the results of such a folder."""
        if (folder / "results.json").is_file():
            return json.loads((folder / "results.json").read_text())
        of_folders = {self.evaluation(*key): recalls for key, recalls in self.test.items()}
        return {"recalls": of_folders[folder], "notes": []}

    def has_set(self, dataset: str) -> bool:
        """Whether a test set is on disk."""
        return dataset not in self.absent_sets

    def finished_training(self, source: Source, seed: int) -> Any:
        """Return what Study asks of a training."""
        if (source, seed) not in self.val:
            return NOT_RUN
        folder = Path(f"logs/{source}_{seed}")
        return SimpleNamespace(folder=folder, best_val_recall=self.val[source, seed])


def make_study(numbers: KnownNumbers | None = None, **fields: Any) -> Study:
    """Make a study at the paper's scale with one seed."""
    return Study(**({"scale": PAPER, "seeds": (0,), "log": numbers or KnownNumbers()} | fields))


def fill(
    numbers: KnownNumbers, source: Source, datasets: list[str], recall: Callable[[str], float]
) -> None:
    """Give a network a recall on each set, the same for all N."""
    for name in datasets:
        numbers.test[source, 0, name] = dict.fromkeys(("R@1", "R@5", "R@10"), recall(name))
