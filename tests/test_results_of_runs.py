"""Numbers over seeds, released networks instead of trainings, and why numbers are missing."""

import json

import pytest
from paper_studies import KnownNumbers, make_study

from paper.networks import Released
from paper.run_log import Missing
from paper.runs_to_do import Step
from paper.scales import PAPER
from paper.table_cells import Cell

SOURCE = PAPER.cosplace("ResNet18", 512)
RELEASED = Released("cosplace:ResNet18:512")


def test_recalls_are_collected_over_the_seeds_that_have_them():
    test = {(SOURCE, seed, "pitts30k"): {"R@1": 80.0 + seed, "R@5": 1.0} for seed in (0, 2)}
    study = make_study(KnownNumbers(test), seeds=(0, 1, 2))
    assert study.measure(SOURCE, "pitts30k").measured == (80.0, 82.0)
    assert study.measure(SOURCE, "tokyo247") == Cell(missing="not run")


def test_validation_recalls_are_collected_over_seeds():
    study = make_study(KnownNumbers(val={(SOURCE, 1): 70.0}), seeds=(0, 1))
    assert study.measure_val(SOURCE).measured == (70.0,)
    assert study.measure_val(PAPER.cosplace("VGG16", 64)) == Cell(missing="not run")


def test_released_networks_tell_nothing_of_validation():
    val = {(SOURCE, seed): 70.0 + seed for seed in (0, 1)}
    study = make_study(KnownNumbers(val=val), seeds=(0, 1), use_released=True)
    assert study.measure_val(SOURCE).measured == (70.0, 71.0)


def test_a_released_network_counts_once_whatever_the_seeds():
    test = {(RELEASED, seed, "pitts30k"): {"R@1": 80.0} for seed in (0, 1)}
    study = make_study(KnownNumbers(test), seeds=(0, 1), use_released=True)
    assert study.measure(SOURCE, "pitts30k").measured == (80.0,)
    assert make_study(KnownNumbers(test)).measure(SOURCE, "pitts30k") == Cell(missing="not run")


@pytest.mark.parametrize(
    ("source", "released"),
    [
        (SOURCE, RELEASED),
        (PAPER.cosplace("ResNet101", 2048), Released("cosplace:ResNet101:2048")),
        (PAPER.cosplace("ResNet18", 512, "avg"), None),
        (PAPER.cosplace("ResNet18", 512, groups_num=1), None),
        (PAPER.cosplace("VGG16", 32), None),
        (PAPER.cosplace("ViT_B16", 0), None),
        (PAPER.compared("crn", "pitts30k"), None),
        (PAPER.compared("gem", "msls", "vgb:x"), Released("vgb:x", "480x640")),
    ],
)
def test_released_networks_stand_only_for_the_papers_own_trainings(source, released):
    assert make_study(use_released=True).resolve(source) == (released or source)
    assert make_study().resolve(source) == source


def test_what_went_wrong_just_now_is_the_reason_but_a_missing_set_stays_one():
    failures = {Step(SOURCE, 0, ("pitts30k",)): "failed"}
    study = make_study(KnownNumbers(absent_sets=("tokyo247",)), failures=failures)
    assert study.measure(SOURCE, "pitts30k") == Cell(missing="failed")
    assert study.measure(SOURCE, "tokyo247") == Cell(missing="no data set")
    assert study.measure_val(SOURCE) == Cell(missing="failed")
    assert study.find_evaluations(SOURCE, "pitts30k") == Missing("failed")


def test_rows_are_asked_for_by_a_part_of_their_name():
    assert make_study().is_asked("SF-XL ResNet-50", SOURCE)
    study = make_study(only="resnet-50")
    assert study.is_asked("SF-XL ResNet-50", SOURCE)
    assert not study.is_asked("ResNet-101", SOURCE)
    assert make_study(only="resnet18 512").is_asked("GeM", SOURCE)  # as the plan calls it


def test_a_number_comes_with_its_runs_and_with_what_they_noted(tmp_path):
    numbers = KnownNumbers({(SOURCE, 0, "pitts30k"): {}}, folders={(SOURCE, "pitts30k"): tmp_path})
    note = "5 queries, expected 6,816: recalls may not compare with published ones"
    result = {"recalls": {"R@1": 80.0}, "notes": [note]}
    (tmp_path / "results.json").write_text(json.dumps(result))
    cell = make_study(numbers).measure(SOURCE, "pitts30k")
    assert cell == Cell((80.0,), caveats=(f"pitts30k: {note}.",), runs=(str(tmp_path),))


def test_numbers_of_fewer_seeds_than_asked_for_are_said_to_be_that():
    study = make_study(seeds=(0, 1, 2))
    cells = [Cell((1.0,)), Cell((1.0, 2.0, 3.0)), Cell(missing="not run")]
    assert study.describe_seeds(SOURCE, cells) == "Only 1 of 3 seeds have numbers."
    assert study.describe_seeds(SOURCE, cells[1:]) == ""
    assert make_study(seeds=(0, 1), use_released=True).describe_seeds(SOURCE, cells[:1]) == ""
