"""Statements of the paper about its numbers, checked against results.

Other methods without results are represented by the numbers of the paper, or a later one; only on
the paper's own data sets.
"""

import operator
from collections.abc import Callable, Iterator

from datasets.catalog import find_train_folder
from datasets.class_index import load_index
from datasets.partition import PartitionParams
from paper.dimensions import CNNS, DATASETS, TRANSFORMERS, curve_sources, whitened_sources
from paper.judgements import ClaimPart, Judgement, compare
from paper.networks import CHOSEN, Source
from paper.published import load_elsewhere, load_scalars, load_table
from paper.results_of_runs import Study
from paper.sweeps import sweep_source
from paper.tables import source_of

_TABLE_SETS = ("pitts250k", "pitts30k", "tokyo247", "msls_val", "st_lucia")
_ABOUT = 0.5  # points, tolerance of "about 1 point"
_COMPARABLE = 1.0  # points, tolerance of "comparable or better"
_ROUGHLY = 0.1  # fraction, tolerance of "roughly 35,000"


def judge_claims(study: Study) -> list[Judgement]:
    """Check all statements."""
    return [Judgement(statement, tuple(check(study))) for statement, check in _CLAIMS.items()]


def _max_beats_gem(study: Study) -> Iterator[ClaimPart]:
    for dataset in study.scale.datasets(["pitts250k"]):
        yield _compare_rows(study, "table1", ("Max",), ("GeM",), dataset, operator.gt)


def _gem_is_best_elsewhere(study: Study) -> Iterator[ClaimPart]:
    for dataset in study.scale.datasets(_TABLE_SETS[1:]):
        yield _compare_rows(study, "table1", ("GeM",), ("Max",), dataset, operator.ge)


def _average_is_lowest(study: Study) -> Iterator[ClaimPart]:
    for dataset in study.scale.datasets(_TABLE_SETS):
        for other in ("Max", "GeM"):
            yield _compare_rows(study, "table1", ("Average",), (other,), dataset, operator.le)


def _max_beats_all_methods(study: Study) -> Iterator[ClaimPart]:
    yield from _against_methods(study, "table2", source_of("table1", ("Max",), study.scale))


def _cosplace_is_first(study: Study) -> Iterator[ClaimPart]:
    for table in ("table2", "table3"):
        source = source_of(table, ("CosPlace", "512", "SF-XL"), study.scale)
        yield from _against_methods(study, table, source)


def _sf_xl_beats_landmarks(study: Study) -> Iterator[ClaimPart]:
    for backbone in ("ResNet-50", "ResNet-101"):
        for better, worse in (("SF-XL", "GLD"), ("GLD", "SfM120k")):
            for dataset in study.scale.datasets(_TABLE_SETS):
                rows = ((better, backbone), (worse, backbone))
                yield _compare_rows(study, "table4", *rows, dataset, operator.gt)


def _one_group_costs_a_point(study: Study) -> Iterator[ClaimPart]:
    drop = load_scalars()["one_group_drop"].value
    eight, one = (_val(study, "groups_num", value) for value in (CHOSEN["groups_num"], 1))
    yield compare(
        ("groups 8", eight), ("groups 1", one), lambda a, b: abs(a - b - drop) <= _ABOUT, "val"
    )


def _eight_groups_are_best(study: Study) -> Iterator[ClaimPart]:
    chosen = CHOSEN["groups_num"]
    for value in study.scale.sweeps["groups_num"]:
        if value != chosen:
            sides = [(f"groups {n}", _val(study, "groups_num", n)) for n in (chosen, value)]
            yield compare(*sides, operator.ge, "val")


def _128_beats_netvlad(study: Study) -> Iterator[ClaimPart]:
    published: dict[str, float] = {}  # the highest, where several measured it
    for result in load_elsewhere():
        if (result.method, result.dim) == ("NetVLAD", 4096):
            recall = result.recalls["R@1"]
            published[result.dataset] = max(recall, published.get(result.dataset, 0.0))
    netvlad = whitened_sources(study.scale, "netvlad", "netvlad:pitts30k")[
        max(study.scale.vlad_dims)
    ]
    for dataset in study.scale.datasets(list(DATASETS)):
        measured = _recall(study, netvlad, dataset)
        rival = (f"NetVLAD {netvlad.dim}-D", measured)
        if isinstance(measured, str):
            rival = ("the published NetVLAD 4096-D", published.get(dataset, measured))
        for backbone, source in _networks(study, 128):
            ours = (f"{backbone} 128-D", _recall(study, source, dataset))
            yield compare(ours, rival, operator.gt, _title(dataset))


def _resnets_are_comparable(study: Study) -> Iterator[ClaimPart]:
    networks = dict(_networks(study, 512))
    for dataset in study.scale.datasets(list(DATASETS)):
        vgg = ("VGG16 512-D", _recall(study, networks["VGG16"], dataset))
        for backbone in CNNS[1:]:  # the ResNets
            ours = (f"{backbone} 512-D", _recall(study, networks[backbone], dataset))
            yield compare(ours, vgg, lambda a, b: a >= b - _COMPARABLE, _title(dataset))


