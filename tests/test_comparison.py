"""The comparison of all methods: which it has, how they are trained, and what runs them."""

import pytest
from conftest import REPOSITORY
from paper_studies import make_study

from methods import METHODS
from model.aggregation import options_of
from model.aggregation.sralnet import SRALNet
from paper.comparison import comparison_needs, list_methods, write_comparison
from paper.costs import count_trained_images, describe_plan
from paper.run_log import RunLog
from paper.runs_to_do import make_steps
from paper.scales import DEMO, MINI

SCALES = pytest.mark.parametrize("scale", [MINI, DEMO], ids=lambda scale: scale.name)


def test_mini_trains_every_method_and_demo_says_which_it_leaves_out():
    assert [row.name for row in list_methods(MINI)] == list(METHODS)
    found = {row.name for row in list_methods(DEMO)}
    assert found.isdisjoint(DEMO.left_out) and found | set(DEMO.left_out) == set(METHODS)
    for method, why in DEMO.left_out.items():
        assert method in why and why.endswith(".")


@SCALES
def test_every_network_is_planned_with_its_evaluation(scale, tmp_path):
    """The settings of each are those of a command line that train.py accepts."""
    study = make_study(log=RunLog(tmp_path, str(tmp_path)), scale=scale)
    needs = comparison_needs(study)
    rows = list_methods(scale)
    assert len(needs) == len(rows) * (1 + scale.tests_start)
    assert len({need.source.slug(0) for need in needs}) == len(needs)
    plan = describe_plan(make_steps(needs, [0]), study.log, scale.machine)
    for row in rows:
        settings = row.trained.settings
        assert (settings["method"], settings["dataset"]) == (row.name, "mini_city")
        assert not settings["use_amp16"], "there are no 16-bit units on two cores"
        for name in ("backbone", "aggregation", "fc_output_dim", "image_size"):
            assert settings[name] is not None, "or finished runs are not found again"
        assert f"train     {row.trained}, seed 0" in plan


@SCALES
def test_sralnet_has_other_clusters_enough_for_its_shadows(scale):
    assert scale.clusters > options_of(SRALNet)["shadows"]


def test_the_demo_trains_each_method_on_as_many_images():
    for row in list_methods(DEMO):
        assert count_trained_images(row.trained) == (3808 if row.name == "sfrs" else 3840), row.name
        assert row.trained["backbone"] == "EfficientNet_Lite0"


def test_what_sets_a_training_apart_is_told(tmp_path):
    text = write_comparison(make_study(scale=DEMO), tmp_path)
    lines = {line.partition(":")[0]: line for line in text.splitlines() if line.startswith("- ")}
    assert "20 places x 4 images, salad with clusters 8, token_dim 0" in lines["- salad"]
    assert "mixvpr with height 4, width 4" in lines["- mixvpr"]
    assert "mining auto every 320 queries" in lines["- gem"].replace(", every", " every")
    for why in DEMO.left_out.values():
        assert f"- {why}" in text
    assert all(f"| {name} |" in text for name in set(METHODS) - set(DEMO.left_out))


def test_make_runs_every_method():
    lines = (REPOSITORY / "Makefile").read_text().splitlines()
    rule = lines[lines.index("test-methods: .venv/installed") + 1 :][:3]
    assert any("paper.reproduce methods --scale mini" in line for line in rule)
