import json
import re

import numpy as np
import pytest
import utm
from conftest import name, write_image

from datasets.eval_set import Labels, load_own_set
from eval import main as eval_main

DATABASE = [(48.8566 + step / 5000, 2.3522) for step in range(5)]  # of Paris, 22 m apart


def write(folder, database, queries, fields=None):
    """Write a set from latitudes and longitudes."""
    for role, places in (("database", database), ("queries", queries)):
        for number, place in enumerate(places):
            east_m, north_m, zone, letter = utm.from_latlon(*place)
            stated = {"zone_number": zone, "zone_letter": letter, **(fields or {}).get(role, {})}
            file = name(east_m, north_m, pano_id=f"{number}", **stated)
            write_image(folder / role / file)
    return folder


@pytest.mark.parametrize(
    ("queries", "fields", "distance", "guess"),
    [
        (
            [(2.3522, 48.8566), (2.3523, 48.8567)],
            {},
            "zones that do not touch those of the queries",
            "are latitude and longitude swapped",
        ),
        (
            [(48.8567, 2.3523), (48.8568, 2.3522)],
            {"queries": {"zone_number": 32}},
            "is 4.. km in the median, 4.. km at least",
            r"by east and north alone they are near: .*\(database 31U, queries 32U\)",
        ),
        (
            [(48.8567, 2.3523), (48.8568, 2.3522)],
            {"queries": {"zone_letter": "H"}},
            "km in the median",
            r"are UTM zone or latitude band wrong \(database 31U, queries 31H\)",
        ),
        (
            [(48.9466, 2.3522), (49.0366, 2.3522)],  # 0.09 degrees are 10 km
            {},
            "is 1[45] km in the median, 9,9.. m at least",
            "are these the folders of one place",
        ),
        (
            [(48.8560, 2.3522), (48.8562, 2.3522)],
            {},
            "is 5. m in the median, 4. m at least",
            "is --positive_dist_threshold too small",
        ),
    ],
)
def test_why_no_query_has_a_positive(tmp_path, queries, fields, distance, guess):
    write(tmp_path, DATABASE, queries, fields)
    (note,) = [one for one in load_own_set(tmp_path).notes if "No query" in one]
    pattern = f"No query has a positive: .*{distance}.*; .*{guess}"
    assert re.search(pattern, note), note


def test_swapped_east_and_north(make_eval_folder):
    folder = make_eval_folder([(500_000, 4_000_000), (500_050, 4_000_000)], [(4_000_010, 500_000)])
    (note,) = load_own_set(folder).notes
    assert note.endswith("are east and north swapped in one of the two?")


def test_the_explanation_is_beside_the_recalls_and_in_the_results(tmp_path, eval_flags):
    write(tmp_path, DATABASE, [(48.9466, 2.3522)])
    eval_main([*eval_flags, f"--test_set_folder={tmp_path}", "--no_report"])
    (note,) = json.loads((tmp_path / "run/results.json").read_text())["notes"]
    assert note.startswith("No query has a positive: the distance")
    said = (tmp_path / "run" / "info.log").read_text()
    assert note in said.partition("R@1: 0.0")[2], "after the recalls"
    assert note in said.partition("R@1: 0.0")[0], "before hours of extraction"


@pytest.mark.parametrize(("shift", "is_doubted"), [(0, False), (3, True)])
def test_positives_of_another_order_are_warned_of(make_eval_folder, tmp_path, shift, is_doubted):
    places = [(1000 * number, 0) for number in range(6)]
    folder = make_eval_folder(places, [(east + 10, north) for east, north in places])
    np.save(tmp_path / "p.npy", np.roll(np.arange(6), shift)[:, None])
    notes = load_own_set(folder, None, Labels(positives_file=str(tmp_path / "p.npy"))).notes
    assert len(notes) == is_doubted
    if is_doubted:  # |10 - 3000| metres and |10 + 3000|, three times each
        assert "contradict the positions: 6 of 6 pairs are farther apart than 300 m" in notes[0]
        assert "in the median 3,000 m" in notes[0]


def test_a_minority_of_far_positives_is_not_doubted(make_eval_folder, tmp_path):
    places = [(1000 * number, 0) for number in range(4)]
    folder = make_eval_folder(places, places)
    np.save(tmp_path / "p.npy", np.array([[0, 1], [1, 2], [2, -1], [3, -1]]))
    assert not load_own_set(folder, None, Labels(positives_file=str(tmp_path / "p.npy"))).notes
