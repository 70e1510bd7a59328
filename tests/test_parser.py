import argparse
import json
import re

import pytest

import objective_flags
import parser
from evaluation.views import TEST_METHODS
from methods import DEFAULT_METHOD, METHODS
from parser import parse_eval_arguments, parse_localize_arguments, parse_train_arguments
from training.losses import LOSSES, REDUCTIONS, SIMILARITIES
from training.mining import MINING


def test_defaults_are_those_of_the_paper():
    args = parse_train_arguments([])
    paper = {
        "M": 10,
        "alpha": 30,
        "N": 5,
        "L": 2,
        "groups_num": 8,
        "min_images_per_class": 10,
        "backbone": "ResNet18",
        "fc_output_dim": None,  # these two are the backbone's, for CNNs 512 and GeM
        "aggregation": None,
        "backbone_weights": "imagenet",
        "train_all_layers": False,
        "batch_size": 32,
        "epochs_num": 50,
        "iterations_per_epoch": 10_000,
        "lr": 1e-5,
        "classifiers_lr": 0.01,
        "use_amp16": False,
        "image_size": None,  # the backbone's, for CNNs 512
        "freeze_te": 0,
        "train_last_blocks": 0,
        "brightness": 0.7,
        "contrast": 0.7,
        "saturation": 0.7,
        "hue": 0.5,
        "random_resized_crop": 0.5,
        "positive_dist_threshold": None,  # that of the test set, 25 m
        "recall_values": [1, 5, 10, 20],
        "resize_test_imgs": None,  # as the test set prescribes, none
        "seed": 0,
        "dataset": "sf_xl",
    }
    assert {key: vars(args)[key] for key in paper} == paper


def test_names_are_those_of_the_tables():
    """The parser needs no torch, so it repeats the names of tables that do."""
    assert list(parser.TEST_METHODS) == list(TEST_METHODS)
    assert list(objective_flags.MINING) == list(MINING)
    assert list(objective_flags.LOSSES) == list(LOSSES)
    assert list(objective_flags.SIMILARITIES) == list(SIMILARITIES)
    assert list(objective_flags.REDUCTIONS) == list(REDUCTIONS)


def untrained(parse):
    return ["--untrained"] * (parse is parse_eval_arguments)


@pytest.mark.parametrize("parse", [parse_train_arguments, parse_eval_arguments])
def test_pooling_is_another_name_of_aggregation(parse):
    for flag in ("--aggregation", "--pooling"):
        args = parse([flag, "avg", "--dataset", "mini_city", *untrained(parse)])
        assert args.aggregation == "avg" and not hasattr(args, "pooling")


@pytest.mark.parametrize("parse", [parse_train_arguments, parse_eval_arguments])
def test_options_of_the_aggregation_have_types(parse, monkeypatch):
    row = METHODS[DEFAULT_METHOD] | {"aggregation_args": {"l2": "none"}}
    monkeypatch.setitem(METHODS, DEFAULT_METHOD, row)
    flags = [*untrained(parse), "--dataset=mini_city", "--aggregation_args"]
    pairs = ["a=16", "b=0.5", "c=true", "d=before_pool", "e="]
    expected = {"a": 16, "b": 0.5, "c": True, "d": "before_pool", "e": ""}
    assert parse(flags + pairs).aggregation_args == expected
    assert parse(flags).aggregation_args == {}, "none of the method's"
    of_row = {"l2": "none"} if parse is parse_train_arguments else None
    assert parse(flags[:-1]).aggregation_args == of_row


