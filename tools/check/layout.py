"""Find the folders to check: of a data set by name, in a tree of splits, or a plain folder."""

import difflib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.catalog import TEST_SETS, TRAIN_SETS, find_test_set, find_train_folder
from tools.check.findings import ERROR, OK, WARNING, Finding, show

TRAIN, DATABASE, QUERIES = "training images", "database", "queries"
PURPOSES = ("training", "evaluation", "localization")
_CONTAINERS = ("images", "processed", "small", "raw")  # of VPR-datasets-downloader and of SF-XL
_SPLITS = ("train", "val", "test")
_MISNOMERS = {  # frequent names of folders -> those that are read
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
class ImageFolder:
    """A folder of images."""

    label: str  # "test/queries_v1"
    folder: Path
    role: str  # TRAIN, DATABASE or QUERIES
    num_expected: int | None = None  # images, as published


@dataclass(frozen=True)
class QuerySet:
    """Queries with the database in which they are searched."""

    database: ImageFolder
    queries: ImageFolder
    set_name: str | None = None  # key of TEST_SETS; None in a folder of the user's


@dataclass
class FolderTree:
    """The folders to check, and findings on the tree itself."""

    folders: list[ImageFolder] = field(default_factory=list)
    query_sets: list[QuerySet] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, label: str, folder: Path, role: str, num: int | None = None) -> ImageFolder:
        """Add a folder, once."""
        images = ImageFolder(label, folder, role, num)
        if folder not in [other.folder for other in self.folders]:
            self.folders.append(images)
        return images

    def for_purpose(self, purpose: str) -> "FolderTree":
        """Return what has to be right for one of PURPOSES.

        Args:
            purpose: For training, images that are in no set to evaluate on are trained on. For
                evaluation, they are searched in; for localization, only databases matter.
        """
        paired = {side for one in self.query_sets for side in (one.database, one.queries)}
        role = TRAIN if purpose == "training" else DATABASE
        folders = [
            images if images in paired else replace(images, role=role) for images in self.folders
        ]
        if purpose != "localization":
            return replace(self, folders=folders)
        folders = [images for images in folders if images.role != QUERIES]
        findings = [finding for finding in self.findings if finding.subject != "queries"]
        return FolderTree(folders, [], findings)


def find_layout(target: str, datasets_folder: str | os.PathLike) -> FolderTree:
    """Find the folders of a data set by its name, or in a folder.

    Args:
        target: Key of TRAIN_SETS or TEST_SETS, or else a folder.
        datasets_folder: Holds the data sets.

    Raises:
        ValueError: If the target is neither.
    """
    tree = FolderTree()
    if target in TEST_SETS and not _is_trained_on(target, datasets_folder):
        _add_test_set(tree, target, datasets_folder, "")
    elif target in TRAIN_SETS:
        _add_train_set(tree, target, datasets_folder)
    elif os.path.isdir(target):
        _add_folder(tree, Path(target), "")
    elif os.path.lexists(target):
        raise ValueError(f"{show(target)} is not a folder: give the folder that holds the images")
    else:
        names = [*(TRAIN_SETS | TEST_SETS)]
        near = difflib.get_close_matches(target, names, n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}? All are: " if near else "choose from "
        raise ValueError(
            f"{show(target)} is neither a folder nor the name of a data set: {hint}"
            f"{', '.join(names)}"
        )
    return tree


def _is_trained_on(name: str, datasets_folder: str | os.PathLike) -> bool:
    """Return whether a set to train on is on disk."""
    places = TRAIN_SETS[name].folders if name in TRAIN_SETS else ()
    return any((Path(datasets_folder) / place).is_dir() for place in places)


def _add_train_set(tree: FolderTree, name: str, datasets_folder: str | os.PathLike) -> None:
    try:
        _add_training(tree, find_train_folder(name, datasets_folder), "train")
    except FileNotFoundError as error:
        text, *how_to_get = str(error).split("\n")
        tree.findings.append(_missing("train", text, tuple(how_to_get)))
    _add_test_set(tree, TRAIN_SETS[name].val, datasets_folder, "val/")
    _add_test_set(tree, TRAIN_SETS[name].test, datasets_folder, "test/")


def _add_test_set(
    tree: FolderTree, name: str, datasets_folder: str | os.PathLike, label: str
) -> None:
    try:
        database, queries = find_test_set(name, datasets_folder)
    except FileNotFoundError as error:
        text, *how_to_get = str(error).split("\n")
        tree.findings.append(_missing(name, text, tuple(how_to_get)))
        return
    num_database = TEST_SETS[name].num_database
    query_set = QuerySet(
        tree.add(f"{label}{database.name}", database, DATABASE, num_database),
        tree.add(f"{label}{queries.name}", queries, QUERIES),  # maybe not all are evaluated
        name,
    )
    tree.query_sets.append(query_set)


