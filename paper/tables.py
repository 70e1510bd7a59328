"""Tables 1 to 4: the network behind each row, and the tables with what was measured."""

from typing import NamedTuple

from paper.compared import Cell, ComparedTable, Row
from paper.plan import Need
from paper.published import Column, PublishedTable, load_table
from paper.run_log import Missing
from paper.scales import Scale
from paper.sources import Absent, Released, Source
from paper.study import Study


class CosPlace(NamedTuple):
    """The paper's training of a network."""

    backbone: str
    dim: int
    pooling: str = "gem"


# Labels of the row, as in the paper -> the network. The paper's other rows are absent.
ROWS: dict[str, dict[tuple[str, ...], CosPlace | Released]] = {
    "table1": {
        ("Average",): CosPlace("ResNet18", 512, "avg"),
        ("Max",): CosPlace("ResNet18", 512, "max"),
        ("GeM",): CosPlace("ResNet18", 512, "gem"),
    },
    "table2": {("CosPlace", "512", "SF-XL"): CosPlace("VGG16", 512)},
    "table3": {("CosPlace", "512", "SF-XL"): CosPlace("VGG16", 512)},
    "table4": {  # of 2048-D, as the numbers are, and not of 512-D, as the caption says
        ("SfM120k", "ResNet-50"): Released("landmark:SfM120k:ResNet50"),
        ("GLD", "ResNet-50"): Released("landmark:GLD:ResNet50"),
        ("SF-XL", "ResNet-50"): CosPlace("ResNet50", 2048),
        ("SfM120k", "ResNet-101"): Released("landmark:SfM120k:ResNet101"),
        ("GLD", "ResNet-101"): Released("landmark:GLD:ResNet101"),
        ("SF-XL", "ResNet-101"): CosPlace("ResNet101", 2048),
    },
}
# Rows that the paper does not have: Table 4 with the length that its caption says.
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
    return [Need(study.resolve(source), datasets) for _, source in _rows(table, study)]


def compare_table(name: str, study: Study) -> ComparedTable:
    """Return a table of the paper with what was measured on the data sets of the scale.

    Raises:
        ValueError: If it has no row that is asked for.
    """
    table = load_table(name)
    columns = _columns(table, study.scale)
    rows = tuple(
        Row(
            labels,
            tuple(_cell(table, labels, source, column, study) for column in columns),
            note=_note(study.resolve(source)),
        )
        for labels, source in _rows(table, study)
    )
    if not rows:
        raise ValueError(f"{name} has no row that holds '{study.only}'")
    return ComparedTable(table.title, table.row_headers, columns, rows, mark=study.scale.mark)


def source_of(name: str, labels: tuple[str, ...], scale: Scale) -> Source:
    """Return the network of a row."""
    found = (ROWS[name] | EXTRA_ROWS.get(name, {})).get(labels, Absent())
    return scale.cosplace(*found) if isinstance(found, CosPlace) else found


def _rows(table: PublishedTable, study: Study) -> list[tuple[tuple[str, ...], Source]]:
    labels = [row.labels for row in table.rows] + list(EXTRA_ROWS.get(table.name, {}))
    return [
        (one, source_of(table.name, one, study.scale))
        for one in labels
        if study.is_asked(" ".join(one))
    ]


def _columns(table: PublishedTable, scale: Scale) -> tuple[Column, ...]:
    """Return the columns on the data sets of the scale, each once."""
    if scale.stand_ins is None:
        return table.columns
    found = [(scale.dataset(column.dataset), column.metric) for column in table.columns]
    return tuple(Column(name, metric, name) for name, metric in dict.fromkeys(found) if name)


def _cell(
    table: PublishedTable, labels: tuple[str, ...], source: Source, column: Column, study: Study
) -> Cell:
    row = next((row for row in table.rows if row.labels == labels), None)
    published, caveats = None, ()
    if row is not None and study.scale.stand_ins is None:
        published = table.number(row, column.dataset, column.metric)
        caveats = table.caveats_of(row, column)
    found = study.recalls(source, column.dataset, column.metric)
    if isinstance(found, Missing):
        return Cell((), published, found.reason, caveats)
    return Cell(found, published, "", caveats)


def _note(source: Source) -> str:
    is_released = isinstance(source, Released) and source.spec.startswith("cosplace:")
    return "Measured with the network that the authors released, not trained here." * is_released
