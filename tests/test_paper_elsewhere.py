import itertools
import re
from collections import Counter

import pytest
from numbers_page import DATASETS, csv_blocks, markdown_rows, read_page, section

from paper.published import load_elsewhere, load_table


def recalls_of(result):
    return [result.recalls.get(f"R@{n}") for n in (1, 5, 10, 20)]


def test_recalls_of_the_authors_are_as_on_the_page():
    page = read_page()
    backbones = {"VGG16": "VGG16", "R18": "ResNet18", "R50": "ResNet50", "R101": "ResNet101"}
    expected = []
    for model, dataset, *recalls, source in markdown_rows(section(page, "### B1."))[1:]:
        backbone, _, dim = model.partition("-")
        numbers = [float(recall) if recall else None for recall in recalls]
        model = (backbones[backbone], int(dim) if dim else None, DATASETS[dataset.lower()])
        expected.append((source.split("#")[-1], *model, numbers))
    ours = [
        (result.source, result.backbone, result.dim, result.dataset, recalls_of(result))
        for result in load_elsewhere()[: len(expected)]
    ]
    assert len(expected) == 12
    assert [our[1:] for our in ours] == [row[1:] for row in expected]
    assert all(our[0].endswith(row[0]) for our, row in zip(ours, expected, strict=True))


def test_recalls_in_eigenplaces_are_as_on_the_page():
    page = read_page()
    header, *rows = csv_blocks(page)[4]
    expected = {
        (method, backbone, int(dim), DATASETS.get(name, name)): [float(recall), None, None, None]
        for method, backbone, dim, *recalls in rows
        for name, recall in zip(header[3:], recalls, strict=True)
    }
    ours = {
        (result.method, result.backbone, result.dim, result.dataset): recalls_of(result)
        for result in load_elsewhere()
        if result.source.startswith("EigenPlaces")
    }
    assert len(expected) == 96 and ours == expected


@pytest.mark.parametrize(
    ("title", "first", "last"),
    [
        ("### B3.", "OpenIBL README", "pytorch-NetVlad README"),
        ("### B4.", *["deep-visual-geo-localization-benchmark README"] * 2),
    ],
)
def test_other_reports_have_the_numbers_of_the_page(title, first, last):
    page = read_page()
    cells = itertools.chain(*(row[1:] for row in markdown_rows(section(page, title))[1:]))
    numbers = Counter(float(n) for cell in cells for n in re.findall(r"\d+\.\d+", cell))
    results = load_elsewhere()
    sources = [result.source for result in results]
    end = len(sources) - sources[::-1].index(last)
    ours = itertools.chain(*(r.recalls.values() for r in results[sources.index(first) : end]))
    assert Counter(ours) == numbers


@pytest.mark.parametrize(
    ("fields", "recalls"),
    [
        (("OpenIBL README", "SFRS", 4096, "Pitts30k", "tokyo247", None), [85.4, 91.1, 93.3, None]),
        (
            ("APANet paper", "APANet", 512, "TokyoTM", "tokyo247", "PCA-pw"),
            [66.98, 80.95, 83.81, None],
        ),
        (
            ("TCSVT 2023 retraining", "SRALNet", 4096, "Pitts30k", "pitts30k", None),
            [84.7, 92.6, 94.9, None],
        ),
        (
            ("pytorch-NetVlad README", "NetVLAD", None, "Pitts30k", "pitts30k_val", "rerun"),
            [85.2, 94.8, 97.0, None],
        ),
        (
            ("EigenPlaces tables 3 and 4", "NetVLAD", 4096, None, "sf_xl_test_v1", None),
            [40.0, None, None, None],
        ),
        (
            ("SALAD table 3", "CosPlace", 2048, "SF-XL", "sf_xl_test_v2", None),
            [88.8, None, None, None],
        ),
    ],
)
def test_some_public_recalls_by_hand(fields, recalls):
    names = ("source", "method", "dim", "train_set", "dataset", "note")
    found = [r for r in load_elsewhere() if tuple(getattr(r, name) for name in names) == fields]
    assert [recalls_of(result) for result in found] == [recalls]


def test_mining_in_the_benchmark():
    found = {
        (r.note, r.dataset): r.recalls["R@1"]
        for r in load_elsewhere()
        if (r.method, r.backbone, r.train_set) == ("NetVLAD", "ResNet18", "Pitts30k") and r.note
    }
    assert (
        found["random mining", "pitts30k"] == 83.9 and found["partial mining", "msls_val"] == 47.3
    )
    assert found["full mining", "pitts30k"] == 86.4
    assert len(found) == 6


def test_public_recalls_have_caveats():
    results = load_elsewhere()
    official = [r for r in results if r.dataset == "msls_val_740"]
    assert len(official) == 6 and all("740" in " ".join(r.caveats) for r in official)
    (crops,) = (r for r in results if r.source == "OpenIBL issue 9" and r.dataset == "tokyo247")
    assert "12 crops" in " ".join(crops.caveats)
    assert not next(r for r in results if r.source == "CosPlace issue 13").caveats


def test_public_recalls_agree_with_the_tables():
    """The released ResNet-50 of 2048-D is the model of Table 4, not that of 512-D."""
    table = load_table("table4")
    row = table.find_row(train_set="SF-XL", backbone="ResNet50")
    for dim, agrees in ((2048, True), (512, False)):
        for dataset in ("pitts250k", "pitts30k", "tokyo247"):
            (found,) = (
                r.recalls["R@1"]
                for r in load_elsewhere()
                if (r.method, r.backbone, r.dim) == ("CosPlace", "ResNet50", dim)
                and r.dataset == dataset
            )
            assert (found == table.number(row, dataset).mean) is agrees
