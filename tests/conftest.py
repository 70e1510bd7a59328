"""Data for the tests: made here, in temporary folders."""

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks; also for the processes of the tests

import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from training_runs import SMALL

import commons
import mini_city
from datasets.image_names import ImageName, format_image_name
from model.checkpoint_files import save_atomically
from model.network import build_network

REPOSITORY = Path(__file__).parents[1]
CORE = {  # tests that `make test-versions` runs with the oldest and the newest packages
    *("aggregation", "augmentation", "augmentation_cpu", "backbones", "checkpoint_files"),
    *("checkpoints", "class_index", "cosface_loss", "descriptor_files", "descriptors", "eval"),
    *("evaluate", "ground_truth", "groups", "image_lists", "image_names", "images", "inference"),
    *("localize", "loading", "network", "objective", "partition", "positions", "processes"),
    *("published", "resume", "run_folders", "search", "state", "train", "training_checkpoints"),
    *("transformers", "views", "broken_training", "damaged_checkpoints"),
    *("strange_checkpoints", "losses", "mining", "reranking", "netvlad", "crn", "sralnet"),
    *("appsvr", "apanet"),
}
WITH_TINY = (REPOSITORY / "tests" / "tiny_backbone.py",)  # before the name of an entry point
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture
def save(tmp_path):
    """Return a function that writes a checkpoint and returns its path."""

    def write(content):
        torch.save(content, tmp_path / "checkpoint.pth")
        return tmp_path / "checkpoint.pth"

    return write


@pytest.fixture
def shared_data() -> Path:
    """Return the folder of real data beside the repository; it does not come with the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data is not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def datasets_folder(shared_folder: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Return a datasets folder with the smallest mini city. Tests may read it."""
    return shared_folder(
        "datasets", lambda folder: mini_city.generate(folder / "mini_city", "tiny", workers=2)
    )


@pytest.fixture(scope="session")
def shared_folder(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a function that fills a folder once for all processes that run tests."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def fill(name: str, write: Callable[[Path], object]) -> Path:
        with FileLock(root / f"{name}.lock"):
            if not (root / f"{name}.done").exists():
                (root / name).mkdir()
                write(root / name)
                (root / f"{name}.done").touch()
        return root / name

    return fill


def run(*arguments: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess:
    """Run Python as a user does; entry points are given by name. Importing takes seconds."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        timeout=300,
    )


def write_image(
    path: Path, size: tuple[int, int] = (32, 24), colour: Sequence[int] | None = None
) -> Path:
    """Write an image of one colour, or of noise that depends on the name; size is (W, H)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if colour is None:
        rng = np.random.default_rng(list(path.name.encode()))
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    else:
        pixels = np.full((size[1], size[0], 3), colour, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def name(east_m: float, north_m: float, heading_deg: float | None = None, **fields: object) -> str:
    """Return a well-formed file name."""
    return format_image_name(ImageName(east_m, north_m, heading_deg=heading_deg, **fields))


@pytest.fixture
def make_eval_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes database/ and queries/ with noise images at positions."""

    def make(
        database: Sequence[tuple[float, float]],
        queries: Sequence[tuple[float, float]],
        sizes: Sequence[tuple[int, int]] = ((32, 24),),
    ) -> Path:
        for role, positions in (("database", database), ("queries", queries)):
            for number, (east_m, north_m) in enumerate(positions):
                file = name(east_m, north_m, pano_id=f"{role}{number:03d}")
                write_image(tmp_path / "set" / role / file, sizes[number % len(sizes)])
        return tmp_path / "set"

    return make


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark the core tests; skip those of a GPU where there is none.

    TEST_DEVICE=cpu runs the logic of the latter.
    """
    tests = {file.stem.removeprefix("test_") for file in Path(__file__).parent.rglob("test_*.py")}
    if not tests >= CORE:
        raise pytest.UsageError(f"CORE in tests/conftest.py names no file: {CORE - tests}")
    for item in items:
        if item.path.stem.removeprefix("test_") in CORE:
            item.add_marker("core")
    if torch.cuda.is_available() or os.environ.get("TEST_DEVICE") == "cpu":
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device: make test-gpu"))


def pytest_configure() -> None:
    """Let Ctrl-C count also where a shell started the tests in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let odd file names that tests print pass between the processes that run tests."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Callable[..., str]:
    """Return a function that checks that an entry point, run in tmp_path, ends with a sentence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those it sets up end with the test

    def run_refused(main: Callable, argv: Sequence[str], code: int) -> str:
        with pytest.raises(SystemExit) as exit_code:
            commons.run_command(lambda: main(argv))
        printed = capfd.readouterr()
        assert exit_code.value.code == code, printed
        assert "Traceback" not in printed.out + printed.err
        return printed.err

    return run_refused


@pytest.fixture
def flags(datasets_folder: Path, tmp_path: Path) -> list[str]:
    """Return the flags of a small training that writes below tmp_path."""
    places = {"datasets_folder": datasets_folder, "cache_folder": tmp_path / "cache"}
    return [*SMALL, *(f"--{key}={value}" for key, value in places.items())]


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of an untrained network, tiny, with 24-D descriptors."""
    torch.manual_seed(0)
    network = build_network("Tiny", 24, backbone_weights="none")
    path = tmp_path_factory.mktemp("model") / "model.pth"
    save_atomically(network.state_dict(), path)
    return path


@pytest.fixture
def eval_flags(model_file: Path, datasets_folder: Path, tmp_path: Path) -> list[str]:
    """Return the flags of an evaluation of that model that writes below tmp_path."""
    places = [f"--resume={model_file}", f"--datasets_folder={datasets_folder}"]
    return [*places, f"--save_dir={tmp_path / 'run'}", "--device=cpu", "--num_workers=0"]


@pytest.fixture
def hub_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where torch.hub keeps files, in a fresh folder that is not there yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    return tmp_path / "torch_home" / "hub" / "checkpoints"
