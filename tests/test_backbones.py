import itertools

import pytest
import torch
from state_dict_keys import BACKBONE_SHAPES, OUT_CHANNELS
from torch import nn

from model.backbones import BACKBONES
from model.backbones.build import build_backbone

CNNS = [name for name, spec in BACKBONES.items() if spec.family.startswith("cnns:")]

# What the paper trains: state-dict prefixes. All else is frozen.
TRAINED = {
    **dict.fromkeys(("ResNet18", "ResNet50", "ResNet101", "ResNet152"), ("6.", "7.")),
    **dict.fromkeys(("ResNet18_conv4", "ResNet50_conv4", "ResNet101_conv4"), ("6.",)),
    "VGG16": ("24.", "26.", "28."),
    **{f"EfficientNet_B{i}": ("0.5.", "0.6.", "0.7.", "0.8.") for i in range(8)},
    "EfficientNet_Lite0": ("blocks.4.", "blocks.5.", "blocks.6.", "conv_head.", "bn2."),
    "MobileNetV2": tuple(f"0.{i}." for i in range(11, 19)),
}


def build_on_meta(name, train_all_layers=False):
    with torch.device("meta"):
        return build_backbone(name, "none", train_all_layers).eval()


def test_the_tables_of_this_test_name_every_cnn():
    assert set(CNNS) == set(BACKBONE_SHAPES) == set(OUT_CHANNELS) == set(TRAINED)


def test_no_two_backbones_have_the_same_keys_and_shapes():
    shapes = []
    for name in BACKBONES:
        state = build_on_meta(name).state_dict()
        shapes.append({key: tensor.shape for key, tensor in state.items()})
    assert all(one != other for one, other in itertools.combinations(shapes, 2))


@pytest.mark.parametrize("name", BACKBONE_SHAPES)
def test_state_dict_has_the_published_keys_and_shapes(name):
    state = build_on_meta(name).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == BACKBONE_SHAPES[name]


@pytest.mark.parametrize("name", OUT_CHANNELS)
@pytest.mark.parametrize("height, width", [(64, 64), (65, 97)])
def test_maps_have_out_channels_and_the_stride_of_the_backbone(name, height, width):
    backbone = build_on_meta(name)
    maps = backbone(torch.rand(2, 3, height, width, device="meta"))
    stride = 16 if name.endswith("_conv4") else 32
    size = (-(-height // stride), -(-width // stride))  # four or five strides that round up
    if name == "VGG16":  # four poolings that round down
        size = (height // 16, width // 16)
    assert backbone.out_channels == OUT_CHANNELS[name]
    assert maps.shape == (2, OUT_CHANNELS[name], *size)


@pytest.mark.parametrize("name", ["ResNet18", "EfficientNet_B0", "EfficientNet_Lite0"])
def test_maps_on_the_cpu_are_finite_and_not_constant(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, "none").eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 65, 97))
    assert maps.shape == (1, OUT_CHANNELS[name], 3, 4)
    assert maps.isfinite().all()
    assert maps.std((2, 3)).mean() > 0


def test_vgg16_ends_before_the_last_relu():
    backbone = build_on_meta("VGG16")
    assert isinstance(backbone[-1], nn.Conv2d)
    assert sum(isinstance(layer, nn.ReLU) for layer in backbone) == 12  # of 13
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in backbone) == 4  # of 5


@pytest.mark.parametrize("name", TRAINED)
def test_first_layers_are_frozen_as_in_the_paper(name):
    parameters = dict(build_on_meta(name).named_parameters())
    trained = {key for key, parameter in parameters.items() if parameter.requires_grad}
    assert trained == {key for key in parameters if key.startswith(TRAINED[name])}
    for prefix in TRAINED[name]:  # each is there
        assert any(key.startswith(prefix) for key in trained)


@pytest.mark.parametrize("name", TRAINED)
def test_train_all_layers_freezes_nothing(name):
    backbone = build_on_meta(name, train_all_layers=True)
    assert all(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("name", ["ResNet18", "MobileNetV2", "EfficientNet_Lite0"])
def test_batch_norm_statistics_of_frozen_layers_move_in_training_mode(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, "none").train()
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64)).sum().backward()
    after = backbone.state_dict()
    statistics = [key for key in after if key.endswith(("running_mean", "running_var"))]
    assert any(not key.startswith(TRAINED[name]) for key in statistics)
    for key in statistics:
        assert not torch.equal(after[key], before[key]), key
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == key.startswith(TRAINED[name]), key


def test_a_resnet_cut_at_conv4_gives_the_maps_inside_the_whole_one():
    torch.manual_seed(0)
    whole, cut = build_backbone("ResNet18", "none").eval(), build_backbone("ResNet18_conv4", "none")
    cut.eval().load_state_dict({key: whole.state_dict()[key] for key in cut.state_dict()})
    images = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(cut(images), whole[:7](images))
