import itertools
import re

import pytest
from numbers_page import column_of, csv_blocks, markdown_rows, read_page, section

from model.backbones import BACKBONES
from paper.published import TABLES, Number, load_scalars, load_table


def expected_cells(rows):
    """Return the cells of a table of the page by labels, data set and metric."""
    header, *rows = rows
    cells = {}
    for row in rows:
        pairs = list(zip(header, row, strict=True))
        labels = [text for name, text in pairs if not column_of(name)]
        for name, text in pairs:
            column = column_of(name)
            if column is not None:
                numbers = [float(number) for number in re.findall(r"\d+\.\d+", text)]
                assert len(numbers) in (1, 2) or text in ("", "-")
                cells[(plain(*labels), *column)] = tuple(numbers)
    return cells


def plain(*labels):
    return tuple(label.replace(" (Ours)", "").replace(" †", "†") for label in labels)


def our_cells(name):
    table = load_table(name)
    return {
        (plain(*row.labels), column.dataset, column.metric): ()
        if number is None
        else tuple(value for value in (number.mean, number.std) if value is not None)
        for row in table.rows
        for column, number in zip(table.columns, row.numbers, strict=True)
    }


@pytest.mark.parametrize(
    ("name", "num_cells"), [("table1", 15), ("table2", 130), ("table3", 60), ("table4", 30)]
)
def test_every_cell_is_as_on_the_page(name, num_cells):
    page = read_page()
    text = section(page, f"## Table {name[-1]}.")
    cells = our_cells(name)
    assert len(cells) == num_cells
    blocks = csv_blocks(text)
    assert len(blocks) == 1
    for rows in (markdown_rows(text), blocks[0]):
        expected = expected_cells(rows)
        assert list(cells) == list(expected), "rows and columns in the same order"
        assert cells == expected


@pytest.mark.parametrize(
    ("name", "labels", "dataset", "metric", "number"),
    [
        ("table1", {"pooling": "Max"}, "pitts250k", "R@1", Number(90.8)),
        ("table1", {"pooling": "GeM"}, "tokyo247", "R@1", Number(81.6)),
        ("table2", {"method": "CosPlace"}, "tokyo247", "R@1", Number(82.2, 0.5)),
        ("table2", {"method": "CosPlace"}, "st_lucia", "R@5", Number(97.4, 0.1)),
        (
            "table2",
            {"method": "NetVLAD", "train_set": "SF-XL*"},
            "msls_val",
            "R@1",
            Number(53.1, 3.2),
        ),
        ("table2", {"method": "APANet"}, "tokyo247", "R@5", Number(81.0)),
        ("table2", {"method": "APPSVR"}, "msls_val", "R@1", None),
        ("table3", {"method": "SFRS"}, "sf_xl_test_v1", "R@1", Number(35.6)),
        ("table3", {"method": "CosPlace"}, "sf_xl_test_v2", "R@10", Number(94.8)),
        ("table4", {"train_set": "GLD", "backbone": "ResNet101"}, "msls_val", "R@1", Number(72.4)),
    ],
)
def test_some_cells_by_hand(name, labels, dataset, metric, number):
    table = load_table(name)
    assert table.number(table.find_row(**labels), dataset, metric) == number


def test_rows_say_what_they_are():
    row = load_table("table1").rows[1]
    assert (row.labels, row.method, row.backbone, row.dim) == (
        ("Max",),
        "CosPlace",
        "ResNet18",
        None,
    )
    apanet = load_table("table2").find_row(method="APANet")
    assert apanet.labels == ("APANet †", "512", "Pitts30k") and apanet.dim == 512
    assert [row.method for row in load_table("table2").rows if row.dagger] == [
        "APANet",
        "SRALNet",
        "APPSVR",
    ]
    table = load_table("table4")
    assert table.row_headers == ("train set", "backbone")
    assert table.rows[5].labels == ("SF-XL", "ResNet-101")
    assert {row.backbone for name in TABLES for row in load_table(name).rows} <= set(BACKBONES)
    columns = load_table("table3").columns
    assert [column.header for column in columns][3:] == [
        "SF-XL test v2 R@1",
        "SF-XL test v2 R@5",
        "SF-XL test v2 R@10",
    ]


