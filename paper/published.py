"""The numbers of the paper's tables, and public ones to set beside them, read from numbers/.

The tables' files are as wide as the tables and in their order, cells as printed ("75.3±0.2"), so
that they are easy to compare with the paper. Caveats of the cells are in sources.json.
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

from datasets.catalog import TEST_SETS

NUMBERS = Path(__file__).with_name("numbers")
TABLES = ("table1", "table2", "table3", "table4")
_SOURCES = "sources.json"
_ROW_HEADERS = ("method", "pooling", "backbone", "dim", "train_set")
_RECALL_NAMES = ("R@1", "R@5", "R@10", "R@20")
_DAGGER = " †"
NOTHING = "-"  # printed by the paper where it has no number
_RECALL = r"\d+(?:\.\d+)?"


@dataclass(frozen=True)
class CsvLine:
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


def read_lines(path: Path, needed: Sequence[str] = ()) -> list[CsvLine]:
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
    return [CsvLine(path, number, cells) for number, cells in enumerate(lines, 2)]


def read_about(path: Path, name: str, needed: Sequence[str]) -> dict[str, Any]:
    """Read the entry of sources.json on one file of numbers.

    Args:
        path: The JSON file.
        name: The file of numbers, without its extension.
        needed: Required keys, such as "caveats".

    Raises:
        FileNotFoundError: If the JSON file is not there.
        ValueError: If it is no JSON, or lacks a required key.
    """
    try:
        about = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        damaged(path, error.lineno, error.msg)
    entry = about.get(name) if isinstance(about, dict) else None
    if not isinstance(entry, dict) or not set(needed) <= entry.keys():
        damaged(path, 1, f"{name} with {', '.join(needed)} is not there")
    return entry


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


@dataclass(frozen=True)
class Number:
    """A published recall, in percent."""

    mean: float
    std: float | None = None  # over repeated runs; None where it is not printed


@dataclass(frozen=True)
class Column:
    """A column of recalls."""

    dataset: str  # its name in datasets.catalog
    metric: str  # "R@1"
    title: str  # the data set's name for readers

    @property
    def header(self) -> str:
        """Its name in one line."""
        return f"{self.title} {self.metric}"


@dataclass(frozen=True)
class Caveat:
    """A remark on some cells: those with one of the values in each named field."""

    text: str
    where: Mapping[str, list] = field(default_factory=dict)  # a field's name -> values

    def belongs_to(self, *parts: object) -> bool:
        """Whether it applies to a cell, given by its row and its column."""
        values = {f.name: getattr(part, f.name) for part in parts for f in fields(part)}
        return all(values[name] in known for name, known in self.where.items())


@dataclass(frozen=True)
class PublishedRow:
    """A row of a table of the paper; None where the paper does not say."""

    labels: tuple[str, ...]  # as printed, in the order of the table's row headers
    numbers: tuple[Number | None, ...]  # in the order of the columns; None: the paper has "-"
    method: str | None  # without †
    pooling: str | None
    backbone: str | None  # as --backbone names it
    train_set: str | None
    dim: int | None
    dagger: bool  # †: the paper took the numbers from the method's own paper


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper."""

    name: str
    title: str
    source: str
    row_headers: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[PublishedRow, ...]
    caveats: tuple[Caveat, ...]

    def find_row(self, **values: object) -> PublishedRow:
        """Return the one row with these values of its fields, such as method="CRN".

        Raises:
            ValueError: If none or several rows have them.
        """
        found = [row for row in self.rows if all(getattr(row, k) == v for k, v in values.items())]
        if len(found) != 1:
            raise ValueError(f"{self.name} has {len(found)} rows with {values}, not one")
        return found[0]

    def number(self, row: PublishedRow, dataset: str, metric: str = "R@1") -> Number | None:
        """Return a number of one of the table's rows, None where the paper has "-".

        Raises:
            ValueError: If the table has no such column.
        """
        for column, number in zip(self.columns, row.numbers, strict=True):
            if (column.dataset, column.metric) == (dataset, metric):
                return number
        raise ValueError(f"{self.name} has no column {dataset} {metric}")

    def caveats_of(self, row: PublishedRow, column: Column) -> tuple[str, ...]:
        """Return the caveats of a cell, as sentences."""
        return tuple(c.text for c in self.caveats if c.belongs_to(row, column))


@dataclass(frozen=True)
class PublicResult:
    """Recalls of a model on a data set reported elsewhere; None where not reported."""

    source: str
    dataset: str  # its name in datasets.catalog
    recalls: Mapping[str, float]  # "R@1" -> percent; those that are published
    method: str
    backbone: str | None  # as --backbone names it, if it does
    dim: int | None
    train_set: str | None
    note: str | None
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scalar:
    """A quantity that the paper states in its text."""

    value: float | str
    unit: str | None
    about: bool  # the paper says "about" or "roughly"
    quantity: str  # in words
    note: str | None


