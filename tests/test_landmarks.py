import os
import re

import pytest
import torch
from landmark_files import (
    empty_content,
    landmark_content,
    landmark_shapes,
    whitened_by_hand,
    write_landmark_file,
)

from model.checkpoints import load_network, network_of, network_with
from model.formats import recognise

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def content():
    """Return the content of a file with a ResNet-50; not to be changed."""
    return landmark_content()


@pytest.fixture(scope="module")
def file(content, tmp_path_factory):
    """Return that file."""
    return write_landmark_file(content, tmp_path_factory.mktemp("landmark") / "r50.pth")


@pytest.fixture(scope="module")
def whitened(content):
    """Return what the whitening gives for the images, by hand."""
    with torch.no_grad():
        return whitened_by_hand(content, IMAGES)


@pytest.fixture
def changed():
    """Return the content of a file to change, all zeros."""
    return empty_content("ResNet50")


def load_cut(content, dim):
    return network_with(recognise(content, "a.pth"), "a.pth", dim)


def refusal(content):
    with pytest.raises(ValueError) as error:
        network_of(content, "a.pth")
    assert str(error.value).startswith("a.pth ")
    return str(error.value)


# Values


@torch.no_grad()
def test_descriptors_are_those_of_the_file(file, whitened):
    network = load_network(file).eval()
    descriptors = network(IMAGES)
    assert descriptors.shape == (2, 2048)
    assert network.out_dim == 2048
    expected = whitened / whitened.norm(dim=1, keepdim=True)
    torch.testing.assert_close(descriptors, expected, rtol=1e-4, atol=1e-5)
    assert (descriptors[0] - descriptors[1]).norm() > 0.01  # not the bias alone


@torch.no_grad()
@pytest.mark.parametrize("dim", [1, 512, 2047])
def test_fewer_dimensions_are_the_first_ones_normalised_again(content, whitened, dim):
    network = load_cut(content, dim).eval()
    assert network.out_dim == dim
    expected = whitened[:, :dim] / whitened[:, :dim].norm(dim=1, keepdim=True)
    torch.testing.assert_close(network(IMAGES), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [0, -1, 2049])
def test_other_numbers_of_dimensions(content, dim):
    with pytest.raises(ValueError, match=f"1 to 2048 dimensions, not {dim}"):
        load_cut(content, dim)


@torch.no_grad()
def test_descriptors_are_float32_under_autocast(content):
    network = network_of(content, "a.pth").eval()
    with torch.autocast("cpu", torch.bfloat16):
        descriptors = network(IMAGES)
    assert descriptors.dtype == torch.float32
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2), rtol=0, atol=1e-5)


def test_a_map_of_zeros_gives_no_nan():
    """The first normalisation divides by nearly nothing."""
    content = empty_content("ResNet50")
    content["state_dict"]["whiten.bias"] = torch.ones(2048)
    for name in landmark_shapes("ResNet50"):
        if name.endswith("running_var"):
            content["state_dict"][name] = torch.ones(landmark_shapes("ResNet50")[name])
    content["state_dict"]["pool.p"] = torch.tensor([3.0])
    with torch.no_grad():
        descriptors = network_of(content, "a.pth").eval()(IMAGES)
    torch.testing.assert_close(descriptors, torch.full((2, 2048), 2048**-0.5))


def test_facts(content):
    network = load_cut(content, 512)
    facts = {
        "backbone": "ResNet50",
        "aggregation": "gem_plain",
        "fc_output_dim": 0,
        "whiten_dim": 2048,
        "kept_dims": 512,
    }
    assert network.architecture == facts
    assert "kept_dims" not in network_of(content, "a.pth").architecture


# Files


def test_a_resnet101_is_known_by_its_meta():
    content = empty_content("ResNet101")
    network = network_of(content, "a.pth")
    assert network.architecture["backbone"] == "ResNet101"
    theirs = {name: tuple(tensor.shape) for name, tensor in content["state_dict"].items()}
    names = {"backbone.": "features.", "aggregation.0.p": "pool.p", "whitening.": "whiten."}
    ours = {
        re.sub("|".join(names), lambda found: names[found[0]], name): tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
    }
    assert ours == theirs


