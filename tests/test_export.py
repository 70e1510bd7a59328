import hashlib
import json
import os

import onnx
import onnxruntime
import pytest
import torch
from state_dict_keys import descriptors_by_hand, network_shapes, random_state

from model.checkpoint_files import save_atomically
from model.network import build_network
from model.other_models import load_model, load_other_model
from tools.export import largest_difference, main

# EfficientNet_Lite0 pads by the size of the images; the poolings without parameters keep their
# names in the state dict.
NETWORKS = [
    *[("ResNet18", "gem"), ("EfficientNet_Lite0", "avg"), ("MobileNetV2", "max")],
    *[("CCT14_224", "seqpool"), ("DINOv2_S", "gem"), ("Tiny", "netvlad"), ("TinyPlain", "crn")],
    *[("Tiny", "sralnet"), ("Tiny", "appsvr"), ("Tiny", "apanet")],
    *[("TinyDINOv2", "cls"), ("TinyDINOv2", "salad"), ("TinyDINOv2", "boq")],
    *[("Tiny", "convap"), ("Tiny", "salad")],
]
ARGS = {"salad": {"clusters": 4, "hidden": 16}, "boq": {"proj_channels": 64, "num_queries": 4}}
FORMATS = ("torchscript", "onnx")

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")


@pytest.fixture(scope="module", params=NETWORKS, ids="-".join)
def checkpoint(request, tmp_path_factory):
    """Return the path of a checkpoint, and its network."""
    torch.manual_seed(0)
    backbone, pooling = request.param
    args = ARGS.get(pooling, {})
    if pooling == "salad" and backbone == "Tiny":
        args = args | {"token_dim": 0}
    network = build_network(backbone, 24, pooling, "none", aggregation_args=args)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0  # statistics of the next images, or else descriptors hardly differ
    with torch.no_grad():
        network(torch.randn(4, 3, 64, 64))
    path = tmp_path_factory.mktemp(backbone) / "best_model.pth"
    save_atomically(network.state_dict(), path)
    return path, network.eval()


@pytest.fixture
def published(tmp_path):
    """Return the path of a file like the published ones, and its tensors."""
    state = random_state(network_shapes("ResNet18", 32), p=2.9)
    torch.save(state, tmp_path / "ResNet18_32_cosplace.pth")
    return tmp_path / "ResNet18_32_cosplace.pth", state


