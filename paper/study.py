"""What tables and figures are made from: the scale, the seeds, and the numbers that are there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.published import TRAINED_DIMS
from paper.plan import Step
from paper.run_log import Missing, RunLog
from paper.scales import PAPER, Scale
from paper.sources import Absent, Released, Source, Trained


@dataclass(frozen=True)
class Study:
    """Everything that a table or figure may look at.

    Attributes:
        scale: The paper's or the mini city's.
        seeds: Of trainings; several give mean and standard deviation.
        log: The runs that are there.
        only: A text that the name of a row or curve must hold to count; empty for all.
        use_released: Whether released networks take the place of trainings with the paper's flags.
        failures: Why runs could not be done.
    """

    scale: Scale
    seeds: tuple[int, ...]
    log: RunLog
    only: str = ""
    use_released: bool = False
    failures: Mapping[Step, str] = field(default_factory=dict)

    def is_asked(self, label: str) -> bool:
        """Return whether a row or curve is among those that are asked for."""
        return self.only.lower() in label.lower()

    def resolve(self, source: Source) -> Source:
        """Return the network that is looked at: the released one, if that is asked for."""
        if not (self.use_released and isinstance(source, Trained)):
            return source
        backbone, dim = source["backbone"], source["fc_output_dim"]
        is_released = dim in TRAINED_DIMS.get(backbone, ()) and source == PAPER.cosplace(
            backbone, dim
        )
        return Released(f"cosplace:{backbone}:{dim}") if is_released else source

    def recalls(self, source: Source, dataset: str, metric: str) -> tuple[float, ...] | Missing:
        """Return a recall in percent on a test set, one for each seed that has it."""
        resolved = self.resolve(source)

        def look_up(seed: int) -> float | Missing:
            found = self.log.recalls(resolved, seed, dataset)
            return found if isinstance(found, Missing) else found[metric]

        return self._over_seeds(resolved, look_up)

    def val_recalls(self, source: Source) -> tuple[float, ...] | Missing:
        """Return R@1 in percent on the validation set, one for each seed that has it."""
        return self._over_seeds(source, lambda seed: self.log.best_val_recall(source, seed))

    def evaluation(self, source: Source, dataset: str) -> Path | Missing:
        """Return the folder of the results on a test set, with the first seed."""
        source, seed = self.resolve(source), self.seeds[0]
        found = self.log.evaluation(source, seed, dataset)
        return self._explain(source, seed, found) if isinstance(found, Missing) else found

    def _over_seeds(
        self, source: Source, look_up: Callable[[int], float | Missing]
    ) -> tuple[float, ...] | Missing:
        if isinstance(source, Absent):
            return Missing(source.reason)
        seeds = self.seeds[:1] if isinstance(source, Released) else self.seeds
        found = {seed: look_up(seed) for seed in seeds}
        numbers = tuple(value for value in found.values() if not isinstance(value, Missing))
        if numbers:
            return numbers
        seed, missing = next(iter(found.items()))
        return self._explain(source, seed, missing)

    def _explain(self, source: Source, seed: int, missing: Missing) -> Missing:
        """Return why a run is not there; what went wrong just now tells more than that."""
        for step, why in self.failures.items():
            if (step.source, step.seed) == (source, seed) and missing.reason != "no data set":
                return Missing(why)
        return missing
