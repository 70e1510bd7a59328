"""Which network fills which row, and the tables that come out."""

import pytest
from paper_studies import KnownNumbers, fill, make_study

from paper.networks import Released
from paper.published import TABLES, Number, load_table
from paper.scales import MINI, PAPER
from paper.tables import EXTRA_ROWS, ROWS, compare_table, source_of, table_needs

TRAIN_SETS_OF_ROWS = {"Pitts30k": "pitts30k", "MSLS": "msls", "SF-XL*": "sf_xl", "SF-XL": "sf_xl"}
TABLE_SETS = ("pitts250k", "pitts30k", "tokyo247", "msls_val", "st_lucia")


@pytest.mark.parametrize("name", TABLES)
def test_rows_with_a_network_are_rows_of_the_paper_and_extra_ones_are_not(name):
    labels = {row.labels for row in load_table(name).rows}
    assert ROWS[name].keys() == labels
    assert not EXTRA_ROWS.get(name, {}).keys() & labels


def test_the_networks_of_the_tables():
    assert source_of("table1", ("Max",), PAPER) == PAPER.cosplace("ResNet18", 512, "max")
    vgg = PAPER.cosplace("VGG16", 512)
    assert source_of("table2", ("CosPlace", "512", "SF-XL"), PAPER) == vgg
    assert source_of("table3", ("CosPlace", "512", "SF-XL"), PAPER) == vgg
    netvlad = PAPER.compared("netvlad", "msls")
    assert source_of("table2", ("NetVLAD", "512", "MSLS"), PAPER) == netvlad
    row = source_of("table2", ("APANet †", "512", "Pitts30k"), PAPER)
    assert row == PAPER.compared("apanet", "pitts30k")
    row = source_of("table4", ("GLD", "ResNet-101"), PAPER)
    assert row == Released("landmark:GLD:ResNet101")
    row = source_of("table4", ("SF-XL", "ResNet-50"), PAPER)
    assert row == PAPER.cosplace("ResNet50", 2048)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_the_code_agrees_with_what_the_paper_says_of_it(name):
    for row in load_table(name).rows:
        source = source_of(name, row.labels, PAPER)
        assert row.backbone in str(source)
        assert row.dim in (None, getattr(source, "dim", None) or 512)  # of VGG-16's maps
        assert isinstance(source, Released) == (row.train_set in ("SfM120k", "GLD"))
        if row.train_set in TRAIN_SETS_OF_ROWS:
            assert source["dataset"] == TRAIN_SETS_OF_ROWS[row.train_set]


def test_cells_hold_the_measured_beside_the_published():
    numbers = KnownNumbers(absent_sets=("tokyo247",))
    fill(numbers, PAPER.cosplace("VGG16", 512), list(TABLE_SETS), lambda name: 88.4)
    table = compare_table("table2", make_study(numbers))
    cells = {row.labels[0]: row.cells for row in table.rows}
    assert [cell.describe() for cell in cells["CosPlace"][:2]] == [
        *("88.4 (89.3 ± 0.2, -0.9)", "88.4 (96.2 ± 0.3, -7.8)"),
    ]
    assert [cell.flagged for cell in cells["CosPlace"][:2]] == [False, True]
    assert cells["CosPlace"][4].describe() == "no data set (82.2 ± 0.5)"
    assert cells["SFRS"][0].missing == "not run"
    assert cells["SFRS"][0].published == Number(87.1, 0.4)
    assert any("TokyoTM" in text for text in cells["APANet †"][4].caveats)


def test_seeds_give_a_spread():
    test = {
        (PAPER.cosplace("ResNet18", 512), seed, "pitts30k"): {"R@1": recall}
        for seed, recall in enumerate((89.0, 90.0, 91.0))
    }
    table = compare_table("table1", make_study(KnownNumbers(test), seeds=(0, 1, 2)))
    assert table.rows[2].cells[1].describe() == "90.0 ± 1.0 (89.5, +0.5)"


