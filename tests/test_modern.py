"""The table of modern networks: its published numbers, and what is measured beside them."""

import csv
import shutil

import pytest
from paper_studies import KnownNumbers, fill, make_study

from datasets.catalog import TEST_SETS
from methods import METHODS
from model.published import parse_published
from paper.modern import DATASETS, NETWORKS, compare_modern, load_modern, modern_needs, write_modern
from paper.networks import Released
from paper.published import NUMBERS
from paper.scales import DEMO, MINI, PAPER


def cells_of(table, name):
    [row] = [row for row in table.rows if row.labels == (name,)]
    names = [(column.dataset, column.metric) for column in table.columns]
    return dict(zip(names, row.cells, strict=True)), row.note


def test_every_published_recall_is_of_a_released_network_and_rises():
    recalls = load_modern()
    assert len(recalls) > 150
    for one in recalls:
        parse_published(one.model)
        values = list(one.recalls.values())
        assert values == sorted(values) and values, one
    keys = [(one.source, one.model, one.dataset) for one in recalls]
    assert len(set(keys)) == len(keys)


def test_rows_and_columns_are_names_that_exist():
    assert set(DATASETS) <= set(TEST_SETS) and len(set(DATASETS)) == len(DATASETS)
    assert {method for method in NETWORKS.values() if method} <= set(METHODS)
    released = set(NETWORKS) - set(METHODS)
    assert {parse_published(name).family for name in released} > {"mixvpr", "salad", "megaloc"}
    trained = [method for method in NETWORKS.values() if method]
    assert len(set(trained)) == len(trained), "each method stands in once"


def test_measured_beside_published_numbers():
    numbers = KnownNumbers(absent_sets=("svox_sun", "sf_xl_test_night"))
    network = Released("boq:DINOv2")
    fill(numbers, network, ["pitts30k", "tokyo247"], {"pitts30k": 92.5, "tokyo247": 96.9}.get)
    study = make_study(numbers)
    cells, note = cells_of(compare_modern(study), "boq:DINOv2")
    assert cells["pitts30k", "R@1"].describe() == "92.5 (93.7, -1.2)"
    assert cells["pitts30k", "R@1"].flagged and not cells["tokyo247", "R@1"].flagged
    assert cells["svox_sun", "R@1"].describe() == "no data set (97.5)"
    assert ("sf_xl_test_night", "R@1") not in cells, "neither published nor on disk"
    assert ("sf_xl_test_occlusion", "R@1") in cells
    assert "Published: Bag-of-Queries README (msls_val_740, pitts30k" in note
    assert "Published, not verified: ImAge comparison (tokyo247)." in note
    [need] = [need for need in modern_needs(study) if need.source == network]
    assert set(need.datasets) == {dataset for dataset, _ in cells}


def test_verified_numbers_come_first_and_others_are_told():
    cells, note = cells_of(compare_modern(make_study()), "openibl:sfrs")
    assert cells["tokyo247", "R@1"].published.mean == 81.0  # CricaVPR's; EigenPlaces' is 80.3
    assert "tokyo247 80.3 (EigenPlaces tables 3 and 4, not verified)" in note
    assert cells["eynsham", "R@1"].published.mean == 72.3
    cells, _ = cells_of(compare_modern(make_study()), "cosplace_dinov2")
    assert all(cell.published is None for cell in cells.values()), "no network was released"


@pytest.mark.parametrize("scale", [MINI, DEMO], ids=lambda scale: scale.name)
def test_on_a_made_city_trained_networks_stand_in(scale, tmp_path):
    study = make_study(scale=scale)
    table = compare_modern(study)
    names = [row.labels[0] for row in table.rows]
    assert names == [one for one in NETWORKS.values() if one and one not in scale.left_out]
    assert {need.source for need in modern_needs(study)} == {scale.method(name) for name in names}
    assert not any(cell.published for cell in table.cells())
    text = write_modern(study, tmp_path)
    assert scale.mark in text and "CliqueMining and MegaLoc are left out" in text.replace("\n", " ")
    assert "README" not in text
    assert all(why in " ".join(text.split()) for why in scale.left_out.values())


def test_the_files_have_all_recalls(tmp_path):
    numbers = KnownNumbers()
    fill(numbers, Released("megaloc"), ["msls_val_740"], lambda name: 93.5)
    text = write_modern(make_study(numbers), tmp_path)
    assert "93.5 (93.5, +0.0)" in text and "R@5" not in text
    assert text == (tmp_path / "modern.txt").read_text("utf-8")
    rows = list(csv.DictReader((tmp_path / "modern.csv").read_text("utf-8").splitlines()))
    found = {(row["network"], row["dataset"], row["metric"]): row for row in rows}
    row = found["megaloc", "msls_val_740", "R@5"]
    assert (row["measured_mean"], row["published_mean"], row["delta"]) == ("93.5", "97.0", "-3.5")
    assert "VPR-methods-evaluation issue 19 (msls_val_740)" in row["note"]


def test_only_picks_networks():
    needs = modern_needs(make_study(only="boq"))
    assert [str(need.source) for need in needs] == ["boq:ResNet50", "boq:DINOv2"]
    assert PAPER.resize is None, "released networks keep their own input rule"


def test_a_damaged_file_is_said(tmp_path):
    shutil.copytree(NUMBERS, tmp_path / "numbers")
    file = tmp_path / "numbers" / "modern.csv"
    text = file.read_text()
    for wrong, message in (
        (text.replace("MixVPR README,", "a blog,", 1), "a blog is no known source"),
        (text.replace("pitts250k,94.3", "pitts250k,194.3"), "not a recall in percent"),
        (text.replace("98.9,-,yes", "98.9,-,perhaps", 1), "perhaps not yes or no"),
    ):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            load_modern(tmp_path / "numbers")