def test_one_row_is_asked_for():
    table = load_table("table2")
    with pytest.raises(ValueError, match="table2 has 3 rows with .*NetVLAD.*, not one"):
        table.find_row(method="NetVLAD")
    with pytest.raises(ValueError, match="table2 has no column pitts30k R@10"):
        table.number(table.rows[0], "pitts30k", "R@10")


# What the paper says of its numbers


def means(name, metric="R@1"):
    """Return the means of one metric by data set and row."""
    table = load_table(name)
    return {
        column.dataset: {
            row: row.numbers[index].mean for row in table.rows if row.numbers[index] is not None
        }
        for index, column in enumerate(table.columns)
        if column.metric == metric
    }


def test_cosplace_is_first_in_tables_2_and_3():
    for name, num_datasets in (("table2", 5), ("table3", 2)):
        by_dataset = means(name)
        assert len(by_dataset) == num_datasets
        for recalls in by_dataset.values():
            first, second = sorted(recalls, key=recalls.get, reverse=True)[:2]
            assert first.method == "CosPlace" and recalls[first] > recalls[second]
    st_lucia = means("table2")["st_lucia"]
    assert sorted(st_lucia.values())[-2:] == [92.6, 94.1]
    assert sorted(means("table3")["sf_xl_test_v1"].values())[-2:] == [35.6, 65.1]
    assert sorted(means("table3")["sf_xl_test_v2"].values())[-2:] == [78.1, 83.4]


def test_order_of_methods_on_tokyo():
    tokyo = means("table2")["tokyo247"]
    rows = [row for row in tokyo if row.train_set == "Pitts30k"]
    ordered = [(row.labels[0], tokyo[row]) for row in sorted(rows, key=tokyo.get, reverse=True)]
    assert ordered == [
        ("APANet †", 67.0),
        ("SFRS", 66.7),
        ("SARE", 62.0),
        ("APPSVR †", 62.0),
        ("SRALNet †", 60.6),
        ("CRN", 53.4),
        ("NetVLAD", 52.6),
        ("GeM", 46.4),
    ]


def test_order_of_training_sets_in_table_4():
    for recalls in means("table4").values():
        for backbone in ("ResNet50", "ResNet101"):
            by_set = {row.train_set: recalls[row] for row in recalls if row.backbone == backbone}
            assert by_set["SF-XL"] > by_set["GLD"] > by_set["SfM120k"]
    tokyo = means("table4")["tokyo247"]
    assert [tokyo[row] for row in tokyo if row.train_set == "GLD"] == [77.8, 77.8]


def test_order_of_poolings_in_table_1():
    for dataset, recalls in means("table1").items():
        by_pooling = {row.pooling: recall for row, recall in recalls.items()}
        assert (by_pooling["GeM"] >= by_pooling["Max"]) == (dataset != "pitts250k")
        lowest = by_pooling["Average"]
        assert lowest <= min(by_pooling.values())
        assert (lowest == by_pooling["Max"] == 98.7) == (dataset == "st_lucia")


@pytest.mark.parametrize("name", ["table2", "table3"])
def test_recalls_rise_with_n(name):
    table = load_table(name)
    for row in table.rows:
        for (before, low), (after, high) in itertools.pairwise(
            zip(table.columns, row.numbers, strict=True)
        ):
            if before.dataset == after.dataset and low is not None:
                assert low.mean <= high.mean, (row.labels, before, after)


# Caveats


