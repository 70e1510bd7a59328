import json

import pytest
import torch
from conftest import run, write_image

from eval import main as eval_main
from localize import main as localize_main
from model.checkpoints import load_network
from model.network import build_network, keep_rule
from model.resizing import (
    ResizeRule,
    choose_resize,
    describe_resize,
    own_rule,
    parse_resize,
    read_rule,
    split_rule,
)
from train import main as train_main

LOCAL = ("--device=cpu", "--num_workers=0")


@pytest.mark.parametrize(
    ("rule", "sides"),
    [
        *[("none", []), ("480", [480]), ("480x640", [480, 640]), ("8X9-no_antialias", [8, 9])],
        *[("multiple14", []), ("322x322-bicubic", [322, 322]), ("8-bicubic-pillow", [8])],
    ],
)
def test_sides_of_rules(rule, sides):
    assert parse_resize(rule) == sides


def test_rules():
    assert read_rule("none") == ResizeRule()
    assert read_rule("multiple14") == ResizeRule(multiple=14)
    assert read_rule("8x9-bicubic") == ResizeRule((8, 9), bicubic=True)
    assert read_rule("8-pillow") == ResizeRule((8,), as_pillow=True)
    assert read_rule("8-bicubic-no_antialias") == ResizeRule((8,), bicubic=True, antialias=False)


@pytest.mark.parametrize(
    "rule",
    [
        *["", "big", "0", "480x", "1x2x3", "-4", "4.5", "none-no_antialias", "multiple0"],
        *["multiple", "8-pillow-bicubic", "8-pillow-no_antialias", "none-bicubic", 480],
        "multiple14-bicubic",
    ],
)
def test_bad_rules_are_refused(rule):
    with pytest.raises(ValueError, match="A resize rule is"):
        read_rule(rule)


def test_words():
    assert describe_resize("none") == "not resized"
    assert describe_resize("320x320-pillow") == "resized to 320x320-pillow"
    assert describe_resize("multiple14") == "sides resized to multiples of 14"


def test_reading_rules_needs_no_torch():
    code = "import sys, model.resizing; sys.exit('torch' in sys.modules)"
    assert run("-c", code).returncode == 0


def test_the_rule_of_a_network_holds_unless_one_is_asked_for():
    with torch.device("meta"):
        network = build_network("DINOv2_S", backbone_weights="none", resize="multiple14")
    assert network.architecture["resize"] == "multiple14"
    assert choose_resize(None, None, network) == "multiple14"
    assert choose_resize(None, 98, network) == "multiple14"
    assert choose_resize("none", 98, network) == "none"
    assert choose_resize("", 98, network) == "98"
    keep_rule(network, None)
    assert "resize" not in network.architecture
    assert choose_resize(None, None, network) == "224x224"


@pytest.mark.parametrize("rule", ["big", 322, ["322x322"]])
def test_an_architecture_with_another_rule_is_refused(rule):
    with pytest.raises(ValueError, match="A resize rule is"):
        build_network("ResNet18", backbone_weights="none", resize=rule)


@pytest.mark.parametrize(
    ("rule", "image_size", "has_size", "expected"),
    [
        ("322x322", 224, True, "322x322"),  # SALAD
        ("224x224", 224, True, None),  # the default of such a backbone
        ("224x224-bicubic", 224, True, "224x224-bicubic"),
        ("480x640", "480x640", True, "480x640"),  # a file says no size but that of squares
        ("480x640", 224, True, "480x640"),
        ("224", 224, True, "224"),
        ("multiple14", 224, True, "multiple14"),
        ("none", 224, True, "none"),
        ("none", 512, False, None),
        (None, 224, True, None),
        ("320x320", 320, False, "320x320"),  # MixVPR
        ("384x384-bicubic", 320, False, "384x384-bicubic"),
        ("480x640", "480x640", False, None),  # the benchmark's protocol
        ("480", 512, False, None),
        (None, 512, False, None),
    ],
)
def test_what_a_network_keeps_of_the_rule_of_its_validation(rule, image_size, has_size, expected):
    assert own_rule(rule, image_size, has_size) == expected
    if not has_size:  # as MixVPR
        kept = own_rule(rule, image_size, has_size, has_map_size=True)
        assert kept == (None if rule in (None, "none") else rule)


