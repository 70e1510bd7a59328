"""Which folders there are to check: a data set by name, a tree of splits, or a plain folder."""

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets.catalog import TEST_SETS, TRAIN_SETS, find_test_set, find_train_folder
from tools.check.findings import ERROR, OK, WARNING, Finding, show

TRAIN, DATABASE, QUERIES = "training images", "database", "queries"
_CONTAINERS = ("images", "processed", "small", "raw")  # of VPR-datasets-downloader and of SF-XL
_SPLITS = ("train", "val", "test")
_MISNOMERS = {  # what people call folders -> what they have to be called
    "training": "train",
    "valid": "val",
    "validation": "val",
    "testing": "test",
    "db": "database",
    "ref": "database",
    "reference": "database",
    "references": "database",
    "query": "queries",
}
_EVAL_TREE = (
    "{folder}/database/    images to search (gallery/ is read too)",
    "{folder}/queries/     images to search for; more sets in queries_night/ and the like",
)
_SPLITS_TREE = (
    "{folder}/train/           images to train on",
    "{folder}/val/database/    {folder}/val/queries/",
    "{folder}/test/database/   {folder}/test/queries/",
)


@dataclass(frozen=True)
class Part:
    """One folder of images."""

    label: str  # "test/queries_v1"
    folder: Path
    role: str  # TRAIN, DATABASE or QUERIES
    num_expected: int | None = None  # images, as published


@dataclass(frozen=True)
class Pair:
    """A database with the queries that are searched in it."""

    database: Part
    queries: Part
    set_name: str | None = None  # key of TEST_SETS; None in a folder of the user's


@dataclass(frozen=True)
class Layout:
    """What to check, and what is wrong with the tree of folders itself."""

    parts: tuple[Part, ...] = ()
    pairs: tuple[Pair, ...] = ()
    findings: tuple[Finding, ...] = ()


def find_layout(target: str, datasets_folder: str | os.PathLike) -> Layout:
    """Find the folders of a data set by its name, or in a folder.

    Args:
        target: Key of TRAIN_SETS or TEST_SETS, or else a folder.
        datasets_folder: Where sets are looked for by name.

    Raises:
        ValueError: If the target is neither.
    """
    if target in TRAIN_SETS:
        return _find_train_set(target, datasets_folder)
    if target in TEST_SETS:
        return _find_pair(target, datasets_folder, "")
    if os.path.isdir(target):
        return find_in_folder(Path(target))
    if os.path.lexists(target):
        raise ValueError(f"{show(target)} is not a folder: give the folder that holds the images")
    names = [*TRAIN_SETS, *TEST_SETS]
    near = difflib.get_close_matches(target, names, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}? All are: " if near else "choose from "
    raise ValueError(
        f"{show(target)} is neither a folder nor the name of a data set: {hint}{', '.join(names)}"
    )


def find_in_folder(folder: Path, label: str = "") -> Layout:
    """Find splits, a database with queries, or images in a folder.

    Args:
        folder: The folder.
        label: What its parts are called, before their own names.
    """
    names, own_name = _subfolders(folder), os.path.basename(os.path.abspath(folder))
    roles = {_MISNOMERS.get(name.lower(), name.lower()) for name in names}
    if own_name == "train":
        return _find_training(folder, label or "train")
    if roles & {"database", "gallery"} or any(role.startswith("queries") for role in roles):
        return _find_database_and_queries(folder, label)
    if roles & set(_SPLITS):
        return _find_splits(folder, label)
    containers = [name for name in _CONTAINERS if name in names and _is_tree(folder / name)]
    if containers:
        return _merge(find_in_folder(folder / name, f"{label}{name}/") for name in containers)
    sets = [name for name in names if _is_tree(folder / name)]
    if sets:
        return Layout(findings=(_several_sets(folder, sets),))
    role = QUERIES if own_name.startswith("queries") else TRAIN
    if own_name in ("database", "gallery"):
        role = DATABASE
    return Layout((Part(label.rstrip("/") or show(own_name), folder, role),))


