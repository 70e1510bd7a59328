import contextlib
import hashlib
import shutil
import sys
import textwrap
import zipfile
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from conftest import REPOSITORY
from state_dict_keys import network_shapes, random_state
from torch import nn

from model.checkpoints import load_network
from model.network import GeoLocalizationNet
from model.other_models import (
    ModelSpec,
    OtherModel,
    hash_tensors,
    load_model,
    load_other_model,
    parse_model_spec,
)

IMAGES = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))

FACTS = {"model": "a.py:f"}

# A repository like many: packages with the names of ours, one without __init__.py, lazy imports.
REPOSITORY_FILES = {
    "hubconf.py": """
        dependencies = ["torch"]
        import commons
        from datasets.means import MEAN
        from model.network import Network

        def vpr(scale=1.0, **others):
            from utils.helper import shift  # lazily, as DINOv2 does
            assert commons.PLACE == "theirs"
            return Network(scale, shift() + MEAN)

        def _private():
            return 5
    """,
    "commons.py": 'PLACE = "theirs"',
    "model/__init__.py": "from . import network",
    "model/network.py": """
        import torch
        from datasets import means

        class Network(torch.nn.Module):
            def __init__(self, scale, offset):
                super().__init__()
                self.scale = torch.nn.Parameter(torch.tensor(scale))
                self.offset = offset
                assert means.MEAN == NUMBER

            def forward(self, images):
                return images.mean((2, 3)) * self.scale + self.offset
    """,
    "datasets/means.py": "MEAN = NUMBER",
    "utils/__init__.py": "",
    "utils/helper.py": "def shift():\n    return 0.5",
}


@pytest.fixture(autouse=True)
def nothing_else_changes(tmp_path):
    """Check after each test that path and modules are as before, and nothing of others is left."""
    path, modules = sys.path[:], dict(sys.modules)
    yield
    assert sys.path == path
    assert all(sys.modules[name] is module for name, module in modules.items())
    new = {name: sys.modules[name] for name in sys.modules.keys() - modules.keys()}
    files = {name: str(getattr(module, "__file__", "")) for name, module in new.items()}
    others = (str(tmp_path), str(REPOSITORY / "hubconf.py"))
    assert [name for name, file in files.items() if file.startswith(others)] == []
    assert not {"utils", "mine", "datasets.means"} & new.keys()  # without __init__.py: no file