def _transformers_are_lower(study: Study) -> Iterator[ClaimPart]:
    networks = dict(_networks(study, 512))
    for dataset in study.scale.datasets(list(DATASETS)):
        cnns = {name: _recall(study, networks[name], dataset) for name in networks}
        missing = next((value for value in cnns.values() if isinstance(value, str)), None)
        best = missing or max(cnns.values())
        for backbone in TRANSFORMERS:
            [source] = curve_sources(study.scale, backbone).values()
            theirs = (backbone, _recall(study, source, dataset))
            yield compare(theirs, ("best 512-D CNN", best), operator.lt, _title(dataset))


def _split_of_sf_xl(study: Study) -> Iterator[ClaimPart]:
    if study.scale.stand_ins is not None:
        yield ClaimPart("the statement is about SF-XL", None)
        return
    try:
        folder = find_train_folder("sf_xl_raw", study.log.datasets_folder)
    except FileNotFoundError:
        yield ClaimPart("no training set sf_xl_raw", None)
        return
    index = load_index(folder, PartitionParams(), "cache")
    sizes = [(len(index.classes(g)), index.num_images(g)) for g in range(index.num_groups)]
    num_classes, num_images = (sum(column) for column in zip(*sizes, strict=True))
    used = sum(images for _, images in sizes[: CHOSEN["groups_num"]])
    found = {
        "groups": index.num_groups,
        "classes_per_group": num_classes / index.num_groups,
        "images_per_class": num_images / num_classes,
        "images_used": used,
        "discarded_images": 100 * (1 - num_images / index.num_listed_images),
    }
    for name, value in found.items():
        stated = load_scalars()[name].value
        is_near = abs(value - stated) <= _ROUGHLY * stated
        yield ClaimPart(f"{name.replace('_', ' ')} {value:,.1f} against {stated:,g}", is_near)


_CLAIMS: dict[str, Callable[[Study], Iterator[ClaimPart]]] = {
    "Max pooling beats GeM on Pitts250k (Table 1)": _max_beats_gem,
    "GeM is at least as good as max on the other sets (Table 1)": _gem_is_best_elsewhere,
    "Average pooling is the lowest (Table 1)": _average_is_lowest,
    "Even with max pooling, CosPlace beats the other methods (Table 2)": _max_beats_all_methods,
    "CosPlace is first on all sets at 512-D (Tables 2 and 3)": _cosplace_is_first,
    "SF-XL beats GLD, and GLD beats SfM120k, with each backbone (Table 4)": _sf_xl_beats_landmarks,
    "One group instead of 8 costs about 1 point of R@1 on val (Figure 5)": _one_group_costs_a_point,
    "8 groups are the best number of groups (Figure 5)": _eight_groups_are_best,
    "Any 128-D CosPlace beats 4096-D NetVLAD on every set (Figure 6)": _128_beats_netvlad,
    "ResNets are comparable to or better than VGG-16 (Figure 6)": _resnets_are_comparable,
    "Transformers are lower than convolutional networks (Figure 6)": _transformers_are_lower,
    "SF-XL splits as section 2.2 says": _split_of_sf_xl,
}


def _recall(study: Study, source: Source, dataset: str) -> float | str:
    """Return the mean R@1 over the seeds, or why it is missing."""
    cell = study.measure(source, dataset)
    return cell.missing or cell.mean


def _val(study: Study, flag: str, value: int) -> float | str:
    cell = study.measure_val(sweep_source(study.scale, flag, value))
    return cell.missing or cell.mean


def _title(dataset: str) -> str:
    return DATASETS.get(dataset, dataset)


def _networks(study: Study, dim: int) -> Iterator[tuple[str, Source]]:
    """Yield the convolutional networks of Figure 6 with descriptors of one length."""
    for backbone in CNNS:
        yield backbone, study.scale.cosplace(backbone, dim)


def _compare_rows(
    study: Study,
    table: str,
    left: tuple[str, ...],
    right: tuple[str, ...],
    dataset: str,
    test: Callable[[float, float], bool],
) -> ClaimPart:
    sides = [
        (" ".join(labels), _recall(study, source_of(table, labels, study.scale), dataset))
        for labels in (left, right)
    ]
    return compare(*sides, test, _title(dataset))


def _against_methods(study: Study, name: str, source: Source) -> Iterator[ClaimPart]:
    """Compare a network with all other methods of a table, or with the paper's numbers of them."""
    table = load_table(name)
    is_papers = study.scale.stand_ins is None
    for row in table.rows:
        for column in table.columns if row.method != "CosPlace" else ():
            dataset = study.scale.dataset(column.dataset)
            if column.metric != "R@1" or dataset is None:
                continue
            label = " ".join(row.labels)
            rival = (label, _recall(study, source_of(name, row.labels, study.scale), dataset))
            number = table.number(row, column.dataset, column.metric) if is_papers else None
            if isinstance(rival[1], str) and number is not None:
                rival = (f"the paper's {label}", number.mean)
            if is_papers and isinstance(rival[1], str):
                continue  # neither measured nor published
            ours = ("CosPlace", _recall(study, source, dataset))
            yield compare(ours, rival, operator.gt, _title(dataset))
