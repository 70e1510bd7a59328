"""The pages for users: their length, links and commands.

Every command of a ```sh block must pass the parser of its program. Those of ```sh run blocks are
run, in a folder with the smallest mini city and small runs where `make demo` leaves its own.
"""

import argparse
import importlib
import re
import shlex
import shutil

import pytest
from conftest import REPOSITORY
from training_runs import SMALL

from methods import DEFAULT_METHOD, METHODS
from parser import parse_train_arguments

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh( run)?\n(.*?)^```", re.M | re.S)
ENTRY_POINTS = {"train.py", "eval.py", "localize.py"}


def commands_of(page, is_run=None):
    """Yield the Python commands of a page as (module, arguments)."""
    for mark, block in BLOCK.findall(page.read_text()):
        if is_run is not None and bool(mark) != is_run:
            continue
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["torchrun"]:
                words = ["python", *words[next(i for i, w in enumerate(words) if "." in w) :]]
            if words[:2] == ["python", "-m"]:
                yield words[2], words[3:]
            elif words[:1] == ["python"]:
                assert words[1] in ENTRY_POINTS, line
                yield words[1].removesuffix(".py"), words[2:]


def find_main(module):
    try:
        return importlib.import_module(f"{module}.__main__").main
    except ModuleNotFoundError:
        return importlib.import_module(module).main


class Parsed(Exception):
    """The command line was accepted."""


def test_the_readme_is_short_and_names_every_page():
    text = PAGES[0].read_text()
    assert len(text.splitlines()) <= 200
    assert all(f"(docs/{page.name})" in text for page in PAGES[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    local = [link for link in links if not link.startswith("http")]
    assert not [link for link in local if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_passes_its_parser(page, monkeypatch, capsys):
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        parse_args(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    for module, arguments in commands_of(page):
        if "--help" in arguments:
            continue
        try:
            with pytest.raises(Parsed):
                find_main(module)(arguments)
        except SystemExit:
            pytest.fail(f"{module} {arguments}: {capsys.readouterr().err}")


@pytest.fixture(scope="module")
def demo(datasets_folder, tmp_path_factory):
    """Return a folder like that of `make demo`: a city, an untrained run and a trained one."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(datasets_folder, folder / "data" / "demo")
    places = [f"--datasets_folder={folder / 'data' / 'demo'}", "--num_workers=0"]
    trained = ["--epochs_num=1", f"--save_dir={folder / 'logs' / 'demo' / 'trained'}"]
    find_main("train")([*SMALL, *places, *trained, f"--cache_folder={folder / 'cache'}"])
    untrained = [f"--save_dir={folder / 'logs' / 'demo' / 'untrained'}", "--untrained"]
    untrained += ["--backbone_weights=none"]
    find_main("eval")([*places, "--dataset=mini_city_test_v1", *untrained, "--fc_output_dim=16"])
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_marked_run(page, demo, monkeypatch):
    monkeypatch.chdir(demo)
    for module, arguments in commands_of(page, is_run=True):
        try:
            find_main(module)(arguments)
        except SystemExit as error:
            assert not error.code, f"{module} {arguments}"


def test_the_table_of_methods_is_that_of_their_rows():
    text = (REPOSITORY / "docs" / "methods.md").read_text()
    lines = text.partition("|---")[2].partition("\n")[2].partition("\n\n")[0].splitlines()
    assert lines == [row_of(method) for method in METHODS], "\n".join(map(row_of, METHODS))
    for method in METHODS:
        assert f"--method {method}" in text or method == DEFAULT_METHOD


def row_of(method):
    flags = vars(parse_train_arguments([f"--method={method}", "--resume_model=start.pth"]))
    options = [f"{key}={value}" for key, value in (flags["aggregation_args"] or {}).items()]
    optimizer = [flags["optimizer"], f"lr {flags['lr']:g}"]
    optimizer += [f"x {factor:g} {part}" for part, factor in flags["lr_factors"].items()]
    whitening = [flags["whitening"]]
    if flags["whitening"] != "none":
        whitening += map(str, filter(None, (flags["whiten_dim"], flags["kept_dims"])))
    cells = [
        method,
        METHODS[method]["objective"],
        flags["backbone"],
        " ".join([flags["aggregation"] or "gem", *options]),
        flags.get("loss", "CosFace"),
        flags.get("mining", ""),
        " ".join(optimizer),
        f"{flags['epochs_num']}, {flags['patience']}" if flags["patience"] else flags["epochs_num"],
        f"R@{flags['best_by']}",
        " ".join(whitening),
    ]
    return f"| {' | '.join(map(str, cells))} |"
