"""How benchmarks print what they found: Markdown on the terminal's output, nothing else."""

import sys
from collections.abc import Iterable, Sequence


def write_title(title: str, explanation: str) -> None:
    """Print a heading and what is compared, how."""
    _write(f"## {title}\n\n{explanation}\n\n")


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, row by row as they come; columns but the first are right-aligned."""
    _write(f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}\n")
    for row in rows:
        _write(f"| {' | '.join(map(str, row))} |\n")
    _write("\n")


def write_remark(text: str) -> None:
    """Print a paragraph."""
    _write(f"{text}\n\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
