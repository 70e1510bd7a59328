"""Figure 5: R@1 on the validation set against each of the five hyper-parameters of CosPlace."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from datasets.partition import PartitionParams
from paper.drawing import PAGE_IN, new_figure, save_measured, styled
from paper.networks import CHOSEN, Trained
from paper.results_of_runs import Study
from paper.runs_to_do import Need
from paper.scales import Scale
from paper.table_cells import VALUES_HEADER, Cell, list_values

_LABELS = {"M": "$M$ (m)", "alpha": r"$\alpha$ (°)", "N": "$N$", "L": "$L$", "groups_num": "groups"}
_BACKBONE, _DIM = "ResNet18", 512


def sweep_source(scale: Scale, flag: str, value: int) -> Trained:
    """Return the training with one hyper-parameter changed, on at most as many groups as exist.

    The chosen 8 groups need N x N x L of at least 8; otherwise all are trained.
    """
    flags = CHOSEN | {flag: value}
    params = PartitionParams(**{name: flags[name] for name in ("M", "alpha", "N", "L")})
    num_groups = params.N**2 * min(params.L, params.num_headings)
    flags["groups_num"] = min(flags["groups_num"], num_groups)
    changed = {name: number for name, number in flags.items() if number != CHOSEN[name]}
    return scale.cosplace(_BACKBONE, _DIM, **changed)


def sweep_needs(study: Study) -> list[Need]:
    """Return the trainings of all sweeps; their validation suffices."""
    return [
        Need(sweep_source(study.scale, flag, value))
        for flag, values in study.scale.sweeps.items()
        for value in values
        if study.is_asked(flag, sweep_source(study.scale, flag, value))
    ]


@styled
def draw_sweeps(study: Study, folder: Path) -> list[Path]:
    """Draw Figure 5: a panel per hyper-parameter, its chosen value bold, a red line at its R@1.

    Values without a run have a tick but no point; without any run there is no picture.
    """
    sweeps = study.scale.sweeps
    figure, panels = new_figure(PAGE_IN, 2.1, 1, len(sweeps), sharey=True, squeeze=False)
    rows = []
    for panel, (flag, values) in zip(panels[0], sweeps.items(), strict=True):
        cells = [study.measure_val(sweep_source(study.scale, flag, value)) for value in values]
        _draw_sweep(panel, flag, values, cells)
        rows += [
            (flag, value, int(value == CHOSEN[flag]), *list_values(cell))
            for value, cell in zip(values, cells, strict=True)
        ]
    panels[0][0].set_ylabel("R@1 on val (%)")
    header = ("hyper_parameter", "value", "chosen", *VALUES_HEADER)
    explanation = "Red: at the chosen values, which are bold"
    return save_measured(figure, (header, rows), folder, "fig5", study.scale.mark, explanation)


def _draw_sweep(panel: Axes, flag: str, values: Sequence[int], cells: Sequence[Cell]) -> None:
    points = [(x, cell.mean, cell.std or 0.0) for x, cell in enumerate(cells) if cell.measured]
    chosen = values.index(CHOSEN[flag])
    if cells[chosen].measured:
        panel.axhline(cells[chosen].mean, color="red", linewidth=1, zorder=1)
    if points:
        panel.errorbar(*zip(*points, strict=True), marker="o", color="C0", zorder=2)
    panel.set_xlim(-0.5, len(values) - 0.5)
    panel.set_xticks(range(len(values)), [str(value) for value in values])
    panel.get_xticklabels()[chosen].set_fontweight("bold")
    panel.set_xlabel(_LABELS[flag])
