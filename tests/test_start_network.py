"""Networks that trainings start from: those of other trainings, other aggregations."""

import pytest
import tiny_backbone  # noqa: F401, networks here have it
import torch

from model.checkpoints import load_network, start_network
from model.network import build_network


def make_images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def trained_netvlad(save):
    torch.manual_seed(1)
    args = {"clusters": 4}
    network = build_network("Tiny", None, "netvlad", "none", aggregation_args=args, whiten_dim=8)
    return network, save({"model_state_dict": network.state_dict()})


@torch.no_grad()
def test_a_training_starts_without_whitening(trained_netvlad):
    network, path = trained_netvlad
    started = start_network(path)
    assert started.out_dim == 4 * 16 and started.architecture == {
        "backbone": "Tiny",
        "aggregation": "netvlad",
        "fc_output_dim": 0,
        "aggregation_args": {"clusters": 4},
    }
    images = make_images(2, 3, 64, 80)
    maps = network.eval().feature_maps(images)
    assert torch.equal(started.eval()(images), network.aggregation(maps))


@torch.no_grad()
def test_crn_starts_from_netvlad(trained_netvlad, save):
    network, path = trained_netvlad
    torch.manual_seed(2)
    started = start_network(path, "crn", {"mask_input": "raw"}, train_all_layers=True)
    assert started.architecture == {
        "backbone": "Tiny",
        "aggregation": "crn",
        "fc_output_dim": 0,
        "aggregation_args": {"clusters": 4, "mask_input": "raw"},
    }
    state = started.state_dict()
    own = {key for key in state if key.startswith("aggregation.crn.")}
    trained = {key for key in network.state_dict() if not key.startswith("whitening.")}
    assert state.keys() == trained | own
    assert all(torch.equal(state[key], network.state_dict()[key]) for key in trained)
    assert state["aggregation.crn.filter_5_5.weight"].std() > 0.01
    assert {key for key, one in started.named_parameters() if not one.requires_grad} == {
        "aggregation.crn.acc_w.weight",
        "aggregation.crn.acc_w.bias",
    }
    again = start_network(save(state), "crn").eval()
    images = make_images(2, 3, 64, 80)
    assert torch.equal(again(images), started.eval()(images))
    assert torch.equal(load_network(save(state)).eval()(images), started(images))


@pytest.mark.parametrize(
    ("aggregation", "args", "message"),
    [
        (
            "gem",
            {},
            "has the aggregation netvlad: --aggregation gem starts from a network with gem",
        ),
        ("nothing", {}, "Unknown aggregation 'nothing'"),
        ("crn", {"clusters": 5}, "does not have the tensors of crn with .*'clusters': 5.*mismatch"),
        ("netvlad", {"vladv2": True}, "does not have the tensors of netvlad .*conv.bias"),
        ("crn", {"vladv2": True}, "'vladv2' is no option of crn"),
    ],
)
def test_a_start_from_another_network(trained_netvlad, aggregation, args, message):
    with pytest.raises(ValueError, match=message):
        start_network(trained_netvlad[1], aggregation, args)


def test_crn_does_not_start_from_gem(save):
    path = save(build_network("Tiny", 8, backbone_weights="none").state_dict())
    message = "has the aggregation gem: --aggregation crn starts from a network with netvlad or crn"
    with pytest.raises(ValueError, match=message):
        start_network(path, "crn")