def expected_tree(tree: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Return the lines that show which folders were expected."""
    return ("Expected:", *(line.format(folder=show(str(folder))) for line in tree))


def _find_train_set(name: str, datasets_folder: str | os.PathLike) -> Layout:
    try:
        part = Part("train", find_train_folder(name, datasets_folder), TRAIN)
        train = Layout((part,))
    except FileNotFoundError as error:
        text, *how_to_get = str(error).split("\n")
        train = Layout(findings=(_missing("train", text, tuple(how_to_get)),))
    named = TRAIN_SETS[name]
    val, test = (
        _find_pair(set_name, datasets_folder, label)
        for set_name, label in ((named.val, "val/"), (named.test, "test/"))
    )
    return _merge((train, val, test))


def _find_pair(name: str, datasets_folder: str | os.PathLike, label: str) -> Layout:
    try:
        database_folder, queries_folder = find_test_set(name, datasets_folder)
    except FileNotFoundError as error:
        text, *how_to_get = str(error).split("\n")
        return Layout(findings=(_missing(name, text, tuple(how_to_get)),))
    num_database = TEST_SETS[name].num_database
    database = Part(f"{label}{database_folder.name}", database_folder, DATABASE, num_database)
    queries = Part(f"{label}{queries_folder.name}", queries_folder, QUERIES)  # not all may be asked
    return Layout((database, queries), (Pair(database, queries, name),))


def _find_splits(folder: Path, label: str) -> Layout:
    layouts, real_folders = [], {}
    for split in _SPLITS:
        name, findings = _find_name(folder, split)
        layouts.append(Layout(findings=findings))
        if name is None:
            continue
        real = os.path.realpath(folder / name)
        if real in real_folders:
            text = f"{label}{split} is the same folder as {label}{real_folders[real]}"
            advice = "recalls on it are those of validation, not of a test"
            layouts.append(Layout(findings=(Finding(WARNING, split, f"{text}: {advice}"),)))
            continue
        real_folders[real] = split
        find = _find_training if split == "train" else _find_database_and_queries
        layouts.append(find(folder / name, f"{label}{split}/"))
    return _merge(layouts)


def _find_training(folder: Path, label: str) -> Layout:
    """Find the images to train on; with queries beside a database it is a set to evaluate on."""
    names = _subfolders(folder)
    label = label.rstrip("/")
    if any(name.startswith("queries") for name in names):
        return _find_database_and_queries(folder, f"{label}/")
    parts = tuple(
        Part(f"{label}/{name}", folder / name, TRAIN)
        for name in ("database", "panoramas")  # of SF-XL's raw/train
        if name in names
    )
    return Layout(parts or (Part(label, folder, TRAIN),))


def _find_database_and_queries(folder: Path, label: str) -> Layout:
    names = _subfolders(folder)
    name, findings = _find_name(folder, "gallery" if "gallery" in names else "database")
    databases = () if name is None else (Part(f"{label}{name}", folder / name, DATABASE),)
    if name == "gallery":
        note = "gallery/ is read as the database: it need not be renamed"
        findings = (Finding(OK, "database", note),)
    queries = [name for name in names if name.startswith("queries")]
    if not queries:
        name, more = _find_name(folder, "queries")
        findings += more
        queries = [] if name is None else [name]
    parts = tuple(Part(f"{label}{show(name)}", folder / name, QUERIES) for name in queries)
    pairs = tuple(Pair(database, part) for database in databases for part in parts)
    return Layout(databases + parts, pairs, findings)


def _find_name(folder: Path, name: str) -> tuple[str | None, tuple[Finding, ...]]:
    """Return the sub-folder of that name, or one that seems to be meant, and what to rename."""
    names = _subfolders(folder)
    if name in names:
        return name, ()
    where = show(str(folder))
    for other in names:
        if _MISNOMERS.get(other.lower(), other.lower()) == name:
            text = f"{where} has a folder {show(other)} where {name} is looked for"
            remedy = f"rename {show(str(folder / other))} to {name}"
            return other, (Finding(ERROR, name, text, remedy=remedy),)
    tree = expected_tree(_SPLITS_TREE if name in _SPLITS else _EVAL_TREE, folder)
    if name in _SPLITS:  # each may be given to train.py from elsewhere
        return None, (Finding(WARNING, name, f"{where} has no folder {name}", tree),)
    return None, (_missing(name, f"{where} has no folder {name}", tree),)


def _missing(subject: str, text: str, tree: tuple[str, ...]) -> Finding:
    return Finding(
        ERROR,
        subject,
        text,
        tree,
        f"{subject}: put the images into the folders that are shown above",
    )


def _several_sets(folder: Path, names: list[str]) -> Finding:
    shown = ", ".join(show(name) for name in names[:10])
    return Finding(
        ERROR,
        "folder",
        f"{show(str(folder))} holds {len(names)} data sets: {shown}",
        remedy=f"check them one at a time: python -m tools.check {show(str(folder / names[0]))}",
    )


def _subfolders(folder: Path) -> list[str]:
    """Return the names of sub-folders; none if the folder cannot be opened, as a walk will tell."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if _is_folder(entry))
    except OSError:
        return []


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_tree(folder: Path) -> bool:
    """Tell whether a folder holds splits or a database, without looking at all that it holds."""
    names = (*_SPLITS, *_CONTAINERS, "database", "gallery", "queries", "queries_v1")
    return any(os.path.isdir(folder / name) for name in names)


def _merge(layouts: Iterable[Layout]) -> Layout:
    """Put layouts together; a folder that is in several is checked once."""
    layouts = list(layouts)
    parts: dict[Path, Part] = {}
    for part in (part for layout in layouts for part in layout.parts):
        parts.setdefault(part.folder, part)
    return Layout(
        tuple(parts.values()),
        tuple(pair for layout in layouts for pair in layout.pairs),
        tuple(finding for layout in layouts for finding in layout.findings),
    )
