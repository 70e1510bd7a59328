"""Reading of the files in numbers/, whose damages are told by file and line."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

NOTHING = "-"  # what the paper prints where it has no number
_RECALL = r"\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Line:
    """A line of a CSV file below its header."""

    path: Path
    number: int  # the header is line 1
    cells: dict[str, str]  # by the header, in its order

    def text(self, name: str) -> str | None:
        """Return a cell, None for "-" and where the file has no such column."""
        text = self.cells.get(name, NOTHING)
        return None if text == NOTHING else text

    def integer(self, name: str) -> int | None:
        """Return a cell as a whole number, None for "-"."""
        text = self.text(name)
        if text is not None and not re.fullmatch(r"\d+", text, re.ASCII):
            damaged(self.path, self.number, f"{name} is {text!r}, not a whole number")
        return None if text is None else int(text)

    def recall(self, name: str) -> tuple[float, float | None] | None:
        """Return a recall in percent and its standard deviation, None for "-"."""
        text = self.cells[name]
        if text == NOTHING:
            return None
        found = re.fullmatch(rf"({_RECALL})(?:±({_RECALL}))?", text, re.ASCII)
        if found is None or float(found[1]) > 100:
            problem = f"{name} is {text!r}, not a recall in percent such as 83.7, 83.7±0.3 or -"
            damaged(self.path, self.number, problem)
        return float(found[1]), None if found[2] is None else float(found[2])


def read_lines(path: Path, needed: Sequence[str] = ()) -> list[Line]:
    """Read a CSV file: a header and at least one line below it.

    Args:
        path: The file.
        needed: Names that the header must have.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is not UTF-8, its header lacks a name or has one twice, or a line has not
            as many cells as the header.
    """
    header, *rows = list(csv.reader(_read_text(path).splitlines())) or [[]]
    if not rows or len(set(header)) < len(header) or not set(needed) <= set(header):
        names = f" ({', '.join(needed)})" if needed else ""
        damaged(path, 1, f"a header of different names{names} and lines below it were expected")
    for number, cells in enumerate(rows, 2):
        if len(cells) != len(header):
            damaged(path, number, f"{len(cells)} cells instead of the header's {len(header)}")
    lines = (dict(zip(header, cells, strict=True)) for cells in rows)
    return [Line(path, number, cells) for number, cells in enumerate(lines, 2)]


def read_about(path: Path, name: str, needed: Sequence[str]) -> dict[str, Any]:
    """Read what sources.json tells of one file of numbers.

    Args:
        path: The JSON file.
        name: The file of numbers, without its extension.
        needed: What must be told of it, such as "caveats".

    Raises:
        FileNotFoundError: If the JSON file is not there.
        ValueError: If it is no JSON, or does not tell what is needed.
    """
    try:
        about = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        damaged(path, error.lineno, error.msg)
    told = about.get(name) if isinstance(about, dict) else None
    if not isinstance(told, dict) or not set(needed) <= told.keys():
        damaged(path, 1, f"{name} with {', '.join(needed)} is not there")
    return told


def damaged(path: Path, line: int, problem: str) -> NoReturn:
    """Raise the error of a damaged file."""
    raise ValueError(f"{path}, line {line}: {problem}; restore the file from the repository")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; restore it from the repository") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); restore it from the repository") from None
