"""The modern networks as released, on all test sets on disk, beside published recalls.

Published recalls are those of numbers/modern.csv, each with its source and whether it was read in
it, and those of the same networks in numbers/elsewhere.csv. On a made city, where released networks
have nothing to find, networks that the methods train on it stand in for them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import commons
from datasets.catalog import TEST_SETS
from paper.networks import Source
from paper.published import (
    NUMBERS,
    Column,
    Number,
    damaged,
    load_elsewhere,
    read_about,
    read_lines,
)
from paper.results_of_runs import Study
from paper.runs_to_do import Need
from paper.scales import Scale
from paper.table_cells import Cell, ComparedTable, Row
from paper.table_text import FORMS, render

STEM = "modern"  # of the files
_METRICS = ("R@1", "R@5", "R@10")  # the CSV has all, the table the first
_RECALLS = (*_METRICS, "R@20")
_CITY_SETS = ("sf_xl_test_v1", "sf_xl_test_v2")  # whose stand-ins are shown, as by `methods`
DATASETS = (  # in the order of the columns; one that is neither published nor on disk is left out
    *("pitts30k", "pitts250k", "tokyo247", "msls_val_740", "msls_val", "st_lucia"),
    *("sf_xl_test_v1", "sf_xl_test_v2", "sf_xl_test_night", "sf_xl_test_occlusion"),
    *("eynsham", "nordland", "nordland_1f", "amstertime", "san_francisco"),
    *("svox_night", "svox_overcast", "svox_rain", "svox_snow", "svox_sun"),
)
NETWORKS = {  # a published network, or a method without one -> the method that trains its stand-in
    "netvlad:pitts30k": "netvlad",
    "openibl:sfrs": "sfrs",
    "cosplace:ResNet50:512": "",
    "cosplace:ResNet50:2048": "cosplace",
    "convap:ResNet50:4096": "gsv_cities",
    "mixvpr:ResNet50:4096": "mixvpr",
    "eigenplaces:ResNet50:512": "",
    "eigenplaces:ResNet50:2048": "eigenplaces",
    "salad:DINOv2": "salad",
    "boq:ResNet50": "",
    "boq:DINOv2": "boq",
    "cliquemining:DINOv2": "",
    "megaloc": "",
    "cosplace_dinov2": "cosplace_dinov2",
}
_UNRELEASED = ("cosplace_dinov2",)  # trained on SF-XL at the paper's scale
_IN_ELSEWHERE = {  # method, backbone and dimension there -> the network
    ("NetVLAD", "VGG16", 4096): "netvlad:pitts30k",
    ("SFRS", "VGG16", 4096): "openibl:sfrs",
    ("CosPlace", "ResNet50", 512): "cosplace:ResNet50:512",
    ("CosPlace", "ResNet50", 2048): "cosplace:ResNet50:2048",
}
_LEFT_OUT = (
    "CliqueMining and MegaLoc are left out, which are no rows of methods.py (--mining cliques of "
    "salad is the first one's). Of methods with several released networks one is trained."
)


@dataclass(frozen=True)
class ModernRecalls:
    """Published recalls of a network on a test set."""

    source: str  # its name; sources.json describes it
    model: str  # the network, as eval.py --model
    dataset: str  # its name in datasets.catalog
    recalls: Mapping[str, float]  # "R@1" -> percent; those that are published
    verified: bool  # read in the source itself


def load_modern(folder: Path = NUMBERS) -> tuple[ModernRecalls, ...]:
    """Read all published recalls of modern networks: verified ones first, then in their order.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged.
    """
    sources = read_about(folder / "sources.json", STEM, ("sources", "caveats"))["sources"]
    found = []
    for line in read_lines(folder / f"{STEM}.csv", ("source", "model", "dataset", "verified")):
        source, model, dataset, verified = (
            line.cells[name] for name in ("source", "model", "dataset", "verified")
        )
        if source not in sources or dataset not in TEST_SETS or verified not in ("yes", "no"):
            problem = f"{source} is no known source, {dataset} no data set, or {verified} not yes"
            damaged(line.path, line.number, f"{problem} or no")
        recalls = {name: line.recall(name) for name in _RECALLS}
        known = {name: recall[0] for name, recall in recalls.items() if recall is not None}
        found.append(ModernRecalls(source, model, dataset, known, verified == "yes"))
    for one in load_elsewhere(folder):
        model = _IN_ELSEWHERE.get((one.method, one.backbone, one.dim))
        if model and one.note is None:
            found.append(ModernRecalls(one.source, model, one.dataset, one.recalls, False))
    return tuple(sorted(found, key=lambda one: not one.verified))


def modern_needs(study: Study) -> list[Need]:
    """Return the networks, on the test sets of the columns."""
    datasets = _datasets(study, load_modern())
    return [
        Need(study.resolve(source), datasets)
        for name, source in _rows(study.scale)
        if study.is_asked(name, source)
    ]


def compare_modern(study: Study, metrics: Sequence[str] = _METRICS[:1]) -> ComparedTable:
    """Return the table: a row for each network, a column for each test set and metric."""
    published, scale = load_modern(), study.scale
    columns = tuple(
        Column(dataset, metric, dataset)
        for dataset in _datasets(study, published)
        for metric in metrics
    )
    rows = []
    for name, source in _rows(scale):
        known = [] if scale.stand_ins else [one for one in published if one.model == name]
        cells = tuple(_cell(known, source, column, study) for column in columns)
        notes = (_describe_sources(known), study.describe_seeds(source, cells))
        rows.append(Row((name,), cells, " ".join(filter(None, notes))))
    about = read_about(NUMBERS / "sources.json", STEM, ("title", "sources", "caveats"))
    caveats = (_LEFT_OUT, *scale.left_out.values())
    if not scale.stand_ins:
        caveats = tuple(caveat["text"] for caveat in about["caveats"])
        caveats += tuple(f"{name}: {text}." for name, text in about["sources"].items())
    title = "Networks trained by modern methods" if scale.stand_ins else about["title"]
    return ComparedTable(title, ("network",), columns, tuple(rows), caveats, scale.mark)


def write_modern(study: Study, folder: Path) -> str:
    """Write the table for the terminal and as Markdown, and as CSV with R@5 and R@10 too.

    Args:
        study: The results; those that are missing have a reason in their place.
        folder: Where modern.txt, modern.md and modern.csv are written.

    Returns:
        The table for the terminal.
    """
    table, whole = compare_modern(study), compare_modern(study, _METRICS)
    folder.mkdir(parents=True, exist_ok=True)
    for form, (suffix, _) in FORMS.items():
        with commons.atomic_write(folder / f"{STEM}{suffix}") as temporary:
            temporary.write_text(render(whole if form == "csv" else table, form), "utf-8")
    return render(table, "text")


def _rows(scale: Scale) -> Iterator[tuple[str, Source]]:
    """Yield names and networks of the rows; on a made city those of methods that it can train."""
    for name, method in NETWORKS.items():
        if scale.stand_ins is None and name not in _UNRELEASED:
            yield name, scale.released(name)
        elif method and method not in scale.left_out:
            yield method, scale.method(method)


def _datasets(study: Study, published: Sequence[ModernRecalls]) -> tuple[str, ...]:
    if study.scale.stand_ins is not None:
        return tuple(study.scale.datasets(_CITY_SETS))
    known = {one.dataset for one in published if one.model in NETWORKS}
    return tuple(name for name in DATASETS if name in known or study.log.has_set(name))


def _cell(known: Sequence[ModernRecalls], source: Source, column: Column, study: Study) -> Cell:
    cell = study.measure(source, column.dataset, column.metric)
    for one in known:
        if one.dataset == column.dataset and column.metric in one.recalls:
            return replace(cell, published=Number(one.recalls[column.metric]))
    return cell


def _describe_sources(known: Sequence[ModernRecalls]) -> str:
    """Return where the published numbers of a row are from, and those that are not shown."""
    shown: dict[str, ModernRecalls] = {}
    by_source: dict[tuple[bool, str], list[str]] = {}
    others = []
    for one in known:
        first = shown.setdefault(one.dataset, one)
        recall, doubt = one.recalls.get("R@1"), "" if one.verified else ", not verified"
        if first is one:
            by_source.setdefault((one.verified, one.source), []).append(one.dataset)
        elif recall not in (None, first.recalls.get("R@1")):
            others.append(f"{one.dataset} {recall:.1f} ({one.source}{doubt})")
    parts = []
    for is_verified, words in ((True, "Published"), (False, "Published, not verified")):
        names = [
            f"{s} ({', '.join(sets)})" for (v, s), sets in by_source.items() if v == is_verified
        ]
        parts.append(f"{words}: {'; '.join(names)}." if names else "")
    parts.append(f"Elsewhere: {'; '.join(others)}." if others else "")
    return " ".join(filter(None, parts))
