"""Tables for people and their spreadsheets, and JSON that others may have written or changed.

Spreadsheets run a text that begins with = + - @, a tab or a line end as a formula, and names of
images may begin so. Such texts are written with an apostrophe in front, and read without it.
Numbers stay numbers, also negative ones.
"""

import csv
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import commons

T = TypeVar("T")
TABLE = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}  # how files are opened
_FORMULA = re.compile(r"'*[=+\-@\t\r\n].", re.DOTALL)  # escaped or not; a mark alone is none
MAX_DEPTH = 50  # of JSON: what shows values calls itself for each level
_NAMES_OF_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a number"}
_NAMES_OF_KINDS |= {float: "a number", bool: "true or false", type(None): "null"}


def escape_cell(value: Any) -> Any:
    """Return the value of a cell; a text that a spreadsheet would run gets an apostrophe."""
    is_harmless = not isinstance(value, str) or not _FORMULA.match(value) or _is_number(value)
    return value if is_harmless else f"'{value}"


def unescape_cell(text: str) -> str:
    """Return the text of which `escape_cell` made a cell."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_rows(
    file: TextIO, columns: Sequence[str], rows: Iterable[Iterable[Any]], line_end: str = "\r\n"
) -> None:
    """Write a table as CSV, without formulas."""
    writer = csv.writer(file, lineterminator=line_end)
    writer.writerow(columns)
    writer.writerows([escape_cell(cell) for cell in row] for row in rows)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table as a CSV file, atomically and without formulas.

    Raises:
        OSError: If it cannot be written.
    """
    with commons.atomic_write(path) as temporary, open(temporary, "w", **TABLE) as file:
        write_rows(file, columns, rows)


def read_json(file: Path, kind: type[T] = dict) -> T:
    """Read a JSON file that holds an object, or another kind.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no JSON, nested too deeply, or of another kind.
    """
    return parse_json(file.read_bytes(), str(file), kind)


def parse_json(text: str | bytes, name: str, kind: type[T] = dict) -> T:
    """Do what `read_json` does with a text; errors begin with its name."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(f"{name} is damaged: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}") from None
    if _is_deep(content):
        raise ValueError(f"{name} is damaged: it is nested too deeply")
    if not isinstance(content, kind):
        found, needed = (_NAMES_OF_KINDS[one] for one in (type(content), kind))
        raise ValueError(f"{name} is damaged: it holds {found}, not {needed}")
    return content


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(MAX_DEPTH):
        nested = (one for one in level if isinstance(one, (dict, list)))
        parts = [one.values() if isinstance(one, dict) else one for one in nested]
        if not (level := list(itertools.chain(*parts))):
            return False
    return True
