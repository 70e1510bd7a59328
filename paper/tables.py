"""Tables 1 to 4: the network of each row, and measured beside published numbers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import methodcaller as on_scale

from methods import DEFAULT_METHOD
from model.published import LANDMARK_DIM, parse_published
from paper.networks import Released, Source, Trained
from paper.published import Column, PublishedTable, load_table
from paper.results_of_runs import Study
from paper.runs_to_do import Need
from paper.scales import Scale
from paper.table_cells import Cell, ComparedTable, Row

Rows = Mapping[tuple[str, ...], Callable[[Scale], Source]]

_RESNET18, _VGG16, _SET = ("ResNet18", 512), ("VGG16", 512), "pitts30k"
_PCA_W = {"whitening": "pca_whiten"}
_COMPARED: Rows = {  # of Tables 2 and 3
    ("GeM", "512", "Pitts30k"): on_scale("compared", "gem", _SET, "vgb:vgg16-gem:pitts30k"),
    ("GeM", "512", "MSLS"): on_scale("compared", "gem", "msls", "vgb:vgg16-gem:msls"),
    ("GeM", "512", "SF-XL*"): on_scale("compared", "gem", "sf_xl"),
    ("NetVLAD", "512", "Pitts30k"): on_scale("compared", "netvlad", _SET, "netvlad:pitts30k:512"),
    ("NetVLAD", "512", "MSLS"): on_scale("compared", "netvlad", "msls"),
    ("NetVLAD", "512", "SF-XL*"): on_scale("compared", "netvlad", "sf_xl"),
    ("CRN", "512", "Pitts30k"): on_scale("compared", "crn", _SET),
    ("SARE", "512", "Pitts30k"): on_scale("compared", "sare", _SET, "openibl:sare_ind:512"),
    ("SFRS", "512", "Pitts30k"): on_scale("compared", "sfrs", _SET, "openibl:sfrs:512"),
    ("CosPlace", "512", "SF-XL"): on_scale("cosplace", *_VGG16),
}
_DAGGERS: Rows = {  # Table 2 only
    ("APANet †", "512", "Pitts30k"): on_scale("compared", "apanet", _SET),
    ("SRALNet †", "512", "Pitts30k"): on_scale("compared", "sralnet", _SET),
    ("APPSVR †", "512", "Pitts30k"): on_scale("compared", "appsvr", _SET),
}
# How the paper brought descriptors to 512-D is not stated: the other usual way.
_PCA_WHITENED: Rows = {
    ("NetVLAD, PCA-whitened", "512", "Pitts30k"): on_scale("compared", "netvlad", _SET, **_PCA_W),
    ("NetVLAD, PCA-whitened", "512", "MSLS"): on_scale("compared", "netvlad", "msls", **_PCA_W),
    ("NetVLAD, PCA-whitened", "512", "SF-XL*"): on_scale("compared", "netvlad", "sf_xl", **_PCA_W),
    ("CRN, PCA-whitened", "512", "Pitts30k"): on_scale("compared", "crn", _SET, **_PCA_W),
}
# Labels of the row, as in the paper -> the network.
ROWS: Mapping[str, Rows] = {
    "table1": {
        ("Average",): on_scale("cosplace", *_RESNET18, "avg"),
        ("Max",): on_scale("cosplace", *_RESNET18, "max"),
        ("GeM",): on_scale("cosplace", *_RESNET18, "gem"),
    },
    "table2": _COMPARED | _DAGGERS,
    "table3": _COMPARED,
    "table4": {  # of 2048-D, as the numbers, not of 512-D, as in the caption
        ("SfM120k", "ResNet-50"): on_scale("released", "landmark:SfM120k:ResNet50"),
        ("GLD", "ResNet-50"): on_scale("released", "landmark:GLD:ResNet50"),
        ("SF-XL", "ResNet-50"): on_scale("cosplace", "ResNet50", 2048),
        ("SfM120k", "ResNet-101"): on_scale("released", "landmark:SfM120k:ResNet101"),
        ("GLD", "ResNet-101"): on_scale("released", "landmark:GLD:ResNet101"),
        ("SF-XL", "ResNet-101"): on_scale("cosplace", "ResNet101", 2048),
    },
}
# Rows beyond the paper: of Table 4 with the dimension of its caption.
EXTRA_ROWS: Mapping[str, Rows] = {
    "table2": _PCA_WHITENED,
    "table3": _PCA_WHITENED,
    "table4": {
        ("SfM120k", "ResNet-50, 512-D"): on_scale("released", "landmark:SfM120k:ResNet50:512"),
        ("GLD", "ResNet-50, 512-D"): on_scale("released", "landmark:GLD:ResNet50:512"),
        ("SF-XL", "ResNet-50, 512-D"): on_scale("cosplace", "ResNet50", 512),
        ("SfM120k", "ResNet-101, 512-D"): on_scale("released", "landmark:SfM120k:ResNet101:512"),
        ("GLD", "ResNet-101, 512-D"): on_scale("released", "landmark:GLD:ResNet101:512"),
        ("SF-XL", "ResNet-101, 512-D"): on_scale("cosplace", "ResNet101", 512),
    },
}
_RECONSTRUCTED = {  # methods without public code
    "sralnet": "SRALNet is reconstructed from a later paper that restates its formulas.",
    "appsvr": "APPSVR is reconstructed from a later module of its authors' group.",
    "apanet": "APANet is reconstructed from its authors' MATLAB.",
}
_FAMILY_NOTES = {  # of published networks, by the first part of their names
    "cosplace": "The network that the authors released, not trained here.",
    "netvlad": "The network that the authors of NetVLAD released, not trained here: the first 512 "
    "dimensions of its PCA-whitening to 4096-D.",
    "openibl": "The network that OpenIBL released, not trained here: the first 512 dimensions of "
    "its PCA-whitening to 4096-D.",
    "vgb": "The network of the zoo of the deep visual geo-localization benchmark, not trained "
    "here.",
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
        notes = (_note(study.resolve(source), study.scale), study.describe_seeds(source, cells))
        rows.append(Row(labels, cells, " ".join(filter(None, notes))))
    source = f"The paper's numbers: {table.source}."
    caveats = () if study.scale.stand_ins else (source,)
    return ComparedTable(
        table.title, table.row_headers, columns, tuple(rows), caveats, study.scale.mark
    )


def source_of(name: str, labels: tuple[str, ...], scale: Scale) -> Source:
    """Return the network of a row."""
    return (ROWS[name] | EXTRA_ROWS.get(name, {}))[labels](scale)


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


def _note(source: Source, scale: Scale) -> str:
    """Return how a network was made or tested, if not as in the row."""
    parts = []
    if isinstance(source, Trained):
        parts.append(_RECONSTRUCTED.get(source["method"], ""))
        if source["method"] != DEFAULT_METHOD and source["dataset"] == "sf_xl":
            parts.append(
                f"Trained on {source['tuple_panoramas']:,} panoramas of SF-XL drawn at random: "
                "SF-XL* itself is not public."
            )
        if source.start:
            parts.append(f"Starts from {source.start}.")
    if isinstance(source, Released):
        family, kept_dims = source.spec.partition(":")[0], parse_published(source.spec).dim
        parts.append(_FAMILY_NOTES.get(family, ""))
        if family == "landmark" and kept_dims < LANDMARK_DIM:
            parts.append(
                f"The first {kept_dims} whitened dimensions, normalised again: not published so."
            )
    if source.resize not in (None, scale.resize):
        parts.append(f"Test images are resized to {source.resize}.")
    return " ".join(filter(None, parts))
