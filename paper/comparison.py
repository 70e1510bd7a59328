"""All methods on one small city, each trained on as many images: a table that compares them.

Every method is tested twice: as it starts, with ImageNet's backbone, clusters and whitening fitted
to the training images, and trained; by the smallest scale only trained. Methods and their order
are those of `methods`.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import commons
from datasets.tables import write_rows
from methods import METHODS
from paper.costs import count_trained_images
from paper.networks import Trained
from paper.results_of_runs import Study
from paper.run_log import TrainingRun
from paper.runs_to_do import Need
from paper.scales import Scale
from paper.table_cells import Cell

STEM = "methods"  # of the files
_METRICS = ("R@1", "R@5", "R@10")
_NOTES = (
    "R@1: before training -> after it, in percent; before it, clusters and whitenings are fitted "
    "already. CRN starts from the trained NetVLAD, whose images it has seen beside its own.",
    "images: trained on, those of a tuple and repeated ones counted each. minutes: of training and "
    "mining, without validation and tests. GB: peak memory of train.py, without loader processes.",
)


class ComparedMethod(NamedTuple):
    """A row: a method with its networks."""

    name: str
    start: Trained  # the network before training
    trained: Trained


def list_methods(scale: Scale) -> list[ComparedMethod]:
    """Return the methods on the training set of the scale, without those that it leaves out."""
    sources = {name: scale.method(name) for name in METHODS if name not in scale.left_out}
    return [
        ComparedMethod(name, source.changed(epochs_num=0), source)
        for name, source in sources.items()
    ]


def comparison_needs(study: Study) -> list[Need]:
    """Return the networks, each before and after training, on the test sets of the scale."""
    return [
        Need(source, _datasets(study))
        for row in list_methods(study.scale)
        for source in ([row.start] * study.scale.tests_start + [row.trained])
        if study.is_asked(row.name)
    ]


def write_comparison(study: Study, folder: Path) -> str:
    """Write the table as Markdown, and as CSV with every number.

    Args:
        study: The results; those that are missing have a reason in their place.
        folder: Where methods.md and methods.csv are written.

    Returns:
        The table, in Markdown.
    """
    datasets = _datasets(study)
    header = ["method", "D", "images", "minutes", "GB"]
    header[2:2] = [f"{one.rpartition('_')[2]} {name}" for one in datasets for name in _METRICS]
    rows = [list(_describe(row, study, datasets)) for row in list_methods(study.scale)]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    lines.insert(1, f"|---|{'---:|' * (len(header) - 1)}")
    methods, left_out = list_methods(study.scale), study.scale.left_out.values()
    notes = [f"- {note}" for note in (*_NOTES, *map(_describe_training, methods), *left_out)]
    text = "\n".join([f"**{study.scale.mark}**", "", *lines, "", *notes]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in ((".md", text), (".csv", _format_csv(study, datasets))):
        with commons.atomic_write(folder / f"{STEM}{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
    return text


def _datasets(study: Study) -> tuple[str, ...]:
    return tuple(study.scale.datasets(("sf_xl_test_v1", "sf_xl_test_v2")))


def _describe(row: ComparedMethod, study: Study, datasets: tuple[str, ...]) -> Iterator[str]:
    """Yield the cells of a row."""
    yield row.name
    yield _dim_of(row.trained, study, datasets[0])
    for dataset in datasets:
        for metric in _METRICS:
            after = _format(study.measure(row.trained, dataset, metric))
            before = study.measure(row.start, dataset, metric)
            if metric == _METRICS[0] and before.mean is not None:
                after = f"{_format(before)} → **{after}**"
            yield after
    yield f"{count_trained_images(row.trained):,}"
    run = study.log.finished_training(row.trained, study.seeds[0])
    if isinstance(run, TrainingRun):
        yield from (f"{run.minutes:.1f}", f"{run.peak_gb:.1f}")
    else:
        yield from ("-", "-")


def _describe_training(row: ComparedMethod) -> str:
    """Return the settings of a method's training in which methods differ."""
    settings = row.trained.settings
    parts = [f"{settings['optimizer']} with learning rate {settings['lr']:g}"]
    parts.append(f"{settings['epochs_num']} epochs")
    if "mining" in settings:
        parts.append(f"loss {settings['loss']}, mining {settings['mining']}")
    if "cache_refresh_rate" in settings:
        parts.append(f"every {settings['cache_refresh_rate']} queries")
    if "images_per_place" in settings:
        parts.append(f"{settings['batch_size']} places x {settings['images_per_place']} images")
    if options := settings["aggregation_args"]:
        words = ", ".join(f"{name} {value}" for name, value in options.items())
        parts.append(f"{settings['aggregation']} with {words}")
    if settings["whitening"] != "none":
        parts.append(f"whitening {settings['whitening']} of {settings['whiten_images']:,} images")
    return f"{row.name}: {', '.join(parts)}."


def _dim_of(source: Trained, study: Study, dataset: str) -> str:
    """Return the length of the descriptors, as it was measured."""
    folders = study.find_evaluations(source, dataset)
    return f"{study.log.result(folders[0])['descriptor_dim']:,}" if type(folders) is tuple else "-"


def _format(cell: Cell) -> str:
    """Return the mean over the seeds, with their spread if there are several."""
    if cell.mean is None:
        return cell.missing
    return f"{cell.mean:.1f}" + (f" ± {cell.std:.1f}" if cell.std is not None else "")


def _format_csv(study: Study, datasets: tuple[str, ...]) -> str:
    """Return one line for each method, network, data set and metric."""
    text, lines = io.StringIO(), []
    columns = ["method", "network", "dataset", "metric", "mean", "std", "missing", "mark"]
    for row in list_methods(study.scale):
        for network, source in (("start", row.start), ("trained", row.trained)):
            for dataset in datasets:
                for metric in _METRICS:
                    cell = study.measure(source, dataset, metric)
                    numbers = [cell.mean, cell.std, cell.missing, study.scale.mark]
                    lines.append([row.name, network, dataset, metric, *numbers])
    write_rows(text, columns, lines, "\n")
    return text.getvalue()
