"""ViT-B/16 against an explicit computation with the names of Hugging Face's files."""

import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from model.backbones.build import build_backbone
from model.network import build_network

LAYER = {
    "attention.attention.query": (768, 768),
    "attention.attention.key": (768, 768),
    "attention.attention.value": (768, 768),
    "attention.output.dense": (768, 768),
    "intermediate.dense": (3072, 768),
    "output.dense": (768, 3072),
    "layernorm_before": (768,),
    "layernorm_after": (768,),
}
PARTS = ("query", "key", "value")
NEW_NAMES = {  # those of transformers 5
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def shapes():
    found = {
        "embeddings.cls_token": (1, 1, 768),
        "embeddings.position_embeddings": (1, 197, 768),
        "embeddings.patch_embeddings.projection.weight": (768, 3, 16, 16),
        "embeddings.patch_embeddings.projection.bias": (768,),
    }
    for i in range(12):
        for part, shape in LAYER.items():
            found[f"encoder.layer.{i}.{part}.weight"] = shape
            found[f"encoder.layer.{i}.{part}.bias"] = shape[:1]
    for part, shape in (("layernorm", (768,)), ("pooler.dense", (768, 768))):
        found |= {f"{part}.weight": shape, f"{part}.bias": shape[:1]}
    return found


def constant_state():
    """Return a state dict that is small on disk: each tensor is one number, its own."""
    return {
        key: torch.tensor(float(number)).expand(shape)
        for number, (key, shape) in enumerate(shapes().items(), start=1)
    }


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """Return a file of weights and its content."""
    generator = torch.Generator().manual_seed(0)

    def make(key, shape):
        values = torch.empty(shape).normal_(std=0.05, generator=generator)
        return (values + 1 if "layernorm" in key and key.endswith("weight") else values).half()

    state = {key: make(key, shape) for key, shape in shapes().items()}
    path = tmp_path_factory.mktemp("vit") / "pytorch_model.bin"
    torch.save(state, path)
    return path, {key: tensor.float() for key, tensor in state.items()}


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state, name, x):
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-12).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(state, name, x):
    """Attention head by head, x [B, N, 768]."""
    query, key, value = (linear(state, f"{name}.attention.{part}", x) for part in PARTS)
    heads = []
    for head in range(12):
        part = slice(64 * head, 64 * head + 64)
        logits = query[..., part] @ key[..., part].transpose(1, 2) / 8
        heads.append(logits.softmax(-1) @ value[..., part])
    return linear(state, f"{name}.output.dense", torch.cat(heads, -1))


