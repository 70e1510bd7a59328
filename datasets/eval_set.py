"""Evaluation sets, by name or from folders: database, queries and their positives."""

import csv
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import commons
from datasets.catalog import (
    TEST_SETS,
    TestSet,
    describe_counts,
    find_database,
    find_test_set,
    look_up_test_set,
)
from datasets.doubts import doubt_positives, explain_no_positives
from datasets.ground_truth import GroundTruth, read_positives, within_distance, within_frames
from datasets.image_lists import ImagePaths, list_images
from datasets.image_names import parse_image_name
from datasets.positions import Positions, Utm, join_positions, read_utm

_MSLS_METADATA = ("msls/train_val", "mapillary_sls/train_val")
_MSLS_VALIDATION_CITIES = ("cph", "sf")


@dataclass(frozen=True)
class EvalSet:
    """A database and queries, with positions and positives."""

    name: str
    database: ImagePaths
    queries: ImagePaths
    positions: Positions | None = None  # None if the names have none
    truth: GroundTruth | None = None  # None: retrieval without recalls
    cities: tuple[np.ndarray, np.ndarray] | None = None  # int [num_database], int [num_queries],
    # if only the city of the query is searched
    resize: str = "none"  # the default of the set
    protocol: str = "all queries"  # in words
    denominator: str = "all queries"
    paper_column: str | None = None
    notes: tuple[str, ...] = ()  # sentences that a reader of the recalls must know

    def __str__(self) -> str:
        """Return name and counts."""
        database = commons.plural(len(self.database), "database image")
        return f"{self.name} ({database}, {commons.plural(len(self.queries), 'query')})"

    @functools.cached_property
    def digest(self) -> str:
        """The digest of the names of all images, in their order, wherever the folders are."""
        digest = hashlib.blake2b(digest_size=12)
        for paths in (self.database, self.queries):
            digest.update(b"%d\n" % len(paths))
            for line in paths.lines():
                digest.update(line + b"\n")
        return digest.hexdigest()

    @property
    def named_notes(self) -> list[str]:
        """Return the notes as lines of a log."""
        return [f"{self.name}: {note}" for note in self.notes]


@dataclass(frozen=True)
class Labels:
    """Choices of the user that replace those of a set."""

    threshold_m: float | None = None  # None: that of the set
    positives_file: str | None = None  # instead of distances
    none: bool = False  # retrieval without recalls
    per_city: bool = False  # search only the city of the query


@dataclass(frozen=True)
class _Images:
    """The images of a folder; all sets that share it read their names once."""

    paths: ImagePaths

    @functools.cached_property
    def utm(self) -> Utm:
        """Positions; raises a ValueError if names have none."""
        return read_utm(self.paths)

    @functools.cached_property
    def num_repeats(self) -> int:
        """Number of lines that repeat an earlier one; a walk meets each image once."""
        is_listed = self.paths.list_file is not None
        return len(self.paths) - len(set(self.paths.lines())) if is_listed else 0


def load_named_sets(
    names: Sequence[str], datasets_folder: str, labels: Labels
) -> tuple[list[EvalSet], list[str]]:
    """Load test sets; "all" adds every other one that is on disk and can be evaluated.

    Returns:
        The sets, and sentences on those that "all" left out.

    Raises:
        ValueError: If a name is unknown, or a named set is not as it should be.
        FileNotFoundError: If a named set is missing, or all sets are.
    """
    read_database = functools.cache(_read_folder)
    eval_sets, absent, left_out = [], [], []
    for name in dict.fromkeys([name for name in names if name != "all"]):
        eval_sets.append(load_test_set(name, datasets_folder, labels, read_database))
    for name in [name for name in TEST_SETS if name not in names] if "all" in names else []:
        try:
            find_test_set(name, datasets_folder)
        except FileNotFoundError:
            absent.append(name)
            continue
        try:
            eval_sets.append(load_test_set(name, datasets_folder, labels, read_database))
        except (ValueError, FileNotFoundError) as error:
            left_out.append(f"{name} is on disk, but not evaluated: {error}")
    if absent:
        left_out.append(f"Not below {datasets_folder}: {', '.join(absent)}")
    if not eval_sets:
        raise FileNotFoundError(
            "\n".join([f"No test set can be evaluated below {datasets_folder}.", *left_out])
        )
    return eval_sets, left_out


def load_own_sets(folder: str, queries_folders: Sequence[str], labels: Labels) -> list[EvalSet]:
    """Load the queries of a folder of the user's, one set per folder of queries.

    Raises:
        ValueError: If two sets have one name, since their results would have one folder.
    """
    read_database = functools.cache(_read_folder)
    eval_sets = [
        load_own_set(folder, queries, labels, read_database)
        for queries in queries_folders or [None]
    ]
    names = [eval_set.name for eval_set in eval_sets]
    if len(set(names)) < len(names):
        raise ValueError(
            f"Several folders of queries are called {names[0]}: evaluate them one at a time"
        )
    return eval_sets


