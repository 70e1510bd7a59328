import numpy as np
import pytest
import torch
from golden_cases import golden
from PIL import Image
from state_dict_keys import (
    BACKBONE_SHAPES,
    descriptors_by_hand,
    network_shapes,
    random_state,
)

from evaluation.views import View
from model.aggregation import build_aggregation
from model.backbones import INPUT_SCALINGS
from model.network import GeoLocalizationNet, InputScaling, build_network


@pytest.fixture(scope="module")
def networks():
    """Return networks [dim 48] with random weights, and the weights."""
    built = {}
    for backbone in ("ResNet18", "VGG16"):
        state = random_state(network_shapes(backbone, 48))
        with torch.device("meta"):
            network = build_network(backbone, 48, backbone_weights="none").eval()
        network.load_state_dict(state, strict=True, assign=True)
        built[backbone] = (network, state)
    return built


def make_images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backbone", ["ResNet18", "VGG16"])
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (40, 33), (224, 160)])
def test_descriptors_equal_an_independent_computation(networks, backbone, size):
    network, state = networks[backbone]
    images = make_images(2, 3, *size)
    with torch.no_grad():
        descriptors = network(images)
    assert descriptors.shape == (2, 48)
    assert descriptors.dtype == torch.float32
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)
    expected = descriptors_by_hand(state, images, backbone)
    assert (expected[0] - expected[1]).norm() > 1e-2  # or else nothing is compared
    torch.testing.assert_close(descriptors, expected, rtol=1e-4, atol=1e-5)


def test_vgg16_maps_are_negative_in_places(networks):
    network, _ = networks["VGG16"]
    with torch.no_grad():
        maps = network.backbone(make_images(1, 3, 64, 64))
    assert 0.1 < (maps < 0).float().mean() < 0.9


@pytest.mark.parametrize("backbone", ["ResNet18", "VGG16"])
def test_autocast_gives_float32_descriptors_of_unit_length(networks, backbone):
    network, state = networks[backbone]
    images = make_images(2, 3, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        descriptors = network(images)
    assert descriptors.dtype == torch.float32
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)
    cosines = (descriptors * descriptors_by_hand(state, images, backbone)).sum(1)
    assert (cosines > 0.99).all()


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_other_poolings_stand_between_the_same_layers(networks, pooling):
    backbone, state = networks["ResNet18"][0].backbone, networks["ResNet18"][1]
    network = GeoLocalizationNet(backbone, build_aggregation(pooling, 512, 48)).eval()
    linear = [state["aggregation.3.weight"], state["aggregation.3.bias"]]
    network.aggregation[3].load_state_dict(dict(zip(("weight", "bias"), linear, strict=True)))
    images = make_images(2, 3, 64, 96)
    with torch.no_grad():
        descriptors = network(images)
        maps = backbone(images)
    maps = maps / maps.norm(dim=1, keepdim=True)
    pooled = maps.mean((2, 3)) if pooling == "avg" else maps.flatten(2).max(2).values
    expected = pooled @ linear[0].T + linear[1]
    torch.testing.assert_close(descriptors, expected / expected.norm(dim=1, keepdim=True))


def test_gradients_reach_what_the_paper_trains_and_nothing_else():
    torch.manual_seed(0)
    network = build_network("ResNet18", 16, backbone_weights="none").train()
    network(make_images(2, 3, 64, 64))[:, 0].sum().backward()
    reached = {
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    trained = ("backbone.6.", "backbone.7.", "aggregation.")
    assert reached == {name for name, _ in network.named_parameters() if name.startswith(trained)}


def test_train_all_layers_reaches_the_backbone():
    with torch.device("meta"):
        network = build_network("ResNet18", 16, "gem", "none", train_all_layers=True)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("backbone", BACKBONE_SHAPES)
def test_state_dict_has_the_published_keys_and_shapes(backbone):
    with torch.device("meta"):
        network = build_network(backbone, 128, "gem", "none")
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert shapes == network_shapes(backbone, 128)
    assert network.out_dim == 128


def test_a_few_published_keys_to_the_letter():
    with torch.device("meta"):
        networks = [build_network(name, 512, "gem", "none") for name in ("ResNet50", "VGG16")]
    resnet50, vgg16 = ({k: tuple(t.shape) for k, t in n.state_dict().items()} for n in networks)
    assert len(resnet50) == 318 + 3
    assert list(resnet50)[:2] == ["backbone.0.weight", "backbone.1.weight"]
    assert resnet50["backbone.4.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert resnet50["backbone.7.2.conv3.weight"] == (2048, 512, 1, 1)
    assert len(vgg16) == 26 + 3
    assert vgg16["backbone.28.bias"] == (512,)
    for shapes, channels in ((resnet50, 2048), (vgg16, 512)):
        assert list(shapes.items())[-3:] == [
            ("aggregation.1.p", (1,)),
            ("aggregation.3.weight", (512, channels)),
            ("aggregation.3.bias", (512,)),
        ]


def test_unknown_aggregation_lists_the_choices():
    with pytest.raises(ValueError, match="Unknown aggregation 'nothing': choose from gem, "):
        build_network("ResNet18", 16, "nothing", "none")


def test_descriptors_have_no_negative_length():
    with pytest.raises(ValueError, match="--fc_output_dim must not be negative, it is -5"):
        build_network("ResNet18", -5, backbone_weights="none")


def test_unknown_backbone():
    with pytest.raises(ValueError, match="Unknown backbone 'AlexNet': choose from ResNet18, "):
        build_network("AlexNet", 16, backbone_weights="none")


# Input scaling


def test_images_for_caffe_are_those_of_openibl():
    case = golden("preprocess_a")
    height, width = case["in.resize_hw"].tolist()
    image = Image.fromarray(case["in.image_uint8_hwc"])
    pixels = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
    images = View()(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
    scaled = InputScaling(*INPUT_SCALINGS["vgg_caffe"])(images)[0]
    expected = torch.from_numpy(case["out.openibl_test"])
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_backbone_gets_scaled_images(networks):
    plain, state = networks["VGG16"]
    with torch.device("meta"):  # as networks of files are built
        network = build_network("VGG16", 48, backbone_weights="none", input_scaling="vgg_caffe")
    network.load_state_dict(state, strict=True, assign=True)
    images = make_images(2, 3, 64, 96)
    pixels = (images * torch.tensor([0.229, 0.224, 0.225])[:, None, None]).add(
        torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    ) * 255
    grey = pixels - torch.tensor([123.68, 116.779, 103.939])[:, None, None]
    maps, descriptors = network.feature_maps(images), network.eval()(images)
    torch.testing.assert_close(maps, plain.backbone(grey), rtol=0, atol=1e-5 * maps.abs().max())
    torch.testing.assert_close(descriptors, plain(grey), rtol=0, atol=1e-5)
    assert (descriptors - plain(images)).abs().max() > 1e-3
    assert list(network.state_dict()) == list(plain.state_dict())


def test_the_architecture_says_the_input_scaling_where_there_is_one():
    def build(scaling):
        with torch.device("meta"):
            return build_network("VGG16", backbone_weights="none", input_scaling=scaling)

    assert build("vgg_caffe").architecture["input_scaling"] == "vgg_caffe"
    for scaling in (None, "imagenet"):
        assert "input_scaling" not in build(scaling).architecture
    with pytest.raises(ValueError, match="Unknown --input_scaling 'bgr': .* vgg_caffe"):
        build("bgr")