@pytest.mark.parametrize(
    ("text", "spec", "rule"),
    [
        ("hub:a/b:net@322x322", "hub:a/b:net", "322x322"),
        ("hub:a/b:net:key=1@multiple14", "hub:a/b:net:key=1", "multiple14"),
        ("onnx:some@place/net.onnx@480-bicubic", "onnx:some@place/net.onnx", "480-bicubic"),
        ("onnx:net@2.onnx", "onnx:net@2.onnx", None),
        ("hub:me@home:net", "hub:me@home:net", None),
        ("whitened:w.pth:hub:a/b:net@none", "whitened:w.pth:hub:a/b:net", "none"),
        ("net.py@8x8@9x9", "net.py@8x8", "9x9"),
        ("megaloc@322x322", "megaloc", "322x322"),
        ("322x322", "322x322", None),
    ],
)
def test_rules_after_specs(text, spec, rule):
    assert split_rule(text) == (spec, rule)


def test_a_rule_after_a_spec_is_that_of_the_model(make_eval_folder, tmp_path, refused):
    """Unless a flag asks for another; the model is the same."""
    places = make_eval_folder([(0, 0), (50, 0)], [(1, 0)])
    code = "def get_model():\n    return lambda images: images.mean((2, 3))\n"
    (tmp_path / "mean.py").write_text(code)
    spec = f"{tmp_path / 'mean.py'}"
    flags = [f"--test_set_folder={places}", "--no_report", *LOCAL]
    results = {}
    for name, more in {
        "plain": [f"--model={spec}"],
        "ruled": [f"--model={spec}@8x16-bicubic"],
        "asked": [f"--model={spec}@8x16-bicubic", "--resize_test_imgs=16"],
    }.items():
        eval_main([*flags, *more, f"--save_dir={tmp_path / name}"])
        results[name] = json.loads((tmp_path / name / "results.json").read_text())
    sizes = {name: (one["resize"], *one["image_sizes"]["queries"]) for name, one in results.items()}
    assert sizes == {
        "plain": ("none", "24x32"),
        "ruled": ("8x16-bicubic", "8x16"),
        "asked": ("16", "16x21"),
    }
    assert {one["model"] for one in results.values()} == {spec}
    text = refused(eval_main, [*flags, f"--model={spec}@8x16", "--image_size=16"], 1)
    assert "--image_size 16: the model's own rule for test images is 8x16; give" in text
    text = refused(eval_main, [*flags, f"--model={spec}@0x16"], 2)
    assert f"'0x16' after '{spec}': A resize rule is 'none', the shorter" in text
    text = refused(eval_main, [*flags, "--model=megaloc@"], 2)
    assert "'' after 'megaloc': A resize rule is 'none', the shorter" in text
    text = refused(eval_main, [*flags, "--model=megalok@none"], 2)
    assert "'megalok' names no model: write" in text and "@RULE after any of them" in text


def test_a_rule_is_trained_saved_and_evaluated(flags, eval_flags, tmp_path):
    """Also by the run that resumes the training, and by localize.py."""
    trained, rule = tmp_path / "trained", "40x40-bicubic"
    train_main([*flags, f"--resize_test_imgs={rule}", "--epochs_num=1", f"--save_dir={trained}"])
    last = f"--resume_train={trained / 'last_checkpoint.pth'}"
    train_main([last, "--epochs_num=2"])
    best = trained / "best_model.pth"
    assert load_network(best).resize == rule
    places = [*eval_flags[1:], f"--resume={best}", "--dataset=mini_city_test_v1", "--no_report"]
    results, folder = {}, tmp_path / "run"
    index = f"--save_place_index={tmp_path / 'index'}"
    for name, more in {"own": [index], "asked": ["--resize_test_imgs=24x32"]}.items():
        eval_main([*places[:1], *places[2:], *more, f"--save_dir={tmp_path / name}"])
        results[name] = json.loads((tmp_path / name / "results.json").read_text())
    assert results["own"]["resize"] == rule
    assert list(results["own"]["image_sizes"]["queries"]) == ["40x40"]
    assert f"resized to {rule} " in (tmp_path / "own" / "info.log").read_text()
    assert results["asked"]["resize"] == "24x32"
    assert (
        results["own"]["recalls"] == json.loads((trained / "results.json").read_text())["recalls"]
    )

    photo = write_image(tmp_path / "photo.png")
    localize_main(
        [
            str(photo),
            f"--place_index={tmp_path / 'index'}",
            f"--resume={best}",
            *LOCAL,
            f"--save_dir={folder}",
        ]
    )
    assert "descriptors may not compare" not in (folder / "info.log").read_text()
    metadata = json.loads((tmp_path / "index" / "index.json").read_text())["metadata"]
    assert metadata["resize"] == rule