def _add_folder(tree: FolderTree, folder: Path, label: str) -> None:
    """Add splits, a database with queries, or images; labels of folders begin with `label`."""
    names, own_name = _subfolders(folder), os.path.basename(os.path.abspath(folder))
    roles = {_MISNOMERS.get(name.lower(), name.lower()) for name in names}
    containers = [name for name in _CONTAINERS if name in names and _is_tree(folder / name)]
    if own_name == "train":
        _add_training(tree, folder, label or "train")
    elif roles & {"database", "gallery"} or any(role.startswith("queries") for role in roles):
        _add_database_and_queries(tree, folder, label)
    elif roles & set(_SPLITS):
        _add_splits(tree, folder, label)
    elif containers:
        for name in containers:
            _add_folder(tree, folder / name, f"{label}{name}/")
    elif sets := [name for name in names if _is_tree(folder / name)]:
        shown = ", ".join(show(name) for name in sets[:10])
        text = f"{show(str(folder))} holds {len(sets)} data sets: {shown}"
        remedy = "check them one at a time: python -m tools.check " + show(str(folder / sets[0]))
        tree.findings.append(Finding(ERROR, "folder", text, remedy=remedy))
    else:
        role = QUERIES if own_name.startswith("queries") else TRAIN
        role = DATABASE if own_name in ("database", "gallery") else role
        tree.add(label.rstrip("/") or show(own_name), folder, role)


def _add_splits(tree: FolderTree, folder: Path, label: str) -> None:
    real_folders: dict[str, str] = {}
    for split in _SPLITS:
        name = _find_name(tree, folder, split)
        if name is None:
            continue
        real = os.path.realpath(folder / name)
        if real in real_folders:
            text = f"{label}{split} is the same folder as {label}{real_folders[real]}: recalls on "
            text += "it are those of validation, not of a test"
            tree.findings.append(Finding(WARNING, split, text))
            continue
        real_folders[real] = split
        add = _add_training if split == "train" else _add_database_and_queries
        add(tree, folder / name, f"{label}{split}/")


def _add_training(tree: FolderTree, folder: Path, label: str) -> None:
    """Add images to train on; with queries beside a database it is a set to evaluate on."""
    names, label = _subfolders(folder), label.rstrip("/")
    if any(name.startswith("queries") for name in names):
        _add_database_and_queries(tree, folder, f"{label}/")
    elif parts := [name for name in ("database", "panoramas") if name in names]:  # SF-XL's raw
        for name in parts:
            tree.add(f"{label}/{name}", folder / name, TRAIN)
    else:
        tree.add(label, folder, TRAIN)


def _add_database_and_queries(tree: FolderTree, folder: Path, label: str) -> None:
    names, database = _subfolders(folder), None
    if "gallery" in names:
        database = tree.add(f"{label}gallery", folder / "gallery", DATABASE)
        text = "gallery/ is read as the database: it need not be renamed"
        tree.findings.append(Finding(OK, "database", text))
    elif name := _find_name(tree, folder, "database"):
        database = tree.add(f"{label}{name}", folder / name, DATABASE)
    queries = [name for name in names if name.startswith("queries")]
    for name in queries or [_find_name(tree, folder, "queries")]:
        if name is not None:
            images = tree.add(f"{label}{show(name)}", folder / name, QUERIES)
            if database is not None:
                tree.query_sets.append(QuerySet(database, images))


def _find_name(tree: FolderTree, folder: Path, name: str) -> str | None:
    """Return the sub-folder of that name, or one that is probably meant, with a finding."""
    names, where = _subfolders(folder), show(str(folder))
    if name in names:
        return name
    for other in names:
        if _MISNOMERS.get(other.lower(), other.lower()) == name:
            text = f"{where} has a folder {show(other)} instead of {name}"
            remedy = f"rename {show(str(folder / other))} to {name}"
            tree.findings.append(Finding(ERROR, name, text, remedy=remedy))
            return other
    lines = _SPLITS_TREE if name in _SPLITS else _EVAL_TREE
    expected, text = [line.format(folder=where) for line in lines], f"{where} has no folder {name}"
    missing = _missing(name, text, ("Expected:", *expected))
    if name in _SPLITS:  # each may be given to train.py from elsewhere
        missing = Finding(WARNING, name, text, missing.details)
    tree.findings.append(missing)
    return None


def _missing(subject: str, text: str, tree: tuple[str, ...]) -> Finding:
    remedy = f"{subject}: put the images into the folders that are shown above"
    return Finding(ERROR, subject, text, tree, remedy)


def _subfolders(folder: Path) -> list[str]:
    """Return the names of sub-folders; none if the folder cannot be read, as its check reports."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if os.path.isdir(entry.path))
    except OSError:
        return []


def _is_tree(folder: Path) -> bool:
    """Return whether a folder holds splits or a database, without listing it."""
    names = (*_SPLITS, *_CONTAINERS, "database", "gallery", "queries", "queries_v1")
    return any(os.path.isdir(folder / name) for name in names)
