import pytest
import torch
from torch import nn

from model.backbones import BACKBONES
from model.inference import fold_batch_norms, optimize
from model.network import build_network
from model.other_models import OtherModel

CNNS = [name for name, spec in BACKBONES.items() if spec.family.startswith("cnns:")]
SIZES = [(1, 3, 64, 64), (2, 3, 97, 130)]


def make_network(backbone, pooling=None):
    """Return a network in evaluation mode whose BatchNorms do something to its features."""
    torch.manual_seed(0)
    network = build_network(backbone, None, pooling, "none")
    set_batch_norms(network)
    return network.eval()


def set_batch_norms(network):
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
            layer.momentum = 1.0  # statistics of the next images
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 64, 64))


def assert_equal_descriptors(network, fast, atol=1e-5, dtype=torch.float32):
    for number, shape in enumerate(SIZES):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(number), dtype=dtype)
        with torch.inference_mode():
            expected, found = network(images), fast(images)
        assert found.shape == expected.shape and found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)
        if len(images) > 1:
            assert (expected[0] - expected[1]).abs().max() > 1e-3, "nothing to tell apart"


@pytest.mark.parametrize("backbone", CNNS)
def test_batch_norms_of_every_cnn_are_folded(backbone):
    with torch.device("meta"):
        fast = optimize(build_network(backbone, backbone_weights="none").eval())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules())


@pytest.mark.parametrize(
    "backbone", ["ResNet18", "ResNet50", "VGG16", "EfficientNet_B0", "EfficientNet_Lite0"]
)
def test_folded_cnns_compute_the_same(backbone):
    """In float64: random weights in many layers blow up the rounding of float32 in any order."""
    network = make_network(backbone).double()
    assert_equal_descriptors(network, optimize(network), 1e-7, torch.float64)


@pytest.mark.parametrize("backbone", ["ResNet18", "ResNet50", "VGG16", "MobileNetV2"])
def test_folded_cnns_give_the_same_descriptors(backbone):
    network = make_network(backbone)
    assert_equal_descriptors(network, optimize(network))


def test_trained_networks_give_the_same_descriptors():
    network = build_network("EfficientNet_Lite0").eval()
    assert_equal_descriptors(network, optimize(network))


@pytest.mark.parametrize("backbone", ["ViT_B16", "CCT14_224", "DINOv2_S"])
def test_transformers_give_the_same_descriptors(backbone):
    network = make_network(backbone)
    assert_equal_descriptors(network, optimize(network))


@pytest.mark.parametrize("pooling", ["gem", "avg", "max", "netvlad", "crn"])
def test_every_pooling_goes_with_it(pooling):
    network = make_network("ResNet18", pooling)
    if pooling == "gem":
        nn.init.constant_(network.aggregation[1].p, 2.6)
    assert_equal_descriptors(network, optimize(network))


def test_the_network_itself_stays_as_it_was():
    """Training goes on with it after a validation."""
    network = make_network("ResNet18")
    network(torch.randn(1, 3, 64, 64)).sum().backward()
    images = torch.randn(2, 3, 64, 64)
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    descriptors, layers = network(images), list(network.modules())
    fast = optimize(network)
    with torch.no_grad():
        for weight in fast.parameters():
            assert not weight.requires_grad and weight.grad is None
            weight.zero_()
    assert list(network.modules()) == layers
    assert torch.equal(network(images), descriptors)
    for name, tensor in (dict(network.named_parameters()) | dict(network.named_buffers())).items():
        assert tensor is tensors[name] and torch.equal(tensor, before[name])
        assert tensor.stride() == before[name].stride()
    gradients = [weight.grad is not None for weight in network.parameters() if weight.requires_grad]
    assert all(gradients)


def test_passes_are_of_few_pixels_and_in_order(monkeypatch):
    network = make_network("ResNet18")
    fast, sizes = optimize(network), []
    fast.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    images = torch.randn(7, 3, 64, 64)
    with torch.inference_mode():
        expected = network(images)
        for num_pixels, expected_sizes in ((3 * 64 * 64, [3, 3, 1]), (1, [1] * 7), (1 << 18, [7])):
            monkeypatch.setattr("model.inference._PIXELS_PER_PASS", num_pixels)
            sizes.clear()
            torch.testing.assert_close(fast(images), expected, rtol=0, atol=1e-5)
            assert sizes == expected_sizes


class TwoUsers(nn.Module):
    """A convolution that is needed without its BatchNorm as well, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.last, self.last_norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images):
        features = self.conv(images)
        return self.last_norm(self.last(features + self.norm(features)))


def test_a_convolution_that_others_need_is_not_folded():
    torch.manual_seed(0)
    layers = TwoUsers()
    set_batch_norms(layers)
    images = torch.randn(2, 3, 8, 8)
    expected = layers.eval()(images)
    fold_batch_norms(layers)
    assert isinstance(layers.norm, nn.BatchNorm2d) and isinstance(layers.last_norm, nn.Identity)
    torch.testing.assert_close(layers(images), expected, rtol=1e-5, atol=1e-5)


def test_published_networks_are_folded_inside_their_wrapper():
    torch.manual_seed(0)
    network = build_network("ResNet50", 0, "gem_plain", "none", whiten_dim=32, kept_dims=16)
    set_batch_norms(network)
    fast = optimize(OtherModel(network.eval().double(), {"model": "landmark:GLD:ResNet50"}))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        features = network.backbone(images)
        torch.testing.assert_close(fast.network.backbone(images), features, rtol=1e-9, atol=1e-9)


def test_models_of_others_run_as_they_are():
    model = OtherModel(lambda images: images.mean((2, 3)), {"model": "a.py:f"})
    assert optimize(model) is model
