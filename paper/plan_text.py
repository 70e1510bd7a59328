"""The plan in words: what is there already, what would be run, and what that would cost."""

from collections.abc import Iterator, Sequence

from paper.estimates import evaluation_hours, training_gigabytes, training_hours
from paper.plan import Step, is_trained, missing_evaluations
from paper.run_log import NO_DATA_SET, RunLog
from paper.sources import Trained

_NOTE = (
    "GPU h: hours of an RTX 3090 in full precision; GB: checkpoints. Both are rough estimates, and "
    "include what cannot be done before its data set is there."
)


def describe_plan(steps: Sequence[Step], log: RunLog) -> str:
    """Return the runs, one a line, with estimates, and their sums."""
    rows = [row for step in steps for row in _describe_step(step, log)]
    rows.append((sum(row[0] for row in rows), sum(row[1] for row in rows), "together"))
    lines = [f"{hours:7.2f} {gigabytes:6.1f}  {text}" for hours, gigabytes, text in rows]
    return "\n".join(["  GPU h     GB  run", *lines, _NOTE])


def _describe_step(step: Step, log: RunLog) -> Iterator[tuple[float, float, str]]:
    """Yield hours, gigabytes and text of a training, if there is one, and of its evaluations."""
    if isinstance(step.source, Trained):
        if is_trained(step, log):
            yield 0.0, 0.0, f"trained   {step}"
        else:
            training = log.training(step.source, step.seed)
            missing = log.missing_for_training(step.source)
            verb = "resume   " if training else "train    "
            yield (
                training_hours(step.source, training.num_epochs if training else 0),
                training_gigabytes(step.source),
                f"{verb} {step}" + (f" (there is no {missing})" if missing else ""),
            )
    missing = missing_evaluations(step, log)
    absent = [
        name
        for name in step.datasets
        if log.evaluation(step.source, step.seed, name) == NO_DATA_SET
    ]
    measured = [name for name in step.datasets if name not in (*missing, *absent)]
    for verb, names in (("measured ", measured), ("evaluate ", missing), ("no data  ", absent)):
        if names:
            hours = evaluation_hours(step.source, names) * (verb == "evaluate ")
            yield hours, 0.0, f"{verb} {step} on {', '.join(names)}"
