import json
from dataclasses import replace

import pytest
import torch
from aggregator_files import (
    SHAPES,
    boq_by_hand,
    boq_head_shapes,
    convap_by_hand,
    convap_shapes,
    megaloc_shapes,
    mixvpr_by_hand,
    mixvpr_shapes,
    resnet_maps,
    salad_by_hand,
    salad_head_shapes,
)
from golden_cases import assert_close, golden
from published_files import digest, empty_state
from safetensors.torch import save_file
from state_dict_keys import descriptors_by_hand, network_shapes, random_state
from tiny_backbone import make_dinov2

from eval import main
from evaluation.views import resize
from model import published
from model.backbones import BACKBONES, transformers
from model.checkpoints import load_network, network_of
from model.formats import content
from model.other_models import load_model
from model.published import parse_published
from model.published_list import count_parameters
from model.resizing import read_rule

IMAGES = torch.randn(2, 3, 320, 320, generator=torch.Generator().manual_seed(0))
LIGHTNING = {  # what a checkpoint of Lightning holds beside the state dict
    **{"epoch": 3, "global_step": 8000, "pytorch-lightning_version": "2.1.0", "loops": {}},
    **{"callbacks": {"ModelCheckpoint{...}": {"best_model_score": torch.tensor(0.9)}}},
    **{"optimizer_states": [{"state": {}, "param_groups": []}], "lr_schedulers": []},
    **{"hparams_name": "kwargs", "hyper_parameters": {"agg_config": {"num_clusters": 64}}},
}


@pytest.fixture
def hub(hub_checkpoints):
    """Return torch.hub's folder of checkpoints."""
    hub_checkpoints.mkdir(parents=True)
    return hub_checkpoints


@pytest.fixture
def tiny_dinov2(monkeypatch):
    """Return a function that lets DINOv2_B be one of 12 channels, as in golden numbers."""

    def use(depth, num_heads, dim):
        spec = replace(BACKBONES["DINOv2_B"], out_channels=12)
        monkeypatch.setitem(BACKBONES, "DINOv2_B", spec)
        build = transformers._build_dinov2
        monkeypatch.setattr(
            "model.backbones.transformers._build_dinov2",
            lambda size: make_dinov2(12, depth, num_heads) if size == "base" else build(size),
        )
        monkeypatch.setattr(published, "SALAD_DIM", dim)
        content._shapes_of.cache_clear()

    yield use
    content._shapes_of.cache_clear()


@pytest.fixture(scope="module")
def wrappers():
    """Return DINOv2 in the wrappers of SALAD and BoQ: a case, and its weights by their names."""
    case = golden("dinov2_wrappers_a")
    return case, tensors_of(case)


def tensors_of(case):
    return {name: torch.from_numpy(one).float() for name, one in case.weights().items()}


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


# Names and shapes of the published files