def make_images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def read_by_hand(file, file_format):
    """Return the function in a file, without any code of ours."""
    if file_format == "torchscript":
        return torch.jit.load(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize("file_format", FORMATS)
def test_exported_networks_give_the_same_descriptors(checkpoint, tmp_path, file_format):
    path, network = checkpoint
    main([str(path), "--format", file_format, "--out", f"{tmp_path}/net", "--image_size", "64"])
    assert os.listdir(tmp_path) == ["net"]
    exported = read_by_hand(tmp_path / "net", file_format)
    from_anywhere = load_other_model(f"{file_format}:{tmp_path}/net")
    with torch.inference_mode():
        for shape in [(1, 3, 64, 64), (2, 3, 81, 130), (5, 3, 112, 96)]:
            images = make_images(*shape)
            expected = network(images)
            if len(images) > 1:
                assert (expected[0] - expected[1]).abs().max() > 1e-3, "nothing to tell apart"
            for model in (exported, from_anywhere):
                torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_input_scaling_is_part_of_the_file(tmp_path, file_format):
    torch.manual_seed(0)
    network = build_network("TinyPlain", 8, "gem", "none", input_scaling="vgg_caffe").eval()
    save_atomically(network.state_dict(), tmp_path / "best_model.pth")
    flags = ["--format", file_format, "--out", f"{tmp_path}/net", "--image_size", "64"]
    main([str(tmp_path / "best_model.pth"), *flags])
    images = make_images(2, 3, 64, 96)
    with torch.inference_mode():
        descriptors = read_by_hand(tmp_path / "net", file_format)(images)
        torch.testing.assert_close(descriptors, network(images), rtol=0, atol=1e-5)
        unscaled = network.aggregation(network.backbone(images))
    assert (descriptors - unscaled).abs().max() > 1e-3


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_published_network_equals_an_independent_computation(published, tmp_path, file_format):
    path, state = published
    main([str(path), "--format", file_format, "--out", f"{tmp_path}/net", "--image_size", "64"])
    images = make_images(2, 3, 65, 97)
    with torch.inference_mode():
        descriptors = read_by_hand(tmp_path / "net", file_format)(images)
    expected = descriptors_by_hand(state, images, "ResNet18")
    torch.testing.assert_close(descriptors, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file_format", FORMATS)
def test_files_say_what_they_are(published, tmp_path, file_format):
    path, _ = published
    out = tmp_path / "net"
    out.write_text("an older one")
    main([str(path), "--format", file_format, "--out", str(out), "--image_size=64"])
    if file_format == "torchscript":
        content = {"metadata.json": ""}
        torch.jit.load(str(out), _extra_files=content)
        metadata = json.loads(content["metadata.json"])
    else:
        metadata = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
        for key in ("fc_output_dim", "mean", "std"):
            metadata[key] = json.loads(metadata[key])
    sha256 = metadata.pop("checkpoint_sha256")
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert metadata.pop("code_version") and metadata.pop("torch") == torch.__version__
    assert "RGB from 0 to 1" in metadata.pop("input") and "length 1" in metadata.pop("output")
    assert metadata == {
        "backbone": "ResNet18",
        "aggregation": "gem",
        "fc_output_dim": 32,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "checkpoint": "ResNet18_32_cosplace.pth",
    }


@pytest.mark.parametrize("file_format", FORMATS)
def test_mixvpr_is_exported_for_its_size_only(tmp_path, file_format):
    torch.manual_seed(0)
    args = {"height": 7, "width": 7, "out_channels": 8}
    network = build_network("Tiny", 0, "mixvpr", "none", aggregation_args=args).eval()
    save_atomically(network.state_dict(), tmp_path / "best_model.pth")
    (tmp_path / "args.json").write_text('{"backbone": "Tiny", "image_size": 64}')
    out = tmp_path / "net"
    main([str(tmp_path / "best_model.pth"), "--format", file_format, "--out", str(out)])
    exported = read_by_hand(out, file_format)
    images = make_images(5, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(exported(images), network(images), rtol=0, atol=1e-5)
        with pytest.raises(Exception, match=r"(?i)invalid|size|shape"):
            exported(make_images(1, 3, 64, 96))
    assert b"made for 64 x 64 pixels, and for no other size" in out.read_bytes()


def test_a_file_says_the_rule_of_the_network_and_is_checked_with_its_size(tmp_path):
    """As of a published MixVPR, which has no flags of a training."""
    args = {"height": 7, "width": 7, "out_channels": 8}
    network = build_network(
        *("Tiny", 0, "mixvpr", "none"), aggregation_args=args, resize="64x64-pillow"
    )
    save_atomically(network.state_dict(), tmp_path / "net.pth")
    main([f"{tmp_path}/net.pth", "--format=torchscript", f"--out={tmp_path}/net"])
    content = (tmp_path / "net").read_bytes()
    assert b"test images resized to 64x64-pillow" in content
    assert b'"resize": "64x64-pillow"' in content


def test_transformers_say_the_size_of_their_images(tmp_path):
    network = build_network("CCT14_224", backbone_weights="none")
    save_atomically(network.state_dict(), tmp_path / "net.pth")
    main([f"{tmp_path}/net.pth", "--format=onnx", f"--out={tmp_path}/net", "--image_size=64"])
    content = onnx.load(tmp_path / "net")
    assert [entry.version for entry in content.opset_import] == [17]
    (entry,) = [e for e in content.metadata_props if e.key == "input"]
    assert "made for 224 x 224 pixels" in entry.value


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_that_computes_something_else_is_not_left(
    published, refused, tmp_path, monkeypatch, file_format
):
    """The older file stays."""
    monkeypatch.setattr("tools.export.TOLERANCE", -1.0)
    (tmp_path / "net").write_text("an older one")
    argv = [str(published[0]), "--format", file_format, "--out=net", "--image_size=64"]
    assert "net was not written: its descriptors differ" in refused(main, argv, code=1)
    assert (tmp_path / "net").read_text() == "an older one"
    assert sorted(os.listdir(tmp_path)) == ["ResNet18_32_cosplace.pth", "net"]


@pytest.mark.parametrize("wrong", [float("nan"), 2e-5])
def test_every_number_of_two_sizes_is_compared(wrong):
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    def spoil(images):
        descriptors = network(images)
        if images.shape[2] != images.shape[3]:
            descriptors[-1, -1] += wrong
        return descriptors

    assert largest_difference(network, network, 32) == 0
    difference = largest_difference(network, spoil, 32)
    assert difference == pytest.approx(wrong, rel=0.01, nan_ok=True)
    assert not difference <= 1e-5


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["gone.pth", "--format=onnx", "--out=a"], 1, "There is no checkpoint gone.pth"),
        (["text.pth", "--format=onnx", "--out=a"], 1, "text.pth is not a checkpoint"),
        (["a.pth", "--format=onnx", "--out=gone/a"], 1, "--out gone/a: give a file in an existing"),
        (["a.pth", "--format=onnx", "--out=."], 1, "--out .: give a file"),
        (["a.pth", "--format=onnx", "--out=a", "--image_size=0"], 2, "--image_size must be"),
        (["a.pth", "--out=a"], 2, "--format"),
    ],
)
def test_user_errors_are_sentences(refused, tmp_path, argv, code, text):
    (tmp_path / "text.pth").write_text("not a checkpoint")
    assert text in refused(main, argv, code)
    assert os.listdir(tmp_path) == ["text.pth"]


