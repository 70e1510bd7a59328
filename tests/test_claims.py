"""Statements of the paper, judged on given numbers."""

import pytest
from conftest import name as image_name
from conftest import write_image
from paper_studies import KnownNumbers, fill, make_study

from paper.claims import judge_claims
from paper.dimensions import CNNS, DATASETS, curve_sources
from paper.judgements import (
    ClaimPart,
    Judgement,
    Verdict,
    compare,
    format_for_terminal,
    format_judgements,
)
from paper.scales import MINI, PAPER
from paper.sweeps import sweep_source
from paper.tables import source_of

HOLDS, FAILS, OPEN = Verdict.HOLDS, Verdict.FAILS, Verdict.OPEN


def judge(text, numbers, **fields):
    study = make_study(numbers, **fields)
    [found] = [one for one in judge_claims(study) if text in one.statement]
    return found


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ((True, True), HOLDS),
        ((True, False, None), FAILS),
        ((True, None), OPEN),
        ((), OPEN),
    ],
)
def test_one_counterexample_refutes_and_a_missing_number_leaves_open(parts, verdict):
    assert Judgement("x", tuple(ClaimPart("y", holds) for holds in parts)).verdict is verdict


def test_evidence_names_what_decided():
    parts = (ClaimPart("a 1 against b 2", True), ClaimPart("c is not run", None))
    assert Judgement("x", parts).evidence == "1 hold, 1 missing: c is not run"
    refuted = Judgement("x", (*parts, ClaimPart("d 3 against e 4", False)))
    assert refuted.evidence == "1 hold, 1 fail, 1 missing: d 3 against e 4"


def test_numbers_are_compared_and_reasons_passed_on():
    left, right = ("a", 1.0), ("b", 2.0)
    part = compare(left, right, lambda a, b: a < b, "there")
    assert part == ClaimPart("there: a 1.0 against b 2.0", True)
    assert compare(left, ("b", "not run"), max, "there") == ClaimPart("b on there: not run", None)


@pytest.mark.parametrize("scale", [PAPER, MINI], ids=lambda scale: scale.name)
def test_without_results_nothing_can_be_judged(scale, tmp_path):
    numbers = KnownNumbers(datasets_folder=str(tmp_path))
    judgements = judge_claims(make_study(numbers, scale=scale))
    assert len(judgements) == 12
    assert {one.verdict for one in judgements} == {OPEN}


def fill_table1(recalls):
    numbers = KnownNumbers()
    for pooling, recall in recalls.items():
        source = source_of("table1", (pooling,), PAPER)
        fill(numbers, source, list(DATASETS), recall)
    return numbers


def test_poolings_are_compared_set_by_set():
    numbers = fill_table1(
        {
            "Average": lambda name: 70.0,
            "Max": lambda name: 91.0 if name == "pitts250k" else 80.0,
            "GeM": lambda name: 90.0 if name != "msls_val" else 79.0,
        }
    )
    assert judge("Max pooling beats GeM", numbers).verdict is HOLDS
    found = judge("GeM is at least as good", numbers)
    assert found.verdict is FAILS and found.evidence.endswith("MSLS: GeM 79.0 against Max 80.0")
    assert judge("Average pooling is the lowest", numbers).verdict is HOLDS


def test_other_methods_count_with_the_papers_numbers():
    numbers = fill_table1({"Max": lambda name: 92.0})
    found = judge("Even with max pooling", numbers)
    assert found.verdict is FAILS  # NetVLAD trained on MSLS has 92.6 on St Lucia
    assert "St Lucia: CosPlace 92.0 against the paper's NetVLAD 512 MSLS 92.6" in found.evidence
    assert judge("Even with max pooling", fill_table1({"Max": lambda n: 93.0})).verdict is HOLDS


