"""train.py, eval.py and localize.py with a backbone that has a size of its own."""

import json

import pytest
import torch
from conftest import write_image
from forked_commands import run_job, wait_for_all
from training_runs import SMALL, assert_same_state, metrics_of

from eval import main as eval_main
from localize import main as localize_main
from methods import METHODS
from model.checkpoint_files import read_checkpoint, save_atomically
from model.checkpoints import load_network
from model.network import build_network
from train import main as train_main

GIVEN = ("--backbone=", "--fc_output_dim=", "--image_size=", "--resize_test_imgs=")
CCT = [*(flag for flag in SMALL if not flag.startswith(GIVEN)), "--backbone=CCT14_224"]
EVAL = ["--dataset=mini_city_test_v1", "--num_workers=0", "--device=cpu", "--no_report"]
TINY = ["--image_size=64", "--resize_test_imgs=64x64", "--batch_size=2"]


@pytest.fixture
def places(datasets_folder, tmp_path):
    return [f"--datasets_folder={datasets_folder}", f"--cache_folder={tmp_path / 'cache'}"]


@pytest.fixture(scope="module")
def cct_file(tmp_path_factory):
    """Return the checkpoint of an untrained CCT."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("cct") / "best_model.pth"
    save_atomically(build_network("CCT14_224", backbone_weights="none").state_dict(), path)
    return path


def read_json(path):
    return json.loads(path.read_text())


def test_a_training_ends_in_the_defaults_of_the_backbone_and_can_be_continued(places, tmp_path):
    """Slow: a transformer of the table, with images of its size."""
    folder = tmp_path / "run"
    short = ["--epochs_num=1", "--iterations_per_epoch=2", "--freeze_te=12"]
    train_main([*CCT, *TINY, *places, *short, f"--save_dir={folder}"])
    resolved = {"backbone": "CCT14_224", "aggregation": "seqpool", "fc_output_dim": 0}
    args, results = read_json(folder / "args.json"), read_json(folder / "results.json")
    assert {key: args[key] for key in resolved} == resolved
    assert (args["image_size"], args["freeze_te"]) == (64, 12)
    assert {key: results[key] for key in resolved} == resolved
    assert (results["resize"], results["descriptor_dim"]) == ("64x64", 384)
    first = read_checkpoint(folder / "last_checkpoint.pth")["model_state_dict"]

    last = [f"--resume_train={folder / 'last_checkpoint.pth'}"]
    with pytest.raises(ValueError, match="--freeze_te is 11, in the checkpoint 12"):
        train_main([*last, "--freeze_te=11"])
    train_main([*last, "--epochs_num=2"])
    second = read_checkpoint(folder / "last_checkpoint.pth")["model_state_dict"]
    changed = {key for key in first if not torch.equal(first[key], second[key])}
    assert "aggregation.1.attention.weight" in changed and "backbone.norm.weight" in changed
    assert {".".join(key.split(".")[:3]) for key in changed if "blocks" in key} == {
        "backbone.blocks.12",
        "backbone.blocks.13",
    }
    assert not any("tokenizer" in key or "positional" in key for key in changed)


DINOV2 = [  # the row cosplace_dinov2, with a backbone of 2 blocks
    *("--method=cosplace_dinov2", "--dataset=mini_city", "--backbone=TinyDINOv2"),
    *("--backbone_weights=none", "--train_last_blocks=1", "--image_size=56", "--batch_size=4"),
    *("--min_images_per_class=3", "--groups_num=2", "--iterations_per_epoch=3", "--lr=0.001"),
    *("--fc_output_dim=12", "--num_workers=0", "--device=cpu"),
]


def test_a_class_token_is_trained_by_its_last_block_and_resumed_to_the_bit(places, tmp_path):
    run, stopped = tmp_path / "run", tmp_path / "stopped"
    train_main([*DINOV2, *places, "--epochs_num=2", f"--save_dir={run}"])
    args, results = read_json(run / "args.json"), read_json(run / "results.json")
    row = METHODS["cosplace_dinov2"]
    assert {key: args[key] for key in ("aggregation", "optimizer")} == {
        key: row[key] for key in ("aggregation", "optimizer")
    }
    assert (results["resize"], results["descriptor_dim"]) == ("56x56", 12)
    assert (args["train_last_blocks"], row["train_last_blocks"]) == (1, 5)

    train_main([*DINOV2, *places, "--epochs_num=1", f"--save_dir={stopped}"])
    last = [f"--resume_train={stopped / 'last_checkpoint.pth'}", "--epochs_num=2"]
    with pytest.raises(ValueError, match="--train_last_blocks is 2, in the checkpoint 1"):
        train_main([*last, "--train_last_blocks=2"])
    first = read_checkpoint(stopped / "last_checkpoint.pth")["model_state_dict"]
    train_main(last)
    assert_same_state(run, stopped)
    second = read_checkpoint(stopped / "last_checkpoint.pth")["model_state_dict"]
    changed = {key for key in first if not torch.equal(first[key], second[key])}
    frozen = ("backbone.blocks.0.", "backbone.cls_token", "backbone.pos_", "backbone.patch_")
    assert changed == {key for key in first if not key.startswith(frozen)}

    eval_main([f"--resume={run / 'best_model.pth'}", *EVAL, places[0], f"--save_dir={tmp_path}/e"])
    evaluated = read_json(tmp_path / "e" / "results.json")
    assert evaluated["recalls"] == results["recalls"] and evaluated["resize"] == "56x56"
    assert results["recalls"]["R@20"] > 0


def test_eigenplaces_trains_a_class_token_too(places, tmp_path):
    flags = [flag for flag in DINOV2 if not flag.startswith(("--method=", "--fc_output_dim="))]
    flags += ["--method=eigenplaces", "--aggregation=cls", "--epochs_num=1", "--no-use_amp16"]
    flags += ["--optimizer=adamw", "--min_images_per_class=2"]
    train_main([*flags, *places, "--resize_test_imgs=56x56", f"--save_dir={tmp_path / 'run'}"])
    results = read_json(tmp_path / "run" / "results.json")
    assert (results["descriptor_dim"], results["aggregation"]) == (16, "cls")
    assert results["recalls"]["R@20"] > 0


def test_two_processes_train_a_class_token_as_one(places, tmp_path):
    calm = [*DINOV2, *places, "--lr=1e-5", "--classifiers_lr=1e-3", "--epochs_num=1"]
    train_main([*calm, f"--save_dir={tmp_path / 'one'}"])
    wait_for_all(run_job(2, "train", [*calm, f"--save_dir={tmp_path / 'two'}"], tmp_path / "said"))
    (numbers,), (shared,) = (metrics_of(tmp_path / run) for run in ("one", "two"))
    for number in ("loss", "gradient_norm"):
        assert shared[number] == pytest.approx(numbers[number], rel=1e-4)
    one, two = (
        read_checkpoint(tmp_path / run / "last_checkpoint.pth")["model_state_dict"]
        for run in ("one", "two")
    )
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5)


def test_image_sizes_are_those_of_the_backbone(places, tmp_path, monkeypatch):
    captured = []

    def capture(training, _checkpointer, validate, *_):
        with training.objective.turn(0):
            batch = next(training.objective.batches(training.model, epoch=0, first=0))
        captured.extend((batch.images, validate.keywords["protocol"]))
        raise KeyboardInterrupt

    monkeypatch.setattr("train.fit", capture)
    with pytest.raises(KeyboardInterrupt):
        train_main([*CCT, *places, f"--save_dir={tmp_path / 'run'}"])
    images, protocol = captured
    assert images.shape == (4, 3, 224, 224) and protocol.resize == "224x224"
    assert read_json(tmp_path / "run" / "args.json")["image_size"] == 224


@pytest.mark.parametrize(
    ("flags", "resize", "size"),
    [
        ([], "224x224", "224x224"),
        (["--resize_test_imgs=none"], "none", "24x32"),
        (["--resize_test_imgs", "--image_size=64"], "64", "64x85"),
        (["--test_method=single_query", "--resize_test_imgs=64x80"], "64x80", "64x80"),
    ],
)
def test_evaluation_resizes_to_the_backbone_unless_flags_say(
    cct_file, make_eval_folder, tmp_path, flags, resize, size
):
    folder = make_eval_folder([(0, 0), (50, 0)], [(1, 0)])
    places = [f"--test_set_folder={folder}", f"--save_dir={tmp_path / 'run'}"]
    own = ["--device=cpu", "--num_workers=0", "--no_report", f"--resume={cct_file}"]
    eval_main([*own, *places, *flags])
    results = read_json(tmp_path / "run" / "results.json")
    assert results["resize"] == resize and results["image_sizes"]["database"] == {size: 2}
    assert results["fc_output_dim"] == 0 and results["descriptor_dim"] == 384


def test_localization_resizes_as_evaluation_does(cct_file, make_eval_folder, tmp_path):
    folder = make_eval_folder([(0, 0), (50, 0)], [(1, 0)])
    photo = write_image(tmp_path / "photo.png")
    own = [f"--resume={cct_file}", "--device=cpu", "--num_workers=0"]
    index = [f"--save_place_index={tmp_path / 'index'}", f"--save_dir={tmp_path / 'run'}"]
    localize_main([str(photo), f"--database={folder / 'database'}", *own, *index])
    text = (tmp_path / "index" / "index.json").read_text()
    assert '"resize": "224x224"' in text and '"224x224": 2' in text


def test_an_untrained_network_has_the_defaults_of_the_backbone(make_eval_folder, tmp_path):
    folder = make_eval_folder([(0, 0)], [(1, 0)])
    places = [f"--test_set_folder={folder}", f"--save_dir={tmp_path / 'run'}", "--device=cpu"]
    own = ["--backbone=CCT14_224", "--backbone_weights=none", "--resize_test_imgs=32x32"]
    eval_main([*places, *own, "--untrained", "--num_workers=0", "--no_report"])
    results = read_json(tmp_path / "run" / "results.json")
    assert (results["aggregation"], results["fc_output_dim"]) == ("seqpool", 0)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--backbone=ResNet18", "--freeze_te=2"], "ResNet18 is none: give --freeze_te 0"),
        (["--freeze_te=99"], "--freeze_te 99: there are 14 blocks"),
        (["--freeze_te=1", "--train_all_layers"], "give one of them"),
        (["--aggregation=none"], "--aggregation none: CCT14_224 gives a map"),
        (["--backbone_weights=gone.pth"], "--backbone_weights: There is no checkpoint gone.pth"),
    ],
)
def test_user_errors_are_sentences(places, refused, flags, text):
    code = 2 if "--aggregation" in text else 1  # known before anything is read
    assert text in refused(train_main, [*CCT, *places, *flags], code)


def test_a_transformer_keeps_the_size_of_its_training(tmp_path):
    with torch.device("meta"):
        network = build_network("CCT14_224", backbone_weights="none")
    state = {
        name: value if isinstance(value, str) else torch.zeros(value.shape)
        for name, value in network.state_dict().items()
    }
    save_atomically(state, tmp_path / "best_model.pth")
    assert load_network(tmp_path / "best_model.pth").image_size == 224
    flags = {"backbone": "CCT14_224", "image_size": 64}
    (tmp_path / "args.json").write_text(json.dumps(flags))
    assert load_network(tmp_path / "best_model.pth").image_size == 64
    (tmp_path / "args.json").write_text(json.dumps(flags | {"backbone": "ViT_B16"}))
    assert load_network(tmp_path / "best_model.pth").image_size == 224
    (tmp_path / "args.json").write_text("[")
    assert load_network(tmp_path / "best_model.pth").image_size == 224
    save_atomically({"model_state_dict": state, "args": flags}, tmp_path / "last_checkpoint.pth")
    assert load_network(tmp_path / "last_checkpoint.pth").image_size == 64