@pytest.mark.parametrize("parse", [parse_train_arguments, parse_eval_arguments])
def test_every_flag_has_real_help(parse, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    text = re.sub(r"\n {20,}", "  ", text.split("options:")[1])  # help on a line of its own
    flags = [line.strip() for line in text.splitlines() if line.startswith("  --")]
    assert len(flags) >= 20
    for line in flags:
        words = line.split("  ")[-1].split()
        assert len(words) >= 2 and not words[0].startswith("-") and "None" not in words, line


def test_resize_without_a_value_means_the_image_size():
    dataset = ["--dataset", "sf_xl_val", "--untrained"]
    for flags, expected in (
        ([], None),
        (["--resize_test_imgs"], ""),
        (["--resize_test_imgs", "480x640"], "480x640"),
    ):
        assert parse_eval_arguments(dataset + flags).resize_test_imgs == expected


def test_both_names_of_the_model_flag():
    for flag in ("--resume", "--resume_model"):
        args = parse_eval_arguments([flag, "a.pth", "--dataset", "sf_xl_val"])
        assert args.resume_model == "a.pth"


def test_datasets_folder_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("DATASETS_FOLDER", "/big/disk")
    assert parse_train_arguments([]).datasets_folder == "/big/disk"
    assert parse_train_arguments(["--datasets_folder", "here"]).datasets_folder == "here"


def test_a_method_decides_defaults_and_flags_override_them(monkeypatch, capsys):
    row = {"objective": "tuples", "backbone": "VGG16", "lr": 0.25, "epochs_num": 7}
    monkeypatch.setitem(METHODS, "other", row)
    args = parse_train_arguments(["--method=other", "--lr=0.5"])
    assert (args.method, args.backbone, args.lr, args.epochs_num) == ("other", "VGG16", 0.5, 7)
    assert not hasattr(args, "objective"), "flags only"
    assert parse_train_arguments([]).method == DEFAULT_METHOD
    with pytest.raises(SystemExit):
        parse_train_arguments(["--method", "other", "--help"])
    said = capsys.readouterr().out
    assert "(default: VGG16)" in said and "decides every random choice (default: 0)" in said
    assert "(default: {})" not in said and "(default: False)" not in said


def test_the_default_of_a_method_replaces_that_of_the_help(capsys):
    for method, default in (("cosplace", "that of the backbone, 512;"), ("salad", "224)")):
        with pytest.raises(SystemExit):
            parse_train_arguments(["--method", method, "--help"])
        size = " ".join(capsys.readouterr().out.split()).split(" see --resize_test_imgs ")[1]
        assert size.startswith(f"(default: {default}")
        assert size.split(" --resize_test_imgs ")[0].count("(default: ") == 1


def test_flags_of_a_resumed_run_come_before_the_defaults_of_its_method(monkeypatch):
    monkeypatch.setitem(METHODS, "other", {"objective": "tuples", "lr": 0.25, "epochs_num": 7})
    args = parse_train_arguments(["--epochs_num=9"], {"method": "other", "lr": 0.125})
    assert (args.method, args.lr, args.epochs_num) == ("other", 0.125, 9)


@pytest.mark.parametrize("flags", [["--method", "nothing"], ["--method"]])
def test_unknown_methods_are_refused_with_the_known_ones(flags, capsys):
    with pytest.raises(SystemExit) as exit_code:
        parse_train_arguments(flags)
    assert exit_code.value.code == 2
    assert "--method" in capsys.readouterr().err


def test_defaults_of_a_resumed_run_give_way_to_flags():
    args = parse_train_arguments(["--lr", "0.5"], defaults={"M": 15, "lr": 0.1, "gone": 1})
    assert (args.M, args.lr) == (15, 0.5)
    assert isinstance(args, argparse.Namespace) and not hasattr(args, "gone")


@pytest.mark.parametrize(
    "flags",
    [
        "--M 0",
        "--alpha x",
        "--batch_size 0",
        "--lr 0",
        "--lr nan",
        "--num_workers -1",
        "--fc_output_dim -1",
        "--freeze_te -1",
        "--train_last_blocks -1",
        "--aggregation nothing",
        "--aggregation_args l2",
        "--aggregation_args =both",
        "--backbone AlexNet",
        "--dataset paris",
        "--positive_dist_threshold -5",
        "--epochs 3",
        "--device gpu",
        "--device cuda:",
        "--device cpu:1",
    ],
)
def test_bad_flags_end_with_code_2(flags, capsys):
    with pytest.raises(SystemExit) as exit_code:
        parse_train_arguments(flags.split())
    assert exit_code.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err


def test_eval_wants_to_know_on_what(capsys):
    with pytest.raises(SystemExit) as exit_code:
        parse_eval_arguments([])
    assert exit_code.value.code == 2
    assert "either --dataset NAME or --test_set_folder FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "parse", "text"),
    [
        (
            "--dataset sf_xl_val --test_set_folder x",
            parse_eval_arguments,
            "either --dataset",
        ),
        ("--dataset sf_xl_val", parse_eval_arguments, "or --untrained, the network before"),
        ("--dataset sf_xl_val --untrained --model a", parse_eval_arguments, "and only one"),
        ("--dataset sf_xl_val --resume a --model a", parse_eval_arguments, "and only one"),
        (
            "--dataset sf_xl_test_v1 --queries_folder night",
            parse_eval_arguments,
            "goes with --test_set_folder",
        ),
        ("--queries_folder night", parse_train_arguments, "goes with --test_set_folder"),
    ],
)
def test_contradictions_are_refused(flags, parse, text, capsys):
    with pytest.raises(SystemExit) as exit_code:
        parse(flags.split())
    assert exit_code.value.code == 2 and text in capsys.readouterr().err