def test_caveats_belong_to_cells():
    table = load_table("table2")
    columns = {(column.dataset, column.metric): column for column in table.columns}

    def known(dataset, metric="R@1", **labels):
        return " ".join(table.caveats_of(table.find_row(**labels), columns[dataset, metric]))

    assert "TokyoTM" in known("tokyo247", "R@5", method="APANet")
    assert "TokyoTM" not in known("pitts250k", method="APANet")
    assert "TokyoTM" not in known("tokyo247", method="SRALNet")
    assert "could not be checked" in known("tokyo247", method="SRALNet")
    assert "†" in known("pitts250k", method="APPSVR")
    assert "†" not in known("pitts250k", method="SFRS")
    assert "740" in known("msls_val", method="CosPlace")
    assert "740" not in known("pitts30k", method="CosPlace")
    assert "main paper" in known("pitts30k", method="GeM", train_set="SF-XL*")
    assert "main paper" not in known("pitts30k", method="CosPlace"), "SF-XL is not SF-XL*"
    assert 'stray "Tokyo"' in known("pitts30k", method="CosPlace")
    for name, words in (
        ("table1", "not stated"),
        ("table3", "no standard dev"),
        ("table4", "2048-D"),
    ):
        table = load_table(name)
        assert words in " ".join(table.caveats_of(table.rows[0], table.columns[0]))
    table = load_table("table3")
    jumps = {
        (row.labels[0], row.train_set, column.dataset)
        for row in table.rows
        for column in table.columns
        if "28.9" in " ".join(table.caveats_of(row, column))
    }
    assert jumps == {("NetVLAD", "MSLS", "sf_xl_test_v1")}


def test_every_caveat_belongs_to_some_cell():
    tables = [load_table(name) for name in TABLES]
    told = {
        text
        for table in tables
        for row in table.rows
        for column in table.columns
        for text in table.caveats_of(row, column)
    }
    assert told == {caveat.text for table in tables for caveat in table.caveats}
    assert all(text.endswith(".") for text in told)
    assert all("supplementary of CosPlace" in table.source for table in tables)


# Scalars

SCALARS = {  # words of the page -> our names, in the order of its numbers
    "M, α, N, L": "M alpha N L",
    "groups available / used": "groups groups_used",
    "one group instead of 8": "one_group_drop",
    "minimum images": "min_panoramas_per_cell discarded_images",
    "classes per group / images per class": "classes_per_group images_per_class",
    "images in 8 groups / in SF-XL train": "images_used train_images images_used_share",
    "optimiser, lr, batch": "lr batch_size",
    "CosFace margin": "cosface_margin",
    "mining of earlier methods": "negatives_per_query cache_refresh negative_pool train_positives "
    "netvlad_clusters",
    "image sizes": "cnn_image_side vit_image_side cct384_image_side sf_xl_image_side "
    "test_v1_shorter_side",
    "descriptor sizes": "cnn_smallest_dim cnn_largest_dim cct_dim vit_dim",
    "Fig. 6 claim": "small_cosplace_dim large_netvlad_dim",
}
MULTIPLES = {"": 1, "k": 1e3, "M": 1e6}


def test_scalars_are_as_on_the_page():
    page = read_page()
    rows = dict(markdown_rows(section(page, "## Scalars stated"))[1:])
    assert rows.keys() - SCALARS.keys() == {"augmentation", "arithmetic check"}
    scalars = load_scalars()
    for quantity, names in SCALARS.items():
        text = re.sub(r"R@\d+|CCT\d+|×\d+|test-v1", "", rows[quantity])
        found = re.findall(r"(\d+(?:\.\d+)?(?:e-\d+)?)([kM]?)", text)
        numbers = [float(number) * MULTIPLES[multiple] for number, multiple in found]
        values = [scalars[name].value for name in names.split()]
        assert values == pytest.approx(numbers[: len(values)]), quantity
    compared = {name for names in SCALARS.values() for name in names.split()}
    assert scalars.keys() - compared == {"optimizer", "augmentation", "cct224_image_side"}


def test_some_scalars_by_hand():
    scalars = load_scalars()
    assert [scalars[name].value for name in ("M", "alpha", "N", "L")] == [10, 30, 5, 2]
    assert scalars["N"].value ** 2 * scalars["L"].value == scalars["groups"].value
    share = scalars["images_used"].value / scalars["train_images"].value
    assert round(100 * share, 1) == scalars["images_used_share"].value
    drop = scalars["one_group_drop"]
    assert (drop.value, drop.unit, drop.about) == (1, "points", True)
    assert scalars["optimizer"].value == "Adam" and scalars["optimizer"].unit is None
    assert scalars["cct224_image_side"].value == 224
    assert not scalars["cosface_margin"].about and "30" in scalars["cosface_margin"].note
