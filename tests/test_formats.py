import re

import h5py
import numpy as np
import pytest
import scipy.io
import tiny_backbone  # noqa: F401, a backbone
import torch
from published_files import (
    MEAN,
    SHAPES,
    crn_shapes,
    digest,
    empty_state,
    fc_shapes,
    grey_levels,
    openibl_shapes,
    random_vlad_state,
    vgb_shapes,
    vlad_by_hand,
    vlad_shapes,
    write_matlab,
    write_training,
    write_whitening,
)
from state_dict_keys import maps_by_hand

from model.checkpoints import load_network
from model.formats import recognise
from model.formats.openibl import start_from_clusters
from model.network import build_network
from model.other_models import identify, load_model
from parser import parse_train_arguments
from training.setup import make_network, read_settings

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
CLUSTERS, DIM = 3, 5


@pytest.fixture
def save(tmp_path):
    """Return a function that writes a file and returns its path."""

    def write(content, name="a.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def openibl():
    """Return the tensors of a small network as OpenIBL releases it."""
    return random_vlad_state(openibl_shapes(CLUSTERS, DIM))


@pytest.fixture(scope="module")
def vlad(openibl):
    """Return what its NetVLAD gives for the images, by hand."""
    maps = maps_by_hand(openibl, grey_levels(IMAGES), "VGG16", "base_model.base.")
    return vlad_by_hand(maps, of_layer(openibl, "net_vlad."))


@pytest.fixture(scope="module")
def whitened(openibl, vlad):
    """Return its descriptors, by hand."""
    rows = openibl["pca_layer.weight"].flatten(1).double()
    return unit(vlad @ rows.T + openibl["pca_layer.bias"])


def of_layer(state, prefix):
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def unit(descriptors):
    return descriptors / descriptors.square().sum(1, keepdim=True).sqrt()


@torch.no_grad()
def assert_gives(network, expected, tolerance=2e-5):
    descriptors = network.eval()(IMAGES)
    assert descriptors.dtype == torch.float32
    assert (expected[0] - expected[1]).norm() > 1e-2 * expected.norm()  # not the bias alone
    atol = tolerance * expected.abs().max()
    torch.testing.assert_close(descriptors.double(), expected.double(), rtol=0, atol=atol)


# Names and shapes of the published files


@pytest.mark.parametrize("key", SHAPES)
def test_networks_have_the_tensors_of_the_public_code(save, key):
    shapes, aggregation = SHAPES[key]
    assert digest(shapes) == key
    network = load_network(save(empty_state(shapes)))
    assert network.architecture["aggregation"] == aggregation
    numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == numbers


# OpenIBL


def test_a_released_file_of_openibl(save, openibl, whitened):
    network = load_network(save(openibl))
    assert network.architecture == {
        **{"backbone": "VGG16", "aggregation": "netvlad", "fc_output_dim": 0},
        **{"aggregation_args": {"clusters": CLUSTERS}, "input_scaling": "vgg_caffe"},
        **{"whiten_dim": DIM, "whiten_norm": "l2"},
    }
    assert_gives(network, whitened)


def test_a_checkpoint_of_openibl_is_without_whitening(tmp_path, openibl, vlad):
    state = {name: tensor for name, tensor in openibl.items() if "pca" not in name}
    network = load_network(write_training(state, tmp_path / "model_best.pth.tar"))
    assert network.out_dim == 512 * CLUSTERS
    assert_gives(network, vlad)


def test_the_whitening_beside_a_checkpoint_of_openibl(tmp_path, openibl, vlad):
    state = {name: tensor for name, tensor in openibl.items() if "pca" not in name}
    checkpoint = write_training(state, tmp_path / "model_best.pth.tar")
    _, alone = load_model(str(checkpoint), None)
    arrays = write_whitening(tmp_path / "pca_params_model_best.h5", CLUSTERS, DIM)
    network, facts = load_model(str(checkpoint), None)
    expected = (vlad.numpy() - arrays["mu"].T) @ arrays["U"] / np.sqrt(arrays["lams"])
    assert_gives(network, unit(torch.from_numpy(expected)), 1e-4)
    assert facts["whitening_file"] == str(tmp_path / "pca_params_model_best.h5")
    assert identify(facts) == f"{facts['model_sha256']}:{facts['whitening_sha256']}"
    assert identify(alone) == facts["model_sha256"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no HDF5", "pca_params_a.h5 is not a checkpoint that can be read safely: "),
        ({"U": np.ones((4, 2))}, "pca_params_a.h5 is no whitening by OpenIBL, which has U, lams"),
        (
            {"U": np.ones((4, 2)), "lams": np.ones(3), "mu": np.ones(4)},
            "pca_params_a.h5 is no whitening by OpenIBL",
        ),
        (
            {"U": np.ones((4, 2)), "lams": np.ones(2), "mu": np.ones(4)},
            r"a.pth does not have .*: pca_layer.weight is a float \[2, 4\], not a float \[2, 1536",
        ),
    ],
)
def test_a_whitening_that_does_not_fit(save, openibl, tmp_path, content, message):
    path = tmp_path / "pca_params_a.h5"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with h5py.File(path, "w") as file:
            for name, array in content.items():
                file.create_dataset(name, data=array.astype(np.float32))
    state = {name: tensor for name, tensor in openibl.items() if "pca" not in name}
    with pytest.raises(ValueError, match=message):
        load_network(save(state))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("net_vlad.centroids", None, "cannot be a network: its net_vlad.centroids is not a matrix"),
        ("net_vlad.conv.weight", None, r"\(1 differ\): net_vlad.conv.weight is missing"),
        ("net_vlad.conv.bias", torch.ones(3), r"\(1 differ\): net_vlad.conv.bias is left over"),
        ("base_model.base.28.bias", torch.ones(5), r"28.bias is a float \[5\], not a float \[512"),
        ("base_model.fc.weight", torch.ones(5), "base_model.fc.weight is left over"),
        ("pca_layer.bias", None, "pca_layer.bias is missing"),
        ("pca_layer.weight", torch.ones(DIM, 512, 1, 1), r"pca_layer.weight is a float \[5, 512\]"),
        ("pca_layer.weight", "text", "its pca_layer.weight is not a matrix"),
    ],
)
def test_other_tensors_than_openibls(save, openibl, name, value, message):
    state = openibl | {name: value}
    state = {key: tensor for key, tensor in state.items() if tensor is not None}
    with pytest.raises(ValueError, match=f"a.pth .*{message}"):
        load_network(save(state))


