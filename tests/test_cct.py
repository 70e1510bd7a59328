"""CCT-14/7x2 against an explicit loop with the names of the official files."""

import pytest
import torch
import torch.nn.functional as F

from model.backbones.build import build_backbone
from model.network import build_network


def shapes(side=14):
    found = {
        "tokenizer.conv_layers.0.0.weight": (64, 3, 7, 7),
        "tokenizer.conv_layers.1.0.weight": (384, 64, 7, 7),
        "classifier.positional_emb": (1, side * side, 384),
        "classifier.attention_pool.weight": (1, 384),
        "classifier.attention_pool.bias": (1,),
    }
    for i in range(14):
        block = f"classifier.blocks.{i}"
        found |= {
            f"{block}.pre_norm.weight": (384,),
            f"{block}.pre_norm.bias": (384,),
            f"{block}.self_attn.qkv.weight": (1152, 384),
            f"{block}.self_attn.proj.weight": (384, 384),
            f"{block}.self_attn.proj.bias": (384,),
            f"{block}.linear1.weight": (1152, 384),
            f"{block}.linear1.bias": (1152,),
            f"{block}.norm1.weight": (384,),
            f"{block}.norm1.bias": (384,),
            f"{block}.linear2.weight": (384, 1152),
            f"{block}.linear2.bias": (384,),
        }
    return found | {
        "classifier.norm.weight": (384,),
        "classifier.norm.bias": (384,),
        "classifier.fc.weight": (1000, 384),
        "classifier.fc.bias": (1000,),
    }


@pytest.fixture(scope="module")
def state():
    generator = torch.Generator().manual_seed(0)

    def make(key, shape):
        values = torch.empty(shape).normal_(std=0.05, generator=generator)
        return values + 1 if "norm" in key and key.endswith("weight") else values

    found = {key: make(key, shape) for key, shape in shapes().items()}
    found["classifier.attention_pool.weight"] *= 5  # places differ
    return found


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)


def norm(state, name, x):
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(state, name, x):
    """Attention of one image, head by head, x [N, 384]."""
    query, key, value = linear(state, f"{name}.qkv", x).split(384, dim=1)
    heads = []
    for head in range(6):
        part = slice(64 * head, 64 * head + 64)
        weights = (query[:, part] @ key[:, part].T / 64**0.5).softmax(1)
        heads.append(weights @ value[:, part])
    return linear(state, f"{name}.proj", torch.cat(heads, 1))


def describe(state, image, positions):
    """Return the vector that the official network gives to its classifier, [384]."""
    x = image[None]
    for i in (0, 1):
        x = F.conv2d(x, state[f"tokenizer.conv_layers.{i}.0.weight"], None, 2, 3)
        x = F.max_pool2d(x.clamp(min=0), 3, 2, 1)
    x = x[0].flatten(1).T + positions  # [N, 384]
    for i in range(14):
        block = f"classifier.blocks.{i}"
        x = x + attend(state, f"{block}.self_attn", norm(state, f"{block}.pre_norm", x))
        x = norm(state, f"{block}.norm1", x)
        y = linear(state, f"{block}.linear1", x)
        x = x + linear(state, f"{block}.linear2", y * 0.5 * (1 + torch.erf(y / 2**0.5)))
    x = norm(state, "classifier.norm", x)
    weights = linear(state, "classifier.attention_pool", x).softmax(0)  # [N, 1]
    return (weights * x).sum(0)


def assert_described(network, state, size, positions):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        descriptors = network.eval()(images)
    expected = torch.stack([describe(state, image, positions) for image in images])
    expected = expected / expected.norm(dim=1, keepdim=True)
    assert (expected[0] - expected[1]).abs().max() > 0.01, "nothing to tell apart"
    torch.testing.assert_close(descriptors, expected, rtol=1e-4, atol=1e-5)


def resized(positions, height, width):
    grid = positions.transpose(1, 2).reshape(1, 384, 14, 14)
    return F.interpolate(grid, (height, width), mode="bilinear")[0].flatten(1).T


def test_descriptors_equal_an_explicit_loop(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    network = build_network("CCT14_224", backbone_weights=tmp_path / "weights.pth")
    positions = state["classifier.positional_emb"]
    assert_described(network, state, (224, 224), positions[0])
    assert_described(network, state, (64, 96), resized(positions, 4, 6))


def test_weights_for_another_image_size(state, tmp_path):
    """The 384-pixel network may start from the 224-pixel file, as the official one did."""
    torch.save(state, tmp_path / "weights.pth")
    network = build_network("CCT14_384", backbone_weights=tmp_path / "weights.pth")
    positions = resized(state["classifier.positional_emb"], 24, 24)
    torch.testing.assert_close(network.backbone.positional_emb[0], positions)


def test_every_tensor_ends_in_its_place(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    network = build_network("CCT14_224", backbone_weights=tmp_path / "weights.pth")
    loaded = network.state_dict()
    assert len(loaded) == len(state) - 2  # without fc
    for key, tensor in state.items():
        ours = key.replace("classifier.", "")
        if "attention_pool" in key:
            assert torch.equal(loaded[f"aggregation.1.attention.{ours.split('.')[1]}"], tensor)
        elif ".fc." not in key:
            assert torch.equal(loaded[f"backbone.{ours}"], tensor), key


def test_other_poolings_leave_the_pretrained_one_out(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    network = build_network("CCT14_224", 16, "gem", tmp_path / "weights.pth")
    assert set(dict(network.aggregation.named_parameters())) == {"1.p", "3.weight", "3.bias"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classifier.attention_pool.weight": None}, "lack 1 .*'attention_pool.weight'"),
        ({"classifier.positional_emb": None}, "lack 1 of 159 .*'positional_emb'"),
        ({"classifier.positional_emb": torch.zeros(1, 195, 384)}, "lack 1 .*'positional_emb'"),
        ({"classifier.positional_emb": torch.zeros(1, 196, 256)}, "lack 1 .*'positional_emb'"),
        ({"classifier.positional_emb": "text"}, "lack 1 .*'positional_emb'"),
        (
            {"classifier.blocks.13.norm1.bias": torch.zeros(3)},
            r"lack 1 .*'blocks\.13\.norm1\.bias'",
        ),
        ({5: torch.zeros(3)}, "holds no state dict"),
        ({"classifier.blocks.14.norm1.bias": torch.zeros(384)}, r"also 'blocks\.14\.norm1\.bias'"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
def test_other_tensors_are_refused_by_name(state, tmp_path, changes, message):
    content = {k: v for k, v in (state | changes).items() if v is not None}
    torch.save(content, tmp_path / "weights.pth")
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build_network("CCT14_224", backbone_weights=tmp_path / "weights.pth")


def test_training_is_random_and_evaluation_is_not():
    """Attention dropout and stochastic depth, as the network was trained with."""
    torch.manual_seed(0)
    backbone = build_backbone("CCT14_224", "none")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(backbone.train()(images), backbone(images))
        assert torch.equal(backbone.eval()(images), backbone(images))
