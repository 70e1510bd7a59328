"""The examples of docs/extending.md: an aggregation is a file and a line, a backbone is a line."""

import ast
import re
import sys

import pytest
import torch
from conftest import REPOSITORY

import model.aggregation
from model.aggregation import AGGREGATIONS, AggregationSpec
from model.backbones import BACKBONES, BackboneSpec
from model.checkpoints import load_network
from model.network import build_network
from parser import parse_train_arguments

PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
FILE, LINE, BACKBONE_LINE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def moments(tmp_path, monkeypatch):
    """Add the file and the line of the page; nothing else knows the aggregation."""
    (tmp_path / "moments.py").write_text(FILE)
    monkeypatch.setattr(model.aggregation, "__path__", [*model.aggregation.__path__, str(tmp_path)])
    line = eval(f"{{{LINE}}}", {"AggregationSpec": AggregationSpec})
    for name, spec in line.items():
        monkeypatch.setitem(AGGREGATIONS, name, spec)
    yield
    sys.modules.pop("model.aggregation.moments", None)


def test_the_examples_are_short():
    assert len(FILE.splitlines()) <= 25 and len(LINE.splitlines()) == 1
    assert len(BACKBONE_LINE.splitlines()) == 1


@pytest.mark.parametrize("fc_output_dim", [24, 0])
@torch.no_grad()
def test_an_aggregation_is_a_file_and_a_line(moments, tmp_path, fc_output_dim):
    args = parse_train_arguments(["--aggregation=moments", f"--fc_output_dim={fc_output_dim}"])
    torch.manual_seed(0)
    network = build_network("ResNet18", args.fc_output_dim, args.aggregation, "none").eval()
    descriptors = network(IMAGES)
    assert descriptors.shape == (2, fc_output_dim or 2 * 512) == (2, network.out_dim)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2))

    maps = network.backbone(IMAGES).flatten(2).double()
    expected = torch.cat((maps.mean(2), maps.std(2)), dim=1)
    if fc_output_dim:
        linear = network.aggregation.linear
        expected = expected @ linear.weight.double().T + linear.bias.double()
    expected = expected / expected.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(descriptors.double(), expected, rtol=1e-4, atol=1e-5)

    for content in (network.state_dict(), {"model_state_dict": network.state_dict(), "epoch": 3}):
        torch.save(content, tmp_path / "checkpoint.pth")
        loaded = load_network(tmp_path / "checkpoint.pth").eval()
        assert loaded.architecture == network.architecture
        assert torch.equal(loaded(IMAGES), descriptors)


@torch.no_grad()
def test_it_can_be_trained_and_exported(moments):
    network = build_network("ResNet18", 24, "moments", "none").eval()
    script = torch.jit.script(network)
    torch.testing.assert_close(script(IMAGES), network(IMAGES), rtol=0, atol=1e-5)
    with torch.enable_grad():
        network(IMAGES)[:, 0].sum().backward()
    assert network.aggregation.linear.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_a_backbone_is_a_line(tmp_path, monkeypatch):
    name, value = BACKBONE_LINE.strip().removesuffix(",").split(": ", 1)
    spec = eval(value, {"BackboneSpec": BackboneSpec})
    monkeypatch.setitem(BACKBONES, ast.literal_eval(name), spec)
    assert parse_train_arguments(["--backbone=ResNeXt50"]).backbone == "ResNeXt50"
    with torch.device("meta"):
        network = build_network("ResNeXt50", 24, backbone_weights="none")
    assert network.backbone(IMAGES.to("meta")).shape == (2, spec.out_channels, 2, 3)
    frozen = {key for key, tensor in network.named_parameters() if not tensor.requires_grad}
    first = tuple(f"backbone.{layer}." for layer in (0, 1, 4, 5))  # those of a ResNet
    assert frozen == {key for key, _ in network.named_parameters() if key.startswith(first)}
    network = network.to_empty(device="cpu").eval()
    for tensor in network.state_dict().values():
        tensor.fill_(0.01)
    torch.save(network.state_dict(), tmp_path / "best_model.pth")
    loaded = load_network(tmp_path / "best_model.pth").eval()
    assert loaded.architecture == {
        "backbone": "ResNeXt50",
        "aggregation": "gem",
        "fc_output_dim": 24,
    }
    assert torch.equal(loaded(IMAGES), network(IMAGES))
