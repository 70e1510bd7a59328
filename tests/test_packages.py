import ast
import logging
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from test_house import read_modules

from eval import main as eval_main
from packages import explain_import_error
from train import main as train_main


def missing(module):
    return ModuleNotFoundError(f"No module named '{module}'", name=module)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            missing("faiss"),
            "The package faiss-cpu is not installed: pip install faiss-cpu, or all that is "
            "needed: pip install -r requirements.txt",
        ),
        (
            missing("sklearn"),
            "The package scikit-learn is not installed: pip install scikit-learn, or all that is "
            "needed: pip install -r requirements.txt",
        ),
        (
            missing("onnxruntime"),
            "The package onnxruntime is not installed: pip install onnxruntime",
        ),
        (missing("datasets.nonsense"), ""),
        (missing("_lzma"), ""),
        (ImportError("no name"), ""),
        (
            ImportError("cannot import name 'a' from 'torchvision.ops'", name="torchvision.ops"),
            "The package torchvision cannot be loaded, it is broken or of a version that does not "
            "fit (cannot import name 'a' from 'torchvision.ops'): pip install -r requirements.txt",
        ),
        (
            ImportError("libGL.so.1: cannot open", name="cv2"),
            "The package opencv-python-headless cannot be loaded, it is broken or of a version "
            "that does not fit (libGL.so.1: cannot open): pip install --upgrade "
            "opencv-python-headless",
        ),
    ],
)
def test_sentences(error, sentence):
    assert explain_import_error(error) == sentence


@pytest.mark.parametrize("module", ["train", "eval", "localize", "tools.check", "mini_city"])
def test_a_package_that_is_missing_in_the_imports_of_a_command(module):
    """Whichever of them is first met: none may be met before the sentences are at hand."""
    blocked = "dict.fromkeys(('torch', 'numpy', 'tqdm', 'filelock'))"
    start = f"runpy.run_module('{module}', {{}}, '__main__')"
    command = f"import runpy, sys; sys.modules.update({blocked}); {start}"
    ended = subprocess.run(
        [sys.executable, "-c", command], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ended.returncode == 1 and ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: The package ") and line.endswith("-r requirements.txt")


@pytest.fixture
def without_drawing(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("reports.report")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("matplotlib", "jinja2", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)


def test_an_evaluation_needs_nothing_that_draws(without_drawing, eval_flags, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        eval_main([*eval_flags, "--dataset=mini_city_val", "--num_preds_to_save=1"])
    files = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"results.json", "predictions.csv", "preds"} <= files and "report.html" not in files
    said = (tmp_path / "run" / "info.log").read_text()
    missing = r"No report page is written\. The package (jinja2|matplotlib) is not installed: pip "
    assert re.search(missing, said)


def test_a_training_needs_nothing_that_draws(without_drawing, flags, tmp_path):
    run = tmp_path / "run"
    train_main([*flags, f"--save_dir={run}", "--epochs_num=1", "--num_preds_to_save=1"])
    assert {"results.json", "metrics.jsonl", "preds"} <= {file.name for file in run.iterdir()}
    assert not list(run.glob("events*"))
    said = (run / "info.log").read_text()
    assert "No events for TensorBoard are written: The package tensorboard is not" in said


def test_commands_import_nothing_that_draws():
    """At their start, that is: in no module that they import at its beginning."""
    modules, met, left = read_modules(), set(), {"train", "eval", "localize"}
    while left:
        met |= left
        left = {name for module in left for name in imported_at_once(modules[module])}
        left = {name for name in left if name in modules} - met
    assert {"training.metrics", "reports.pictures", "reports.maps"} <= met
    found = {name.split(".")[0] for module in met for name in imported_at_once(modules[module])}
    assert not {"matplotlib", "jinja2", "markupsafe", "tensorboard"} & found
    assert "torch.utils.tensorboard" not in {n for m in met for n in imported_at_once(modules[m])}


def imported_at_once(tree):
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names
