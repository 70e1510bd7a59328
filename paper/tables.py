"""Tables 1 to 4: the network of each row, and measured beside published numbers."""

from dataclasses import replace
from typing import NamedTuple

from model.published import LANDMARK_DIM, parse_published
from paper.networks import Absent, Released, Source
from paper.published import Column, PublishedTable, load_table
from paper.results_of_runs import Study
from paper.runs_to_do import Need
from paper.scales import Scale
from paper.table_cells import Cell, ComparedTable, Row


class CosPlace(NamedTuple):
    """The paper's training of a network."""

    backbone: str
    dim: int
    aggregation: str = "gem"


# Labels of the row, as in the paper -> the network. The paper's other rows are absent.
ROWS: dict[str, dict[tuple[str, ...], CosPlace | Released]] = {
    "table1": {
        ("Average",): CosPlace("ResNet18", 512, "avg"),
        ("Max",): CosPlace("ResNet18", 512, "max"),
        ("GeM",): CosPlace("ResNet18", 512, "gem"),
    },
    "table2": {("CosPlace", "512", "SF-XL"): CosPlace("VGG16", 512)},
    "table3": {("CosPlace", "512", "SF-XL"): CosPlace("VGG16", 512)},
    "table4": {  # of 2048-D, as the numbers, not of 512-D, as in the caption
        ("SfM120k", "ResNet-50"): Released("landmark:SfM120k:ResNet50"),
        ("GLD", "ResNet-50"): Released("landmark:GLD:ResNet50"),
        ("SF-XL", "ResNet-50"): CosPlace("ResNet50", 2048),
        ("SfM120k", "ResNet-101"): Released("landmark:SfM120k:ResNet101"),
        ("GLD", "ResNet-101"): Released("landmark:GLD:ResNet101"),
        ("SF-XL", "ResNet-101"): CosPlace("ResNet101", 2048),
    },
}
# Rows beyond the paper: Table 4 with the dimension of its caption.
EXTRA_ROWS: dict[str, dict[tuple[str, ...], CosPlace | Released]] = {
    "table4": {
        ("SfM120k", "ResNet-50, 512-D"): Released("landmark:SfM120k:ResNet50:512"),
        ("GLD", "ResNet-50, 512-D"): Released("landmark:GLD:ResNet50:512"),
        ("SF-XL", "ResNet-50, 512-D"): CosPlace("ResNet50", 512),
        ("SfM120k", "ResNet-101, 512-D"): Released("landmark:SfM120k:ResNet101:512"),
        ("GLD", "ResNet-101, 512-D"): Released("landmark:GLD:ResNet101:512"),
        ("SF-XL", "ResNet-101, 512-D"): CosPlace("ResNet101", 512),
    },
}


def table_needs(name: str, study: Study) -> list[Need]:
    """Return the networks of a table, on the test sets of its columns."""
    table = load_table(name)
    datasets = tuple(dict.fromkeys(column.dataset for column in _columns(table, study.scale)))
    return [
        Need(study.resolve(source), datasets)
        for labels, source in _rows(table, study.scale)
        if study.is_asked(" ".join(labels), source)
    ]


def compare_table(name: str, study: Study) -> ComparedTable:
    """Return a table of the paper with measured numbers on the data sets of the scale."""
    table = load_table(name)
    columns = _columns(table, study.scale)
    rows = []
    for labels, source in _rows(table, study.scale):
        cells = tuple(_cell(table, labels, source, column, study) for column in columns)
        notes = (_note(study.resolve(source)), study.describe_seeds(source, cells))
        rows.append(Row(labels, cells, " ".join(filter(None, notes))))
    source = f"The paper's numbers: {table.source}."
    caveats = () if study.scale.stand_ins else (source,)
    return ComparedTable(
        table.title, table.row_headers, columns, tuple(rows), caveats, study.scale.mark
    )


def source_of(name: str, labels: tuple[str, ...], scale: Scale) -> Source:
    """Return the network of a row."""
    found = (ROWS[name] | EXTRA_ROWS.get(name, {})).get(labels, Absent())
    return scale.cosplace(*found) if isinstance(found, CosPlace) else found


def _rows(table: PublishedTable, scale: Scale) -> list[tuple[tuple[str, ...], Source]]:
    labels = [row.labels for row in table.rows] + list(EXTRA_ROWS.get(table.name, {}))
    return [(one, source_of(table.name, one, scale)) for one in labels]


def _columns(table: PublishedTable, scale: Scale) -> tuple[Column, ...]:
    """Return the columns on the data sets of the scale, each once."""
    if scale.stand_ins is None:
        return table.columns
    found = [(scale.dataset(column.dataset), column.metric) for column in table.columns]
    return tuple(Column(name, metric, name) for name, metric in dict.fromkeys(found) if name)


def _cell(
    table: PublishedTable, labels: tuple[str, ...], source: Source, column: Column, study: Study
) -> Cell:
    cell = study.measure(source, column.dataset, column.metric)
    row = next((row for row in table.rows if row.labels == labels), None)
    if row is None or study.scale.stand_ins is not None:
        return cell
    return replace(
        cell,
        published=table.number(row, column.dataset, column.metric),
        caveats=(*table.caveats_of(row, column), *cell.caveats),
    )


def _note(source: Source) -> str:
    """Return how a network was made, if not as in the row."""
    if not isinstance(source, Released):
        return ""
    if source.spec.startswith("cosplace:"):
        return "The network that the authors released, not trained here."
    kept_dims = parse_published(source.spec).dim
    if kept_dims == LANDMARK_DIM:
        return ""
    return f"The first {kept_dims} whitened dimensions, normalised again: not published so."
