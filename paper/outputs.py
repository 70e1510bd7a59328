"""The targets of `paper.reproduce`: what each needs, and what it writes."""

from collections.abc import Sequence
from pathlib import Path

import commons
from datasets.catalog import find_test_set, find_train_folder
from datasets.partition import PartitionParams
from paper.answers import answer_needs, draw_answers
from paper.claims import judge_claims
from paper.dimensions import dimension_needs, draw_dimensions
from paper.example_figure import draw_examples
from paper.judgements import format_for_terminal, format_judgements
from paper.name_figures import draw_panorama_figures, draw_query_years
from paper.plan import Need
from paper.published import TABLES
from paper.study import Study
from paper.sweeps import draw_sweeps, sweep_needs
from paper.table_text import render, write_table
from paper.tables import compare_table, table_needs

_RUN_FIGURES = {  # what they need, and how they are drawn
    "fig5": (sweep_needs, draw_sweeps),
    "fig6": (dimension_needs, draw_dimensions),
    "fig7": (answer_needs, draw_answers),
}
_NAME_FIGURES = ("fig1", "fig2", "fig3", "fig4")
TARGETS = (*TABLES, *_NAME_FIGURES, *_RUN_FIGURES, "claims")


def list_needs(targets: Sequence[str], study: Study) -> list[Need]:
    """Return the networks that tables and figures are made from; claims take what is there."""
    needs = []
    for target in targets:
        if target in TABLES:
            needs += table_needs(target, study)
        elif target in _RUN_FIGURES:
            needs += _RUN_FIGURES[target][0](study)
    return needs


def write_targets(targets: Sequence[str], study: Study, folder: Path) -> list[str]:
    """Write tables, figures and claims.

    Returns:
        What to show: tables and claims as text, and where files are or why there are none.
    """
    shown = []
    for target in targets:
        if target in TABLES:
            shown.append(_write_table(target, study, folder))
        elif target == "claims":
            shown.append(_write_claims(study, folder))
        elif target in _RUN_FIGURES:
            files = _RUN_FIGURES[target][1](study, folder)
            shown.append(f"{target}: {', '.join(map(str, files))}")
    return shown + _draw_name_figures(
        [one for one in targets if one in _NAME_FIGURES], study, folder
    )


def _write_table(name: str, study: Study, folder: Path) -> str:
    try:
        table = compare_table(name, study)
    except ValueError as error:
        return str(error)
    write_table(table, folder, name)
    return render(table, "text")


def _write_claims(study: Study, folder: Path) -> str:
    judgements = judge_claims(study)
    folder.mkdir(parents=True, exist_ok=True)
    with commons.written_whole(folder / "claims.md") as path:
        path.write_text(format_judgements(judgements, study.scale.mark), encoding="utf-8")
    return format_for_terminal(judgements)


def _draw_name_figures(names: Sequence[str], study: Study, folder: Path) -> list[str]:
    """Draw Figures 1 to 4, which need no runs; a missing data set is said, not drawn."""
    shown = []
    for together in (("fig1", "fig2"), ("fig3",), ("fig4",)):
        if asked := [name for name in together if name in names]:
            try:
                files = _draw_from_names(asked, study, folder)
                shown.append(f"{' and '.join(asked)}: {', '.join(map(str, files))}")
            except FileNotFoundError as error:
                shown.append(f"{' and '.join(asked)}: {error}")
    return shown


def _draw_from_names(names: Sequence[str], study: Study, folder: Path) -> list[Path]:
    root, mark = study.log.datasets_folder, study.scale.mark
    if names[0] in ("fig1", "fig2"):
        train = find_train_folder(study.scale.dataset("sf_xl_raw"), root)
        smallest = study.scale.flags.get("min_images_per_class", 10)
        params = PartitionParams(min_images_per_class=smallest)
        return draw_panorama_figures(train, folder, mark, names, params)
    v1, v2 = (
        find_test_set(study.scale.dataset(f"sf_xl_test_{version}"), root).queries
        for version in ("v1", "v2")
    )
    if names[0] == "fig3":
        return draw_query_years(v1, folder, mark)
    train = find_train_folder(study.scale.dataset("sf_xl"), root)
    return draw_examples(train, v1, v2, folder, mark)
