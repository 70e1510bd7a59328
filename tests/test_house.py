"""The rules of the house: which room imports which, unique class names, sizes of files."""

import ast
import collections
import functools
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

ENTRY_POINTS = {"train", "eval", "localize", "hubconf"}
OF_ALL = {"packages", "stops"}  # any room may import these
ARROWS = {  # room: the rooms that it may import, beside itself; the first part is the spine
    **dict.fromkeys(OF_ALL, ""),
    "commons": "",
    "cosface_loss": "",
    "machine": "commons",
    "command_line": "machine",
    # Tables of names, see test_parser_needs_no_torch.
    "parser": "command_line machine methods objective_flags datasets model",
    "objective_flags": "command_line",
    "methods": "",
    "datasets": "commons",
    "model": "commons",
    "runs": "commons machine",
    "evaluation": "commons datasets model",
    "training": "commons machine cosface_loss methods datasets model evaluation runs",
    **dict.fromkeys(
        ENTRY_POINTS,
        "commons machine cosface_loss parser methods datasets model runs evaluation training "
        "reports",
    ),
    "reports": "commons command_line datasets model runs evaluation",
    "tools": "commons command_line machine datasets model runs evaluation reports",
    "mini_city": "commons command_line machine datasets",
    "docs": "commons datasets reports",
    "paper": "commons command_line machine parser methods datasets model runs evaluation training "
    "reports mini_city",
    "benchmarks": "commons machine cosface_loss parser methods datasets model runs evaluation "
    "training reports tools mini_city paper train",  # train: its loop is measured
}
SPINE = [*ARROWS][: [*ARROWS].index("reports")]
MIN_LINES, MAX_LINES = 60, 500
TABLES = {"parser", "methods"}  # of flags and of methods: as long as what they list
OWN_LINES = 150  # outside the spine, a file as long as this may have a single importer


@functools.cache
def read_modules() -> dict[str, ast.Module]:
    """Return the syntax trees of all modules but the tests, by dotted name."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.check_output(command, cwd=REPOSITORY, text=True).split()
    files = [Path(file) for file in listed if not file.startswith("tests/")]
    files = [file for file in files if (REPOSITORY / file).is_file()]
    return {name_of(file): ast.parse((REPOSITORY / file).read_text()) for file in files}


def name_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def file_of(module: str) -> Path:
    path = REPOSITORY / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def room_of(module: str) -> str:
    return module.split(".")[0]


@functools.cache
def find_imports() -> dict[str, set[str]]:
    """Return the modules of this repository that each module imports, anywhere in its text.

    Tables in packages' own files import by text, such as "pooling:average".
    """
    modules, imports = read_modules(), {}
    for module, tree in modules.items():
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import"
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name in modules else node.module for name in inner}
            elif isinstance(node, ast.Constant) and is_package(module):
                names.add(f"{module}.{str(node.value).partition(':')[0]}")
        imports[module] = (names & modules.keys()) - {module}
    return imports


def count_lines(module: str) -> int:
    return len(file_of(module).read_text().splitlines())


def is_command(module: str) -> bool:
    """Whether a module is started by itself: an entry point, or one with a `__main__` block."""
    tests = [ast.unparse(node.test) for node in read_modules()[module].body if type(node) is ast.If]
    return module in ENTRY_POINTS or any("__name__" in test for test in tests)


def is_package(module: str) -> bool:
    return file_of(module).name == "__init__.py"


def test_rooms_import_only_the_rooms_below_them():
    assert {room_of(module) for module in read_modules()} <= ARROWS.keys(), "a room without arrows"
    uphill = {
        f"{module} imports {other}"
        for module, others in find_imports().items()
        for other in others
        if room_of(other) not in {room_of(module), *OF_ALL, *ARROWS[room_of(module)].split()}
    }
    assert not uphill


def test_names_that_modules_take_from_each_other_exist():
    """Also those taken where only a rare case comes by."""
    modules = read_modules()
    missing = {
        f"{module} takes {alias.name} from {node.module}"
        for module, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in modules
        for alias in node.names
        if alias.name not in names_in(node.module) and f"{node.module}.{alias.name}" not in modules
    }
    for module, tree in modules.items():
        ours = [one for one in find_imports()[module] if "." not in one]
        missing |= {
            f"{module} takes {node.attr} from {node.value.id}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if node.value.id in ours and node.value.id not in names_in(module, imported=False)
            if node.attr not in names_in(node.value.id)
            and f"{node.value.id}.{node.attr}" not in modules
        }
    assert not missing


@functools.cache
def names_in(module: str, imported: bool = True) -> set[str]:
    """Return the names that a module has: defined, assigned or, if asked for, imported."""
    names = set()
    for node in ast.walk(read_modules()[module]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif imported and isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return names


def test_no_modules_import_each_other_in_a_circle():
    left = {module: set(others) for module, others in find_imports().items()}
    while done := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in done}
    assert not left, f"a circle among {sorted(left)}"


def test_cores_are_counted_in_one_place():
    """Which knows the quota of a container; provenance also lists those of the machine."""
    counts = {"cpu_count", "sched_getaffinity"}
    counting = {
        module
        for module, tree in read_modules().items()
        if counts & {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    }
    assert counting == {"machine", "runs.provenance"}


def test_parser_needs_no_torch():
    """So that --help is quick; it reads the tables of names instead of repeating them."""
    command = "import sys, parser; assert not {'torch', 'numpy', 'PIL'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", command], cwd=REPOSITORY, check=True)


@pytest.mark.parametrize(
    "module",
    ["train", "eval", "localize", "mini_city", "tools.check", "tools.convert", "reports.report"]
    + ["reports.compare", "reports.attention"],
)
def test_help_is_shown_before_torch_is_imported(module):
    """Importing it takes seconds; so does scipy.stats."""
    command = (
        "import atexit, os, runpy, sys; sys.argv[1:] = ['--help']\n"
        "slow = {'torch', 'scipy.stats'}\n"
        "atexit.register(lambda: slow & sys.modules.keys() and os._exit(3))\n"
        f"runpy.run_module('{module}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", command], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0 and b"show this help message" in done.stdout


def test_a_class_name_names_one_class():
    places = collections.defaultdict(list)
    for module, tree in read_modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}


def test_files_are_neither_crumbs_nor_scrolls():
    """Packages' own files and commands may be short."""
    sizes = {module: count_lines(module) for module in read_modules()}
    long = {module for module, size in sizes.items() if size > MAX_LINES} - TABLES
    short = {
        module
        for module, size in sizes.items()
        if size < MIN_LINES
        and not is_package(module)
        and not is_command(module)
        and module not in TABLES
    }
    assert not long | short


def test_a_file_with_one_importer_lives_in_it():
    """Where both fit into one file, and the importer does not merely join files.

    Those are commands, and packages' own files, which hold tables, as `training.setup` does.
    Losses and what is mined are subjects of their own, whichever objective has them.
    """
    importers = collections.defaultdict(list)
    for module, others in find_imports().items():
        for other in others:
            importers[other].append(module)
    lonely = set()
    for module, [first, *more] in importers.items():
        joins = room_of(first) != room_of(module) or is_package(first) or is_command(first)
        joins |= first == "training.setup" or module in ("training.losses", "training.cliques")
        fits = count_lines(module) + count_lines(first) <= MAX_LINES
        is_own = room_of(module) not in SPINE and count_lines(module) >= OWN_LINES
        if not (more or joins or is_own or is_command(module)) and fits:
            lonely.add(f"{module} into {first}")
    assert not lonely
