"""Figure 7."""

import csv

import pytest
from conftest import write_image
from paper_studies import KnownNumbers, make_study

from paper.qualitative import choose_queries, draw_qualitative, qualitative_needs, shown_networks
from paper.scales import MINI
from reports.runs import Predictions

HEADER = "query_num,query,rank,prediction,descriptor_distance,distance_m,correct"


def predictions(**right_ranks):
    rows = {query: [{"prediction": query}] for query in right_ranks}
    return Predictions(rows, right_ranks, 20, True)


def test_queries_that_divide_the_networks_come_first():
    one = predictions(a=1, b=1, c=5, d=1, e=9)
    other = predictions(a=1, b=2, c=5, d=1, e=1)
    chosen = choose_queries([one, other])
    assert set(chosen[:2]) == {"b", "e"} and set(chosen) == {"a", "b", "c", "d", "e"}
    assert chosen == choose_queries([one, other])
    assert choose_queries([]) == []


def test_a_query_that_one_network_could_not_read_is_left_out():
    assert choose_queries([predictions(a=1, b=1), predictions(b=1)]) == ["b"]


def test_needs_are_the_networks_that_there_are():
    needs = qualitative_needs(make_study(scale=MINI))
    assert {need.datasets for need in needs} == {("mini_city_test_v1",)}
    assert [need.source for need in needs] == list(shown_networks(MINI).values())


@pytest.fixture
def evaluation(tmp_path):
    """Return a function that writes the predictions of a network on three queries."""

    def write(name, corrects):
        folder = tmp_path / name
        folder.mkdir()
        lines = [HEADER]
        for number, correct in enumerate(corrects):
            query = write_image(tmp_path / "queries" / f"q{number}.jpg")
            prediction = write_image(tmp_path / "database" / f"{name}{number}.jpg")
            lines.append(f"{number},{query},1,{prediction},0.5,{30 - 20 * correct}.00,{correct}")
        (folder / "predictions.csv").write_text("\n".join(lines))
        (folder / "results.json").write_text(
            '{"dataset": "mini_city_test_v1", "num_queries": 3, "num_database": 3, '
            f'"recalls": {{}}, "queries_folder": "{tmp_path / "queries"}"}}'
        )
        return folder

    return write


def test_each_network_shows_its_own_first_prediction(tmp_path, evaluation):
    networks = shown_networks(MINI)
    numbers = KnownNumbers()
    for name, corrects in (("CosPlace ResNet-18", [1, 0, 1]), ("CosPlace VGG-16", [0, 0, 1])):
        folder = evaluation(name.split()[1], corrects)
        numbers.folders[networks[name], "mini_city_test_v1"] = folder
        numbers.test[networks[name], 0, "mini_city_test_v1"] = {}
    files = draw_qualitative(make_study(numbers, scale=MINI), tmp_path / "out")
    assert {file.name for file in files} == {"fig7.pdf", "fig7.png", "fig7.csv"}
    rows = list(csv.DictReader((tmp_path / "out" / "fig7.csv").read_text().splitlines()))
    assert len(rows) == 6 and rows[0]["query"] == "q0.jpg"
    assert [(row["network"], row["correct"], row["distance_m"]) for row in rows[:2]] == [
        *(("CosPlace ResNet-18", "1", "10.00"), ("CosPlace VGG-16", "0", "30.00")),
    ]
    assert rows[1]["prediction"] == str(tmp_path / "database" / "VGG-160.jpg")


def test_without_results_there_is_only_an_empty_list(tmp_path):
    [file] = draw_qualitative(make_study(scale=MINI), tmp_path)
    assert file.name == "fig7.csv" and len(file.read_text().splitlines()) == 1
