import collections
import os

import pytest
import tiny_backbone  # noqa: F401, networks here have it
import torch
from safetensors.torch import save_file
from state_dict_keys import descriptors_by_hand, network_shapes, random_state

from model.aggregation.pooling import GeM
from model.checkpoint_files import read_checkpoint, save_atomically, save_safetensors
from model.checkpoints import load_network
from model.network import build_network

SHAPES = network_shapes("ResNet18", 32)


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("loading a checkpoint must not download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)


@pytest.fixture
def published():
    """Return a state dict with the structure of the published ResNet18, 32-D."""
    return random_state(SHAPES)


def assert_same_state(state, expected):
    assert set(state) == set(expected)
    for key, value in expected.items():
        same = torch.equal(state[key], value) if torch.is_tensor(value) else state[key] == value
        assert same, key


def make_images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# What is read


@pytest.mark.parametrize("backbone", ["ResNet18", "VGG16"])
def test_published_checkpoints_give_the_descriptors_of_an_independent_computation(save, backbone):
    state = random_state(network_shapes(backbone, 64), p=2.9)
    network = load_network(save(state)).eval()
    assert_same_state(network.state_dict(), state)
    images = make_images(2, 3, 64, 96)
    with torch.no_grad():
        descriptors = network(images)
    torch.testing.assert_close(
        descriptors, descriptors_by_hand(state, images, backbone), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "backbone, pooling",
    [
        *[("ResNet18", name) for name in ("gem", "avg", "max", "seqpool")],
        ("EfficientNet_B0", "gem"),
        ("EfficientNet_Lite0", "avg"),
        ("MobileNetV2", "max"),
    ],
)
def test_round_trip_recognises_backbone_pooling_and_length(tmp_path, backbone, pooling):
    torch.manual_seed(0)
    network = build_network(backbone, 24, pooling, "none").eval()
    save_atomically(network.state_dict(), tmp_path / "best_model.pth")
    loaded = load_network(str(tmp_path / "best_model.pth")).eval()
    assert_same_state(loaded.state_dict(), network.state_dict())
    assert loaded.architecture == network.architecture
    assert loaded.out_dim == 24
    assert loaded.backbone.out_channels == network.backbone.out_channels
    images = make_images(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))


@pytest.mark.parametrize("backbone", ["ResNet50", "ResNet152", "EfficientNet_B1"])
def test_similar_backbones_are_told_apart(save, backbone):
    shapes = network_shapes(backbone, 16)
    # Tensors of one number each: what matters are keys and shapes.
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    state = {k: v.long() if k.endswith("tracked") else v for k, v in state.items()}
    network = load_network(save(state))
    assert network.backbone.out_channels == shapes["aggregation.3.weight"][1]
    assert {key: tuple(v.shape) for key, v in network.state_dict().items()} == shapes


def test_a_gem_checkpoint_holds_tensors_only(save):
    """So that the official code loads it strictly."""
    network = build_network("ResNet18", 32, "gem", "none")
    state = read_checkpoint(save(network.state_dict()))
    assert {key: tuple(value.shape) for key, value in state.items()} == SHAPES


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_wrapped_and_prefixed_checkpoints(save, published, wrapper, prefix, kind):
    state = kind((prefix + key, value) for key, value in published.items())
    network = load_network(save({wrapper: state, "epoch": 3} if wrapper else state))
    assert_same_state(network.state_dict(), published)


