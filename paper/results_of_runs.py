"""Results of runs for tables and figures, by network, seed and test set."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from paper.networks import Released, Source
from paper.run_log import NO_DATA_SET, Missing, RunLog
from paper.runs_to_do import Step
from paper.scales import Scale
from paper.table_cells import Cell

T = TypeVar("T")


@dataclass(frozen=True)
class Study:
    """The results that tables and figures show.

    Attributes:
        scale: The paper's or the mini city's.
        seeds: Of trainings; several give mean and standard deviation.
        log: The runs on disk.
        only: Start only runs of rows or curves whose name contains this text; empty: all.
        use_released: Whether released networks replace trainings with the paper's flags.
        failures: Why runs could not be done, by step.
    """

    scale: Scale
    seeds: tuple[int, ...]
    log: RunLog
    only: str = ""
    use_released: bool = False
    failures: Mapping[Step, str] = field(default_factory=dict)

    def is_asked(self, *names: object) -> bool:
        """Whether the runs of a row or curve are selected, by its name or the network's."""
        wanted, *texts = (str(one).lower().replace("-", "") for one in (self.only, *names))
        return any(wanted in text for text in texts)

    def resolve(self, source: Source) -> Source:
        """Return the network to evaluate: the released one, if requested."""
        spec = getattr(source, "released", "") if self.use_released else ""
        return Released(spec, source.resize) if spec else source

    def measure(self, source: Source, dataset: str, metric: str = "R@1") -> Cell:
        """Return a recall on a test set, for each seed that has it, or why it is missing."""
        folders = self.find_evaluations(source, dataset)
        if isinstance(folders, Missing):
            return Cell(missing=folders.reason)
        results = [self.log.result(folder) for folder in folders]
        notes = (f"{dataset}: {note}." for result in results for note in result.get("notes", []))
        return Cell(
            tuple(result["recalls"][metric] for result in results),
            caveats=tuple(dict.fromkeys(notes)),
            runs=tuple(map(str, folders)),
        )

    def measure_val(self, source: Source) -> Cell:
        """Return R@1 on the validation set, for each seed that has it, or why it is missing."""
        found = self._over_seeds(source, lambda seed: self.log.finished_training(source, seed))
        if isinstance(found, Missing):
            return Cell(missing=found.reason)
        recalls = tuple(training.best_val_recall for training in found)
        return Cell(recalls, runs=tuple(str(training.folder) for training in found))

    def find_evaluations(self, source: Source, dataset: str) -> tuple[Path, ...] | Missing:
        """Return the folders of the results on a test set, one for each seed that has them."""
        source = self.resolve(source)
        return self._over_seeds(source, lambda seed: self.log.evaluation(source, seed, dataset))

    def describe_seeds(self, source: Source, cells: Iterable[Cell]) -> str:
        """Return a sentence if numbers are of fewer seeds than requested, else an empty text."""
        num_asked = 1 if isinstance(self.resolve(source), Released) else len(self.seeds)
        found = {len(cell.measured) for cell in cells} - {0, num_asked}
        numbers = " and ".join(map(str, sorted(found)))
        return f"Only {numbers} of {num_asked} seeds have numbers." if found else ""

    def _over_seeds(
        self, source: Source, look_up: Callable[[int], T | Missing]
    ) -> tuple[T, ...] | Missing:
        seeds = self.seeds[:1] if isinstance(source, Released) else self.seeds
        answers = {seed: look_up(seed) for seed in seeds}
        found = tuple(one for one in answers.values() if not isinstance(one, Missing))
        if found:
            return found
        seed, missing = next(iter(answers.items()))
        return self._explain(source, seed, missing)

    def _explain(self, source: Source, seed: int, missing: Missing) -> Missing:
        """Return why a run is missing: the failure of just now, if there was one."""
        for step, why in self.failures.items():
            if (step.source, step.seed) == (source, seed) and missing != NO_DATA_SET:
                return Missing(why)
        return missing
