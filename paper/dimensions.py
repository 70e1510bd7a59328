"""Figure 6: R@1 against descriptor dimension, a panel per data set.

A curve for each backbone of CosPlace, and for NetVLAD and SFRS, each trained once and cut by
whitenings.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from model.backbones import find_spec
from paper.drawing import PAGE_IN, new_figure, save_measured, styled
from paper.networks import Source
from paper.results_of_runs import Study
from paper.runs_to_do import Need
from paper.scales import Scale
from paper.table_cells import VALUES_HEADER, list_values

DATASETS = {
    "pitts250k": "Pitts250k",
    "pitts30k": "Pitts30k",
    "tokyo247": "Tokyo 24/7",
    "msls_val": "MSLS",
    "st_lucia": "St Lucia",
    "sf_xl_test_v1": "SF-XL test v1",
    "sf_xl_test_v2": "SF-XL test v2",
}
CNNS = ("VGG16", "ResNet18", "ResNet50", "ResNet101")
TRANSFORMERS = ("ViT_B16", "CCT14_224", "CCT14_384")
_BACKBONES = {
    "VGG16": "VGG-16",
    "ResNet18": "ResNet-18",
    "ResNet50": "ResNet-50",
    "ResNet101": "ResNet-101",
    "ViT_B16": "ViT-B/16",
    "CCT14_224": "CCT-14 at 224",
    "CCT14_384": "CCT-14 at 384",
}
_MARKERS = "osD^vP*Xd"
_COLUMNS = 4
_NOTE = "Curves with the name of a backbone are CosPlace's"


def curve_sources(scale: Scale, backbone: str) -> dict[int, Source]:
    """Return {descriptor dimension: network} of CosPlace with a backbone."""
    own = find_spec(backbone).out_channels  # without a linear layer
    return {dim or own: scale.cosplace(backbone, dim) for dim in scale.dims[backbone]}


def whitened_sources(scale: Scale, method: str, released: str) -> dict[int, Source]:
    """Return {descriptor dimension: network} of a method that whitens, one training on Pitts30k.

    Args:
        scale: Of the runs.
        method: Key of METHODS.
        released: Published network that may stand for it, without its dimension.
    """
    own = scale.compared(method, "pitts30k")
    whiten_dim = max(*scale.vlad_dims, own["whiten_dim"]) if own["kept_dims"] else None
    sources = {}
    for dim in scale.vlad_dims:
        changed = {"whiten_dim": whiten_dim or dim, "kept_dims": whiten_dim and dim}
        sources[dim] = scale.compared(
            method, "pitts30k", f"{released}:{dim}", **({} if dim == own.dim else changed)
        )
    return sources


def all_curves(scale: Scale) -> dict[str, dict[int, Source]]:
    """Return the curves by name, each {descriptor dimension: network}."""
    curves = {_BACKBONES[name]: curve_sources(scale, name) for name in scale.dims}
    return curves | {
        "NetVLAD": whitened_sources(scale, "netvlad", "netvlad:pitts30k"),
        "SFRS": whitened_sources(scale, "sfrs", "openibl:sfrs"),
    }


def dimension_needs(study: Study) -> list[Need]:
    """Return all networks of the figure, on all its data sets."""
    datasets = tuple(study.scale.datasets(list(DATASETS)))
    return [
        Need(study.resolve(source), datasets)
        for name, curve in all_curves(study.scale).items()
        for source in curve.values()
        if study.is_asked(name, source)
    ]


@styled
def draw_dimensions(study: Study, folder: Path) -> list[Path]:
    """Draw Figure 6. Networks without a result on a data set have no point there.

    Without any result there is no picture.
    """
    datasets = study.scale.datasets(list(DATASETS))
    num_rows = -(-(len(datasets) + 1) // _COLUMNS)  # one more, for the legend
    figure, panels = new_figure(PAGE_IN, 1.9 * num_rows, num_rows, _COLUMNS, squeeze=False)
    rows = []
    for panel, dataset in zip(panels.flat, datasets, strict=False):
        rows += _draw_panel(panel, study, dataset)
        panel.set_title(DATASETS.get(dataset, dataset))
    for panel in panels.flat[len(datasets) :]:
        panel.axis("off")
    curves = {
        curve.get_label(): curve.lines[0]
        for panel in panels.flat[: len(datasets)]
        for curve in panel.containers
        if len(curve.lines[0].get_xdata())
    }
    shown = [name for name in all_curves(study.scale) if name in curves]
    panels.flat[len(datasets)].legend([curves[name] for name in shown], shown, loc="center")
    header = ("dataset", "curve", "descriptor_dim", *VALUES_HEADER)
    return save_measured(figure, (header, rows), folder, "fig6", study.scale.mark, _NOTE)


def _draw_panel(panel: Axes, study: Study, dataset: str) -> list[tuple]:
    """Draw all curves on a data set; return the rows of the CSV."""
    rows, all_dims = [], set()
    for number, (name, curve) in enumerate(all_curves(study.scale).items()):
        points = []
        for dim, source in curve.items():
            cell = study.measure(source, dataset)
            all_dims.add(dim)
            rows.append((dataset, name, dim, *list_values(cell)))
            if cell.measured:
                points.append((dim, cell.mean, cell.std or 0.0))
        columns = np.array(points, float).reshape(-1, 3).T
        panel.errorbar(*columns, marker=_MARKERS[number], color=f"C{number}", label=name)
    panel.set_xscale("log", base=2)
    ticks = sorted(dim for dim in all_dims if dim & (dim - 1) == 0)
    panel.set_xticks(ticks, [str(dim) for dim in ticks], rotation=45)
    panel.set_xlabel("descriptor dimension")
    panel.set_ylabel("R@1 (%)")
    return rows