# The clusters that OpenIBL starts from


def write_clusters(path, centroids, descriptors):
    with h5py.File(path, "w") as file:
        file["centroids"], file["descriptors"] = centroids, descriptors
    return path


def training_flags(*flags):
    small = ("--method=netvlad", "--backbone=Tiny", "--backbone_weights=none", "--device=cpu")
    return vars(parse_train_arguments([*small, "--aggregation_args", "clusters=3", *flags]))


def test_a_training_starts_from_clusters_of_openibl(tmp_path):
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(3, 16)).astype(np.float32)
    descriptors = rng.normal(size=(50, 16)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    file = write_clusters(tmp_path / "a_desc_cen.hdf5", centroids, descriptors)
    flags = training_flags(f"--cluster_file={file}")
    layer = make_network(flags, None, None).aggregation
    assert np.array_equal(layer.centroids.detach().numpy(), centroids)
    directions = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    similarities = np.sort(descriptors @ directions.T, axis=1)
    alpha = -np.log(0.01) / (similarities[:, -1] - similarities[:, -2]).mean()
    weight = layer.conv.weight.detach().flatten(1).numpy()
    np.testing.assert_allclose(weight, alpha * directions, rtol=1e-4)
    assert not read_settings(flags).starts_new
    assert read_settings(training_flags()).starts_new


def test_other_files_of_clusters(tmp_path, capsys):
    file = write_clusters(tmp_path / "a.hdf5", np.ones((64, 512)), np.ones((9, 512)))
    with pytest.raises(ValueError, match=r"needs centroids \[3, 16\] and .* has \[64, 512\] and"):
        make_network(training_flags(f"--cluster_file={file}"), None, None)
    with h5py.File(file, "w") as content:
        content["centroids"] = np.ones((3, 16))
    with pytest.raises(ValueError, match=r"the file has \[3, 16\] and \[\]"):
        make_network(training_flags(f"--cluster_file={file}"), None, None)
    with pytest.raises(ValueError, match="--cluster_file goes with --aggregation netvlad or crn"):
        start_from_clusters(torch.nn.Identity(), file)
    with pytest.raises(SystemExit, match="2"):
        training_flags(f"--cluster_file={file}", "--resume_model=a.pth")
    assert "--cluster_file starts a new NetVLAD" in capsys.readouterr().err


# MatConvNet


def test_a_network_of_matconvnet(tmp_path, openibl, whitened):
    network = load_network(write_matlab(openibl, tmp_path / "a.mat"))
    assert network.architecture["input_scaling"] == "vgg_caffe"
    assert_gives(network, whitened)


def test_a_network_of_matconvnet_without_whitening(tmp_path, openibl, vlad):
    state = {name: tensor for name, tensor in openibl.items() if "pca" not in name}
    assert_gives(load_network(write_matlab(state, tmp_path / "a.mat")), vlad)


def test_other_mat_files(tmp_path, openibl):
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match="a.mat is not a checkpoint that can be read safely"):
        load_network(path)
    write_matlab(openibl, path, mean=(104.0, 117.0, 123.0))
    text = "a.mat is for images minus [104.0, 117.0, 123.0], in grey levels; known is [123.68, "
    with pytest.raises(ValueError, match=re.escape(text)):
        load_network(path)
    for network in ({"layers": []}, {"layers": [{"weights": []}], "meta": 5}, {"meta": "text"}):
        scipy.io.savemat(path, {"net": network})
        with pytest.raises(ValueError, match="a.mat is not a NetVLAD network as the file Pitts30"):
            load_network(path)
    scipy.io.savemat(path, {"descriptors": np.ones((3, 4))})
    with pytest.raises(ValueError, match="a.mat holds no network of ours"):
        load_network(path)