def _read_folder(folder: Path) -> _Images:
    return _Images(list_images(folder))


def load_test_set(
    name: str,
    datasets_folder: str | os.PathLike,
    labels: Labels | None = None,
    read_database: Callable[[Path], _Images] = _read_folder,
) -> EvalSet:
    """Load a test set by name.

    Args:
        name: Key of TEST_SETS.
        datasets_folder: Holds the data sets.
        labels: Choices that replace those of the set.
        read_database: A cached function if sets share databases.

    Raises:
        ValueError: If the name is unknown, or file names lack UTM positions.
        FileNotFoundError: If a folder is missing or empty; says how to get the set.
    """
    test_set = look_up_test_set(name)
    database_folder, queries_folder = find_test_set(name, datasets_folder)
    database, queries = read_database(database_folder), list_images(queries_folder)
    asked = np.arange(0, len(queries), test_set.every_nth_query)
    if test_set.only_official_queries:
        asked = _find_official_queries(queries, datasets_folder)
    eval_set = _label(name, test_set, labels or Labels(), database, queries, asked)
    notes = describe_counts(test_set, len(database.paths), len(eval_set.queries))
    if name == "msls_test" and database_folder.resolve().parent.name == "val":
        notes.insert(0, "msls/test is a link to msls/val: these are the validation cities")
    return replace(eval_set, notes=(*notes, *eval_set.notes))


def load_own_set(
    folder: str | os.PathLike,
    queries_folder: str | None = None,
    labels: Labels | None = None,
    read_database: Callable[[Path], _Images] = _read_folder,
) -> EvalSet:
    """Load a set from a folder of the user's.

    Args:
        folder: Holds `database/` or `gallery/`, and usually the queries.
        queries_folder: A name inside `folder`, or a path. If None, `queries_v1` if that exists,
            else `queries`.
        labels: Other positives than database images within 25 m.
        read_database: A cached function if sets share databases.

    Raises:
        ValueError: If file names lack UTM positions.
        FileNotFoundError: If a folder is missing or empty.
    """
    root = Path(folder).resolve()
    database = find_database(root)
    if database is None:
        raise FileNotFoundError(
            f"{root} has no folder database: it must hold database/ (or gallery/) and queries/"
        )
    if queries_folder is None:
        queries_folder = "queries_v1" if (root / "queries_v1").is_dir() else "queries"
    queries = root / queries_folder
    if not queries.is_dir() and Path(queries_folder).is_dir():
        queries = Path(queries_folder).resolve()
    paths, name = list_images(queries), "/".join((*root.parts[-2:], queries.name))
    name = os.fsencode(name).decode(errors="replace")  # it stands in texts of UTF-8
    any_set, asked = TestSet(folders=()), np.arange(len(paths))
    return _label(name, any_set, labels or Labels(), read_database(database), paths, asked)


def _label(
    name: str,
    test_set: TestSet,
    labels: Labels,
    database: _Images,
    all_queries: ImagePaths,
    asked: np.ndarray,
) -> EvalSet:
    """Add positions, positives and cities; `asked` are the indices of the queries to evaluate."""
    is_subset = len(asked) < len(all_queries)
    queries = _Images(all_queries.subset(asked) if is_subset else all_queries)
    try:
        positions = join_positions(database.utm, queries.utm)
    except ValueError:
        if not (labels.none or labels.positives_file or test_set.frames is not None):
            raise
        positions = None
    if labels.none:
        truth = None
    elif labels.positives_file:
        truth = read_positives(labels.positives_file, database.paths, queries.paths)
    elif test_set.frames is not None:
        positions = None  # mock ones, if any
        _check_frames(name, test_set, labels, len(database.paths), len(all_queries))
        truth = within_frames(len(database.paths), asked, test_set.frames)
    else:
        truth = within_distance(positions, labels.threshold_m or test_set.threshold_m)
    notes = _list_doubts(database, queries, positions, truth, labels.positives_file is not None)
    notes += [paths.left_out for paths in (database.paths, all_queries) if paths.left_out]
    notes += positions.notes if positions else []
    notes += [
        f"{images.num_repeats:,} lines of {images.paths.list_file} repeat an earlier line: an "
        "image counts as often as it is listed"
        for images in (database, queries)
        if images.num_repeats
    ]
    cities = None
    if labels.per_city or test_set.per_city:
        cities = _read_cities(database.paths, queries.paths)
        if num_lost := int((~np.isin(cities[1], cities[0])).sum()):
            notes.append(f"{num_lost:,} queries are of cities without a database image")
    paths, denominator = queries.paths, "all queries"
    if test_set.only_official_queries and truth is not None:
        kept = np.flatnonzero(truth.has_positives)
        if not len(kept):
            raise ValueError(f"{name}: {notes[0]}")
        notes.append(f"{len(paths) - len(kept):,} queries without positives are left out")
        paths, denominator = paths.subset(kept), "queries that have positives"
        truth = replace(truth, positives_per_query=[truth.positives_per_query[i] for i in kept])
        positions = positions and replace(positions, queries_m=positions.queries_m[kept])
        cities = cities and (cities[0], cities[1][kept])
    return EvalSet(
        name,
        database.paths,
        paths,
        positions,
        truth,
        cities,
        test_set.resize,
        test_set.protocol,
        denominator,
        test_set.paper_column,
        tuple(notes),
    )


