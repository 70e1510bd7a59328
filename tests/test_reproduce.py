"""paper.reproduce as a user runs it: small, but with real runs of train.py and eval.py."""

import csv
import dataclasses
import itertools
import json
import logging
import shutil
from functools import partial

import pytest
from conftest import REPOSITORY
from forked_commands import run_forked
from tiny_backbone import stand_in

from methods import METHODS
from paper import reproduce, targets
from paper.reproduce import main
from paper.scales import DEMO, MINI

_TINY_TUPLES = {"epochs_num": 1, "queries_per_epoch": 8, "cache_refresh_rate": 8}
TINY = dataclasses.replace(
    MINI,
    city="tiny",
    flags=MINI.flags | {"image_size": 32, "resize_test_imgs": "32", "batch_size": 4},
    flags_of={
        "classification": {"epochs_num": 2, "iterations_per_epoch": 2, "min_images_per_class": 3},
        "tuples": MINI.flags_of["tuples"] | _TINY_TUPLES,
    },
    resize="32",
)
TINY_DEMO = dataclasses.replace(
    DEMO,
    city="tiny",
    flags=DEMO.flags
    | {"image_size": 32, "resize_test_imgs": "32", "batch_size": 4, "backbone_weights": "none"},
    flags_of=DEMO.flags_of
    | TINY.flags_of
    | {"sfrs": MINI.flags_of["sfrs"] | _TINY_TUPLES | {"epochs_num": 2}}
    | dict.fromkeys(("sare", "sralnet", "appsvr"), {"mining": "openibl"}),
    resize="32",
    clusters=4,
)


@pytest.fixture
def tiny_scale(monkeypatch):
    """Make the mini scale smaller still."""
    scales = {"mini": TINY, "demo": TINY_DEMO, "paper": reproduce.SCALES["paper"]}
    monkeypatch.setattr(reproduce, "SCALES", scales)


