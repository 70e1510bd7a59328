import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from state_dict_keys import descriptors_by_hand, network_shapes, random_state

import hubconf
from model.published import TRAINED_DIMS

# The files of the CosPlace release, by name.
PUBLISHED = [
    *["VGG16_64", "VGG16_128", "VGG16_256", "VGG16_512"],
    *["ResNet18_32", "ResNet18_64", "ResNet18_128", "ResNet18_256", "ResNet18_512"],
    *["ResNet50_32", "ResNet50_64", "ResNet50_128", "ResNet50_256", "ResNet50_512"],
    *["ResNet50_1024", "ResNet50_2048"],
    *["ResNet101_32", "ResNet101_64", "ResNet101_128", "ResNet101_256", "ResNet101_512"],
    *["ResNet101_1024", "ResNet101_2048"],
    *["ResNet152_32", "ResNet152_64", "ResNet152_128", "ResNet152_256", "ResNet152_512"],
    *["ResNet152_1024", "ResNet152_2048"],
]


@pytest.fixture
def requests(monkeypatch):
    """Return the downloads that were asked for; there is no network."""
    asked = []

    def no_network(url, path, *_, **__):
        asked.append((url, str(path)))
        raise ConnectionError("no network here")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    return asked


def make_images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_and_their_urls(hub_checkpoints, requests, name):
    backbone, dim = name.split("_")
    with pytest.raises(FileNotFoundError, match="Cannot download https:.*no network here"):
        hubconf.get_trained_model(backbone, int(dim))
    release = "https://github.com/gmberton/CosPlace/releases/download/v1.0"
    file = f"{name}_cosplace.pth"
    assert requests == [(f"{release}/{file}", str(hub_checkpoints / file))]


def test_no_other_names_are_claimed():
    claimed = {f"{name}_{dim}" for name, dims in TRAINED_DIMS.items() for dim in dims}
    assert claimed == set(PUBLISHED)


def test_the_default_is_the_official_one(hub_checkpoints, requests):
    with pytest.raises(FileNotFoundError, match="Cannot download https:.*no network here"):
        hubconf.get_trained_model()
    assert requests[0][0].endswith("/ResNet18_32_cosplace.pth")


def test_a_cached_file_is_used(hub_checkpoints, requests):
    hub_checkpoints.mkdir(parents=True)
    state = random_state(network_shapes("ResNet18", 64))
    torch.save(state, hub_checkpoints / "ResNet18_64_cosplace.pth")
    network = hubconf.get_trained_model(backbone="ResNet18", fc_output_dim=64)
    assert requests == []
    assert not network.training
    images = make_images()
    with torch.no_grad():
        descriptors = network(images)
    expected = descriptors_by_hand(state, images, "ResNet18")
    torch.testing.assert_close(descriptors, expected, rtol=1e-4, atol=1e-5)


def test_a_downloaded_file_is_kept(hub_checkpoints, monkeypatch):
    state = random_state(network_shapes("ResNet18", 32))
    downloads = []

    def download(url, path, *_, **__):
        downloads.append(url)
        torch.save(state, path)

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    for _ in range(2):
        network = hubconf.get_trained_model("ResNet18", 32)
        assert torch.equal(network.aggregation[3].weight, state["aggregation.3.weight"])
    assert len(downloads) == 1


@pytest.mark.parametrize(
    "backbone, dim", [("ResNet18", 1024), ("VGG16", 32), ("ResNet50", 100), ("MobileNetV2", 512)]
)
def test_unknown_combinations_list_the_choices(hub_checkpoints, requests, backbone, dim):
    with pytest.raises(ValueError, match=f"'cosplace:{backbone}:{dim}' names no") as error:
        hubconf.get_trained_model(backbone, dim)
    for choice in ("VGG16", "ResNet18", "ResNet50", "ResNet101", "ResNet152", "2048"):
        assert choice in str(error.value)
    assert requests == []


def test_an_untrained_network():
    network = hubconf.cosplace(
        backbone="MobileNetV2", fc_output_dim=24, aggregation="max", backbone_weights="none"
    )
    assert not network.training
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items() if torch.is_tensor(v)}
    expected = network_shapes("MobileNetV2", 24)
    del expected["aggregation.1.p"]
    assert shapes == expected
    with torch.no_grad():
        assert network(make_images()).shape == (2, 24)


def test_options_of_the_aggregation():
    network = hubconf.cosplace(
        fc_output_dim=0, backbone_weights="none", aggregation_args={"l2": "none"}
    )
    assert network.architecture["aggregation_args"] == {"l2": "none"}


def test_a_missing_file_is_not_an_untrained_network(tmp_path):
    with pytest.raises(FileNotFoundError):
        hubconf.cosplace(weights=tmp_path / "missing.pth")


HUB_USER = """
import sys, torch
repository = sys.argv[1]

def load(file):
    return torch.hub.load(repository, "cosplace", source="local", weights=file)

network = load("best_model.pth")
print([name for name in ("timm", "faiss", "sklearn", "utm", "tensorboard") if name in sys.modules])
images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.save(network(images), "descriptors.pth")

sys.modules["timm"] = None  # as if it were not installed
print(load("mobilenet.pth").backbone.out_channels)
try:
    load("unknown.pth")
except ValueError as error:
    print(error)
"""


def test_torch_hub_in_another_process_folder_and_without_timm(tmp_path):
    """Who uses torch.hub has torch and torchvision; only EfficientNet_Lite0 needs timm.

    Slow: a process that imports torch.
    """
    assert set(hubconf.dependencies) == {"torch", "torchvision"}
    state = random_state(network_shapes("ResNet18", 48))
    torch.save(state, tmp_path / "best_model.pth")
    torch.save(random_state(network_shapes("MobileNetV2", 16)), tmp_path / "mobilenet.pth")
    torch.save({"backbone.unknown": torch.zeros(1)}, tmp_path / "unknown.pth")
    result = subprocess.run(
        [sys.executable, "-c", HUB_USER, str(REPOSITORY)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    imported, channels, refusal = result.stdout.splitlines()
    assert imported == "[]"
    assert channels == "1280"
    assert refusal.startswith("unknown.pth has a backbone that is none of ResNet18, ")
    assert "EfficientNet_Lite0 was not tried" in refusal
    descriptors = torch.load(tmp_path / "descriptors.pth", weights_only=True)
    expected = descriptors_by_hand(state, make_images(), "ResNet18")
    torch.testing.assert_close(descriptors, expected, rtol=1e-4, atol=1e-5)