@pytest.mark.parametrize("key", SHAPES)
def test_networks_have_the_tensors_of_the_public_code(save, key):
    shapes, name = SHAPES[key]
    model = parse_published(name)
    assert digest(shapes) == key
    network = load_network(save(empty_state(shapes)))
    assert network.architecture["backbone"] == model.backbone
    assert network.out_dim == model.dim
    assert network.resize == published.rule_of(model.family, name.split(":")[-1]) is not None
    used = {name: shape for name, shape in shapes.items() if not name.endswith("mask_token")}
    assert len(network.state_dict()) == len(used)
    learned = [
        torch.Size(shape).numel()
        for name, shape in shapes.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    assert count_parameters(model) == sum(learned)


# What networks compute


@pytest.mark.parametrize("name", ["megaloc_tiny_a", "megaloc_tiny_resize"])
@pytest.mark.parametrize("inside", ["backbone.", "backbone.model."])
def test_megaloc_is_the_original(tiny_dinov2, hub, name, inside):
    """By name, in its file of today, and in its first one, which had DINOv2's own module."""
    case = golden(name)
    cfg = case.meta["cfg"]
    tiny_dinov2(cfg["depth"], cfg["heads"], cfg["out"])
    state = {
        key.replace("backbone.", inside, 1): tensor for key, tensor in tensors_of(case).items()
    }
    if inside == "backbone.model.":
        state["backbone.model.mask_token"] = torch.zeros(1, 12)
    save_file({key: one.contiguous() for key, one in state.items()}, hub / "megaloc.safetensors")
    model, facts = load_model(None, "megaloc")
    assert facts["aggregation_args"] == {
        **{"clusters": cfg["clusters"], "cluster_dim": cfg["cluster_dim"]},
        **{"token_dim": cfg["token_dim"], "hidden": cfg["mlp_dim"]},
    }
    assert (facts["fc_output_dim"], facts["resize"], model.resize) == (12, *["multiple14"] * 2)
    images, rule = torch.from_numpy(case["in.x"]), read_rule(model.resize)
    size = rule.size_of(*images.shape[2:])
    assert size == case["mid.input_hw"].tolist()
    with torch.no_grad():
        descriptors = model.double()(resize(images, size, rule).double())
    assert_close(descriptors, case["out.descriptor"], 1e-6)  # descriptors are float32


@pytest.mark.parametrize("name", ["salad:DINOv2", "cliquemining"])
def test_salad_is_what_a_computation_by_hand_gives(tiny_dinov2, hub, wrappers, name):
    case, body = wrappers
    sizes = {"clusters": 5, "dim": 4, "token": 3, "hidden": 7}
    tiny_dinov2(case.meta["cfg"]["depth"], case.meta["cfg"]["heads"], 5 * 4 + 3)
    head = random_state(salad_head_shapes(12, **sizes)) | {"dust_bin": torch.tensor(0.7)}
    state = prefixed("backbone.model.", body | {"mask_token": torch.zeros(1, 12)})
    state |= prefixed("aggregator.", head)
    if name == "cliquemining":
        torch.save(LIGHTNING | {"state_dict": state}, hub / "cliquemining.ckpt")
    else:
        torch.save(state, hub / "dino_salad.ckpt")
    model, facts = load_model(None, name)
    assert model.resize == facts["resize"] == "322x322-pillow"
    with torch.no_grad():
        descriptors = model(torch.from_numpy(case["in.x"]).float())
    features, token = (
        torch.from_numpy(case[f"out.salad_{part}"]) for part in ("features", "token")
    )
    assert_close(descriptors, salad_by_hand(features, token, head), 1e-5)


def test_boq_is_what_torchs_layers_give(tiny_dinov2, hub, wrappers, monkeypatch):
    case, body = wrappers
    tiny_dinov2(case.meta["cfg"]["depth"], case.meta["cfg"]["heads"], 0)
    file = "dinov2_12288.pth"
    monkeypatch.setitem(published.BOQ_FILES, "DINOv2", ("DINOv2_B", 64 * 3, file))
    head = random_state(boq_head_shapes(12, 64, queries=5, rows=3))
    body = body | {"mask_token": torch.zeros(1, 12)}
    torch.save(prefixed("backbone.dino.", body) | prefixed("aggregator.", head), hub / file)
    model, facts = load_model(None, "boq:DINOv2")
    assert facts["resize"] == "322x322-bicubic"
    with torch.no_grad():
        descriptors = model(torch.from_numpy(case["in.x"]).float())
        features = torch.from_numpy(case["out.boq_features_no_norm"]).float()
        assert_close(descriptors, boq_by_hand(features, head), 1e-5)


@torch.no_grad()
def test_mixvpr_is_what_a_computation_by_hand_gives(hub):
    state = random_state(mixvpr_shapes(64, 2))
    torch.save(state, hub / "resnet50_MixVPR_128_channels(64)_rows(2).ckpt")
    model, facts = load_model(None, "mixvpr:ResNet50:128")
    assert facts["backbone"] == "ResNet50_conv4"
    assert {"height": 20, "width": 20}.items() <= facts["aggregation_args"].items()
    maps = resnet_maps(state, IMAGES, cut=3)
    assert_close(model(IMAGES), mixvpr_by_hand(maps, state), 1e-4)
    with pytest.raises(ValueError, match="20 x 20"):
        model(IMAGES[:, :, :256])


@torch.no_grad()
def test_convap_is_what_a_computation_by_hand_gives(hub):
    state = random_state(convap_shapes(128))
    torch.save(state, hub / "resnet50_ConvAP_128_2x2.ckpt")
    model, facts = load_model(None, "convap:ResNet50:512")
    assert (facts["backbone"], facts["resize"]) == ("ResNet50", "320x320-pillow")
    images = IMAGES[:, :, :128, :128]
    maps = resnet_maps(state, images, cut=2)
    assert_close(model(images), convap_by_hand(maps, state), 1e-4)


@torch.no_grad()
def test_eigenplaces_has_the_names_of_cosplace(hub):
    state = random_state(network_shapes("ResNet18", 256))
    torch.save(state, hub / "ResNet18_256_eigenplaces.pth")
    model, facts = load_model(None, "eigenplaces:ResNet18:256")
    assert model.resize is None and "resize" not in facts
    images = IMAGES[:, :, :64, :96]
    assert_close(model(images), descriptors_by_hand(state, images, "ResNet18"), 1e-4)


# Other files


def test_files_that_are_none_of_them_are_refused(save):
    def refuse(state, message):
        with pytest.raises(ValueError) as error:
            load_network(save(state))
        assert message in str(error.value)

    state = empty_state(mixvpr_shapes(64, 2))
    lacking = {name: one for name, one in state.items() if name != "aggregator.row_proj.bias"}
    refuse(lacking, "(1 differ): aggregator.row_proj.bias is missing")
    refuse(state | {"aggregator.more": torch.ones(3)}, "aggregator.more is left over")
    refuse(state | {"aggregator.channel_proj.bias": torch.ones(3)}, "is a float [3], not a float")
    refuse(
        state | {"aggregator.row_proj.weight": torch.ones(2, 399)}, "399 locations, which are no"
    )
    refuse(state | {"aggregator.row_proj.weight": torch.ones(2)}, "row_proj.weight is not a matrix")
    refuse(state | {"backbone.model.layer1.0.more": torch.ones(1)}, "none of ResNet18, ResNet50, R")
    body = {name: one for name, one in state.items() if name.startswith("backbone")}
    refuse(body | {"aggregator.new": torch.ones(1)}, "not those of MixVPR, Conv-AP, SALAD, BoQ or")
    head = {name: one for name, one in state.items() if name.startswith("aggregator")}
    refuse(head | {"backbone.x": torch.ones(1)}, "backbone.* tensors, but not those of a ResNet or")


@pytest.mark.parametrize("name", ["mixvpr:ResNet50:128", "boq:DINOv2", "megaloc"])
def test_no_content_of_an_aggregator_is_more_than_a_sentence(name):
    """Whatever stands in the place of a tensor."""
    (shapes,) = (one for one, of in SHAPES.values() if of == name)
    state = empty_state(shapes)
    places = [key for key in shapes if key.startswith("aggregator.") and key.endswith("weight")]
    places += [key for key in shapes if key.endswith((".queries", "dust_bin"))]
    strange = [
        None,
        3,
        "x",
        torch.tensor(1.0),
        torch.ones(0, 3),
        torch.ones(3, 0),
        torch.ones(1, 1),
    ]
    for key in places[::3]:
        for value in strange:
            if getattr(value, "shape", None) != shapes[key]:
                with pytest.raises(ValueError, match=r"^a\.pth "):
                    network_of(state | {key: value}, "a.pth")


def test_a_file_of_another_size_is_not_the_one_of_the_name(hub):
    state = empty_state(mixvpr_shapes(256, 2))
    torch.save(state, hub / "resnet50_MixVPR_128_channels(64)_rows(2).ckpt")
    with pytest.raises(
        ValueError, match="have 512 numbers, not 128; needed is resnet50_MixVPR_128"
    ):
        load_model(None, "mixvpr:ResNet50:128")


def test_a_file_of_another_network_of_that_size_is_not_the_one_of_the_name(hub):
    """Descriptors of SALAD and MegaLoc have 8448 numbers."""
    torch.save(empty_state(megaloc_shapes()), hub / "dino_salad.ckpt")
    with pytest.raises(ValueError) as error:
        load_model(None, "salad:DINOv2")
    assert "has the backbone DINOv2_B and the resize rule multiple14, not " in str(error.value)


# Evaluations


@pytest.fixture
def set_flags(make_eval_folder, tmp_path):
    """Return the flags of an evaluation on three images of 50 x 60 pixels."""
    folder = make_eval_folder([(0, 0), (50, 0)], [(1, 0)], sizes=[(60, 50)])
    return [f"--test_set_folder={folder}", "--device=cpu", "--num_workers=0", "--no_report"]


def evaluate(flags, folder):
    main([*flags, f"--save_dir={folder}"])
    return json.loads((folder / "results.json").read_text())


def test_an_evaluation_resizes_as_the_authors_did_unless_flags_say(
    set_flags, tiny_dinov2, hub, tmp_path
):
    case = golden("megaloc_tiny_a")
    tiny_dinov2(2, 2, 12)
    save_file(tensors_of(case), hub / "megaloc.safetensors")
    flags = [*set_flags, "--model=megaloc"]
    results = evaluate(flags, tmp_path / "own")
    assert (results["resize"], results["descriptor_dim"]) == ("multiple14", 12)
    assert results["image_sizes"] == {"database": {"56x56": 2}, "queries": {"56x56": 1}}
    assert (results["model"], results["model_file"]) == (
        "megaloc",
        str(hub / "megaloc.safetensors"),
    )
    log = (tmp_path / "own" / "info.log").read_text()
    assert "sides resized to multiples of 14 (database 56x56; queries 56x56)" in log
    results = evaluate([*flags, "--resize_test_imgs=42x56"], tmp_path / "asked")
    assert (results["resize"], [*results["image_sizes"]["queries"]]) == ("42x56", ["42x56"])
    results = evaluate([*set_flags, "--model=megaloc@56x42-bicubic"], tmp_path / "spec")
    assert (results["resize"], [*results["image_sizes"]["queries"]]) == ("56x42-bicubic", ["56x42"])
    assert results["model"] == "megaloc"


def test_an_evaluation_of_mixvpr(set_flags, hub, tmp_path, refused):
    state = random_state(mixvpr_shapes(64, 2))
    torch.save(state, hub / "resnet50_MixVPR_128_channels(64)_rows(2).ckpt")
    flags = [*set_flags, "--model=mixvpr:ResNet50:128"]
    results = evaluate(flags, tmp_path / "own")
    assert (results["resize"], results["descriptor_dim"]) == ("320x320-pillow", 128)
    assert "resized to 320x320-pillow (" in (tmp_path / "own" / "info.log").read_text()
    text = refused(main, [*flags, "--resize_test_imgs=64x64"], 1)
    assert "20 x 20" in text
    file = hub / "resnet50_MixVPR_128_channels(64)_rows(2).ckpt"
    file.write_bytes(file.read_bytes()[:5000])  # a download that stopped
    text = refused(main, flags, 1)
    assert f"{file} is not a checkpoint" in text and "Delete it to get it again from https" in text


def test_wrong_names_and_missing_files_are_sentences(set_flags, hub, refused):
    text = refused(main, [*set_flags, "--model=mixvpr:ResNet50:64"], 2)
    assert (
        "names no published network" in text and "mixvpr:ResNet50:DIM with 4096, 512, 128" in text
    )
    text = refused(main, [*set_flags, "--model=cliquemining"], 1)
    assert f"There is no {hub / 'cliquemining.ckpt'}: download the file from https://drive" in text