@pytest.mark.parametrize("extra", [0, 2])
def test_other_numbers_of_layers_in_a_mat_file(openibl, extra):
    """As scipy reads it: convolutions, NetVLAD, and what follows."""
    pair = [torch.ones(512, CLUSTERS), torch.ones(512, CLUSTERS)]
    kernels = [tensor for name, tensor in openibl.items() if name.startswith("base_model")]
    layers = [[k.permute(2, 3, 1, 0), b] for k, b in zip(kernels[::2], kernels[1::2], strict=True)]
    layers = layers[:12] if extra == 0 else [*layers, pair, pair, pair]
    content = {"net": {"layers": [{"weights": layer} for layer in layers]}}
    content["net"]["meta"] = {"normalization": {"averageImage": torch.tensor([[MEAN]])}}
    with pytest.raises(ValueError, match="a.mat is not a NetVLAD network as the file Pitts30K"):
        recognise(content, "a.mat")


# The visual geo-localization benchmark


@pytest.mark.parametrize("backbone", ["VGG16", "ResNet18_conv4", "ResNet18"])
@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ({"1.p": (1,)}, ("gem", {"l2": "before_pool"}, 0)),
        ({"0.p": (1,)}, ("gem", {"l2": "after_pool"}, 0)),
        ("0.1.p", ("gem", None, 7)),
        ("0.0.p", ("gem_plain", None, 0)),
    ],
)
@torch.no_grad()
def test_gem_of_the_benchmark(save, backbone, aggregation, expected):
    channels = {"VGG16": 512, "ResNet18_conv4": 256, "ResNet18": 512}[backbone]
    pooling = aggregation if isinstance(aggregation, str) else next(iter(aggregation))
    has_fc = pooling == aggregation
    shapes = vgb_shapes(backbone, fc_shapes(pooling, channels, 7) if has_fc else aggregation)
    state = random_vlad_state(shapes)
    state[f"aggregation.{pooling}"] = torch.tensor([2.9])
    network = load_network(save({"model_state_dict": state, "recalls": np.ones(5)}))
    names = ("aggregation", "aggregation_args", "fc_output_dim")
    assert tuple(network.architecture.get(name) for name in names) == expected
    assert network.architecture["backbone"] == backbone

    maps = maps_by_hand(state, IMAGES, backbone)
    if pooling in ("1.p", "0.1.p"):
        maps = unit(maps)
    descriptors = (maps.clamp(min=1e-6) ** 2.9).mean((2, 3)) ** (1 / 2.9)
    if pooling in ("0.p", "0.0.p"):
        descriptors = unit(descriptors)
    if has_fc:
        weight, bias = state["aggregation.1.weight"], state["aggregation.1.bias"]
        descriptors = unit(descriptors @ weight.T + bias)
    assert_gives(network, descriptors)