def load_table(name: str, folder: Path = NUMBERS) -> PublishedTable:
    """Read a table of the paper.

    Args:
        name: One of TABLES.
        folder: Where its CSV file and sources.json are.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If there is no such table, or a file is damaged.
    """
    if name not in TABLES:
        raise ValueError(f"The paper's tables are {', '.join(TABLES)}; there is no {name}")
    about = read_about(folder / _SOURCES, name, ("title", "source", "every_row", "caveats"))
    lines = read_lines(folder / f"{name}.csv")
    headers = [text for text in lines[0].cells if text in _ROW_HEADERS]
    columns = {t: _read_column(lines[0].path, t) for t in lines[0].cells if t not in headers}
    rows = [_read_row(line, headers, list(columns), about["every_row"]) for line in lines]
    for index, (line, row) in enumerate(zip(lines, rows, strict=True)):
        if row.labels in [earlier.labels for earlier in rows[:index]]:
            damaged(line.path, line.number, f"{', '.join(row.labels)} is there twice")
    return PublishedTable(
        name,
        about["title"],
        about["source"],
        tuple(header.replace("_", " ") for header in headers),
        tuple(columns.values()),
        tuple(rows),
        tuple(
            caveat
            for part in (name, "all_tables")
            for caveat in _read_caveats(folder, part, (PublishedRow, Column))
        ),
    )


def load_elsewhere(folder: Path = NUMBERS) -> tuple[PublicResult, ...]:
    """Read public recalls from outside the supplementary of the paper.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged.
    """
    needed = [f.name for f in fields(PublicResult) if f.name not in ("recalls", "caveats")]
    caveats = _read_caveats(folder, "elsewhere", (PublicResult,))
    results = []
    for line in read_lines(folder / "elsewhere.csv", [*needed, *_RECALL_NAMES]):
        result = _read_result(line)
        known = tuple(caveat.text for caveat in caveats if caveat.belongs_to(result))
        results.append(replace(result, caveats=known))
    return tuple(results)


def load_scalars(folder: Path = NUMBERS) -> dict[str, Scalar]:
    """Read the quantities of the paper's text, by short names such as "alpha".

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged.
    """
    needed = ("name", *(f.name for f in fields(Scalar)))
    scalars = {}
    for line in read_lines(folder / "scalars.csv", needed):
        name, about = line.cells["name"], line.cells["about"]
        if name in scalars or about not in ("yes", "no"):
            damaged(line.path, line.number, f"{name} is there twice, or 'about' is not yes or no")
        value = _number_or_text(line.cells["value"])
        quantity, note = line.cells["quantity"], line.text("note")
        scalars[name] = Scalar(value, line.text("unit"), about == "yes", quantity, note)
    return scalars


def _read_column(path: Path, text: str) -> Column:
    """Read the header of a column, such as "pitts30k R@1"."""
    dataset, _, metric = text.partition(" ")
    title = TEST_SETS[dataset].paper_column if dataset in TEST_SETS else None
    if title is None or metric not in _RECALL_NAMES:
        damaged(path, 1, f"{text!r} is neither a label nor a data set of the paper with its R@N")
    return Column(dataset, metric, title)


def _read_row(
    line: CsvLine, headers: Sequence[str], columns: Sequence[str], every_row: Mapping[str, str]
) -> PublishedRow:
    texts = {header: line.text(header) or every_row.get(header) for header in _ROW_HEADERS}
    method, backbone = texts["method"], texts["backbone"]
    recalls = [line.recall(column) for column in columns]
    return PublishedRow(
        labels=tuple(line.cells[header] for header in headers),
        numbers=tuple(None if recall is None else Number(*recall) for recall in recalls),
        method=method and method.removesuffix(_DAGGER),
        pooling=texts["pooling"],
        backbone=backbone and backbone.replace("ResNet-", "ResNet"),
        train_set=texts["train_set"],
        dim=line.integer("dim"),
        dagger=(method or "").endswith(_DAGGER),
    )


def _read_result(line: CsvLine) -> PublicResult:
    if line.cells["dataset"] not in TEST_SETS:
        damaged(line.path, line.number, f"{line.cells['dataset']} is no data set of the catalog")
    recalls = {name: line.recall(name) for name in _RECALL_NAMES}
    return PublicResult(
        source=line.cells["source"],
        dataset=line.cells["dataset"],
        recalls={name: recall[0] for name, recall in recalls.items() if recall is not None},
        method=line.cells["method"],
        backbone=line.text("backbone"),
        dim=line.integer("dim"),
        train_set=line.text("train_set"),
        note=line.text("note"),
    )


def _read_caveats(folder: Path, name: str, kinds: Iterable[type]) -> list[Caveat]:
    """Read the caveats of a file; those with unknown fields fail."""
    known = {f.name for kind in kinds for f in fields(kind)}
    caveats = []
    for entry in read_about(folder / _SOURCES, name, ("caveats",))["caveats"]:
        caveat = Caveat(entry.get("text", ""), entry.get("where", {}))
        if not caveat.text or not caveat.where.keys() <= known:
            damaged(folder / _SOURCES, 1, f"a caveat of {name} has no text or unknown fields")
        caveats.append(caveat)
    return caveats


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