def test_the_last_checkpoint_of_a_run(tmp_path):
    """With all that training keeps: optimizers, heads, random states, arguments."""
    network = build_network("ResNet18", 32, "max", "none")
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 1e-5)
    network(make_images(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch_num": 3,
        "model_state_dict": network.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "classifiers_state_dict": [{"weight": torch.zeros(5, 32)}],
        "optimizers_state_dict": [optimizer.state_dict()],
        "best_val_recall1": 81.5,
        "rng_state": torch.get_rng_state(),
        "args": {"backbone": "ResNet18", "amp": None, "lr": 1e-5, "test_sets": ["a", "b"]},
    }
    save_atomically(checkpoint, tmp_path / "last_checkpoint.pth")
    loaded = load_network(tmp_path / "last_checkpoint.pth")
    assert_same_state(loaded.state_dict(), network.state_dict())
    assert read_checkpoint(tmp_path / "last_checkpoint.pth")["args"] == checkpoint["args"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_give_a_float32_network(save, published, dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in published.items()}
    network = load_network(save(state)).eval()
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network.backbone[1].num_batches_tracked.dtype == torch.int64
    assert_same_state(
        network.state_dict(),
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()},
    )
    with torch.no_grad():
        assert network(make_images(1, 3, 64, 64)).dtype == torch.float32


@pytest.mark.parametrize("train_all_layers", [False, True])
def test_a_loaded_network_can_be_trained_on(save, published, train_all_layers):
    network = load_network(save(published), train_all_layers=train_all_layers)
    trained = {key for key, p in network.named_parameters() if p.requires_grad}
    prefixes = "" if train_all_layers else ("backbone.6.", "backbone.7.", "aggregation.")
    assert trained == {key for key, _ in network.named_parameters() if key.startswith(prefixes)}
    network(make_images(2, 3, 64, 64))[:, 0].sum().backward()
    assert all(p.grad is not None for key, p in network.named_parameters() if key in trained)


# What says its architecture


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"whiten_dim": 40},
        {"whiten_dim": 40, "kept_dims": 8},
        {"input_scaling": "vgg_caffe"},
    ],
    ids=str,
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_our_state_dicts_say_their_architecture(save, options, prefix):
    network = build_network("ResNet18", 0, "gem_plain", "none", **options).eval()
    wrapped = torch.nn.ModuleDict({"module": network}) if prefix else network
    assert all(key.startswith(prefix) for key in wrapped.state_dict())
    loaded = load_network(save({"model_state_dict": wrapped.state_dict(), "epoch": 3})).eval()
    assert loaded.architecture == network.architecture
    assert loaded.out_dim == options.get("kept_dims", options.get("whiten_dim", 512))
    images = make_images(2, 3, 64, 96)
    assert torch.equal(loaded(images), network(images))


def test_a_copy_without_architecture_is_recognised_or_refused(save):
    for aggregation in ("gem", "seqpool"):
        network = build_network("ResNet18", 16, aggregation, "none")
        assert load_network(save(dict(network.state_dict()))).architecture == network.architecture
    network = build_network("ResNet18", 16, "gem_plain", "none")
    with pytest.raises(ValueError, match="aggregation.2.weight is left over"):
        load_network(save(dict(network.state_dict())))
    network = build_network("ResNet18", 16, "gem", "none", whiten_dim=8)
    with pytest.raises(ValueError, match="whitening.weight is left over"):
        load_network(save(dict(network.state_dict())))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregation": "nothing"}, "Unknown aggregation 'nothing'"),
        ({"backbone": ["ResNet18"]}, "unhashable"),
        ({"backbone": "ResNet50"}, r"differ\): backbone\."),
        ({"fc_output_dim": "many"}, "no known architecture"),
        ({"fc_output_dim": 10**30}, "no known architecture"),
        ({"fc_output_dim": 10**9}, r"aggregation.3.weight is a float \[16, 512\], not a float"),
        ({"backbone_weights": "imagenet"}, "multiple values"),
        ({"path": "x"}, "unexpected keyword"),
        ({"aggregation_args": {"p": 3}}, "'p' is no option of gem"),
        ({"aggregation_args": {5: 3}}, "'5' is no option of gem"),
        ({"aggregation_args": "l2"}, "no known architecture"),
        ({"aggregation_args": 5}, "no known architecture"),
    ],
    ids=str,
)
def test_an_architecture_that_is_not_that_of_the_tensors(save, changes, message):
    state = build_network("ResNet18", 16, "gem", "none").state_dict()
    state._metadata[""]["architecture"] |= changes
    with pytest.raises(ValueError, match=rf"checkpoint\.pth.*{message}"):
        load_network(save(state))


@pytest.mark.parametrize("metadata", [None, 5, {"": 5}, {"": {"architecture": "gem"}}], ids=str)
def test_strange_metadata_is_ignored(save, metadata):
    network = build_network("ResNet18", 16, "gem", "none")
    state = network.state_dict()
    state._metadata = metadata
    assert load_network(save(state)).architecture == network.architecture