def test_landmark_training_is_compared_for_each_backbone():
    numbers = KnownNumbers()
    for backbone in ("ResNet-50", "ResNet-101"):
        for train_set, recall in (("SfM120k", 60.0), ("GLD", 70.0), ("SF-XL", 80.0)):
            source = source_of("table4", (train_set, backbone), PAPER)
            fill(numbers, source, list(DATASETS), lambda name, recall=recall: recall)
    assert judge("SF-XL beats GLD", numbers).verdict is HOLDS
    source = source_of("table4", ("GLD", "ResNet-101"), PAPER)
    numbers.test[source, 0, "tokyo247"]["R@1"] = 60.0
    assert "Tokyo 24/7: GLD ResNet-101 60.0" in judge("SF-XL beats GLD", numbers).evidence


@pytest.mark.parametrize(("one", "verdict"), [(88.9, HOLDS), (88.0, FAILS), (90.5, FAILS)])
def test_one_group_costs_about_a_point(one, verdict):
    val = {(sweep_source(PAPER, "groups_num", n), 0): r for n, r in ((8, 90.0), (1, one))}
    assert judge("One group instead of 8", KnownNumbers(val=val)).verdict is verdict


def test_the_best_number_of_groups_is_judged_when_all_are_trained():
    val = {(sweep_source(PAPER, "groups_num", n), 0): 90.0 - abs(n - 8) for n in (1, 2, 4, 8, 16)}
    assert judge("8 groups are the best", KnownNumbers(val=val)).verdict is OPEN
    for n in (32, 50):
        val[sweep_source(PAPER, "groups_num", n), 0] = 89.0
    assert judge("8 groups are the best", KnownNumbers(val=val)).verdict is HOLDS
    val[sweep_source(PAPER, "groups_num", 50), 0] = 90.1
    assert judge("8 groups are the best", KnownNumbers(val=val)).verdict is FAILS


def test_short_descriptors_are_held_against_netvlad_where_it_has_a_number():
    numbers = KnownNumbers()
    for backbone in CNNS:
        fill(numbers, curve_sources(PAPER, backbone)[128], list(DATASETS), lambda name: 90.0)
    found = judge("Any 128-D CosPlace", numbers)
    assert found.verdict is OPEN and "the published NetVLAD 4096-D on MSLS" in found.evidence
    fill(numbers, curve_sources(PAPER, "VGG16")[128], ["pitts250k"], lambda name: 85.0)
    found = judge("Any 128-D CosPlace", numbers)
    assert found.verdict is FAILS
    assert "Pitts250k: VGG16 128-D 85.0 against the published NetVLAD 4096-D 85.9" in found.evidence


def test_backbones_are_compared_at_512_d():
    numbers = KnownNumbers()
    for backbone in CNNS:
        recall = 88.0 if backbone == "VGG16" else 87.5
        source = curve_sources(PAPER, backbone)
        fill(numbers, source.get(512), list(DATASETS), lambda name, recall=recall: recall)
    for backbone in ("ViT_B16", "CCT14_224", "CCT14_384"):
        [source] = curve_sources(PAPER, backbone).values()
        fill(numbers, source, list(DATASETS), lambda name: 87.9)
    assert judge("ResNets are comparable", numbers).verdict is HOLDS
    assert judge("Transformers are lower", numbers).verdict is HOLDS


def test_the_split_of_sf_xl_is_measured_on_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "sf_xl" / "raw" / "train" / "database"
    for number in range(10):
        write_image(folder / image_name(500_000 + number, 4_000_000, 10))
    numbers = KnownNumbers(datasets_folder=str(tmp_path / "data"))
    found = judge("SF-XL splits", numbers)
    assert found.verdict is FAILS
    assert "groups 1.0 against 50" in found.evidence
    assert "images per class 10.0 against 19.8" in found.evidence


def test_judgements_as_text():
    open_one = Judgement("C", (ClaimPart("c: not run", None),))
    judgements = [Judgement("A", (ClaimPart("a against b", True),)), open_one]
    markdown = format_judgements(judgements, "mini city")
    assert "**mini city**" in markdown
    assert "| A | holds | 1 hold: a against b |" in markdown
    lines = format_for_terminal(judgements, "mini city").splitlines()
    assert lines[0] == "[mini city]"
    assert lines[3:] == ["CANNOT BE JUDGED YET: C", "    1 missing: c: not run"]