@torch.no_grad()
def test_files_without_counters_and_of_today(content, tmp_path, whitened):
    state = {k: v for k, v in content["state_dict"].items() if not k.endswith("tracked")}
    assert len(content["state_dict"]) - len(state) == 53  # as many as there are BatchNorms
    torch.save({"meta": content["meta"], "state_dict": state}, tmp_path / "zip.pth")
    descriptors = load_network(tmp_path / "zip.pth").eval()(IMAGES)
    expected = whitened / whitened.norm(dim=1, keepdim=True)
    torch.testing.assert_close(descriptors, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_is_widened(content):
    state = {k: v.half() if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    network = network_of({"meta": content["meta"], "state_dict": state}, "a.pth")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_a_missing_tensor(changed):
    del changed["state_dict"]["features.6.3.bn2.running_mean"]
    assert "(1 differ): features.6.3.bn2.running_mean is missing" in refusal(changed)


@pytest.mark.parametrize("name", ["features.8.weight", "backbone.0.weight", "lwhiten.weight", 5])
def test_a_tensor_too_many(changed, name):
    changed["state_dict"][name] = torch.zeros(64, 3, 7, 7)
    assert f"(1 differ): {name} is left over" in refusal(changed)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("pool.p", torch.ones(2048), "a float [2048], not a float [1]"),
        ("whiten.weight", torch.ones(512, 2048), "a float [512, 2048], not a float [2048, 2048]"),
        ("whiten.bias", torch.ones(2048).long(), "an integer [2048], not a float [2048]"),
        ("features.0.weight", "text", "a str, not a float [64, 3, 7, 7]"),
    ],
)
def test_a_tensor_of_another_kind(changed, name, value, text):
    changed["state_dict"][name] = value
    assert f"(1 differ): {name} is {text}" in refusal(changed)


def test_a_resnet50_that_says_it_is_another(changed):
    changed["meta"]["architecture"] = "resnet101"
    assert "(306 differ): features.6.6.conv1.weight is missing" in refusal(changed)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("architecture", "vgg16", "architecture vgg16; known are resnet50, resnet101"),
        ("architecture", ["resnet50"], "known are resnet50, resnet101"),
        ("pooling", "gemmp", "its 'pooling' is gemmp, needed is gem, as in .*-gem-w-"),
        ("whitening", False, "its 'whitening' is False, needed is True"),
        ("local_whitening", True, "its 'local_whitening' is True"),
        ("regional", True, "its 'regional' is True"),
        ("outputdim", 512, "its 'outputdim' is 512, needed is 2048"),
        ("outputdim", torch.ones(2), "its 'outputdim' is tensor"),
        ("mean", [0.5, 0.5, 0.5], r"of mean \[0.5, 0.5, 0.5\]; .* \[0.485, 0.456, 0.406\]"),
        ("std", [1, 1, 1], r"of std \[1, 1, 1\]; .* \[0.229, 0.224, 0.225\]"),
        ("std", [0.229, 0.224], "of std"),
        ("mean", "0.485", "of mean 0.485"),
        ("mean", 0.485, "of mean 0.485"),
    ],
)
def test_other_kinds_of_networks(changed, name, value, text):
    changed["meta"][name] = value
    with pytest.raises(ValueError, match=f"^a.pth .*{text}"):
        network_of(changed, "a.pth")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pooling", "'pooling' is None"),
        ("whitening", "'whitening' is False"),  # the toolbox adds none if nothing is said
        ("mean", "of mean None"),
    ],
)
def test_what_meta_has_to_say(changed, name, text):
    del changed["meta"][name]
    assert text in refusal(changed)


@pytest.mark.parametrize("name", ["local_whitening", "regional", "outputdim"])
def test_what_meta_may_leave_out(changed, name):
    del changed["meta"][name]
    assert network_of(changed, "a.pth").out_dim == 2048


@pytest.mark.parametrize("state", [None, [1, 2], torch.zeros(3)])
def test_a_state_dict_that_is_none(changed, state):
    changed["state_dict"] = state
    assert "has no state dict" in refusal(changed)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("is_zip", [False, True])
def test_code_in_a_file_is_not_run(changed, tmp_path, is_zip):
    changed["meta"]["comment"] = Bomb(str(tmp_path / "exploded"))
    torch.save(changed, tmp_path / "bomb.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match="bomb.pth is not a checkpoint that can be read safely"):
        load_network(tmp_path / "bomb.pth")
    assert not (tmp_path / "exploded").exists()


def test_missing_and_truncated_files(file, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint .*missing.pth"):
        load_network(tmp_path / "missing.pth")
    (tmp_path / "half.pth").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="half.pth is not a checkpoint .*: it is damaged"):
        load_network(tmp_path / "half.pth")
