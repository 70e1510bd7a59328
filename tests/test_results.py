import csv

import pytest

from evaluation.results import format_result, format_table

RESULT = {
    "dataset": "pitts30k",
    "protocol": "all queries",
    "recalls": {"R@1": 88.449, "R@5": 94.5},
    "num_queries": 6816,
    "num_database": 10000,
    "num_queries_without_positives": 3,
    "num_unreadable": {"database": 0, "queries": 0},
    "positives": "UTM distance of at most 25 m",
    "orientation": "upright by EXIF",
    "resize": "none",
    "test_method": "as the database",
    "image_sizes": {"database": {"480x640": 10000}, "queries": {"480x640": 6800, "640x480": 16}},
    "descriptor_dim": 512,
    "search": "exact L2",
    "search_agreement": None,
    "threshold_m": 25.0,
}
KNOWN = {"model": "m.pth", "model_sha256": "ab" * 32, "code_version": "0.1", "seed": 0}


def test_one_line_says_all():
    assert format_result(RESULT | KNOWN) == (
        "pitts30k (all queries): R@1: 88.4, R@5: 94.5 | "
        "6,816 queries (3 without a positive, counted as misses), 10,000 database images, "
        "UTM distance of at most 25 m, images upright by EXIF, not resized (database 480x640; "
        "queries 480x640 and 1 other sizes), 512-D, search: exact L2, m.pth "
        "(SHA-256 abababababab), code 0.1, seed 0"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"resize": "480"}, "by EXIF, resized to 480 ("),
        ({"resize": "480x640", "test_method": "maj_voting"}, "480x640, queries by maj_voting ("),
        ({"search": "hnsw", "search_agreement": 97.25}, "search: hnsw, 97.2% as exact"),
        ({"num_unreadable": {"database": 2, "queries": 1}}, "1 unreadable, counted as misses"),
        ({"recalls": {}, "positives": None, "num_queries_without_positives": None}, "no recalls |"),
    ],
)
def test_what_differs_is_said(changes, text):
    assert text in format_result(RESULT | changes)


OTHER = RESULT | {"dataset": "st_lucia", "num_queries": 1464, "recalls": {"R@1": 98.8}}


def test_tables_of_several_sets():
    text = format_table([RESULT, OTHER], "text").splitlines()
    words = ["data", "set", "protocol", "dim", "threshold_m", "resize", "queries", "database"]
    assert text[0].split() == [*words, "R@1", "R@5"]
    words = ["pitts30k", "all", "queries", "512", "25", "none", "6,816", "10,000", "88.4", "94.5"]
    assert text[1].split() == words
    assert text[2].endswith("98.8"), "there is no R@5"
    markdown = format_table([RESULT, OTHER | KNOWN], "markdown").splitlines()
    assert markdown[1] == "| --- | --- | --- |" + 7 * " ---: |"
    assert (
        markdown[3]
        == "| st_lucia | all queries | m.pth | 512 | 25 | none | 1,464 | 10,000 | 98.8 |  |"
    )
    rows = list(csv.DictReader(format_table([RESULT | KNOWN, OTHER], "csv").splitlines()))
    assert rows[0]["model"] == "m.pth" and rows[1]["model"] == ""
    assert rows[0]["dim"] == "512" and rows[0]["threshold_m"] == "25" == rows[1]["threshold_m"]
    assert rows[0]["queries"] == "6816" and rows[1]["R@1"] == "98.8" and rows[1]["R@5"] == ""
