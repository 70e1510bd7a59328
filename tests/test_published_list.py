"""Names of the networks since 2022, and the table of all of them."""

import re

import pytest
import torch
from published_files import SHAPES, fc_shapes, vgb_shapes
from state_dict_keys import network_shapes

import hubconf
from eval import main
from model.backbones import BACKBONES
from model.published import (
    FAMILIES,
    VGB_MODELS,
    fetch_published,
    find_start,
    parse_published,
    rule_of,
)
from model.published_list import NAMES, count_parameters, format_list
from model.resizing import read_rule

GSV = "GSV-Cities"
DRIVE = "https://drive.google.com"


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("eigenplaces:ResNet50:2048", ("eigenplaces", "SF-XL", "ResNet50", 2048)),
        ("eigenplaces:VGG16:512", ("eigenplaces", "SF-XL", "VGG16", 512)),
        ("mixvpr:ResNet50:4096", ("mixvpr", GSV, "ResNet50_conv4", 4096)),
        ("convap:ResNet50:8192", ("convap", GSV, "ResNet50", 8192)),
        ("boq:ResNet50", ("boq", GSV, "ResNet50_conv4", 16384)),
        ("boq:DINOv2", ("boq", GSV, "DINOv2_B", 12288)),
        ("salad:DINOv2", ("salad", GSV, "DINOv2_B", 8448)),
        ("salad", ("salad", GSV, "DINOv2_B", 8448)),
        ("cliquemining:DINOv2", ("cliquemining", "GSV-Cities and MSLS", "DINOv2_B", 8448)),
        ("sfrs:512", ("openibl", "pitts30k", "VGG16", 512)),
    ],
)
def test_texts_are_read(text, model):
    assert parse_published(text)[:4] == model
    assert parse_published(text).backbone in BACKBONES


@pytest.mark.parametrize(
    "text",
    [
        *[
            "eigenplaces:ResNet152:512",
            "eigenplaces:VGG16:64",
            "eigenplaces:ResNet50",
            "eigenplaces",
        ],
        *["mixvpr", "mixvpr:ResNet50", "mixvpr:ResNet50:1024", "mixvpr:ResNet18:512"],
        *["convap:ResNet50:128", "convap:ResNet50:0", "boq", "boq:DINOv2:12288", "boq:VGG16"],
        *["salad:DINOv2:8448", "salad:", "salad:ResNet50", "megaloc:", "megaloc:8448", "sfrs:0"],
    ],
)
def test_other_texts_list_what_there_is(text):
    with pytest.raises(ValueError, match=f"'{text}' names no published network") as error:
        parse_published(text)
    choice = {
        "eigenplaces": "eigenplaces:BACKBONE:DIM with VGG16 512; ResNet18 256, 512; ResNet50 128",
        "convap": "convap:ResNet50:DIM with 512, 2048, 4096, 8192",
        "mixvpr": "mixvpr:ResNet50:DIM with 4096, 512, 128",
        "boq": "boq:ResNet50, boq:DINOv2",
        "salad": "salad:DINOv2",
        "megaloc": "megaloc",
        "sfrs": "openibl:sfrs, openibl:sare_ind, each also with :DIM below 4096",
    }[text.split(":")[0]]
    assert f"there are {choice}" in str(error.value)
    assert str(error.value).endswith("; --model list shows all")


@pytest.mark.parametrize(
    ("name", "url", "file"),
    [
        (
            "eigenplaces:ResNet18:256",
            "https://github.com/gmberton/EigenPlaces/releases/download/v1.0/",
            "ResNet18_256_eigenplaces.pth",
        ),
        (
            "boq:ResNet50",
            "https://github.com/amaralibey/Bag-of-Queries/releases/download/v1.0/",
            "resnet50_16384.pth",
        ),
        (
            "salad:DINOv2",
            "https://github.com/serizba/salad/releases/download/v1.0.0/",
            "dino_salad.ckpt",
        ),
        ("megaloc", "https://huggingface.co/gberton/MegaLoc/resolve/main/", "model.safetensors"),
    ],
)
def test_files_are_downloaded_into_the_hub(hub_checkpoints, monkeypatch, name, url, file):
    asked = []

    def download(url, path, hash_prefix=None):
        asked.append((url, path, hash_prefix))

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    path = hub_checkpoints / file.replace("model.", "megaloc.")
    assert fetch_published(parse_published(name)) == path
    assert asked == [(url + file, str(path), None)]