def test_the_mini_scale_has_columns_of_its_own_and_no_number_of_the_paper():
    numbers = KnownNumbers()
    sets = ["mini_city_test_v1", "mini_city_val", "mini_city_test_v2"]
    source = MINI.cosplace("ResNet18", 512, "avg")
    fill(numbers, source, sets, lambda name: float(sets.index(name)))
    table = compare_table("table1", make_study(numbers, scale=MINI))
    assert [column.header for column in table.columns] == [f"{name} R@1" for name in sets]
    assert [cell.measured for cell in table.rows[0].cells] == [(0.0,), (1.0,), (2.0,)]
    assert all(cell.published is None for row in table.rows for cell in row.cells)
    assert table.mark == MINI.mark


def test_needs_are_the_rows_that_are_asked_for_on_the_tables_sets():
    needs = table_needs("table4", make_study(only="ResNet-50"))
    assert len(needs) == 6 and {need.datasets for need in needs} == {TABLE_SETS}
    assert [str(need.source) for need in needs[:3]] == [
        *("landmark:SfM120k:ResNet50", "landmark:GLD:ResNet50", "ResNet50 2048-D gem"),
    ]
    [need] = table_needs("table1", make_study(only="gem", use_released=True))
    assert need.source == Released("cosplace:ResNet18:512")


def test_a_released_network_is_said_to_be_one():
    table = compare_table("table1", make_study(use_released=True))
    assert ["released" in row.note for row in table.rows] == [False, False, True]
    assert not any(row.note for row in compare_table("table1", make_study()).rows)


def test_the_compared_methods_are_trained_and_tested_as_their_rows_say():
    rows = {labels: make(PAPER) for labels, make in ROWS["table2"].items()}
    gem = rows["GeM", "512", "Pitts30k"]
    assert gem.argv(1) == ["--seed=1", "--dataset=pitts30k", "--method=gem"]
    assert (gem.resize, gem["patience"], gem["mining"]) == ("480x640", 3, "auto")
    sare = rows["SARE", "512", "Pitts30k"]
    assert [sare[name] for name in ("whitening", "whiten_dim", "kept_dims", "loss", "mining")] == [
        *("pca_whiten", 4096, 512, "sare_ind", "openibl"),
    ]
    crn = rows["CRN", "512", "Pitts30k"]
    assert crn.start == rows["NetVLAD", "512", "Pitts30k"]
    assert all(source.dim in (0, 512) for source in rows.values())
    whitened = source_of("table3", ("NetVLAD, PCA-whitened", "512", "MSLS"), PAPER)
    assert whitened.training == rows["NetVLAD", "512", "MSLS"].training
    assert whitened != rows["NetVLAD", "512", "MSLS"] and whitened["whitening"] == "pca_whiten"


def test_rows_say_what_they_do_otherwise_than_the_paper():
    notes = {row.labels: row.note for row in compare_table("table3", make_study()).rows}
    assert "20,000 panoramas of SF-XL drawn at random" in notes["GeM", "512", "SF-XL*"]
    assert "resized to 480x640" in notes["GeM", "512", "MSLS"]
    assert "Starts from netvlad VGG16 512-D pitts30k." in notes["CRN", "512", "Pitts30k"]
    notes = {row.labels[0]: row.note for row in compare_table("table2", make_study()).rows}
    assert all("reconstructed" in notes[f"{name} †"] for name in ("APANet", "SRALNet", "APPSVR"))


def test_a_row_that_is_not_there_needs_nothing():
    assert table_needs("table1", make_study(only="vgg")) == []


def test_what_has_to_be_known_of_a_network_stands_with_its_row():
    table = compare_table("table4", make_study())
    notes = {row.labels: row.note for row in table.rows}
    assert notes["GLD", "ResNet-50"] == ""
    assert "first 512 whitened dimensions" in notes["GLD", "ResNet-50, 512-D"]
    test = {(PAPER.cosplace("ResNet18", 512), 1, "pitts30k"): {"R@1": 89.0}}
    table = compare_table("table1", make_study(KnownNumbers(test), seeds=(0, 1, 2)))
    assert table.rows[2].note == "Only 1 of 3 seeds have numbers."
    assert table.rows[2].cells[1].runs == ("logs/ResNet18 512-D gem_1_pitts30k",)
