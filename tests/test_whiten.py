"""tools.whiten through its command line, and its files through all that reads networks."""

import json
import logging
import os

import numpy as np
import pytest
import torch
from conftest import write_image
from forked_commands import run_job, wait_for_all
from PIL import Image
from sklearn.decomposition import PCA
from torchvision.transforms.v2 import functional

import hubconf
from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets.image_lists import list_images
from eval import main as eval_main
from evaluation.whiten import sample_images
from localize import main as localize_main
from model.checkpoint_files import read_checkpoint, save_atomically
from model.checkpoints import load_network
from model.network import build_network, has_whitening
from model.other_models import load_model
from model.whitening import WHITENINGS
from tools.export import main as export_main
from tools.whiten import main
from train import main as train_main

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
NUM_IMAGES = 40


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a folder of training images, of two sizes, in sub-folders."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(NUM_IMAGES):
        size = [(32, 24), (40, 40)][number % 2]
        write_image(folder / f"part{number % 3}" / f"{number:03d}.png", size)
    return folder


@pytest.fixture
def flags(model_file, images):
    places = [str(model_file), f"--train_set_folder={images}"]
    return [*places, "--device=cpu", "--num_workers=0"]


def extract_by_hand(network, files):
    """Compute descriptors one image at a time, with the plainest code."""
    descriptors = []
    for path in files:
        image = torch.from_numpy(np.array(Image.open(path)) / 255).float().permute(2, 0, 1)
        image = functional.normalize(image, list(IMAGENET_MEAN), list(IMAGENET_STD))
        with torch.no_grad():
            descriptors.append(network(image[None])[0].numpy())
    return np.array(descriptors)


def whiten_by_hand(network, fitted, asked, dim):
    """Return PCA-whitened descriptors of files, by sklearn."""
    pca = PCA(dim, whiten=True, svd_solver="full").fit(extract_by_hand(network, fitted))
    whitened = pca.transform(extract_by_hand(network, asked))
    return whitened / np.linalg.norm(whitened, axis=1, keepdims=True)


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_saved_networks_are_those_of_sklearn(flags, model_file, images, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    main([*flags, "--dim=6", f"--save={tmp_path / 'net.pth'}"])
    files = list(list_images(images))
    expected = whiten_by_hand(load_network(model_file).eval(), files, files[:9], 6)
    found = extract_by_hand(load_network(tmp_path / "net.pth").eval(), files[:9])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-4)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-4)
    assert "Whitening (pca_whiten): 6 of 24 dimensions, " in caplog.text
    assert f"% of the variance of {NUM_IMAGES} images" in caplog.text
    assert f"Wrote {tmp_path / 'net.pth'}: descriptors of 6 dimensions" in caplog.text


def test_a_training_set_by_name_and_an_evaluation(
    model_file, datasets_folder, eval_flags, tmp_path
):
    named = ["--dataset=mini_city", f"--datasets_folder={datasets_folder}", "--images=60"]
    own = ["--kind=pca", "--dim=8", "--kept_dims=5", f"--save={tmp_path / 'net.pth'}"]
    main([str(model_file), *named, *own, "--device=cpu", "--num_workers=0"])
    [_, *others] = eval_flags
    eval_main([f"--resume={tmp_path / 'net.pth'}", *others, "--dataset=mini_city_test_v1"])
    results = results_of(tmp_path / "run")
    said = {"whiten_dim": 8, "kept_dims": 5, "whiten_norm": "none", "descriptor_dim": 5}
    assert said.items() <= results.items()
    provenance = read_checkpoint(tmp_path / "net.pth")["whitening"]
    assert provenance["num_images"] == 60 and provenance["kind"] == "pca"
    assert provenance["model_sha256"] == load_model(str(model_file), None)[1]["model_sha256"]


@pytest.mark.parametrize("file_format", ["torchscript", "onnx"])
@pytest.mark.parametrize("kind", WHITENINGS)
def test_whitened_networks_are_exported(flags, images, tmp_path, kind, file_format):
    own = [f"--kind={kind}", "--dim=8", "--kept_dims=5", f"--save={tmp_path / 'net.pth'}"]
    main([*flags, *own])
    net = tmp_path / "exported"
    export_main([f"{tmp_path}/net.pth", f"--format={file_format}", f"--out={net}"])
    network = hubconf.cosplace(weights=tmp_path / "net.pth")
    exported, _ = load_model(None, f"{file_format}:{net}")
    files = list(list_images(images))[:3]
    found, expected = (extract_by_hand(model, files) for model in (exported, network))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape == (3, 5)


def test_photos_are_localized(flags, datasets_folder, tmp_path):
    main([*flags, "--dim=8", f"--save={tmp_path / 'net.pth'}"])
    database = datasets_folder / "mini_city/processed/val/database"
    photo = list_images(database)[7]
    own = [f"--database={database}", "--device=cpu", "--num_workers=0"]
    folder = f"--save_dir={tmp_path / 'run'}"
    localize_main([photo, f"--resume={tmp_path / 'net.pth'}", *own, folder])
    rows = (tmp_path / "run/places.csv").read_text().splitlines()
    assert os.path.basename(photo) in rows[1].split(",", 1)[1]