@torch.no_grad()
def test_netvlad_of_the_benchmark(save):
    state = random_vlad_state(vgb_shapes("ResNet18_conv4", vlad_shapes(256, CLUSTERS)))
    network = load_network(save(state))
    assert network.architecture == {
        **{"backbone": "ResNet18_conv4", "aggregation": "netvlad", "fc_output_dim": 0},
        "aggregation_args": {"clusters": CLUSTERS},
    }
    maps = maps_by_hand(state, IMAGES, "ResNet18_conv4")
    assert_gives(network, vlad_by_hand(maps, of_layer(state, "aggregation.")))


@torch.no_grad()
def test_crn_of_the_benchmark(save):
    state = random_vlad_state(vgb_shapes("ResNet18_conv4", crn_shapes(256, CLUSTERS)))
    network = load_network(save({"model_state_dict": {f"module.{k}": state[k] for k in state}}))
    assert network.architecture["aggregation"] == "crn"
    maps = maps_by_hand(state, IMAGES, "ResNet18_conv4")  # [2, 256, 4, 6]
    context = torch.nn.functional.avg_pool2d(unit(maps), 3, 2, ceil_mode=True)
    parts = of_layer(state, "aggregation.crn.")
    filtered = [
        torch.nn.functional.conv2d(
            context, parts[f"filter_{s}_{s}.weight"], parts[f"filter_{s}_{s}.bias"], padding=s // 2
        ).relu()
        for s in (3, 5, 7)
    ]
    sums = torch.cat(filtered, 1) * parts["acc_w.weight"].flatten()[:, None, None]
    masks = (sums.sum(1, keepdim=True) + parts["acc_w.bias"]).relu()
    masks = torch.nn.functional.interpolate(masks, maps.shape[2:], mode="bilinear")
    assert_gives(network, vlad_by_hand(maps, of_layer(state, "aggregation."), masks.double()))


def test_an_own_copy_of_gem_with_a_linear_layer_is_not_the_benchmarks(save):
    """Ours say their architecture; a copy that lost it is recognised as a published file."""
    network = build_network("ResNet18_conv4", 0, "gem", "none")
    args = {"l2": "before_pool"}
    assert load_network(save(network.state_dict())).architecture == network.architecture
    copied = load_network(save(dict(network.state_dict()))).architecture
    assert copied == network.architecture | {"aggregation_args": args}


@pytest.mark.parametrize(
    ("aggregation", "message"),
    [
        ({}, "has no aggregation of a published network, gem, seqpool, .*, avg, max"),
        ({"1.p": (1,), "2.weight": (5, 256)}, "aggregation.2.weight is left over"),
        ({"centroids": (256,)}, "its aggregation.centroids is not a matrix"),
        (vlad_shapes(512), r"aggregation.conv.weight is a float \[64, 512, 1, 1\], not a float"),
        ({"centroids": (64, 256)}, "aggregation.conv.weight is missing"),
        (fc_shapes("0.1.p", 128, 7), r"aggregation.1.weight is a float \[7, 128\], not a float"),
        ({"0.1.p": (1,), "1.bias": (7,)}, "its aggregation.1.weight is not a matrix"),
    ],
    ids=str,
)
def test_other_aggregations_are_refused(save, aggregation, message):
    state = empty_state(vgb_shapes("ResNet18_conv4", aggregation))
    with pytest.raises(ValueError, match=f"a.pth .*{message}"):
        load_network(save(state))
