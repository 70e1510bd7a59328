"""Label maps of training images, by a DeepLabV3."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.segmentation import deeplabv3_resnet50

from tools.segment import TORCHVISION, load_segmentation, main


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return files of a network that sees cars everywhere, by its number of classes."""
    folder, files = tmp_path_factory.mktemp("weights"), {}
    network = deeplabv3_resnet50(weights=None, weights_backbone=None)
    for num_classes, car in ((21, 7), (19, 13), (5, 1)):
        network.classifier[4] = torch.nn.Conv2d(256, num_classes, 1)
        torch.nn.init.zeros_(network.classifier[4].weight)
        with torch.no_grad():
            network.classifier[4].bias[:] = torch.arange(num_classes) == car
        files[num_classes] = folder / f"{num_classes}.pth"
        torch.save(network.state_dict(), files[num_classes])
    return files


@pytest.fixture
def images(tmp_path):
    """Return a folder of two images of different sizes."""
    for name, size in (("database/a.jpg", (48, 32)), ("queries/é b.png", (32, 32))):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True)
        Image.new("RGB", size, "white").save(file)
    return tmp_path / "images"


@pytest.mark.parametrize("num_classes", [21, 19])
def test_maps_have_the_training_ids_of_cityscapes(num_classes, weights, images, tmp_path):
    out = tmp_path / "labels"
    line = [images, "--out", out, "--weights", weights[num_classes], "--resize=none"]
    main([str(word) for word in (*line, "--num_workers=0", "--device=cpu")])
    found = {str(file.relative_to(out)): np.array(Image.open(file)) for file in out.rglob("*.png")}
    assert {name: labels.shape for name, labels in found.items()} == {
        "database/a.png": (32, 48),
        "queries/é b.png": (32, 32),
    }
    for labels in found.values():
        assert labels.dtype == np.uint8
        assert (labels == 13).all()  # car


def test_all_that_torchvision_does_not_see_move_stands(weights):
    network, ids = load_segmentation(weights[21])
    assert not network.training
    names = TORCHVISION.meta["categories"]
    assert {name: int(ids[n]) for n, name in enumerate(names) if ids[n] != 2} == {
        "person": 11,
        "car": 13,
        "bus": 15,
        "train": 16,
        "motorbike": 17,
        "bicycle": 18,
    }


def test_maps_that_exist_are_left(weights, images, tmp_path, caplog):
    out = tmp_path / "labels"
    (out / "database").mkdir(parents=True)
    (out / "database" / "a.png").write_bytes(b"mine")
    line = [images, "--out", out, "--weights", weights[21], "--num_workers=0", "--device=cpu"]
    caplog.set_level("INFO")
    main([str(word) for word in (*line, "--resize=32x32")])
    assert "2 images, 1 of them with a label map" in caplog.text
    assert (out / "database" / "a.png").read_bytes() == b"mine"
    assert Image.open(out / "queries" / "é b.png").size == (32, 32)


def test_torchvisions_weights_come_from_the_cache_of_torch_hub(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_segmentation(None)
    file = tmp_path / "hub" / "checkpoints" / "deeplabv3_resnet50_coco-cd0a2569.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(weights[21], file)
    network, _ = load_segmentation(None)
    assert network.classifier[4].bias.argmax() == 7


def _no_network(*arguments, **named):
    raise OSError("no network")


def test_other_networks_are_refused(refused, weights, images, tmp_path):
    line = [str(images), f"--out={tmp_path / 'o'}", "--num_workers=0", "--device=cpu"]
    assert "19 of Cityscapes" in refused(main, [*line, f"--weights={weights[5]}"], 1)
    torch.save({"classifier.4.bias": torch.zeros(21)}, tmp_path / "w.pth")
    assert "deeplabv3_resnet50" in refused(main, [*line, f"--weights={tmp_path / 'w.pth'}"], 1)
    assert not list((tmp_path / "o").iterdir())