def test_the_sample_is_that_of_the_seed(images):
    paths = list_images(images)
    first, same, other = (list(sample_images(paths, 20, seed)) for seed in (0, 0, 1))
    assert first == same and first != other
    assert len(set(first)) == 20 and set(first) <= set(paths)
    assert first == sorted(first, key=list(paths).index)
    assert sample_images(paths, NUM_IMAGES, 0) is paths


def test_a_whitening_is_replaced_only_if_asked_for(flags, refused, model_file, tmp_path):
    save = f"--save={tmp_path / 'a.pth'}"
    main([*flags, "--dim=8", save])
    [_, *others] = flags
    again = [f"{tmp_path / 'a.pth'}", *others, "--dim=5", f"--save={tmp_path / 'b.pth'}"]
    assert "a whitening to 8 dimensions already: --replace" in refused(main, again, code=1)
    main([*again, "--replace"])
    main([*flags, "--dim=5", f"--save={tmp_path / 'c.pth'}"])
    states = [load_network(tmp_path / name).state_dict() for name in ("b.pth", "c.pth")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_default_name_is_beside_the_model(flags, images, tmp_path, monkeypatch):
    save_atomically(
        build_network("Tiny", 24, backbone_weights="none").state_dict(), tmp_path / "a.pth"
    )
    [_, *others] = flags
    main([f"{tmp_path / 'a.pth'}", *others, "--dim=8", "--kept_dims=5"])
    assert has_whitening(load_network(tmp_path / "a_pca_whiten_5.pth"))


def test_transformers_keep_the_size_of_their_images(images, tmp_path):
    """Also if args.json, which says it, is not beside the whitened network."""
    network = build_network("CCT14_224", backbone_weights="none", aggregation="seqpool")
    flags = {"backbone": "CCT14_224", "image_size": 64}
    content = {"model_state_dict": network.state_dict(), "args": flags}
    save_atomically(content, tmp_path / "net.pth")
    main(
        [
            *(f"{tmp_path / 'net.pth'}", f"--train_set_folder={images}", "--dim=3"),
            *("--images=8", f"--save={tmp_path / 'whitened.pth'}", "--num_workers=0"),
        ]
    )
    assert load_network(tmp_path / "whitened.pth").image_size == 64
    assert read_checkpoint(tmp_path / "whitened.pth")["whitening"]["resize"] == "64x64"


def test_unreadable_images_are_left_out_if_asked_for(flags, refused, tmp_path, capfd):
    for number in range(12):
        write_image(tmp_path / "images" / f"{number:03d}.png")
    (tmp_path / "images" / "005.png").write_bytes(b"broken")
    [model, _, *others] = flags
    own = [f"--train_set_folder={tmp_path / 'images'}", f"--save={tmp_path / 'a.pth'}", "--dim=4"]
    assert "005.png cannot be read" in refused(main, [model, *own, *others], code=1)
    assert not (tmp_path / "a.pth").exists()
    main([model, *own, *others, "--skip_unreadable"])
    assert "1 of 12 images cannot be read" in capfd.readouterr().out
    assert load_network(tmp_path / "a.pth").out_dim == 4


@pytest.mark.parametrize("num_processes", [2])
def test_processes_fit_what_one_process_fits(flags, tmp_path, num_processes):
    """With more batches than one per process, and unequal shards."""
    own = ["--dim=8", "--infer_batch_size=1", "--images=33"]
    argv = [*flags, *own, f"--save={tmp_path / 'two.pth'}"]
    wait_for_all(run_job(num_processes, "tools.whiten", argv, tmp_path / "said"))
    main([*flags, *own, f"--save={tmp_path / 'one.pth'}"])
    one, two = (load_network(tmp_path / name).state_dict() for name in ("one.pth", "two.pth"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    said = "".join((tmp_path / f"said{rank}.out").read_text() for rank in range(num_processes))
    assert said.count("Wrote ") == 1


# Models of others

MODEL = """
import torch

def get_model(scale=1.0):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 5, stride=3), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
    )
"""


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Return the spec of a model of others, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL)
    return "net.py:get_model:scale=2.0"


@pytest.fixture
def whitened(other, flags):
    [_, *others] = flags
    main([other, *others, "--dim=7", "--save=white.pth"])
    return f"whitened:white.pth:{other}"


def test_a_model_of_others_goes_with_its_whitening(whitened, other, images):
    files = list(list_images(images))
    raw, _ = load_model(None, other)
    model, facts = load_model(None, whitened)
    expected = whiten_by_hand(raw, files, files[:5], 7)
    found = extract_by_hand(model, files[:5])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-4)
    assert facts["model_file"] == "white.pth" and facts["whiten_dim"] == 7


def test_a_whitened_model_of_others_is_evaluated(whitened, eval_flags, tmp_path):
    [_, *others] = eval_flags
    eval_main([f"--model={whitened}", *others, "--dataset=mini_city_val"])
    results = results_of(tmp_path / "run")
    assert (results["descriptor_dim"], results["model"]) == (7, whitened)


def test_the_default_name_of_a_model_of_others(other, flags, tmp_path):
    [_, *others] = flags
    main([other, *others, "--dim=7", "--kind=pca_power", "--power=0.25"])
    model, _ = load_model(None, f"whitened:net.py_get_model_scale_2.0_pca_power_7.pth:{other}")
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_a_whitening_alone_is_no_network(whitened, refused, eval_flags, flags):
    [_, *others] = eval_flags
    argv = ["--resume=white.pth", *others, "--dataset=mini_city_val"]
    assert f"pass --model {whitened}" in refused(eval_main, argv, code=1)
    text = refused(main, [whitened, *flags[1:], "--dim=3"], code=2)
    assert "has a whitening already: give net.py:get_model:scale=2.0" in text


def test_a_changed_model_is_refused(whitened, tmp_path):
    (tmp_path / "net.py").write_text(MODEL.replace("12, 5", "12, 6"))
    with pytest.raises(ValueError, match="white.pth was fitted to net.py:get_model:scale=2.0, and"):
        load_model(None, whitened)
    (tmp_path / "net.py").write_text(MODEL)
    with pytest.raises(ValueError, match="net.py:get_model:scale=3.0 is not the same model"):
        load_model(None, whitened.replace("2.0", "3.0"))


@pytest.mark.parametrize(
    "change",
    [
        {"state_dict": {"weight": torch.zeros(7, 48)}},
        {"state_dict": {"weight": torch.zeros(7), "bias": torch.zeros(7)}},
        {"state_dict": None},
        {"whiten_dim": 6},
        {"whiten_dim": "7"},
        {"kept_dims": 9},
        {"whiten_norm": "l1"},
        {"whitening_of": "net.py"},
    ],
)
def test_strange_files_of_whitenings_are_refused(whitened, change):
    save_atomically(read_checkpoint("white.pth") | change, "white.pth")
    with pytest.raises(ValueError, match="white.pth holds no whitening, such as"):
        load_model(None, whitened)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("whitened:a.pth:cosplace:ResNet18:512", "goes with a model of others"),
        ("whitened:a.pth:whitened:b.pth:net.py", "goes with a model of others"),
        ("whitened:a.pth", "names no model: write .*whitened:FILE.pth:"),
        ("whitened:a.pth:hub", "'hub' names no model"),
        ("whitened:gone.pth:net.py", "There is no checkpoint gone.pth"),
    ],
)
def test_specs_that_cannot_be_read(other, spec, text):
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        load_model(None, spec)


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["--dim=40"], 1, "No whitening to 40 dimensions: 40 images span 39"),
        (["--dim=30"], 1, "the descriptors have 24"),
        (["--dim=8", "--images=5"], 1, "5 images span 4"),
        (["--dim=8", "--kept_dims=9"], 2, "9 dimensions cannot be kept of a whitening to 8"),
        (["--dim=8", "--power=0.5"], 2, "A power goes with pca_power, not with pca_whiten"),
        (["--dim=0"], 2, "--dim"),
        (["--dim=8", "--save=gone/a.pth"], 1, "--save gone/a.pth: give a file in an existing"),
        (["--dim=8", "--save=a.txt"], 2, "--save a.txt: give a file that ends in .pth"),
        (["--dim=8", "--dataset=mini_city"], 2, "not allowed with"),
        ([], 2, "--dim"),
        (["--dim=8", "--resize_test_imgs=9x9x9"], 2, "A resize rule is"),
        (["--dim=8", "--use_amp16"], 2, "--use_amp16 needs a CUDA device"),
    ],
)
def test_user_errors_are_sentences(flags, refused, argv, code, text):
    if not any(word.startswith("--save") for word in argv):
        argv = [*argv, "--save=a.pth"]
    assert text in refused(main, [*flags, *argv], code)
    assert not os.path.exists("a.pth")


@pytest.mark.parametrize(
    ("model", "code", "text"),
    [
        ("gone.pth", 1, "There is no checkpoint gone.pth"),
        ("cosplace:ResNet99:512", 2, "names no published network"),
        ("gone.py", 1, "There is no file gone.py"),
        ("hub:x", 2, "names no model"),
    ],
)
def test_models_that_are_not_there(flags, refused, model, code, text):
    assert text in refused(main, [model, *flags[1:], "--dim=3", "--save=a.pth"], code)


def test_a_training_cannot_be_resumed_from_a_whitened_network(flags, refused, tmp_path):
    main([*flags, "--dim=6", f"--save={tmp_path / 'net.pth'}"])
    text = refused(train_main, [f"--resume_train={tmp_path / 'net.pth'}"], code=1)
    assert "net.pth is not a checkpoint to resume from" in text and "--resume_model" in text
