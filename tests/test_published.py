import hashlib
import json
import re
import shutil

import pytest
import torch
from landmark_files import empty_content, landmark_content, write_landmark_file
from published_files import (
    openibl_shapes,
    random_vlad_state,
    vgb_shapes,
    vlad_shapes,
    write_matlab,
    write_training,
    write_whitening,
)
from state_dict_keys import descriptors_by_hand, network_shapes, random_state

from eval import main
from model import published
from model.backbones import BACKBONES
from model.other_models import identify, load_model
from model.published import (
    LANDMARK_FILES,
    VGB_FILES,
    VGB_MODELS,
    fetch_published,
    parse_published,
)

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
URL = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/networks"
LANDMARK = "landmark:SfM120k:ResNet50"


def fetch(text):
    return fetch_published(parse_published(text))


@pytest.fixture
def no_network(monkeypatch):
    """Return what was asked for: (url, path, first digits of the SHA-256); nothing comes."""
    asked = []

    def download(url, path, hash_prefix=None):
        asked.append((url, path, hash_prefix))
        raise ConnectionError("no network here")

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    return asked


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Return a folder that takes the place of all servers; torch.hub downloads from there."""
    folder = tmp_path / "server"
    folder.mkdir()
    for name in ("LANDMARK_URL", "NETVLAD_URL", "OPENIBL_URL", "RELEASE_URL"):
        monkeypatch.setattr(published, name, folder.as_uri())
    return folder


@pytest.fixture(scope="module")
def landmark_file(tmp_path_factory):
    """Return a file as the published ones, named by its own digits."""
    folder = tmp_path_factory.mktemp("landmark")
    path = write_landmark_file(landmark_content(), folder / "made.pth")
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:7]
    return path.rename(folder / f"made-resnet50-gem-w-{digits}.pth")


@pytest.fixture
def landmark_name(landmark_file, monkeypatch):
    """Let that file be the published one; return its name."""
    monkeypatch.setitem(LANDMARK_FILES, ("SfM120k", "ResNet50"), landmark_file.name)
    return landmark_file.name


@pytest.fixture
def vlad_dim(monkeypatch):
    """Let whitenings of NetVLAD have 5 dimensions, not 4096."""
    monkeypatch.setattr(published, "VLAD_DIM", 5)
    return 5


# Names


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("cosplace:ResNet50:512", ("cosplace", "SF-XL", "ResNet50", 512)),
        ("cosplace:VGG16:64", ("cosplace", "SF-XL", "VGG16", 64)),
        ("landmark:SfM120k:ResNet50", ("landmark", "SfM120k", "ResNet50", 2048)),
        ("landmark:GLD:ResNet101:512", ("landmark", "GLD", "ResNet101", 512)),
        ("landmark:GLD:ResNet50:2048", ("landmark", "GLD", "ResNet50", 2048)),
        ("netvlad:pitts30k", ("netvlad", "pitts30k", "VGG16", 4096)),
        ("netvlad:tokyotm:512", ("netvlad", "tokyotm", "VGG16", 512)),
        ("openibl:sfrs", ("openibl", "pitts30k", "VGG16", 4096)),
        ("openibl:sare_ind:512", ("openibl", "pitts30k", "VGG16", 512)),
        ("vgb:vgg16-gem:pitts30k", ("vgb", "pitts30k", "VGG16", 512)),
        ("vgb:resnet18-netvlad:msls", ("vgb", "msls", "ResNet18_conv4", 64 * 256)),
        ("vgb:resnet50-crn:msls", ("vgb", "msls", "ResNet50_conv4", 64 * 1024)),
    ],
)
def test_texts_are_read(text, model):
    assert parse_published(text)[:4] == model


def test_names_of_the_benchmark_have_backbones_of_ours():
    assert {name for name, _ in VGB_FILES} == set(VGB_MODELS)
    assert len(set(VGB_FILES.values())) == len(VGB_FILES)
    assert {backbone for backbone, _ in VGB_MODELS.values()} <= set(BACKBONES)


@pytest.mark.parametrize(
    "text",
    [
        *["cosplace", "cosplace:", "cosplace:ResNet50", "cosplace:ResNet18:1024"],
        *["cosplace:ResNet50:x", "cosplace:ResNet50:512:1", "cosplace:get_trained_model"],
        *["landmark:ResNet50", "landmark:SfM120k:VGG16", "landmark:SF-XL:ResNet50"],
        *["landmark:GLD:ResNet50:0", "landmark:GLD:ResNet50:4096", "landmark:GLD:ResNet50:-5"],
        *["landmark:GLD:ResNet50:", "landmark:GLD:ResNet50:512:512", "hub:a/b:net"],
        *["netvlad", "netvlad:", "netvlad:msls", "netvlad:pitts30k:5000", "netvlad:pitts30k:5:5"],
        *["openibl:netvlad", "openibl:sfrs:0", "openibl:sfrs:", "vgb:vgg16-gem", "vgb:vgg16-gem:x"],
        *["vgb:vgg16-vlad:msls", "vgb:vgg16-gem:msls:512"],
    ],
)
def test_other_texts_list_what_there_is(text):
    with pytest.raises(ValueError, match=f"'{text}' names no published network") as error:
        parse_published(text)
    choices = {
        "cosplace": "ResNet18 32, 64, 128, 256, 512;",
        "landmark": "landmark:GLD:ResNet101, each also with :DIM below 2048",
        "netvlad": "netvlad:tokyotm, each also with :DIM below 4096",
        "openibl": "openibl:sare_ind, each",
        "vgb": "resnet50-crn and pitts30k or msls",
    }
    family = text.split(":")[0]
    for name, choice in choices.items():  # those of its family, or all
        assert (choice in str(error.value)) == (family not in choices or name == family)


# Files


@pytest.mark.parametrize(
    ("train_set", "backbone", "file", "digits"),
    [
        ("SfM120k", "ResNet50", "retrieval-SfM-120k/rSfM120k-tl-resnet50-gem-w-", "97bf910"),
        ("SfM120k", "ResNet101", "retrieval-SfM-120k/rSfM120k-tl-resnet101-gem-w-", "a155e54"),
        ("GLD", "ResNet50", "gl18/gl18-tl-resnet50-gem-w-", "83fdc30"),
        ("GLD", "ResNet101", "gl18/gl18-tl-resnet101-gem-w-", "a4d43db"),
    ],
)
def test_without_a_network_it_says_where_to_put_the_file(
    hub_checkpoints, no_network, train_set, backbone, file, digits
):
    url = f"{URL}/{file}{digits}.pth"
    path = hub_checkpoints / url.rpartition("/")[2]
    with pytest.raises(FileNotFoundError) as error:
        fetch(f"landmark:{train_set}:{backbone}")
    text = (
        f"Cannot download {url} (no network here): put it at {path}, or pass it to --resume_model"
    )
    assert str(error.value) == text
    assert no_network == [(url, str(path), digits)]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("netvlad:pitts30k", "https://cvg-data.inf.ethz.ch/hloc/netvlad/Pitts30K_struct.mat"),
        ("netvlad:tokyotm:64", "https://cvg-data.inf.ethz.ch/hloc/netvlad/TokyoTM_struct.mat"),
        (
            "openibl:sfrs",
            "https://github.com/yxgeee/OpenIBL/releases/download/v0.1.0-beta/vgg16_netvlad.pth",
        ),
    ],
)
def test_urls_of_files_without_digits(hub_checkpoints, no_network, name, url):
    path = hub_checkpoints / url.rpartition("/")[2]
    with pytest.raises(FileNotFoundError, match=f"Cannot download {url} .*: put it at {path}"):
        fetch(name)
    assert no_network == [(url, str(path), None)]


@pytest.mark.parametrize(
    ("name", "file", "what", "url"),
    [
        (
            *("openibl:sare_ind", "openibl_sare_ind/model_best.pth.tar"),
            "model_best.pth.tar, with pca_params_model_best.h5 beside it,",
            "https://drive.google.com/drive/folders/1ZNGdXVRwUJvGH0ZJdwy18A8e9H0wnFHc",
        ),
        (
            *("vgb:resnet50-crn:msls", "vgb_resnet50-crn_msls.pth", "the file"),
            "https://drive.google.com/file/d/1KJzXwCsbyT0uNDl925H2J0QKXhKaeEgW",
        ),
    ],
)
def test_files_of_google_drive_are_for_the_user(hub_checkpoints, no_network, name, file, what, url):
    with pytest.raises(FileNotFoundError) as error:
        fetch(name)
    text = f"There is no {hub_checkpoints / file}: download {what} from {url} in a browser, "
    assert str(error.value).startswith(text)
    assert no_network == []
    (hub_checkpoints / file).parent.mkdir(parents=True)
    (hub_checkpoints / file).touch()
    assert fetch(name) == hub_checkpoints / file


def test_a_server_that_is_not_there(hub_checkpoints, server):
    with pytest.raises(FileNotFoundError, match="Cannot download file:.*_512_.*: put it at"):
        fetch("cosplace:ResNet18:512")
    assert list(hub_checkpoints.iterdir()) == []


def test_files_are_downloaded_once(hub_checkpoints, server, landmark_file, landmark_name):
    shutil.copy(landmark_file, server)
    assert fetch(LANDMARK) == hub_checkpoints / landmark_name
    (server / landmark_name).unlink()
    assert fetch(LANDMARK) == hub_checkpoints / landmark_name
    assert (hub_checkpoints / landmark_name).read_bytes() == landmark_file.read_bytes()
    assert [path.name for path in hub_checkpoints.iterdir()] == [landmark_name]

    (server / "VGG16_64_cosplace.pth").write_bytes(b"weights")
    assert fetch("cosplace:VGG16:64").read_bytes() == b"weights"
    (server / "VGG16_64_cosplace.pth").write_bytes(b"others")
    assert fetch("cosplace:VGG16:64").read_bytes() == b"weights"


def test_another_file_from_the_server_is_not_kept(hub_checkpoints, server, landmark_name):
    write_landmark_file(empty_content("ResNet50"), server / landmark_name)
    with pytest.raises(ValueError, match="sends is not the published file .*invalid hash.*put it"):
        fetch(LANDMARK)
    assert list(hub_checkpoints.iterdir()) == []


def test_another_file_at_the_place_is_refused(hub_checkpoints, landmark_name):
    hub_checkpoints.mkdir(parents=True)
    write_landmark_file(empty_content("ResNet50"), hub_checkpoints / landmark_name)
    text = f"{hub_checkpoints / landmark_name} is not the published file: its SHA-256 begins with "
    with pytest.raises(ValueError, match=re.escape(text) + ".*delete it.*--resume"):
        fetch(LANDMARK)
    assert (hub_checkpoints / landmark_name).exists()  # deleting it is for the user


# Models


@torch.no_grad()
def test_a_released_cosplace_network(hub_checkpoints, server):
    state = random_state(network_shapes("ResNet18", 64))
    torch.save(state, server / "ResNet18_64_cosplace.pth")
    model, facts = load_model(None, "cosplace:ResNet18:64")
    assert not model.training
    assert model.out_dim == 64
    expected = descriptors_by_hand(state, IMAGES, "ResNet18")
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)
    file = hub_checkpoints / "ResNet18_64_cosplace.pth"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert facts == {
        **{"model": "cosplace:ResNet18:64", "model_file": str(file), "model_sha256": digest},
        **{"backbone": "ResNet18", "aggregation": "gem", "fc_output_dim": 64},
    }
    assert identify(facts) == identify(load_model(str(file), None)[1])


def test_a_model_is_known_by_its_file_and_the_dimensions_kept(
    hub_checkpoints, server, landmark_file, landmark_name
):
    shutil.copy(landmark_file, server)
    model, facts = load_model(None, LANDMARK)
    digest = hashlib.sha256(landmark_file.read_bytes()).hexdigest()
    assert facts == {
        **{"model": LANDMARK, "model_file": str(hub_checkpoints / landmark_name)},
        **{"model_sha256": digest, "backbone": "ResNet50"},
        **{"aggregation": "gem_plain", "fc_output_dim": 0, "whiten_dim": 2048},
    }
    resumed, resumed_facts = load_model(str(landmark_file), None)
    assert not model.training and not resumed.training
    assert resumed_facts == facts | {"model": str(landmark_file), "model_file": str(landmark_file)}
    assert identify(facts) == identify(resumed_facts) == digest
    with torch.no_grad():
        assert torch.equal(model(IMAGES), resumed(IMAGES))

    cut, cut_facts = load_model(None, f"{LANDMARK}:512")
    assert cut.out_dim == cut_facts["kept_dims"] == 512
    assert identify(cut_facts) == f"{digest}:512"
    with torch.no_grad():
        assert cut(IMAGES).shape == (2, 512)


def test_a_netvlad_of_its_authors(server, vlad_dim):
    state = random_vlad_state(openibl_shapes(clusters=3, dim=vlad_dim))
    write_matlab(state, server / "Pitts30K_struct.mat")
    torch.save(state, server / "vgg16_netvlad.pth")
    model, facts = load_model(None, "netvlad:pitts30k")
    assert not model.training and model.out_dim == 5
    assert (facts["aggregation"], facts["input_scaling"]) == ("netvlad", "vgg_caffe")
    same, _ = load_model(None, "openibl:sfrs")
    cut, cut_facts = load_model(None, "netvlad:pitts30k:2")
    assert identify(cut_facts) == f"{facts['model_sha256']}:2"
    with torch.no_grad():
        descriptors = model(IMAGES)
        torch.testing.assert_close(same(IMAGES), descriptors, rtol=0, atol=1e-5)
        first = descriptors[:, :2] / descriptors[:, :2].norm(dim=1, keepdim=True)
        torch.testing.assert_close(cut(IMAGES), first)


def test_sare_of_openibl_is_two_files(hub_checkpoints, vlad_dim):
    folder = hub_checkpoints / "openibl_sare_ind"
    folder.mkdir(parents=True)
    write_training(
        random_vlad_state(openibl_shapes(3, None)), checkpoint := folder / "model_best.pth.tar"
    )
    with pytest.raises(ValueError) as error:
        load_model(None, "openibl:sare_ind")
    assert str(error.value).startswith(
        f"{checkpoint} is not the network that openibl:sare_ind names: its descriptors have 1536 "
        "numbers, not 5; needed is model_best.pth.tar, with pca_params_model_best.h5 beside it,"
    )
    write_whitening(folder / "pca_params_model_best.h5", 3, vlad_dim)
    model, facts = load_model(None, "openibl:sare_ind:4")
    assert model.out_dim == 4
    assert facts["whitening_file"] == str(folder / "pca_params_model_best.h5")


def test_a_network_of_the_benchmark(hub_checkpoints):
    hub_checkpoints.mkdir(parents=True)
    file = hub_checkpoints / "vgb_resnet18-netvlad_msls.pth"
    torch.save(random_vlad_state(vgb_shapes("ResNet18_conv4", vlad_shapes(256))), file)
    model, facts = load_model(None, "vgb:resnet18-netvlad:msls")
    assert model.out_dim == 64 * 256
    assert facts["backbone"] == "ResNet18_conv4"
    torch.save(random_vlad_state(vgb_shapes("ResNet18", vlad_shapes(512))), file)
    with pytest.raises(ValueError, match="have 32768 numbers, not 16384; needed is the file from"):
        load_model(None, "vgb:resnet18-netvlad:msls")


# Evaluations


@pytest.fixture
def set_flags(datasets_folder, tmp_path):
    """Return the flags of a small evaluation, but for the model and its folder."""
    places = [f"--datasets_folder={datasets_folder}", "--dataset=mini_city_test_v2"]
    return [*places, "--device=cpu", "--num_workers=0", "--resize_test_imgs=48", "--no_report"]


def test_an_evaluation_of_a_landmark_network(
    set_flags, tmp_path, hub_checkpoints, landmark_file, landmark_name
):
    hub_checkpoints.mkdir(parents=True)
    shutil.copy(landmark_file, hub_checkpoints)
    kept = str(tmp_path / "kept")
    results = {}
    for name, flags in {
        "named": [f"--model={LANDMARK}", f"--save_descriptors={kept}"],
        "resumed": [f"--resume={landmark_file}", f"--load_descriptors={kept}"],
        "cut": [f"--model={LANDMARK}:512", f"--load_descriptors={kept}"],
    }.items():
        main([*set_flags, *flags, f"--save_dir={tmp_path / name}"])
        results[name] = json.loads((tmp_path / name / "results.json").read_text())
    named = results["named"]
    assert named["model"] == LANDMARK
    assert named["model_file"] == str(hub_checkpoints / landmark_name)
    assert named["model_sha256"] == hashlib.sha256(landmark_file.read_bytes()).hexdigest()
    assert (named["backbone"], named["descriptor_dim"]) == ("ResNet50", 2048)
    # It is the same model, so its descriptors are taken; those of the shorter one are others.
    logs = {name: (tmp_path / name / "info.log").read_text() for name in results}
    assert "has no descriptors" not in logs["resumed"]
    assert "has no descriptors" in logs["cut"]
    assert results["resumed"]["recalls"] == named["recalls"]
    assert (results["cut"]["descriptor_dim"], results["cut"]["kept_dims"]) == (512, 512)


def test_an_evaluation_of_netvlad(set_flags, tmp_path, server, vlad_dim):
    state = random_vlad_state(openibl_shapes(clusters=3, dim=vlad_dim))
    torch.save(state, server / "vgg16_netvlad.pth")
    main([*set_flags, "--model=openibl:sfrs:4", f"--save_dir={tmp_path / 'run'}"])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["model"] == "openibl:sfrs:4"
    assert (results["descriptor_dim"], results["kept_dims"], results["whiten_dim"]) == (4, 4, 5)
    assert (results["aggregation"], results["input_scaling"]) == ("netvlad", "vgg_caffe")


def test_refusals_of_an_evaluation_of_netvlad(
    refused, set_flags, no_network, hub_checkpoints, tmp_path
):
    text = refused(main, [*set_flags, "--model=netvlad:pitts250k"], 2)
    assert "names no published network" in text and "netvlad:tokyotm" in text
    text = refused(main, [*set_flags, "--model=netvlad:pitts30k"], 1)
    assert f"put it at {hub_checkpoints / 'Pitts30K_struct.mat'}" in text
    text = refused(main, [*set_flags, "--model=openibl:sare_ind"], 1)
    assert "in a browser" in text
    state = random_vlad_state(openibl_shapes(clusters=3, dim=5))
    del state["net_vlad.conv.weight"]
    torch.save(state, tmp_path / "a.pth")
    text = refused(main, [*set_flags, f"--resume={tmp_path / 'a.pth'}"], 1)
    assert "(1 differ): net_vlad.conv.weight is missing" in text
    torch.save({"backbone.model.conv1.weight": torch.ones(3)}, tmp_path / "a.pth")  # MixVPR's names
    text = refused(main, [*set_flags, f"--resume={tmp_path / 'a.pth'}"], 1)
    assert "a.pth has a backbone that is none of ResNet18, " in text


def test_refusals_of_an_evaluation(refused, set_flags, no_network, hub_checkpoints, tmp_path):
    text = refused(main, [*set_flags, "--model=cosplace:ResNet50:100"], 2)
    assert "names no published network" in text
    text = refused(main, [*set_flags, f"--model={LANDMARK}"], 1)
    assert f"put it at {hub_checkpoints}" in text
    content = empty_content("ResNet50")
    content["meta"]["whitening"] = False
    write_landmark_file(content, tmp_path / "a.pth")
    text = refused(main, [*set_flags, "--resume=a.pth"], 1)
    assert "a.pth is another kind of network: its 'whitening' is False" in text
    assert not (tmp_path / "logs").exists()