@pytest.mark.parametrize("missing", [["onnx"], ["onnxruntime"], ["onnx", "onnxruntime"]])
def test_missing_packages_are_named_with_the_command(
    published, refused, tmp_path, monkeypatch, missing
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else 1)
    argv = [str(published[0]), "--format=onnx", "--out=net"]
    assert f"pip install {' '.join(missing)}" in refused(main, argv, code=1)
    assert os.listdir(tmp_path) == ["ResNet18_32_cosplace.pth"]


@pytest.mark.parametrize("num_inputs, num_outputs", [(2, 1), (1, 2)])
def test_onnx_files_with_more_inputs_or_outputs(tmp_path, num_inputs, num_outputs):
    """Models of others, such as those that return local descriptors, too."""
    shape = ["batch", 3, "height", "width"]
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(f"{kind}{i}", 1, shape) for i in range(num)]
        for kind, num in (("x", num_inputs), ("y", num_outputs))
    )
    nodes = [onnx.helper.make_node("Identity", ["x0"], [f"y{i}"]) for i in range(num_outputs)]
    graph = onnx.helper.make_graph(nodes, "graph", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "net")
    with pytest.raises(ValueError, match=f"has {num_inputs} inputs and {num_outputs} outputs"):
        load_other_model(f"onnx:{tmp_path}/net")


def test_a_torchscript_file_is_a_module_and_hashed_as_a_file(published, tmp_path):
    out = tmp_path / "net.pt"
    main([str(published[0]), "--format=torchscript", "--out", str(out), "--image_size=64"])
    network, facts = load_model(None, f"torchscript:{out}")
    assert facts == {
        "model": f"torchscript:{out}",
        "model_file": str(out),
        "model_sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }
    assert {p.dtype for p in network.double().parameters()} == {torch.float64}
