"""The plan in words: what is there already, what would be run, and what that would cost."""

from collections.abc import Iterator, Sequence

from paper.estimates import evaluation_hours, training_gigabytes, training_hours
from paper.plan import Step, is_trained, missing_evaluations
from paper.run_log import RunLog
from paper.sources import Trained

_NOTE = "GPU h: hours of an RTX 3090 in full precision; GB: checkpoints; both are rough estimates."


def describe_plan(steps: Sequence[Step], log: RunLog) -> str:
    """Return the runs, one a line, with estimates, and their sums."""
    rows = [row for step in steps for row in _describe_step(step, log)]
    rows.append((sum(row[0] for row in rows), sum(row[1] for row in rows), "together"))
    lines = [f"{hours:7.1f} {gigabytes:6.1f}  {text}" for hours, gigabytes, text in rows]
    return "\n".join(["  GPU h     GB  run", *lines, _NOTE])


def _describe_step(step: Step, log: RunLog) -> Iterator[tuple[float, float, str]]:
    """Yield hours, gigabytes and text of a training, if there is one, and of its evaluations."""
    if isinstance(step.source, Trained):
        if is_trained(step, log):
            yield 0.0, 0.0, f"trained   {step}"
        else:
            verb = "resume   " if log.training(step.source, step.seed) else "train    "
            yield (
                training_hours(step.source),
                training_gigabytes(step.source),
                f"{verb} {step}{_missing_train_set(step, log)}",
            )
    missing = missing_evaluations(step, log)
    absent = [name for name in step.datasets if log.missing_set(name)]
    measured = [name for name in step.datasets if name not in (*missing, *absent)]
    for verb, names in (("measured ", measured), ("evaluate ", missing), ("no data  ", absent)):
        if names:
            hours = sum(evaluation_hours(step.source, name) for name in names)
            hours *= verb == "evaluate "
            yield hours, 0.0, f"{verb} {step} on {', '.join(names)}"


def _missing_train_set(step: Step, log: RunLog) -> str:
    return "" if log.has_train_set(step.source) else f" (there is no {step.source['dataset']})"
