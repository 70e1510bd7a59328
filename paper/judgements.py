"""Statements of the paper judged by results: they hold, fail, or cannot be judged yet."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

_MAX_SHOWN = 4  # parts of the evidence


class Verdict(Enum):
    """The result of a check."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "cannot be judged yet"


@dataclass(frozen=True)
class ClaimPart:
    """One comparison of a statement."""

    text: str  # the numbers, or the missing one
    holds: bool | None  # None: a number is missing


@dataclass(frozen=True)
class Judgement:
    """A statement of the paper and its comparisons."""

    statement: str
    parts: tuple[ClaimPart, ...]

    @property
    def verdict(self) -> Verdict:
        """One counterexample refutes; a statement holds only if no number is missing."""
        if any(part.holds is False for part in self.parts):
            return Verdict.FAILS
        if not self.parts or any(part.holds is None for part in self.parts):
            return Verdict.OPEN
        return Verdict.HOLDS

    @property
    def evidence(self) -> str:
        """Counts of comparisons that hold, fail or miss a number, and the decisive ones."""
        decisive = {Verdict.FAILS: False, Verdict.OPEN: None, Verdict.HOLDS: True}[self.verdict]
        texts = list(dict.fromkeys(part.text for part in self.parts if part.holds is decisive))
        shown = "; ".join(texts[:_MAX_SHOWN]) + ("; ..." if len(texts) > _MAX_SHOWN else "")
        counts = {
            "hold": sum(part.holds is True for part in self.parts),
            "fail": sum(part.holds is False for part in self.parts),
            "missing": sum(part.holds is None for part in self.parts),
        }
        counted = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
        return f"{counted}: {shown}"


def compare(
    left: tuple[str, float | str],
    right: tuple[str, float | str],
    test: Callable[[float, float], bool],
    where: str,
) -> ClaimPart:
    """Compare two numbers, each with its name; a text instead of a number says why it is missing.

    Args:
        left: First argument of the test.
        right: Second argument.
        test: Whether the statement holds.
        where: The data set.
    """
    for name, value in (left, right):
        if isinstance(value, str):
            return ClaimPart(f"{name} on {where}: {value}", None)
    numbers = " against ".join(f"{name} {value:.1f}" for name, value in (left, right))
    return ClaimPart(f"{where}: {numbers}", test(left[1], right[1]))


def format_judgements(judgements: Sequence[Judgement], mark: str) -> str:
    """Return the judgements as a table in Markdown."""
    lines = ["# Statements of the paper", ""]
    lines += [f"**{mark}**", ""] if mark else []
    lines += ["| statement | verdict | evidence |", "| --- | --- | --- |"]
    lines += [f"| {one.statement} | {one.verdict.value} | {one.evidence} |" for one in judgements]
    return "\n".join(lines) + "\n"


def format_for_terminal(judgements: Iterable[Judgement], mark: str) -> str:
    """Return the judgements as text, two lines each."""
    lines = [f"[{mark}]"] if mark else []
    for one in judgements:
        lines += [f"{one.verdict.value.upper()}: {one.statement}", f"    {one.evidence}"]
    return "\n".join(lines)
