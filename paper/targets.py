"""The targets of `paper.reproduce`: needed networks and written files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import commons
from datasets.catalog import find_test_set, find_train_folder
from datasets.partition import PartitionParams
from paper.claims import judge_claims
from paper.comparison import comparison_needs, write_comparison
from paper.dimensions import dimension_needs, draw_dimensions
from paper.image_figures import draw_examples, draw_qualitative, qualitative_needs
from paper.judgements import format_for_terminal, format_judgements
from paper.modern import modern_needs, write_modern
from paper.name_figures import draw_panorama_figures, draw_query_years
from paper.published import TABLES
from paper.results_of_runs import Study
from paper.runs_to_do import Need
from paper.scales import Scale
from paper.sweeps import draw_sweeps, sweep_needs
from paper.table_text import render, write_table
from paper.tables import compare_table, table_needs

COMPARISON = "methods"  # on a made city only
MODERN = "modern"
_NEEDS = {  # targets made from runs
    **{name: partial(table_needs, name) for name in TABLES},
    "fig5": sweep_needs,
    "fig6": dimension_needs,
    "fig7": qualitative_needs,
    COMPARISON: comparison_needs,
    MODERN: modern_needs,
}
_RUN_FIGURES = {"fig5": draw_sweeps, "fig6": draw_dimensions, "fig7": draw_qualitative}
TARGETS = (*TABLES, *(f"fig{number}" for number in range(1, 8)), "claims")
ALL_TARGETS = (*TARGETS, COMPARISON, MODERN)


def targets_of(scale: Scale) -> tuple[str, ...]:
    """Return the targets of a scale."""
    of_paper = TARGETS if scale.dims else ()
    return (*of_paper, *([COMPARISON] if scale.stand_ins else []), MODERN)


def all_of(scale: Scale) -> tuple[str, ...]:
    """Return what `all` stands for: the paper's tables and figures, if the scale has them."""
    return TARGETS if scale.dims else targets_of(scale)


def list_needs(targets: Sequence[str], study: Study) -> list[Need]:
    """Return the networks that tables and figures need; claims use existing results."""
    return [need for target in targets if target in _NEEDS for need in _NEEDS[target](study)]


def write_target(target: str, study: Study, folder: Path) -> str:
    """Write a table, a figure or the claims.

    Returns:
        Text to show: a table, claims, or the files of a figure.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If a file is damaged.
    """
    if target in TABLES:
        table = compare_table(target, study)
        write_table(table, folder, target)
        return render(table, "text")
    if target == COMPARISON:
        return write_comparison(study, folder)
    if target == MODERN:
        return write_modern(study, folder)
    if target == "claims":
        return _write_claims(study, folder)
    if target in _RUN_FIGURES:
        files = _RUN_FIGURES[target](study, folder)
    else:
        files = _draw_from_names(target, study, folder)
    return f"{target}: {', '.join(file.name for file in files)}"


def _write_claims(study: Study, folder: Path) -> str:
    judgements = judge_claims(study)
    folder.mkdir(parents=True, exist_ok=True)
    with commons.atomic_write(folder / "claims.md") as path:
        path.write_text(format_judgements(judgements, study.scale.mark), encoding="utf-8")
    return format_for_terminal(judgements, study.scale.mark)


def _draw_from_names(target: str, study: Study, folder: Path) -> list[Path]:
    """Draw one of Figures 1 to 4, which need no runs."""
    root, mark = study.log.datasets_folder, study.scale.mark
    if target in ("fig1", "fig2"):
        train = find_train_folder(study.scale.train_set or "sf_xl_raw", root)
        smallest = study.scale.cosplace("ResNet18", 512)["min_images_per_class"]
        params = PartitionParams(min_images_per_class=smallest)
        return draw_panorama_figures(train, folder, mark, [target], params)
    v1, v2 = (
        find_test_set(study.scale.dataset(f"sf_xl_test_{version}"), root)[1]
        for version in ("v1", "v2")
    )
    if target == "fig3":
        return draw_query_years(v1, folder, mark)
    train = find_train_folder(study.scale.train_set or "sf_xl", root)
    return draw_examples(train, v1, v2, folder, mark)