# What is refused, in a sentence


class Code:
    """When unpickled, makes a file."""

    def __init__(self, evidence):
        self.evidence = evidence

    def __reduce__(self):
        return os.mkdir, (str(self.evidence),)


def test_code_in_a_pickle_is_not_run(save, published, tmp_path):
    path = save(published | {"extra": Code(tmp_path / "evidence")})
    with pytest.raises(ValueError, match="is not a checkpoint that can be read safely"):
        load_network(path)
    assert not (tmp_path / "evidence").exists()
    torch.load(path, weights_only=False)  # or else the test proves nothing
    assert (tmp_path / "evidence").exists()


def test_a_pickled_network_is_refused(save):
    with pytest.raises(ValueError, match="is not a checkpoint that can be read safely"):
        load_network(save(GeM()))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint .*missing\.pth"):
        load_network(tmp_path / "missing.pth")


def test_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder: .*best_model.pth or"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"three words\nof text\n", b"\x80\x02}q\x00", b"\x00" * 99]
)
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pth is not a checkpoint") as error:
        load_network(path)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.999])
def test_a_truncated_file(save, published, share):
    path = save(published)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"checkpoint\.pth is not a checkpoint"):
        load_network(path)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], (1,), "text", 5, None])
def test_something_else_than_a_dict(save, content):
    with pytest.raises(ValueError, match=f"holds a {type(content).__name__}, not a checkpoint"):
        load_network(save(content))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"conv1.weight": torch.zeros(3)},
        {"aggregation.1.p": torch.ones(1), "aggregation.3.weight": torch.zeros(2, 2)},
        {"backbone": torch.zeros(3)},
        {"model_state_dict": {}},
        {"model_state_dict": None},
        {"state_dict": [torch.zeros(3)]},
        {1: torch.zeros(3)},
        {"backbone.0.weight": torch.zeros(3), 1: torch.zeros(3)},
    ],
    ids=str,
)
def test_a_dict_without_a_network(save, content):
    with pytest.raises(ValueError, match=r"checkpoint\.pth holds no (state dict|network of ours)"):
        load_network(save(content))


MISSING = object()


