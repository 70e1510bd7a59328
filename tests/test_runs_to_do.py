"""Planning runs and doing the missing ones; the runs themselves are faked."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY
from paper_runs import make_sets, write_evaluation, write_training

from commons import sha256_of
from paper import runs_to_do
from paper.costs import MACHINES, describe_plan, evaluation_s, training_gigabytes, training_s
from paper.networks import Released
from paper.run_log import RunLog
from paper.runs_to_do import (
    Need,
    RunOptions,
    Step,
    carry_out,
    make_steps,
    read_bar,
    take_shard,
)
from paper.scales import MINI, PAPER

SOURCE, OTHER = PAPER.cosplace("ResNet18", 512), PAPER.cosplace("VGG16", 512)
RECALLS = {"R@1": 50.0, "R@5": 60.0, "R@10": 70.0}


@pytest.fixture
def data(tmp_path):
    sets = ("sf_xl", "sf_xl_val", "sf_xl_test_v1", "pitts30k", "tokyo247")
    return make_sets(tmp_path / "data", *sets)


@pytest.fixture
def options(tmp_path, data):
    return RunOptions(tmp_path / "logs" / "paper", str(data), "cpu", 0)


@pytest.fixture
def log(tmp_path, data):
    return RunLog(tmp_path / "logs", str(data))


class FakeRuns:
    """Does what train.py and eval.py would leave behind, and keeps their command lines."""

    def __init__(self, data):
        self.data, self.commands, self.fail = data, [], {}

    def __call__(self, command, stderr, env):
        script, argv = Path(command[1]).name, list(map(str, command[2:]))
        self.commands.append((script, argv))
        flags = dict(one.removeprefix("--").split("=", 1) for one in argv if "=" in one)
        for text, message in self.fail.items():
            if any(text in one for one in argv):
                stderr.write(f"a bar 10%|\nError: {message}\n")
                return 1
        if script == "train.py" and "resume_train" in flags:
            folder = Path(flags["save_dir"])
            (folder / "metrics.jsonl").write_text('{"R@1": 1.0}\n' * 50)
            (folder / "results.json").write_text("{}")
        elif script == "train.py":
            folder = write_training(Path(flags["save_dir"]), argv, (1.0,))
            if json.loads((folder / "args.json").read_text())["whitening"] != "none":
                (folder / "whitened_model.pth").write_bytes(str(folder).encode() + b" whitened")
        elif script == "whiten.py":
            Path(flags["save"]).write_bytes(str(argv).encode())
        else:
            names = [one for one in argv if not one.startswith("--")]
            model = {"model": flags.get("model", "")}
            if "resume" in flags:
                model = {"model_sha256": sha256_of(flags["resume"])}
            recalls = dict.fromkeys(names, RECALLS)
            resize = [one for one in argv if one.startswith("--resize_test_imgs")]
            write_evaluation(Path(flags["save_dir"]), model, recalls, self.data, resize)
        return 0

    @property
    def scripts(self):
        return [script for script, _ in self.commands]


@pytest.fixture
def runs(data, monkeypatch):
    fake = FakeRuns(data)
    monkeypatch.setattr(runs_to_do, "run_script", fake)
    return fake


def training_hours(source, num_done=0):
    return training_s(source, MACHINES["RTX 3090"], num_done) / 3600


def evaluation_hours(source, datasets):
    return evaluation_s(source, datasets, MACHINES["RTX 3090"]) / 3600


def test_what_several_figures_need_of_one_network_is_one_step():
    needs = [
        *(Need(SOURCE, ("pitts30k",)), Need(OTHER)),
        Need(SOURCE, ("tokyo247", "pitts30k")),
    ]
    assert make_steps(needs, [0, 7]) == [
        *(Step(SOURCE, 0, ("pitts30k", "tokyo247")), Step(SOURCE, 7, ("pitts30k", "tokyo247"))),
        *(Step(OTHER, 0, ()), Step(OTHER, 7, ())),
    ]


def test_a_released_network_has_no_seeds():
    released = Released("cosplace:VGG16:512")
    assert make_steps([Need(released, ("tokyo247",))], [3, 4]) == [Step(released, 3, ("tokyo247",))]


def test_missing_runs_are_done_and_then_found(runs, log, options):
    steps = make_steps([Need(SOURCE, ("pitts30k", "tokyo247"))], [0])
    assert carry_out(steps, log, options) == {}
    assert runs.scripts == ["train.py", "eval.py"]
    _, argv = runs.commands[0]
    folder = options.runs_folder / f"train_{SOURCE.slug(0)}"
    assert {f"--save_dir={folder}", "--seed=0", "--device=cpu", "--num_workers=0"} <= set(argv)
    _, argv = runs.commands[1]
    assert argv[:4] == [
        *(f"--resume={folder / 'best_model.pth'}", "--datasets", "pitts30k", "tokyo247"),
    ]
    assert log.result(log.evaluation(SOURCE, 0, "tokyo247"))["recalls"] == RECALLS
    assert carry_out(steps, log, options) == {} and len(runs.commands) == 2


def test_only_the_sets_without_results_are_evaluated(runs, log, options):
    carry_out([Step(SOURCE, 0, ("pitts30k",))], log, options)
    carry_out([Step(SOURCE, 0, ("pitts30k", "tokyo247", "st_lucia"))], log, options)
    assert runs.scripts == ["train.py", "eval.py", "eval.py"]
    assert runs.commands[2][1][1:3] == ["--datasets", "tokyo247"]


def test_an_interrupted_training_is_resumed_in_its_folder(runs, log, options):
    folder = options.runs_folder / "old"
    write_training(folder, SOURCE.argv(0), (1.0,), is_done=False)
    log.refresh()
    carry_out([Step(SOURCE, 0, ())], log, options)
    [(script, argv)] = runs.commands
    assert script == "train.py" and argv[:2] == [f"--save_dir={folder}", "--resume_train=auto"]
    assert log.training(SOURCE, 0).is_done


def test_a_folder_that_holds_something_else_is_left_alone(runs, log, options):
    taken = options.runs_folder / f"train_{SOURCE.slug(0)}"
    (taken / "set").mkdir(parents=True)
    (taken / "set" / "results.json").write_text("{}")
    carry_out([Step(SOURCE, 0, ())], log, options)
    assert f"--save_dir={taken}_2" in runs.commands[0][1]


def test_the_folder_of_a_run_that_got_nowhere_is_taken_again(runs, log, options):
    folder = options.runs_folder / f"train_{SOURCE.slug(0)}"
    folder.mkdir(parents=True)
    (folder / "args.json").write_text("{}")
    runs.fail = {"save_dir": "seen"}
    carry_out([Step(SOURCE, 0, ())], log, options)
    assert f"--save_dir={folder}" in runs.commands[0][1]


@pytest.mark.parametrize("name", ["last_checkpoint.pth", "previous_checkpoint.pth"])
def test_a_training_within_its_first_epoch_is_resumed_from_what_is_there(runs, log, options, name):
    folder = write_training(options.runs_folder / "old", SOURCE.argv(0), (), is_done=False)
    for file in ("best_model.pth", "last_checkpoint.pth"):
        (folder / file).unlink()
    (folder / name).write_bytes(b"state")
    log.refresh()
    carry_out([Step(SOURCE, 0, ())], log, options)
    assert runs.commands[0][1][:2] == [f"--save_dir={folder}", "--resume_train=auto"]


def test_a_training_that_was_stopped_is_not_evaluated(runs, log, options, caplog, monkeypatch):
    """It ends with exit code 0 when SIGTERM comes."""

    def stop(command, stderr, env):
        runs.commands.append(command)
        folder = options.runs_folder / f"train_{SOURCE.slug(0)}"
        write_training(folder, SOURCE.argv(0), (1.0,), is_done=False)
        return 0

    monkeypatch.setattr(runs_to_do, "run_script", stop)
    step = Step(SOURCE, 0, ("tokyo247",))
    assert carry_out([step], log, options) == {step: "failed"}
    assert "failed: train.py was stopped before its end" in caplog.text and len(runs.commands) == 1


def test_evaluations_have_the_image_size_of_the_network(runs, log, options, data):
    make_sets(data, "pitts30k_val")
    carry_out([Step(PAPER.compared("gem", "pitts30k"), 0, ("tokyo247",))], log, options)
    assert "--resize_test_imgs=480x640" in runs.commands[1][1]


NETVLAD, CRN = (PAPER.compared(name, "pitts30k") for name in ("netvlad", "crn"))


def test_what_a_training_starts_from_comes_before_it():
    needs = [Need(SOURCE), Need(CRN, ("pitts30k",)), Need(NETVLAD, ("tokyo247",))]
    assert make_steps(needs, [0, 1])[2:] == [
        *(Step(NETVLAD, 0, ("tokyo247",)), Step(CRN, 0, ("pitts30k",))),
        *(Step(NETVLAD, 1, ("tokyo247",)), Step(CRN, 1, ("pitts30k",))),
    ]


def test_shards_hold_what_belongs_together_and_are_all_steps():
    needs = [Need(SOURCE), Need(CRN), Need(NETVLAD.changed(whiten_dim=64)), Need(OTHER)]
    steps = make_steps(needs, [0, 1])
    shards = [take_shard(steps, number, 3) for number in (1, 2, 3)]
    assert sorted(map(str, sum(shards, []))) == sorted(map(str, steps))
    [place] = [place for place, shard in enumerate(shards) if Step(CRN, 0, ()) in shard]
    family = [step for step in shards[place] if step.source.origin == NETVLAD and step.seed == 0]
    assert [str(step.source)[:7] for step in family] == ["netvlad", "crn VGG", "netvlad"]
    assert take_shard(steps, 1, 1) != steps and len(take_shard(steps, 1, 1)) == len(steps)


def test_a_training_starts_from_the_finished_one(runs, log, options, data):
    make_sets(data, "pitts30k_val")
    steps = make_steps([Need(CRN, ("tokyo247",))], [3])
    assert carry_out(steps, log, options) == {}
    assert runs.scripts == ["train.py", "train.py", "eval.py"]
    folders = [options.runs_folder / f"train_{source.slug(3)}" for source in (NETVLAD, CRN)]
    assert f"--resume_model={folders[0] / 'best_model.pth'}" in runs.commands[1][1]
    assert f"--resume={folders[1] / 'whitened_model.pth'}" in runs.commands[2][1]


def test_without_its_start_a_training_is_not_run(runs, log, options, data, caplog):
    make_sets(data, "pitts30k_val")
    runs.fail = {"method=netvlad": "the disk is full"}
    steps = make_steps([Need(CRN)], [0])
    assert carry_out(steps, log, options) == dict.fromkeys(steps, "failed")
    assert runs.scripts == ["train.py"]
    assert "it starts from netvlad VGG16 512-D pitts30k, seed 0, which is missing" in caplog.text


def test_another_whitening_is_fitted_to_a_finished_training(runs, log, options, data):
    make_sets(data, "pitts30k_val")
    other = NETVLAD.changed(whitening="pca_whiten", whiten_dim=4096, kept_dims=128)
    steps = make_steps([Need(NETVLAD), Need(other, ("tokyo247",))], [0])
    lines = [" ".join(line.split()) for line in describe_plan(steps, log).splitlines()]
    assert [line.split()[2] for line in lines[1:4]] == ["train", "whiten", "evaluate"]
    assert carry_out(steps, log, options) == {}
    assert runs.scripts == ["train.py", "whiten.py", "eval.py"]
    folder = options.runs_folder / f"train_{NETVLAD.slug(0)}"
    file = folder / "pca_whiten_4096_128_of_10000.pth"
    assert {*runs.commands[1][1]} >= {
        *(str(folder / "best_model.pth"), f"--save={file}", "--kind=pca_whiten", "--dim=4096"),
        *("--kept_dims=128", "--dataset=pitts30k", "--resize_test_imgs=480x640"),
    }
    assert f"--resume={file}" in runs.commands[2][1]
    assert "trained" in describe_plan(steps, log) and "whiten " not in describe_plan(steps, log)


def test_a_run_that_fails_does_not_stop_the_others(runs, log, options, caplog):
    runs.fail = {"backbone=ResNet18": "the disk is full\nbuy another"}
    steps = [Step(SOURCE, 0, ("tokyo247",)), Step(OTHER, 0, ("tokyo247",))]
    assert carry_out(steps, log, options) == {steps[0]: "failed"}
    assert runs.scripts == ["train.py", "train.py", "eval.py"]
    assert "failed: the disk is full\nbuy another" in caplog.text


def test_one_bad_set_does_not_take_the_others_along(runs, log, options, caplog):
    runs.fail = {"pitts30k": "a name is bad"}
    step = Step(SOURCE, 0, ("pitts30k", "tokyo247"))
    assert carry_out([step], log, options) == {step: "failed"}
    assert runs.scripts == ["train.py", "eval.py", "eval.py", "eval.py"]
    assert log.result(log.evaluation(SOURCE, 0, "tokyo247"))["recalls"] == RECALLS
    assert "pitts30k: a name is bad" in caplog.text


def test_a_run_that_dies_without_a_word_says_its_exit_code(runs, log, options, caplog, monkeypatch):
    def die(command, stderr, env):
        stderr.write("Epoch 3: 10%|#   | 1/60")
        return -9

    monkeypatch.setattr(runs_to_do, "run_script", die)
    step = Step(SOURCE, 0, ())
    assert carry_out([step], log, options) == {step: "failed"}
    assert "failed: train.py ended with exit code -9" in caplog.text


def test_without_training_images_nothing_is_run(runs, log, options, caplog):
    step = Step(PAPER.cosplace("ResNet18", 512, M=15), 0, ("tokyo247",))
    assert carry_out([step], log, options) == {step: "no training set sf_xl_raw"}
    assert runs.commands == []
    assert "1 network is left out, no training set sf_xl_raw: training set" in caplog.text


def test_released_networks_need_their_file(runs, log, options, monkeypatch, tmp_path, caplog):
    step = Step(Released("cosplace:ResNet18:512"), 0, ("tokyo247",))

    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    assert carry_out([step], log, options) == {step: "no weights"}
    assert "no weights: Cannot download" in caplog.text and "put it at" in caplog.text
    checkpoints = tmp_path / "hub" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    (checkpoints / "ResNet18_512_cosplace.pth").write_bytes(b"weights")
    assert carry_out([step], log, options) == {}
    [(script, argv)] = runs.commands
    assert script == "eval.py" and argv[0] == "--model=cosplace:ResNet18:512"
    assert log.result(log.evaluation(step.source, 0, "tokyo247"))["recalls"] == RECALLS


def test_the_plan_says_what_is_there_and_what_the_rest_costs(runs, log, options):
    steps = [
        *(Step(SOURCE, 0, ("pitts30k", "tokyo247", "st_lucia")), Step(OTHER, 0, ())),
        Step(PAPER.cosplace("ResNet18", 512, M=15), 0, ()),
    ]
    carry_out([Step(SOURCE, 0, ("pitts30k",))], log, options)
    write_training(options.runs_folder / "old", OTHER.argv(0), (1.0,), is_done=False)
    log.refresh()
    lines = [" ".join(line.split()) for line in describe_plan(steps, log).splitlines()]
    hours = evaluation_hours(SOURCE, ["tokyo247"])
    left = training_hours(OTHER, num_done=1)
    vgg, r18 = (f"{one:.2f}" for one in (left, training_hours(SOURCE)))
    gigabytes = [training_gigabytes(one) for one in (OTHER, SOURCE)]
    together = left + training_hours(SOURCE) + hours
    assert lines == [
        "GPU h GB run",
        "0.00 0.0 trained ResNet18 512-D gem, seed 0",
        "0.00 0.0 measured ResNet18 512-D gem, seed 0 on pitts30k",
        f"{hours:.2f} 0.0 evaluate ResNet18 512-D gem, seed 0 on tokyo247",
        "0.00 0.0 no data ResNet18 512-D gem, seed 0 on st_lucia",
        f"{vgg} {gigabytes[0]:.1f} resume VGG16 512-D gem, seed 0",
        f"{r18} {gigabytes[1]:.1f} train ResNet18 512-D gem M 15, seed 0 "
        "(there is no training set sf_xl_raw)",
        f"{together:.2f} {sum(gigabytes):.1f} together",
        lines[-1],
    ]


def test_estimates_meet_the_trainings_whose_hours_are_known():
    assert training_hours(SOURCE) == pytest.approx(20, abs=1)
    assert training_hours(PAPER.cosplace("ResNet101", 512)) == pytest.approx(75, abs=1)
    half = PAPER.cosplace("ResNet18", 512, epochs_num=25)
    assert training_hours(half) == pytest.approx(training_hours(SOURCE) / 2)
    assert training_hours(MINI.cosplace("ResNet18", 512)) < 0.01


def test_sets_with_one_database_are_one_pass_over_it():
    hours = {n: evaluation_hours(SOURCE, [f"sf_xl_test_v{i}" for i in n]) for n in ("1", "2", "12")}
    both = hours["1"] + hours["2"]
    assert hours["12"] == pytest.approx(both * (2_805_840 + 1_598) / (2 * 2_805_840 + 1_598))


def test_checkpoints_hold_the_heads_of_all_groups_with_their_moments():
    heads = 3 * 4 * 8 * 35_000 * 512
    assert training_gigabytes(SOURCE) == pytest.approx((heads + 4 * 4 * 11.2e6) / 1e9, rel=0.01)


@pytest.mark.parametrize("scale", [PAPER, MINI], ids=lambda scale: scale.name)
def test_every_network_of_a_scale_has_an_estimate(scale):
    for backbone, dims in scale.dims.items():
        assert training_hours(scale.cosplace(backbone, dims[0])) > 0
    assert evaluation_hours(Released("landmark:GLD:ResNet101"), ["pitts30k"]) == pytest.approx(
        evaluation_hours(PAPER.cosplace("ResNet101", 64), ["pitts30k"])
    )
    assert evaluation_hours(Released("cosplace:VGG16:64"), ["tokyo247"]) > 0
    boq, salad = (
        evaluation_hours(Released(name), ["tokyo247"]) for name in ("boq:DINOv2", "salad:DINOv2")
    )
    assert boq == salad < evaluation_hours(Released("megaloc"), ["tokyo247"]), "322 px, not 512"


def test_a_signal_stops_the_command_that_runs(tmp_path):
    """It has the time to write, and is not stopped twice."""
    slow = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path('told').open('a').write('x'))\n"
        "pathlib.Path('begun').touch()\n"
        "while not pathlib.Path('told').exists(): time.sleep(0.01)\n"
        "time.sleep(0.5); pathlib.Path('written').touch()\n"
    )
    script = (
        "import commons, os, sys\n"
        "from paper.runs_to_do import run_script\n"
        "from runs.signals import StopSignals\n"
        "def main():\n"
        "    with StopSignals('Repeat the command', True):\n"
        f"        run_script([sys.executable, '-c', {slow!r}], sys.stderr, os.environ)\n"
        "commons.run_command(main)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "begun").exists():
        assert parent.poll() is None
        time.sleep(0.01)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    said, _ = parent.communicate(timeout=60)
    assert parent.returncode == 130 and said == "Stopped by SIGINT. Repeat the command\n"
    assert (tmp_path / "written").exists() and (tmp_path / "told").read_text() == "x"


def test_the_bar_of_a_command_is_read_while_it_writes(tmp_path):
    with open(tmp_path / "said", "w+") as said:
        assert read_bar(said) == ""
        said.write(
            "Loading\nEpoch 0:  10%|#  | 1/10 [00:01<00:09]\rEpoch 0:  20%|## | 2/10 [00:02<"
        )
        said.flush()
        position = said.tell()
        assert read_bar(said) == "Epoch 0:  20%|## | 2/10 [00:02<"
        assert said.tell() == position, "the command writes on where it was"
        said.write("\nError: no\r")
        said.flush()
        assert read_bar(said) == ""
    reader, writer = os.pipe()
    with open(writer, "w") as pipe:
        assert read_bar(pipe) == ""
    os.close(reader)