def write(folder, files, number=10.0):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).replace("NUMBER", str(number)))
    return folder


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Return a function that writes a module `mine` into the current folder, other than ours."""
    monkeypatch.chdir(tmp_path)

    def write_mine(text, **others):
        return write(tmp_path, {"mine.py": text} | others)

    return write_mine


# Specs


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("hub:gmberton/eigenplaces:net", ("hub", "gmberton/eigenplaces", "net")),
        ("hub:a/b:feature/x-1:net", ("hub", "a/b:feature/x-1", "net")),
        (r"hub:C:\repos\salad:net", ("hub", r"C:\repos\salad", "net")),
        ("hub:/some/folder:net:dim=512", ("hub", "/some/folder", "net", {"dim": 512})),
        ("net.py", ("python", "net.py", "get_model")),
        ("net.py:dim=512", ("python", "net.py", "get_model", {"dim": 512})),
        (r"C:\my code\net.py:make:x=1", ("python", r"C:\my code\net.py", "make", {"x": 1})),
        ("torchscript:C:/a.pt", ("torchscript", "C:/a.pt")),
        ("onnx:a=b:c=d.onnx", ("onnx", "a=b:c=d.onnx")),
        ("cosplace:ResNet50:512", ("cosplace", "ResNet50:512")),
        ("landmark:GLD:ResNet101", ("landmark", "GLD:ResNet101")),
    ],
)
def test_specs_are_parsed(text, spec):
    assert parse_model_spec(text) == ModelSpec(*spec)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-3", 1e-3), ("True", True), ("None", None), ("'7'", "7"), ("ResNet50", "ResNet50")],
        *[("[1, 2]", [1, 2]), ("-2", -2), ("01", "01"), ("", ""), ("a=b", "a=b")],
        *[("https://host:80/a?b=c", "https://host:80/a?b=c"), (r"C:\new\t.pth", r"C:\new\t.pth")],
    ],
)
def test_arguments_are_literals_or_text(text, value):
    arguments = parse_model_spec(f"a.py:f:x={text}:y=2").arguments
    assert arguments == {"x": value, "y": 2} and type(arguments["x"]) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        *["", "ResNet18", "hub:", "hub:a/b", "hub:a/b:", "hub::net", "onnx:"],
        *["a.py:5", "a.py:f:1x=5", "a.py:f()", "a.py:", ":f", ".pyx:f", "torchvision.models:vgg16"],
    ],
)
def test_other_texts_are_explained(text):
    with pytest.raises(ValueError, match="names no model: write .*hub:OWNER/NAME.*--resume"):
        parse_model_spec(text)


def test_a_checkpoint_is_no_spec():
    for text in ("runs/best_model.pth", "dino_salad.ckpt"):
        with pytest.raises(ValueError, match=f"^'{text}' is a checkpoint: pass it to --resume$"):
            parse_model_spec(text)


def test_false_as_text_is_a_slip():
    with pytest.raises(ValueError, match="'pretrained=false': write False"):
        parse_model_spec("a.py:f:pretrained=false")


# Hub repositories


@pytest.mark.parametrize("left_out", [(), ("model/__init__.py", "utils/__init__.py")])
def test_a_repository_may_have_packages_called_as_ours(tmp_path, left_out):
    files = {name: text for name, text in REPOSITORY_FILES.items() if name not in left_out}
    write(tmp_path, files)
    network = load_other_model(f"hub:{tmp_path}:vpr:scale=2.0")
    assert not network.training and not network.model.training
    expected = IMAGES.mean((2, 3)) * 2 + 10.5
    torch.testing.assert_close(network(IMAGES), expected)


def test_two_repositories_do_not_meet(tmp_path):
    for name, number in (("one", 1.0), ("two", 2.0)):
        write(tmp_path / name, REPOSITORY_FILES, number)
    one, two = (load_other_model(f"hub:{tmp_path / name}:vpr") for name in ("one", "two"))
    torch.testing.assert_close(one(IMAGES) + 1, two(IMAGES))
    assert type(one.model) is not type(two.model)


def test_this_repository_as_a_hub(tmp_path, monkeypatch):
    """A copy of another version of it, which must not mix with the running one."""
    for file in ("hubconf.py", "commons.py", "machine.py", "packages.py", "stops.py"):
        shutil.copy(REPOSITORY / file, tmp_path)
    for package in ("model", "runs"):
        shutil.copytree(REPOSITORY / package, tmp_path / package)
    with open(tmp_path / "model" / "network.py", "a") as file:
        file.write("\nVERSION = 'another'\n")
    torch.save(random_state(network_shapes("ResNet18", 24)), tmp_path / "a.pth")
    monkeypatch.chdir(tmp_path)
    network = load_other_model("hub:.:cosplace:weights=a.pth")
    assert sys.modules[GeoLocalizationNet.__module__].GeoLocalizationNet is GeoLocalizationNet
    assert type(network.model).__name__ == "GeoLocalizationNet"
    assert not isinstance(network.model, GeoLocalizationNet)
    assert type(network.model).forward.__globals__["VERSION"] == "another"
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(network(images), load_network("a.pth").eval()(images))


def test_this_repository_in_place(tmp_path):
    torch.save(random_state(network_shapes("ResNet18", 24)), tmp_path / "a.pth")
    network = load_other_model(f"hub:{REPOSITORY}:cosplace:weights={tmp_path / 'a.pth'}")
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 24)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Return where torch.hub keeps repositories; there is no network, and nobody to ask."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr("torch.hub._hub_dir", None)

    def fail(*_, **__):
        raise URLError("no network here")

    monkeypatch.setattr("torch.hub.urlopen", fail)
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks a question"))
    return tmp_path / "torch_home" / "hub"


@pytest.mark.parametrize(
    ("folder", "repository"),
    [
        ("owner_name_main", "owner/name"),
        ("owner_name_v1.0", "owner/name:v1.0"),
        ("owner_name_feature_x", "owner/name:feature/x"),
    ],
)
def test_repositories_of_github_come_from_the_cache(hub_cache, folder, repository):
    write(hub_cache / folder, REPOSITORY_FILES)
    network = load_other_model(f"hub:{repository}:vpr:scale=3.0")
    torch.testing.assert_close(network(IMAGES), IMAGES.mean((2, 3)) * 3 + 10.5)


def test_a_download_asks_neither_the_user_nor_the_api_of_github(hub_cache, tmp_path, monkeypatch):
    write(tmp_path / "theirs" / "owner-name-123abc", REPOSITORY_FILES)
    archive = shutil.make_archive(str(tmp_path / "theirs"), "zip", tmp_path / "theirs", ".")
    asked = []

    def download(url, path, *_, **__):
        asked.append(url)
        with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
            for name in sorted(source.namelist()):  # as GitHub's, it begins with its one folder
                if name.strip("./"):
                    target.writestr(name, source.read(name))

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    for _ in range(2):
        network = load_other_model("hub:owner/name:v1.0:vpr:scale=3.0")
        torch.testing.assert_close(network(IMAGES), IMAGES.mean((2, 3)) * 3 + 10.5)
    assert asked == ["https://github.com/owner/name/zipball/v1.0"]


@pytest.mark.parametrize("ref", ["", ":main"])
def test_repositories_that_cannot_be_fetched(hub_cache, ref):
    with pytest.raises(ValueError, match="vpr fails: .*; without a connection") as error:
        load_other_model(f"hub:owner/name{ref}:vpr")
    assert f"hub:owner/name{ref}:vpr" in str(error.value) and "no " in str(error.value)


def test_an_unknown_function_of_a_cached_repository(hub_cache):
    write(hub_cache / "owner_name_main", REPOSITORY_FILES)
    with pytest.raises(ValueError, match="Cannot find callable cosplace in hubconf; check"):
        load_other_model("hub:owner/name:main:cosplace")


@pytest.mark.parametrize(
    ("changes", "text", "message"),
    [
        (
            {},
            "hub:FOLDER:other",
            "RuntimeError: Cannot find callable other in hubconf",
        ),
        ({}, "hub:FOLDER/gone:vpr", "gone is neither a folder nor OWNER/NAME"),
        ({}, "hub:FOLDER/utils:vpr", "FileNotFoundError: .*utils/hubconf.py"),
        ({}, "hub:FOLDER:vpr:scale=x", r"vpr fails: .*network\.py, line 8\)"),
        ({"hubconf.py": "import no_such"}, "hub:FOLDER:f", r"No module named 'no_such' \(.*line 1"),
        ({"hubconf.py": "f(\n"}, "hub:FOLDER:f", "hub:.*:f fails: SyntaxError"),
        ({"hubconf.py": "raise SystemExit(3)"}, "hub:FOLDER:f", "SystemExit: 3"),
        (
            {"hubconf.py": "def f(a, b=1): pass"},
            "hub:FOLDER:f:c=2",
            r"f\(\) got .* 'c'",
        ),
        ({"hubconf.py": "def f(): return 5"}, "hub:FOLDER:f", "makes an object of type int"),
    ],
)
def test_faults_of_repositories_are_sentences(tmp_path, changes, text, message):
    write(tmp_path, REPOSITORY_FILES | changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_other_model(text.replace("FOLDER", str(tmp_path)))
    assert "\n" not in str(error.value)


# Files


def test_a_file_may_use_our_modules(mine):
    mine("""
        from model.aggregation.pooling import L2Norm
        from torch import nn

        def make(p):
            return nn.Sequential(nn.AdaptiveAvgPool2d(p), nn.Flatten(), L2Norm())
    """)
    descriptors = load_other_model("mine.py:make:p=2")(IMAGES)
    assert descriptors.shape == (2, 12)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("package", [{"model/__init__.py": ""}, {}])
def test_a_file_may_have_neighbours_named_as_ours(mine, package):
    others = {"model/net.py": "WIDTH = 7", "datasets/a.jpg": ""} | package
    mine(
        """
        import torch
        from model.net import WIDTH

        def get_model():
            return lambda images: torch.ones(len(images), WIDTH)
        """,
        **others,
    )
    assert load_other_model("mine.py")(IMAGES).shape == (2, 7)


def test_a_file_may_have_any_name_and_neighbours(tmp_path):
    write(
        tmp_path / "my code",
        {
            "torch.py": "from utils import WIDTH\n"
            "def make(n): return lambda images: images.new_ones(len(images), n * WIDTH)",
            "utils.py": "WIDTH = 3",
        },
    )
    assert load_other_model(f"{tmp_path}/my code/torch.py:make:n=2")(IMAGES).shape == (2, 6)


def test_a_file_may_use_installed_packages(mine):
    mine("from torchvision.models import mobilenet_v3_small")
    network = load_other_model("mine.py:mobilenet_v3_small:num_classes=16")
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 16)
    assert not any(module.training for module in network.modules())


def test_a_model_of_a_file_is_known_by_its_spec_code_and_tensors(mine):
    mine("from torch import nn\ndef get_model(n):\n    return nn.Linear(n, 2)")
    model, facts = load_model(None, "mine.py:n=3")
    assert facts == {
        **{"model": "mine.py:n=3", "model_file": None},
        **{"code_sha256": hashlib.sha256(Path("mine.py").read_bytes()).hexdigest()},
        **{"model_sha256": hash_tensors(model.model)},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gone.py:make", "There is no file gone.py"),
        ("mine.py:mak", "mine.py:mak fails: AttributeError: .* has no attribute 'mak'"),
        ("mine.py:make:a=1", r"mine.py:make fails: TypeError: make\(\) got .* argument 'a'"),
        ("mine.py:make", r"mine.py:make fails: KeyError: 'x' \(.*mine\.py, line 4\)"),
        ("mine.py:NUM", "mine.py:NUM fails: TypeError"),
        ("torchscript:gone.pt", "There is no file gone.pt"),
        ("torchscript:mine.py", r"mine.py is not a TorchScript file .*--resume"),
        ("onnx:mine.py", "mine.py is not an ONNX file that can be run"),
    ],
)
def test_faults_of_files_are_sentences(mine, text, message):
    mine("NUM = 5\n\ndef make():\n    {}['x']\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_other_model(text)
    assert "\n" not in str(error.value)


def test_the_log_says_which_code_runs(mine, caplog):
    mine("NUM = 5\n\ndef make():\n    return lambda images: images\n")
    torch.jit.save(torch.jit.script(torch.nn.Identity()), "a.pt")
    said = "is code of others, which runs with your rights: only use what you trust"
    for text in ("mine.py:make", "torchscript:a.pt", "onnx:a.pt"):
        caplog.clear()
        with caplog.at_level("INFO"), contextlib.suppress(ValueError):  # the last one is no ONNX
            load_other_model(text)
        assert caplog.messages == ([] if text == "onnx:a.pt" else [f"{text} {said}"])


# Descriptors


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
    network = OtherModel(lambda images: output, FACTS)
    with pytest.raises(ValueError, match=f"a.py:f returns {text} for .*needed .*\\[2, D\\]"):
        network(IMAGES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_descriptors_pass_as_they_are(dtype):
    descriptors = torch.randn(2, 5).to(dtype) * 100
    assert OtherModel(lambda images: descriptors, FACTS)(IMAGES) is descriptors


def test_a_model_that_fails_names_the_images():
    def fail(images):
        assert images.shape[2] % 14 == 0, "height is no multiple of 14"

    with pytest.raises(
        ValueError, match=r"a.py:f fails on images \[2, 3, 16, 24\]: .*of 14.*--resize"
    ):
        OtherModel(fail, FACTS)(IMAGES)


def test_a_gpu_out_of_memory_passes_as_it_is():
    def fail(images):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        OtherModel(fail, FACTS)(IMAGES)


# Identity


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
    assert hash_tensors(network) == expected.hexdigest()
    network[1].running_mean[1] += 1
    assert hash_tensors(network) != expected.hexdigest()


def test_a_function_has_no_hash():
    assert hash_tensors(torch.flatten) is None
