"""Models out of code that is not ours: hub repositories, modules, single files."""

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import operator
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_GITHUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[^\s:]+)?")
_FILE_MODULE = "model_source_file"  # not the file's own name: it might be called torch.py


def call_hub_entry(repository: str, entry: str, keywords: dict[str, Any]) -> Any:
    """Call a function of a repository's hubconf.py. This runs the code of that repository.

    Args:
        repository: A folder, or OWNER/NAME[:REF] on GitHub, REF a branch, tag or commit. What was
            downloaded once is kept in torch.hub's cache.
        entry: Name of the function.
        keywords: Its arguments.

    Returns:
        What the function returns.

    Raises:
        FileNotFoundError: If there is no such repository.
        ValueError: If there is no such function, or the code fails.
    """
    what = f"hub:{repository}:{entry}"
    path = [folder for folder in sys.path if not _is_root(folder)]
    folder = os.path.abspath(os.path.expanduser(repository))
    if os.path.isdir(folder):
        hubconf = os.path.join(folder, "hubconf.py")
        if not os.path.isfile(hubconf):
            raise FileNotFoundError(f"{repository} has no hubconf.py: it is no hub repository")
        with _imports_from([folder, *path]):
            return _call(_import_file(hubconf, what), entry, keywords, what)
    if not _GITHUB_NAME.fullmatch(repository):
        raise FileNotFoundError(f"{repository} is neither a folder nor OWNER/NAME[:REF] on GitHub")
    # The user names the repository, so no question is asked that a batch job could not answer.
    # torch.hub's validation is skipped: it asks GitHub's API, which refuses many anonymous callers.
    options = {"trust_repo": True, "skip_validation": True, "verbose": False}
    with _imports_from(path):
        _require(entry, _list_github_entries(repository, options), what)
        with explained(f"{what} fails"):
            return torch.hub.load(repository, entry, **options, **keywords)


def call_function(source: str, function: str, keywords: dict[str, Any]) -> Any:
    """Call a function of a module or of a file.

    Args:
        source: Dotted name of a module, which may be in the current folder; or path of a file that
            ends with .py, which may import modules beside it.
        function: Name of the function; dots lead into classes.
        keywords: Its arguments.

    Returns:
        What the function returns.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such module or function, or the code fails.
    """
    what = f"{source}:{function}"
    if not source.endswith(".py"):
        with _imports_from(_path_with(os.getcwd())):
            with explained(f"{what} cannot be imported"):
                module = importlib.import_module(source)
            return _call(module, function, keywords, what)
    file = os.path.abspath(os.path.expanduser(source))
    if not os.path.isfile(file):
        raise FileNotFoundError(f"There is no file {source}")
    with _imports_from(_path_with(os.path.dirname(file))):
        return _call(_import_file(file, what), function, keywords, what)


@contextlib.contextmanager
def explained(what: str, hint: str = "") -> Iterator[None]:
    """Turn an exception of code that is not ours into a sentence: what, why, and where.

    Raises:
        ValueError: Instead of the exception, unless that is a GPU out of memory.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{what}: {reason}{_place_of(error)}{hint}") from error


@contextlib.contextmanager
def _imports_from(path: Sequence[str]) -> Iterator[None]:
    """Let other code import from other folders, though its modules may be called as ours are.

    Within, none of our modules is loaded. Afterwards sys.path and sys.modules are as before, but
    for modules from the usual folders, such as installed packages. Functions keep what they
    imported; what they import only when they are called is no longer found.
    """
    usual_path, usual_names = sys.path[:], set(sys.modules)
    usual_folders = {os.path.realpath(folder or ".") for folder in usual_path} - {ROOT} | {None}
    hidden = _our_names()
    ours = {name: sys.modules.pop(name) for name in usual_names if _top(name) in hidden}
    sys.path[:] = path
    try:
        yield
    finally:
        tops = set(map(_top, sys.modules))
        new = {top for top in tops - usual_names if _folder_of(top) not in usual_folders}
        for name in [name for name in sys.modules if _top(name) in hidden | new]:
            del sys.modules[name]
        sys.path[:] = usual_path
        sys.modules.update(ours)


def _path_with(folder: str) -> list[str]:
    """Return where modules of a folder import from: from there, then from the usual folders.

    Our own modules are among those unless the folder has some of the same names: a package without
    an __init__.py would give way to ours.
    """
    usual = [os.getcwd(), *sys.path]
    if any(_has_module(folder, name) for name in _our_names()):
        usual = [other for other in usual if not _is_root(other)]
    return [folder, *usual]


def _has_module(folder: str, name: str) -> bool:
    package = os.path.join(folder, name)
    files = os.listdir(package) if os.path.isdir(package) else []
    return os.path.isfile(f"{package}.py") or any(file.endswith(".py") for file in files)


def _is_root(folder: str) -> bool:
    return os.path.realpath(folder or ".") == ROOT


def _our_names() -> set[str]:
    """Return the names of our loaded top-level modules."""
    return {top for top in set(map(_top, sys.modules)) if _folder_of(top) == ROOT}


def _top(name: str) -> str:
    return name.partition(".")[0]


def _folder_of(name: str) -> str | None:
    """Return the folder that a loaded top-level module is in; None for built-ins and scripts."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or name in ("__main__", "__mp_main__"):
        return None
    files = list(spec.submodule_search_locations or [])
    files += [spec.origin] if spec.has_location else []
    return os.path.dirname(os.path.realpath(files[0])) if files else None


def _import_file(file: str, what: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_FILE_MODULE, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[_FILE_MODULE] = module  # dataclasses look themselves up there
    with explained(f"{what} cannot be imported"):
        spec.loader.exec_module(module)
    return module


def _call(module: ModuleType, name: str, keywords: dict[str, Any], what: str) -> Any:
    names = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    try:
        function = operator.attrgetter(name)(module)
    except AttributeError:
        _require(name, names, what)
        raise
    _check_arguments(function, keywords, what)
    with explained(f"{what} fails"):
        return function(**keywords)


def _require(name: str, names: Iterable[str], what: str) -> None:
    names = sorted(names)
    if name not in names:
        few = names if len(names) <= 20 else difflib.get_close_matches(name, names, 5, cutoff=0)
        raise ValueError(f"{what}: there is no function '{name}'; there are {', '.join(few)}")


def _check_arguments(function: Callable, keywords: dict[str, Any], what: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # not callable, or compiled: the call will tell
        return
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise ValueError(f"{what} takes {signature}: {error}") from None


def _list_github_entries(repository: str, options: dict[str, bool]) -> list[str]:
    try:
        with explained(f"hubconf.py of {repository} cannot be had"):
            return torch.hub.list(repository, **options)
    except ValueError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise FileNotFoundError(
            f"{error}; check OWNER/NAME and, after a colon, branch, tag or commit; without a "
            "connection, pass a folder, as in hub:FOLDER:ENTRY"
        ) from error.__cause__


def _place_of(error: BaseException) -> str:
    """Return the last line that an exception went through in code neither ours nor installed."""
    paths = sysconfig.get_paths()
    known = ("<", paths["stdlib"], paths["purelib"], paths["platlib"], os.path.dirname(__file__))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(known):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""