@pytest.mark.parametrize(
    ("name", "file", "url"),
    [
        (
            "mixvpr:ResNet50:512",
            "resnet50_MixVPR_512_channels(256)_rows(2).ckpt",
            f"{DRIVE}/file/d/1khiTUNzZhfV2UUupZoIsPIbsMRBYVDqj",
        ),
        (
            "convap:ResNet50:2048",
            "resnet50_ConvAP_512_2x2.ckpt",
            f"{DRIVE}/drive/folders/1VYPw9uGD11NgiGFgfWueLt3noJYOIuhL",
        ),
        ("cliquemining", "cliquemining.ckpt", f"{DRIVE}/file/d/1B06ysb-Wjb4KDcNrl-7pyj1mJve1jqdk"),
    ],
)
def test_files_of_google_drive_are_for_the_user(hub_checkpoints, name, file, url):
    with pytest.raises(FileNotFoundError) as error:
        fetch_published(parse_published(name))
    assert str(error.value).startswith(f"There is no {hub_checkpoints / file}: download ")
    assert f" from {url} in a browser" in str(error.value)


def test_a_training_starts_from_a_name_or_from_a_file(hub_checkpoints, tmp_path, monkeypatch):
    hub_checkpoints.mkdir(parents=True, exist_ok=True)
    (hub_checkpoints / "dino_salad.ckpt").touch()
    assert find_start("salad:DINOv2") == hub_checkpoints / "dino_salad.ckpt"
    assert find_start("runs/best_model.pth") == "runs/best_model.pth"
    with pytest.raises(ValueError, match="'salad:ResNet50' names no published network"):
        find_start("salad:ResNet50")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "megaloc").touch()  # a file with the name of a network is that file
    assert find_start("megaloc") == "megaloc"


def test_the_table_has_every_family_and_only_names_of_networks():
    models = {name: [parse_published(one) for one in names] for name, names in NAMES.items()}
    assert {one.family for some in models.values() for one in some} == {*FAMILIES} - {"sfrs"}
    lines = format_list().splitlines()
    cells = [re.split(" {2,}", line) for line in lines[1 : len(NAMES) + 1]]
    rows = {name: some for name, *some in cells}
    assert [*rows] == [*NAMES]
    for name, some in models.items():
        assert str(some[-1].dim) in rows[name][0]
        assert ("by hand" in rows[name]) == (some[0].by_hand is not None)
    assert rows["eigenplaces:ResNet50:DIM"][1:4] == ["95 to 111", "as the test set", "MIT"]
    assert rows["megaloc"][:4] == ["8448", "915", "multiple14", "MIT, not verified"]
    assert rows["openibl:sare_ind[:DIM]"][:2] == ["1 to 4096", "596"]
    for family, backbone in [("boq", "ResNet50"), ("boq", "DINOv2"), ("mixvpr", "ResNet50")]:
        assert read_rule(rule_of(family, backbone)).sides
    assert rule_of("cosplace", "ResNet50") is None


def test_numbers_of_parameters():
    """Of the shapes that were written down by hand, without statistics of BatchNorm."""

    def count(shapes):
        left = ("running_mean", "running_var", "num_batches_tracked")
        learned = [
            torch.Size(one).numel() for name, one in shapes.items() if not name.endswith(left)
        ]
        return sum(learned)

    published = {
        "7e73c6c099e66892": "vgb:vgg16-gem:msls",
        "07b17442e7faf0d1": "vgb:vgg16-netvlad:msls",
        "57458e9fa005b37c": "vgb:resnet50-netvlad:msls",
        "bd88eaeb61d9215f": "vgb:resnet18-netvlad:msls",
        "bd577db7ada42cc3": "openibl:sfrs",
    }
    shapes = {name: SHAPES[key][0] for key, name in published.items()}
    shapes["vgb:resnet50-gem-fc2048:msls"] = vgb_shapes(
        "ResNet50_conv4", fc_shapes("0.p", 1024, 2048)
    )
    shapes |= {
        f"{family}:{backbone}:512": network_shapes(backbone, 512)
        for family in ("cosplace", "eigenplaces")
        for backbone in ("VGG16", "ResNet18", "ResNet101")
    }
    assert {name: count_parameters(parse_published(name)) for name in shapes} == {
        name: count(some) for name, some in shapes.items()
    }
    crn = count(SHAPES["5788ac34471f4ffb"][0]) - count(SHAPES["07b17442e7faf0d1"][0])
    vgb = {name: parse_published(f"vgb:{name}:msls") for name in VGB_MODELS}
    differs = count_parameters(vgb["resnet50-crn"]) - count_parameters(vgb["resnet50-netvlad"])
    biases = 32 + 32 + 20 + 85  # of the context filters, and all of the last convolution
    assert differs - biases == 2 * (crn - biases)  # its maps have 1024 channels, VGG16's 512


def test_the_command_shows_the_table(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    main(["--model=list"])
    assert capfd.readouterr().out == format_list() + "\n"
    assert not list(tmp_path.iterdir())


def test_the_hub_has_them_by_name(hub_checkpoints):
    hub_checkpoints.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="download resnet50_MixVPR_128"):
        hubconf.published("mixvpr:ResNet50:128")
    with pytest.raises(ValueError, match="'hub:a/b:c' names no published network"):
        hubconf.published("hub:a/b:c")