def pooler_output(state, images):
    """Compute what Hugging Face's ViTModel calls pooler_output, [B, 768]."""
    weight = state["embeddings.patch_embeddings.projection.weight"].flatten(1)
    patches = F.unfold(images, 16, stride=16).transpose(1, 2) @ weight.T
    patches = patches + state["embeddings.patch_embeddings.projection.bias"]
    positions = state["embeddings.position_embeddings"]
    grid = (images.shape[2] // 16, images.shape[3] // 16)
    if grid != (14, 14):
        square = positions[:, 1:].transpose(1, 2).reshape(1, 768, 14, 14)
        resized = F.interpolate(square, grid, mode="bicubic").flatten(2).transpose(1, 2)
        positions = torch.cat((positions[:, :1], resized), 1)
    class_token = state["embeddings.cls_token"].expand(len(images), -1, -1)
    x = torch.cat((class_token, patches), 1) + positions
    for i in range(12):
        layer = f"encoder.layer.{i}"
        x = x + attend(state, f"{layer}.attention", norm(state, f"{layer}.layernorm_before", x))
        y = linear(state, f"{layer}.intermediate.dense", norm(state, f"{layer}.layernorm_after", x))
        y = y * 0.5 * (1 + torch.erf(y / 2**0.5))  # GELU
        x = x + linear(state, f"{layer}.output.dense", y)
    return torch.tanh(linear(state, "pooler.dense", norm(state, "layernorm", x)[:, 0]))


def test_descriptors_equal_an_explicit_computation(random_weights):
    path, state = random_weights
    network = build_network("ViT_B16", backbone_weights=path).eval()
    for size in ((224, 224), (64, 96)):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            maps, descriptors = network.backbone(images), network(images)
        expected = pooler_output(state, images)
        assert (expected[0] - expected[1]).abs().max() > 0.1, "nothing to tell apart"
        torch.testing.assert_close(maps[:, :, 0, 0], expected, rtol=1e-4, atol=1e-4)
        unit = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(descriptors, unit, rtol=1e-4, atol=1e-5)


def rename(key, prefix, is_new):
    if is_new:
        for old, new in NEW_NAMES.items():
            key = key.replace(old, new)
    return prefix + key


@pytest.mark.parametrize(("prefix", "is_new"), [("", False), ("vit.", True)])
def test_every_tensor_ends_in_its_place(tmp_path, prefix, is_new):
    state = constant_state()
    file = {rename(key, prefix, is_new): tensor for key, tensor in state.items()}
    file |= {"classifier.weight": torch.zeros(7, 768), "classifier.bias": torch.zeros(7)}
    torch.save(file, tmp_path / "pytorch_model.bin")
    loaded = build_backbone("ViT_B16", tmp_path).state_dict()  # the folder
    assert len(loaded) == 4 + 12 * 12 + 4
    seen = []
    for key, tensor in loaded.items():
        for part in tensor.chunk(3) if ".qkv." in key else [tensor]:
            smallest, largest = part.aminmax()
            assert smallest == largest, key
            seen.append(smallest.item())
    assert sorted(seen) == list(range(1, len(state) + 1))
    i = {key: number for number, key in enumerate(state, start=1)}
    layer = "encoder.layer.11"
    for ours, theirs in (
        ("cls_token", "embeddings.cls_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
        ("blocks.11.norm1.weight", f"{layer}.layernorm_before.weight"),
        ("blocks.11.norm2.bias", f"{layer}.layernorm_after.bias"),
        ("blocks.11.attn.proj.weight", f"{layer}.attention.output.dense.weight"),
        ("blocks.11.mlp.fc1.bias", f"{layer}.intermediate.dense.bias"),
        ("blocks.11.mlp.fc2.weight", f"{layer}.output.dense.weight"),
        ("norm.weight", "layernorm.weight"),
        ("pooler.weight", "pooler.dense.weight"),
    ):
        assert (loaded[ours] == i[theirs]).all(), ours
    query = i[f"{layer}.attention.attention.query.weight"]
    qkv = loaded["blocks.11.attn.qkv.weight"].reshape(3, 768, 768)
    for part, number in zip(qkv, (query, query + 2, query + 4), strict=True):
        assert (part == number).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooler.dense.weight": None}, r"ViT_B16 lack 1 of 152 .*'pooler\.weight'"),
        ({"encoder.layer.3.output.dense.bias": None}, r"lack 1 .*'blocks\.3\.mlp\.fc2\.bias'"),
        (
            {"encoder.layer.3.attention.attention.key.weight": None},
            r"lack 1 .*'blocks\.3\.attn\.qkv\.weight'",
        ),
        (
            {"encoder.layer.3.attention.attention.key.bias": torch.zeros(64)},
            r"lack 1 .*'blocks\.3\.attn\.qkv\.bias'",
        ),
        ({"embeddings.position_embeddings": torch.zeros(1, 577, 768)}, "lack 1 .*'pos_embed'"),
        ({"encoder.layer.3.attention.attention.query.bias": torch.tensor(1.0)}, "lack 1 .*qkv"),
        ({f"encoder.layer.3.attention.attention.{part}.bias": "text" for part in PARTS}, "lack 1 "),
        ({"embeddings.cls_token": "text"}, "lack 1 .*'cls_token'"),
        ({"encoder.layer.12.output.dense.bias": torch.zeros(768)}, "another network: .*'blocks.12"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_other_tensors_are_refused_by_name(tmp_path, changes, message):
    state = {k: v for k, v in (constant_state() | changes).items() if v is not None}
    torch.save(state, tmp_path / "weights.pth")
    with torch.device("meta"), pytest.raises(ValueError, match=message) as error:
        build_backbone("ViT_B16", tmp_path / "weights.pth")
    assert re.match("The weights '.*weights.pth' for ViT_B16", str(error.value))


def test_files_of_the_hub(tmp_path):
    missing = "has no model.safetensors and no pytorch_model"
    with torch.device("meta"), pytest.raises(FileNotFoundError, match=missing):
        build_backbone("ViT_B16", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not one")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with torch.device("meta"), pytest.raises(ValueError, match=r"model\.safetensors is not a "):
            build_backbone("ViT_B16", path)
    save_file({"pooler.dense.bias": torch.zeros(768)}, tmp_path / "model.safetensors")
    with torch.device("meta"), pytest.raises(ValueError, match="lack 151 of 152 tensors"):
        build_backbone("ViT_B16", tmp_path)