@pytest.mark.parametrize(
    "changes, message",
    [
        # backbone
        ({"backbone.0.weight": MISSING}, "none of ResNet18, .*MobileNetV2"),
        ({"backbone.0.weight": torch.zeros(64, 3, 3, 3)}, "none of ResNet18"),
        ({"backbone.0.weight": "text"}, "none of ResNet18"),
        ({"backbone.8.weight": "text"}, "backbone.8.weight"),
        # pooling
        ({"aggregation.1.p": MISSING}, "no aggregation .*gem, .* avg, max"),
        ({"aggregation.1.p": torch.ones(3)}, "aggregation.1.p"),
        ({"aggregation.1.p": "text"}, "aggregation.1.p"),
        ({"aggregation.1._extra_state": "netvlad"}, "no aggregation .*gem, .* avg, max"),
        ({"aggregation.1._extra_state": ["avg"]}, "no aggregation .*gem, .* avg, max"),
        ({"aggregation.1._extra_state": torch.ones(1)}, "no aggregation .*gem, .* avg, max"),
        ({"aggregation.1._extra_state": "avg"}, "aggregation.1.p"),
        ({"aggregation.1.p": MISSING, "aggregation.1._extra_state": "gem"}, "no aggregation .*gem"),
        # linear layer
        ({"aggregation.3.weight": MISSING}, "aggregation.3.weight"),
        ({"aggregation.3.weight": torch.zeros(32, 256)}, "aggregation.3.weight"),
        ({"aggregation.3.weight": torch.zeros(16, 512)}, "aggregation.3.bias"),
        ({"aggregation.3.weight": torch.zeros(0, 512)}, "aggregation.3.weight"),
        ({"aggregation.3.weight": torch.zeros(32)}, "aggregation.3.weight"),
        ({"aggregation.3.weight": torch.zeros(32, 512, 1)}, "aggregation.3.weight"),
        ({"aggregation.3.weight": torch.tensor(1.0)}, "aggregation.3.weight"),
        ({"aggregation.3.weight": torch.zeros(32, 512, dtype=torch.int64)}, "aggregation.3.weight"),
        ({"aggregation.3.weight": "text"}, "aggregation.3.weight"),
        ({"aggregation.3.weight": 5}, "aggregation.3.weight"),
        ({"aggregation.3.weight": None}, "aggregation.3.weight"),
        ({"aggregation.3.bias": MISSING}, "aggregation.3.bias"),
        ({"aggregation.3.bias": 5}, "aggregation.3.bias"),
        # others
        ({"extra": torch.zeros(3)}, "extra"),
        ({"aggregation.5.weight": torch.zeros(3)}, "aggregation.5.weight"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_network_with_wrong_tensors_names_file_and_tensor(save, published, changes, message):
    state = {k: v for k, v in (published | changes).items() if v is not MISSING}
    with pytest.raises(ValueError, match=rf"(?s)checkpoint\.pth .*{message}"):
        load_network(save(state))


# As others write them

BEGINNINGS = ["_orig_mod.", "module._orig_mod.", "model.", "network.module.", "backbone_net."]


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_beginnings_that_all_names_share_are_left_out(save, published, beginning):
    network = load_network(save({beginning + name: it for name, it in published.items()}))
    assert_same_state(network.state_dict(), published)


@pytest.mark.parametrize("entry", ["state_dict", "state_dict_ema", "model_ema", "ema", "model"])
def test_containers_of_state_dicts_are_opened(save, published, entry):
    content = {entry: {f"model.{name}": it for name, it in published.items()}, "epoch": 3}
    assert_same_state(load_network(save(content)).state_dict(), published)


def test_a_compiled_network_says_its_architecture(save):
    network = build_network("Tiny", 8, aggregation="avg", backbone_weights="none")
    compiled = torch.compile(network).state_dict()
    assert all(name.startswith("_orig_mod.") for name in compiled)
    assert_same_state(load_network(save(compiled)).state_dict(), network.state_dict())


@pytest.mark.parametrize("aggregation", ["gem", "avg"])
def test_safetensors_hold_tensors_and_architecture(tmp_path, aggregation):
    network = build_network("Tiny", 8, aggregation=aggregation, backbone_weights="none")
    save_safetensors(network.state_dict(), tmp_path / "model.safetensors")
    loaded = load_network(tmp_path / "model.safetensors")
    assert loaded.architecture == network.architecture
    assert_same_state(loaded.state_dict(), network.state_dict())


def test_safetensors_of_others_are_recognised_by_their_tensors(tmp_path, published):
    save_file(published, tmp_path / "m.safetensors")
    assert_same_state(load_network(tmp_path / "m.safetensors").state_dict(), published)


@pytest.mark.parametrize("kind", ["sparse", "complex", "quantised"])
def test_tensors_that_no_network_has_are_refused(save, published, kind):
    name = "aggregation.3.weight"
    published[name] = {
        "sparse": lambda weight: weight.to_sparse(),
        "complex": lambda weight: weight.to(torch.complex64),
        "quantised": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    }[kind](published[name])
    with pytest.raises(ValueError, match="sparse, quantised or nested|is a complex number"):
        load_network(save(published))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"ema": {"module": state, "decay": 0.999}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"model_ema": None, "state_dict": {"model": state}},
        lambda state: (
            {f"module.{name}": value for name, value in state.items()}
            | {"n_averaged": torch.tensor(7)}
        ),  # torch.optim.swa_utils.AveragedModel
    ],
)
def test_containers_may_be_in_others(save, published, wrap):
    assert_same_state(load_network(save(wrap(published))).state_dict(), published)


def test_safetensors_of_others_may_have_any_metadata_and_case(tmp_path, published):
    file = tmp_path / "m.SAFETENSORS"
    save_file(published, file, {"author": "somebody", "title": "a network"})
    assert_same_state(load_network(file).state_dict(), published)
    save_file(published, file, {"architecture": "[" * 99_999})
    with pytest.raises(ValueError, match="m.SAFETENSORS is not a checkpoint that can be read"):
        load_network(file)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused(save, published):
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(ValueError, match="sparse, quantised or nested tensors"):
        load_network(save(published | {"aggregation.1.p": nested}))