@pytest.fixture
def run(tmp_path, tiny_scale, caplog, monkeypatch, datasets_folder):
    """Return a function that calls main at the tiny scale, and gives back what it said."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    for name in ("paper_mini", "paper_demo"):
        shutil.copytree(datasets_folder, tmp_path / "data" / name)
    caplog.set_level(logging.INFO)

    def run_tiny(command, stderr, env):
        """Run a script as `run_script` does, but with tiny networks and without its imports."""
        argv, number = command[2:], next(numbers)
        before = partial(stand_in, "ResNet18", "VGG16", "EfficientNet_Lite0")
        module = ".".join(command[1].relative_to(REPOSITORY).with_suffix("").parts)
        script = run_forked(module, argv, tmp_path / f"said{number}", before)
        code = script.wait()
        stderr.write(script.stderr)
        return code

    numbers = itertools.count()
    monkeypatch.setattr("paper.runs_to_do.run_script", run_tiny)

    def call(*argv):
        caplog.clear()
        main(["--scale=mini", *argv, "--device=cpu", "--num_workers=0"])
        return caplog.text

    return call


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_table_and_a_figure_from_real_runs(run, tmp_path):
    said = run("table1", "fig5", "--only=gem", "--seeds", "0", "1", "--dry_run")
    assert said.count("train     ResNet18 512-D gem, seed") == 2
    assert not (tmp_path / "logs").exists()

    said = run("table1", "--only=gem", "--seeds", "0", "1")
    assert "[2/2] ResNet18 512-D gem, seed 1" in said
    logs, out = tmp_path / "logs" / "paper_mini", tmp_path / "logs" / "paper_mini" / "outputs"
    cells = {row["dataset"]: row for row in read_csv(out / "table1.csv")}
    results = [json.loads(file.read_text()) for file in logs.glob("**/results.json")]
    assert len(cells) == 3 and len(results) == 6
    for name, cell in cells.items():
        recalls = [one["recalls"]["R@1"] for one in results if one["dataset"] == name]
        assert float(cell["measured_mean"]) == pytest.approx(sum(recalls) / 2)
        assert (cell["num_seeds"], cell["published_mean"]) == ("2", "")
    assert "mini city" in said

    before = sorted(logs.glob("*_*"))
    run("table1", "fig7", "claims", "--only=cosplace resnet-18")
    assert sorted(logs.glob("*_*")) == before  # nothing was run again
    assert len(read_csv(out / "fig7.csv")) == 5
    assert (out / "fig7.png").stat().st_size > 10_000


def test_a_method_that_starts_from_another_one_and_another_whitening(run, tmp_path):
    said = run("table3", "--only=crn", "--dry_run")
    plan = [line.split()[2:5] for line in said.splitlines() if " mini_city" in line]
    network = ["VGG16", "32-D"]
    assert [words[0] for words in plan] == ["train", "train", "evaluate", "whiten", "evaluate"]
    assert [words[1] for words in plan] == ["netvlad", *["crn"] * 4] and network
    run("table3", "--only=crn")
    logs = tmp_path / "logs" / "paper_mini"
    [netvlad] = logs.glob("train_netvlad_*")
    [crn] = logs.glob("train_crn_*")
    start = json.loads((crn / "args.json").read_text())["resume_model"]
    assert start == str(netvlad / "best_model.pth")
    assert [file.name for file in crn.glob("*_of_200.pth")] == ["pca_whiten_48_32_of_200.pth"]
    cells = {
        (row["method"], row["dataset"], row["metric"]): row
        for row in read_csv(logs / "outputs" / "table3.csv")
    }
    name = ("mini_city_test_v2", "R@5")
    for file in logs.glob("**/results.json"):
        result = json.loads(file.read_text())
        label = "CRN" if "whitened" in result["model_file"] else "CRN, PCA-whitened"
        if result["dataset"] == name[0]:
            cell = cells[(label, *name)]
            assert float(cell["measured_mean"]) == pytest.approx(result["recalls"]["R@5"])
            assert result["descriptor_dim"] == 32
    assert cells[("NetVLAD", *name)]["missing"] == "not run"
    assert "Starts from netvlad" in cells[("CRN", *name)]["note"]


def test_the_demo_compares_methods_before_and_after_training(run, tmp_path):
    demo = ["methods", "--scale=demo"]
    said = run(*demo, "--dry_run")
    assert said.splitlines()[1].split() == ["min", "GB", "run"]
    assert said.count("before training") == 2 * len(METHODS.keys() - TINY_DEMO.left_out.keys())
    run(*demo, "--only=crn")
    run(*demo, "--only=sare")
    run(*demo, "--only=cosplace")
    logs = tmp_path / "logs" / "paper_demo"
    rows = {
        (row["method"], row["network"], row["dataset"][-2:], row["metric"]): row["mean"]
        for row in read_csv(logs / "outputs" / "methods.csv")
    }
    found = {}
    for file in logs.glob("**/results.json"):
        result = json.loads(file.read_text())
        name = file.relative_to(logs).parts[0]
        method = next((one for one in METHODS if f"_{one}_Eff" in name), "cosplace")
        network = "start" if "before" in name else "trained"
        found[method, network, result["dataset"][-2:]] = result["recalls"]
    assert len(found) == 3 * 4 + 1  # and the NetVLAD that CRN starts from, on the test set of train
    for (*key, dataset), recalls in found.items():
        if dataset in ("v1", "v2"):
            expected = rows[(*key, dataset, "R@5")]
            assert float(expected) == pytest.approx(recalls["R@5"])
    lines = (logs / "outputs" / "methods.md").read_text().splitlines()
    table = {line.split(" | ")[0]: line.strip("|").split("|") for line in lines if "|" in line}
    cosplace = [cell.strip() for cell in table["| cosplace"]]
    before, after = (rows["cosplace", name, "v1", "R@1"] for name in ("start", "trained"))
    assert cosplace[1:3] == ["512", f"{float(before):.1f} → **{float(after):.1f}**"]
    assert cosplace[8] == "16" and float(cosplace[9]) >= 0 and float(cosplace[10]) > 0
    assert table["| gem"][2].strip() == "not run"


def test_an_interrupted_training_is_continued(run, tmp_path):
    run("fig5", "--only=groups_num", "--shard=1/3")
    [folder] = (tmp_path / "logs" / "paper_mini").glob("train_*")
    assert "groups_num_1_" in folder.name
    (folder / "results.json").unlink()
    lines = (folder / "metrics.jsonl").read_text()
    run("fig5", "--only=groups_num", "--shard=1/3")
    assert (folder / "results.json").is_file() and (folder / "metrics.jsonl").read_text() == lines
    assert [folder] == list((tmp_path / "logs" / "paper_mini").glob("train_*"))
    rows = read_csv(tmp_path / "logs" / "paper_mini" / "outputs" / "fig5.csv")
    best = max(json.loads(line)["R@1"] for line in lines.splitlines())
    found = {row["value"]: row for row in rows if row["hyper_parameter"] == "groups_num"}
    assert [found[value]["mean"] for value in ("1", "4", "8")] == [f"{best:.2f}", "", ""]
    assert found["4"]["missing"] == "not run"


def test_a_run_that_fails_is_said_and_the_table_written(run, tmp_path, monkeypatch, caplog):
    flags = TINY.flags_of["classification"] | {"min_images_per_class": 1000}
    scale = dataclasses.replace(TINY, flags_of={"classification": flags})
    monkeypatch.setattr(reproduce, "SCALES", {"mini": scale, "paper": None})
    with pytest.raises(ValueError, match="Some runs failed"):
        run("table1", "--only=max")
    assert "failed: No class of" in caplog.text
    assert "lower --min_images_per_class" in caplog.text
    cells = read_csv(tmp_path / "logs" / "paper_mini" / "outputs" / "table1.csv")
    assert {cell["missing"] for cell in cells if cell["pooling"] == "Max"} == {"failed"}


def test_a_figure_that_cannot_be_made_does_not_take_the_others_along(run, tmp_path, monkeypatch):
    def fail(*args):
        raise ValueError("the disk is bad")

    monkeypatch.setitem(targets._RUN_FIGURES, "fig5", fail)
    study = [*("fig5", "fig4", "claims"), "--shard=14/14"]
    with pytest.raises(ValueError, match="fig5 could not be made"):
        run(*study)
    folder = tmp_path / "logs" / "paper_mini" / "outputs"
    assert (folder / "fig4.png").is_file() and (folder / "claims.md").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["table9"], "invalid choice: 'table9'"),
        (["table1", "--shard=5/4"], "must be I/N with I from 1 to N"),
        (["table1", "--shard=half"], "must be I/N"),
        (["table1", "--scale=mini", "--published_weights"], "were trained on data sets of"),
        (["table1", "--scale=demo"], "--scale demo has no table1: it has methods, modern"),
        (["methods"], "--scale paper has no methods"),
        (["table1", "--seeds", "-1"], "must not be negative"),
        (["table1", "--device=bogus"], "--device: is auto, cuda, cuda:N, cpu or mps, not bogus"),
        ([], "TARGET"),
    ],
)
def test_wrong_flags(refused, argv, message):
    assert message in refused(main, argv, code=2)


def test_a_row_that_no_table_has_is_an_error_before_any_run(refused):
    assert "--only matches no row, curve or sweep of table1" in refused(
        main, ["table1", "--only=xyz"], code=1
    )