def _list_doubts(
    database: _Images,
    queries: _Images,
    positions: Positions | None,
    truth: GroundTruth | None,
    are_read: bool,
) -> list[str]:
    """Return sentences on positives, read from a file or not, that do not fit the positions."""
    if truth is None:
        return []
    if positions is not None and are_read and (doubt := doubt_positives(truth, positions)):
        return [doubt]
    if truth.has_positives.any():
        return []
    if positions is None or are_read:
        return [f"No query has a positive ({truth.rule})"]
    return [explain_no_positives(database.utm, queries.utm, positions)]


def _check_frames(
    name: str, test_set: TestSet, labels: Labels, num_database: int, num_queries: int
) -> None:
    """Raise a ValueError if positives cannot be found by frame number."""
    if labels.threshold_m is not None:
        raise ValueError(
            f"--positive_dist_threshold has no meaning for {name}: its positives are at most "
            f"{test_set.frames} frames away, not metres"
        )
    if num_queries != num_database:
        raise ValueError(
            f"{name} is evaluated by frame number, but has {num_database:,} database images and "
            f"{num_queries:,} query images: there must be one of each per frame"
        )


def _read_cities(database: ImagePaths, queries: ImagePaths) -> tuple[np.ndarray, np.ndarray]:
    """Return a number for the city of each image: int [num_database], int [num_queries].

    The city is the end of the note of a name (day_forward_cph), else the sub-folder.

    Raises:
        ValueError: If an image has neither; names it.
    """
    cities = [
        _read_city(paths, index) for paths in (database, queries) for index in range(len(paths))
    ]
    numbers = np.unique(cities, return_inverse=True)[1]
    return numbers[: len(database)], numbers[len(database) :]


def _read_city(paths: ImagePaths, index: int) -> str:
    folder, slash, _ = paths.name(index).partition("/")
    fields = os.path.basename(paths.name(index)).split("@")
    note = fields[14] if len(fields) > 15 else ""
    city = note.rpartition("_")[2] or (folder if slash else "")
    if not city:
        raise ValueError(
            f"{paths[index]} does not say its city, which a search per city needs: neither a note "
            "(field 14 of the '@' name) nor a sub-folder"
        )
    return city


def _find_official_queries(queries: ImagePaths, datasets_folder: str | os.PathLike) -> np.ndarray:
    """Return the indices of the official validation queries of MSLS, ascending.

    These are the queries of the subtask "all" that are no panoramas.

    Raises:
        FileNotFoundError: If the metadata of MSLS is missing.
        ValueError: If it is not as published, or names none of the queries.
    """
    places = [Path(datasets_folder).resolve() / folder for folder in _MSLS_METADATA]
    folders = [place for place in places if (place / _MSLS_VALIDATION_CITIES[0]).is_dir()]
    if not folders:
        raise FileNotFoundError(
            f"The metadata of MSLS is not at {' or '.join(map(str, places))}: it says which "
            "queries are official. Unpack metadata.zip of MSLS there"
        )
    keys: set[str] = set()
    for city in _MSLS_VALIDATION_CITIES:
        keys.update(_read_official_keys(folders[0] / city / "query"))
    names = (queries.name(index) for index in range(len(queries)))
    official = np.flatnonzero([parse_image_name(name).pano_id in keys for name in names])
    if not len(official):
        raise ValueError(f"None of the official queries of MSLS is in {queries.folder}")
    return official


def _read_official_keys(folder: Path) -> list[str]:
    """Return the official keys of one city; row k of one table belongs to row k of the other."""
    subtasks, images = (_read_table(folder / f"{name}.csv") for name in ("subtask_index", "raw"))
    if len(subtasks) != len(images):
        raise ValueError(
            f"{folder}: subtask_index.csv has {len(subtasks):,} rows, raw.csv {len(images):,}"
        )
    try:
        return [
            image["key"]
            for subtask, image in zip(subtasks, images, strict=True)
            if _is_true(subtask["all"]) and not _is_true(image["pano"])
        ]
    except KeyError as error:
        raise ValueError(f"{folder}: subtask_index.csv or raw.csv has no column {error}") from None


def _read_table(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}: unpack metadata.zip of MSLS there")
    with open(file, newline="", encoding="utf-8-sig") as lines:
        return list(csv.DictReader(lines))


def _is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1", "1.0")