def test_home_is_expanded_in_every_value(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    args = parse_train_arguments(["--save_dir=~/runs/a", "--train_set_folder", "~/photos"])
    assert (args.save_dir, args.train_set_folder) == ("/home/me/runs/a", "/home/me/photos")
    args = parse_localize_arguments(["~/a.jpg", "b~.jpg", "--resume=~/m.pth", "--place_index=~"])
    assert args.photos == ["/home/me/a.jpg", "b~.jpg"]
    assert (args.resume_model, args.place_index) == ("/home/me/m.pth", "/home/me")


@pytest.mark.parametrize(("value", "folder"), [("", "data"), ("~/sets", "/home/me/sets")])
def test_the_variable_of_the_datasets_folder(monkeypatch, value, folder):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATASETS_FOLDER", value)
    assert parse_train_arguments([]).datasets_folder == folder


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("lr", "fast"),
        ("epochs_num", 2.5),
        ("batch_size", 0),
        ("amp_dtype", "fp8"),
        ("use_amp16", "yes"),
        ("seed", [1]),
        ("recall_values", {"1": 5}),
        ("batch_size", False),
        ("lr_factors", 3),
        ("lr_factors", {"a": []}),
    ],
)
def test_flags_of_a_checkpoint_are_checked_like_those_of_a_command_line(flag, value, capsys):
    with pytest.raises(SystemExit):
        parse_train_arguments([], defaults={flag: value})
    assert f"no value for --{flag}" in capsys.readouterr().err


def test_flags_of_a_run_are_values_of_their_flags():
    line = ["--lr_factors", "a.*=2", "--recall_values", "1", "3", "--image_size=32x48"]
    flags = vars(parse_train_arguments(["--method=netvlad", *line]))
    again = parse_train_arguments([], defaults=json.loads(json.dumps(flags)))
    assert vars(again) == flags


@pytest.mark.parametrize(
    ("parse", "flags", "text"),
    [
        (parse_train_arguments, "--epoch_num=3", "did you mean --epochs_num?"),
        (parse_train_arguments, "--LR 3", "did you mean --lr?"),
        (parse_train_arguments, "--backbone Resnet50", "did you mean ResNet50?"),
        (parse_train_arguments, "--dataset mini-city", "did you mean mini_city?"),
        (parse_train_arguments, "--method netvald", "did you mean netvlad?"),
        (parse_train_arguments, "--resume=a.pth", "; --resume_train RUN/last_checkpoint.pth res"),
        (parse_eval_arguments, "--test_set_foldr a", "did you mean --test_set_folder?"),
        (parse_localize_arguments, "a.jpg --resume=m --databse b", "did you mean --database?"),
    ],
)
def test_the_name_that_was_meant(parse, flags, text, capsys):
    with pytest.raises(SystemExit) as exit_code:
        parse(flags.split())
    assert exit_code.value.code == 2
    assert text in capsys.readouterr().err


def test_nothing_is_guessed_for_a_name_that_is_like_no_other(capsys):
    with pytest.raises(SystemExit):
        parse_train_arguments(["--backbone=xyz", "--qqqqqq"])
    assert "did you mean" not in capsys.readouterr().err


def test_flags_from_a_run_repeat_it(tmp_path, capsys):
    line = ["--method=netvlad", "--lr=0.5", "--save_dir=a", "--resize_test_imgs", "--seed=3"]
    flags = vars(parse_train_arguments(line))
    file = tmp_path / "args.json"
    file.write_text(json.dumps(flags | {"changed_on_resume": [], "val_digest": "x"}))
    again = vars(parse_train_arguments([f"--flags_from={file}", "--seed=4"]))
    assert again == flags | {"flags_from": str(file), "seed": 4, "save_dir": None}
    resumed = parse_train_arguments([f"--flags_from={file}"], {"method": "netvlad", "lr": 0.25})
    assert resumed.lr == 0.25, "a resumed run has its own flags"
    for content, text in (
        *(("{", "cannot be read"), ('{"a":' * 10**5, "cannot be read"), ("[]", "cannot be read")),
        *(('{"model": 1}', "the args.json of a"), ('{"method": []}', "the args.json of a")),
    ):
        file.write_text(content)
        with pytest.raises(SystemExit):
            parse_train_arguments(["--flags_from", str(file)])
        assert text in capsys.readouterr().err
    file.write_text(json.dumps(flags | {"lr": "fast"}))
    with pytest.raises(SystemExit):
        parse_train_arguments(["--flags_from", str(file)])
    assert f"{file} has no value for --lr: 'fast'" in capsys.readouterr().err
