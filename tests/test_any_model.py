import hashlib

import pytest
import torch
from torch import nn

from model.any_model import AnyModel, ModelSpec, describe_any_model, parse_model_spec

IMAGES = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


# The text


@pytest.mark.parametrize(
    ("text", "kind", "source", "function", "keywords"),
    [
        ("hub:gmberton/eigenplaces:net", "hub", "gmberton/eigenplaces", "net", {}),
        ("hub:a/b:feature/x-1:net", "hub", "a/b:feature/x-1", "net", {}),
        (r"hub:C:\repos\salad:net", "hub", r"C:\repos\salad", "net", {}),
        ("hub:/some/folder:net:dim=512", "hub", "/some/folder", "net", {"dim": 512}),
        ("timm:create_model", "python", "timm", "create_model", {}),
        ("a.b:C.make:x=1", "python", "a.b", "C.make", {"x": 1}),
        (r"C:\my code\net.py:make:x=1", "python", r"C:\my code\net.py", "make", {"x": 1}),
        ("torchscript:C:/a.pt", "torchscript", "C:/a.pt", "", {}),
        ("onnx:a=b:c=d.onnx", "onnx", "a=b:c=d.onnx", "", {}),
        ("cosplace:ResNet50:512", "cosplace", "ResNet50:512", "", {}),
        ("landmark:GLD:ResNet101", "landmark", "GLD:ResNet101", "", {}),
        (
            "m:f:a=1e-3:b=True:c=None:d='7':e=ResNet50:f=[1, 2]:g=-2:h=01:i=",
            "python",
            "m",
            "f",
            {
                **{"a": 1e-3, "b": True, "c": None, "d": "7", "e": "ResNet50", "f": [1, 2]},
                **{"g": -2, "h": "01", "i": ""},
            },
        ),
        (
            r"m:f:url=https://host:80/a?b=c:path=C:\new\t.pth:quoted='C:\new:x=y':last=a=b",
            "python",
            "m",
            "f",
            {
                "url": "https://host:80/a?b=c",
                "path": r"C:\new\t.pth",
                "quoted": r"C:\new:x=y",
                "last": "a=b",
            },
        ),
    ],
)
def test_texts_are_read(text, kind, source, function, keywords):
    spec = parse_model_spec(text)
    assert spec == ModelSpec(kind, source, function, keywords)
    assert {key: type(value) for key, value in spec.keywords.items()} == {
        key: type(value) for key, value in keywords.items()
    }


@pytest.mark.parametrize(
    "text",
    [
        *["", "best_model.pth", "ResNet18", "hub:", "hub:a/b", "hub:a/b:", "hub::net", "onnx:"],
        *["m:f:5", "m:f:1x=5", "a-b:f", "m:f()", "m:", ":f", "m:x=5", "folder/net:f"],
    ],
)
def test_other_texts_are_explained(text):
    with pytest.raises(ValueError, match="names no model: write hub:OWNER/NAME.*--resume"):
        parse_model_spec(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("m:f:a=1:a=2", "gives 'a' twice"), ("m:f:pretrained=false", "write False, or 'false'")],
)
def test_arguments_that_are_slips(text, message):
    with pytest.raises(ValueError, match=message):
        parse_model_spec(text)


# What comes out


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ((torch.ones(2, 5), torch.ones(2, 9, 4)), "a tuple of .*\\[2, 5\\], .*\\[2, 9, 4\\]"),
        ({"descriptor": 1, "map": 2}, "a dict of descriptor, map"),
        (torch.ones(2, 64, 4, 6), "a float32 tensor \\[2, 64, 4, 6\\]"),
        (torch.ones(5), "a float32 tensor \\[5\\]"),
        (torch.ones(1, 5), "a float32 tensor \\[1, 5\\]"),
        (torch.ones(2, 0), "a float32 tensor \\[2, 0\\]"),
        (torch.ones(2, 5).long(), "a int64 tensor \\[2, 5\\]"),
        (torch.ones(2, 5).numpy(), "an object of type ndarray"),
        (None, "None"),
    ],
)
def test_other_outputs_are_refused(output, text):
    network = AnyModel(lambda images: output, "m:f", None)
    with pytest.raises(ValueError, match=f"m:f returns {text} for .*needed .*\\[2, D\\]"):
        network(IMAGES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_descriptors_pass_as_they_are(dtype):
    descriptors = torch.randn(2, 5).to(dtype) * 100
    assert AnyModel(lambda images: descriptors, "m:f", None)(IMAGES) is descriptors


def test_a_model_that_fails_names_the_images():
    def fail(images):
        assert images.shape[2] % 14 == 0, "height is no multiple of 14"

    with pytest.raises(
        ValueError, match=r"m:f fails on images \[2, 3, 16, 24\]: .*of 14.*--resize"
    ):
        AnyModel(fail, "m:f", None)(IMAGES)


def test_a_gpu_out_of_memory_passes_as_it_is():
    def fail(images):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        AnyModel(fail, "m:f", None)(IMAGES)


# Where it comes from


def test_the_hash_covers_names_types_shapes_and_values():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(torch.bfloat16)
    expected = hashlib.sha256()
    for name in sorted(network.state_dict()):
        tensor = network.state_dict()[name]
        expected.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        # bfloat16 is the upper half of float32, little-endian
        values = (
            tensor.float().numpy().reshape(-1) if tensor.is_floating_point() else tensor.numpy()
        )
        raw = values.tobytes()
        half = b"".join(raw[i + 2 : i + 4] for i in range(0, len(raw), 4))
        expected.update(half if tensor.is_floating_point() else raw)
    described = describe_any_model(AnyModel(network, "m:f", None))
    assert described == {
        "model": "m:f",
        "model_file": None,
        "model_sha256": expected.hexdigest(),
    }
    network[1].running_mean[1] += 1
    assert describe_any_model(AnyModel(network, "m:f", None)) != described


def test_a_function_has_no_hash():
    described = describe_any_model(AnyModel(torch.flatten, "m:f", None))
    assert described == {"model": "m:f", "model_file": None, "model_sha256": None}
