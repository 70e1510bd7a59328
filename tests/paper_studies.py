"""Studies whose numbers are given, not looked up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from paper.run_log import Missing
from paper.scales import PAPER
from paper.sources import Absent, Source
from paper.study import Study


@dataclass
class KnownNumbers:
    """Stands for a RunLog: answers with the numbers that it was given."""

    test: dict[tuple[Source, int, str], dict[str, float]] = field(default_factory=dict)
    val: dict[tuple[Source, int], float] = field(default_factory=dict)
    folders: dict[tuple[Source, str], Any] = field(default_factory=dict)
    absent_sets: tuple[str, ...] = ()
    datasets_folder: str = "data"

    def recalls(self, source: Source, seed: int, dataset: str) -> dict[str, float] | Missing:
        """Look a recall up as RunLog does."""
        if isinstance(source, Absent):
            return Missing(source.reason)
        if dataset in self.absent_sets:
            return Missing("no data set")
        return self.test.get((source, seed, dataset), Missing("not run"))

    def best_val_recall(self, source: Source, seed: int) -> float | Missing:
        """Look R@1 on val up."""
        return self.val.get((source, seed), Missing("not run"))

    def evaluation(self, source: Source, seed: int, dataset: str) -> Any:
        """Look a folder up."""
        return self.folders.get((source, dataset), Missing("not run"))


def make_study(numbers: KnownNumbers | None = None, **fields: Any) -> Study:
    """Make a study at the paper's scale with one seed."""
    return Study(**({"scale": PAPER, "seeds": (0,), "log": numbers or KnownNumbers()} | fields))


def fill(
    numbers: KnownNumbers, source: Source, datasets: list[str], recall: Callable[[str], float]
) -> None:
    """Give a network a recall on each set, the same for all N."""
    for name in datasets:
        numbers.test[source, 0, name] = dict.fromkeys(("R@1", "R@5", "R@10"), recall(name))
