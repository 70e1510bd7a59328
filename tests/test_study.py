"""Numbers over seeds, released networks instead of trainings, and why numbers are missing."""

import pytest
from paper_studies import KnownNumbers, make_study

from paper.plan import Step
from paper.run_log import Missing
from paper.scales import PAPER
from paper.sources import Absent, Released

SOURCE = PAPER.cosplace("ResNet18", 512)
RELEASED = Released("cosplace:ResNet18:512")


def test_recalls_are_collected_over_the_seeds_that_have_them():
    test = {(SOURCE, seed, "pitts30k"): {"R@1": 80.0 + seed, "R@5": 1.0} for seed in (0, 2)}
    study = make_study(KnownNumbers(test), seeds=(0, 1, 2))
    assert study.recalls(SOURCE, "pitts30k", "R@1") == (80.0, 82.0)
    assert study.recalls(SOURCE, "tokyo247", "R@1") == Missing("not run")
    assert study.recalls(Absent("no code"), "tokyo247", "R@1") == Missing("no code")


def test_validation_recalls_are_collected_over_seeds():
    study = make_study(KnownNumbers(val={(SOURCE, 1): 70.0}), seeds=(0, 1))
    assert study.val_recalls(SOURCE) == (70.0,)
    assert study.val_recalls(PAPER.cosplace("VGG16", 64)) == Missing("not run")


def test_released_networks_tell_nothing_of_validation():
    val = {(SOURCE, seed): 70.0 + seed for seed in (0, 1)}
    study = make_study(KnownNumbers(val=val), seeds=(0, 1), use_released=True)
    assert study.val_recalls(SOURCE) == (70.0, 71.0)


def test_a_released_network_counts_once_whatever_the_seeds():
    test = {(RELEASED, seed, "pitts30k"): {"R@1": 80.0} for seed in (0, 1)}
    study = make_study(KnownNumbers(test), seeds=(0, 1), use_released=True)
    assert study.recalls(SOURCE, "pitts30k", "R@1") == (80.0,)
    assert make_study(KnownNumbers(test)).recalls(SOURCE, "pitts30k", "R@1") == Missing("not run")


@pytest.mark.parametrize(
    ("source", "released"),
    [
        (SOURCE, RELEASED),
        (PAPER.cosplace("ResNet101", 2048), Released("cosplace:ResNet101:2048")),
        (PAPER.cosplace("ResNet18", 512, "avg"), None),
        (PAPER.cosplace("ResNet18", 512, groups_num=1), None),
        (PAPER.cosplace("VGG16", 32), None),
        (PAPER.cosplace("ViT_B16", 0), None),
        (Absent(), None),
    ],
)
def test_released_networks_stand_only_for_the_papers_own_trainings(source, released):
    assert make_study(use_released=True).resolve(source) == (released or source)
    assert make_study().resolve(source) == source


def test_what_went_wrong_just_now_is_the_reason_but_a_missing_set_stays_one():
    failures = {Step(SOURCE, 0, ("pitts30k",)): "failed"}
    study = make_study(KnownNumbers(absent_sets=("tokyo247",)), failures=failures)
    assert study.recalls(SOURCE, "pitts30k", "R@1") == Missing("failed")
    assert study.recalls(SOURCE, "tokyo247", "R@1") == Missing("no data set")
    assert study.val_recalls(SOURCE) == Missing("failed")
    assert study.evaluation(SOURCE, "pitts30k") == Missing("failed")


def test_rows_are_asked_for_by_a_part_of_their_name():
    assert make_study().is_asked("SF-XL ResNet-50")
    study = make_study(only="resnet-50")
    assert study.is_asked("SF-XL ResNet-50") and not study.is_asked("ResNet-101")
