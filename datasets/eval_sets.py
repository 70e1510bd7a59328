"""Load test sets, by name or from folders, with the ground truth that is asked for."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from datasets.catalog import (
    TEST_SETS,
    TestSet,
    describe_counts,
    find_database,
    find_test_set,
    look_up_test_set,
)
from datasets.eval_dataset import EvalSet
from datasets.ground_truth import GroundTruth, read_positives, within_distance, within_frames
from datasets.image_lists import ImagePaths, list_images
from datasets.image_names import count_repeats
from datasets.msls import find_keys, read_cities, read_official_queries
from datasets.positions import Positions, Utm, join_positions, read_utm


@dataclass(frozen=True)
class Labels:
    """What is asked for instead of what a set prescribes."""

    threshold_m: float | None = None  # None: that of the set
    positives_file: str | None = None  # instead of distances
    none: bool = False  # retrieval without recalls
    per_city: bool = False  # search only the city of the query


@dataclass(frozen=True)
class _Listed:
    """A list of images; what is read of it is read once, for all sets that share it."""

    paths: ImagePaths

    @cached_property
    def utm(self) -> Utm:
        """Positions; raises a ValueError where names have none."""
        return read_utm(self.paths)

    @cached_property
    def num_repeats(self) -> int:
        """Number of lines that name an image which is named before; a walk meets each once."""
        return 0 if self.paths.list_file is None else count_repeats(self.paths)


def load_named_sets(
    names: Sequence[str], datasets_folder: str, labels: Labels
) -> tuple[list[EvalSet], list[str]]:
    """Load test sets; "all" adds every other one that is on disk and can be evaluated.

    Returns:
        The sets, and sentences on those that "all" left out.

    Raises:
        ValueError: If a name is unknown, or a set that is named is not as it should be.
        FileNotFoundError: If a set that is named is not there, or none of all is.
    """
    listed: dict[Path, _Listed] = {}
    eval_sets, absent, left_out = [], [], []
    for name in dict.fromkeys([name for name in names if name != "all"]):
        eval_sets.append(load_test_set(name, datasets_folder, labels=labels, listed=listed))
    for name in [name for name in TEST_SETS if name not in names] if "all" in names else []:
        try:
            find_test_set(name, datasets_folder)
        except FileNotFoundError:
            absent.append(name)
            continue
        try:
            eval_sets.append(load_test_set(name, datasets_folder, labels=labels, listed=listed))
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
    listed: dict[Path, _Listed] = {}
    eval_sets = [
        load_test_set(None, "", folder, queries, labels, listed)
        for queries in queries_folders or [None]
    ]
    names = [eval_set.name for eval_set in eval_sets]
    if len(set(names)) < len(names):
        raise ValueError(
            f"Several folders of queries are called {names[0]}: evaluate them one at a time"
        )
    return eval_sets


def load_test_set(
    name: str | None,
    datasets_folder: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    queries_folder: str | None = None,
    labels: Labels | None = None,
    listed: dict[Path, _Listed] | None = None,
) -> EvalSet:
    """List the database and the queries of a set, by name or in a folder of the user's.

    Args:
        name: Key of TEST_SETS; not looked at if there is a folder.
        datasets_folder: Where sets are looked for by name.
        folder: Holds `database/` or `gallery/`, and usually the queries.
        queries_folder: Where the queries of `folder` are: a name inside it or a path. If None,
            `queries_v1` if there is one, else `queries`.
        labels: Another ground truth than the set's own.
        listed: Databases that were listed for other sets; this one joins them.

    Raises:
        ValueError: If the name is unknown, or file names lack UTM positions.
        FileNotFoundError: If a folder is not there or empty; says how to get a named set.
    """
    labels, listed = labels or Labels(), {} if listed is None else listed
    if folder is not None:
        return _load_folder(Path(folder).resolve(), queries_folder, labels, listed)
    test_set, found = look_up_test_set(name), find_test_set(name, datasets_folder)
    notes = []
    if name == "msls_test" and found.database.resolve().parent.name == "val":
        notes.append("msls/test is a link to msls/val: these are the validation cities")
    database, queries = _list_once(found.database, listed), list_images(found.queries)
    query_numbers = np.arange(0, len(queries), test_set.every_nth_query)
    if test_set.only_official_queries:
        query_numbers = find_keys(queries, read_official_queries(datasets_folder))
        if not len(query_numbers):
            raise ValueError(f"None of the official queries of MSLS is in {queries.folder}")
    eval_set = _label(name, test_set, labels, database, queries, query_numbers)
    notes += describe_counts(test_set, len(database.paths), len(eval_set.queries))
    return dataclasses.replace(eval_set, notes=(*notes, *eval_set.notes))


def _list_once(folder: Path, listed: dict[Path, _Listed]) -> _Listed:
    """List a database, unless another set did: millions of names take time and memory."""
    if folder not in listed:
        listed[folder] = _Listed(list_images(folder))
    return listed[folder]


def _load_folder(
    root: Path, queries_folder: str | None, labels: Labels, listed: dict[Path, _Listed]
) -> EvalSet:
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
    paths = list_images(queries)
    name = "/".join((*root.parts[-2:], queries.name))
    any_set = TestSet(folders=())
    listed_database = _list_once(database, listed)
    return _label(name, any_set, labels, listed_database, paths, np.arange(len(paths)))


def _label(
    name: str,
    test_set: TestSet,
    labels: Labels,
    listed_database: _Listed,
    queries: ImagePaths,
    query_numbers: np.ndarray,
) -> EvalSet:
    """Put positions, ground truth and cities to the chosen queries."""
    num_listed, database = len(queries), listed_database.paths
    if len(query_numbers) < num_listed:
        queries = queries.subset(query_numbers)
    listed_queries = _Listed(queries)
    has_own_truth = labels.none or labels.positives_file or test_set.frames is not None
    positions = _positions_if_told(listed_database, listed_queries, must_tell=not has_own_truth)
    if labels.none:
        truth = None
    elif labels.positives_file:
        truth = read_positives(labels.positives_file, database, queries)
    elif test_set.frames is not None:
        positions = None  # mock ones, if any
        truth = _frames_truth(name, test_set, labels, len(database), num_listed, query_numbers)
    else:
        truth = within_distance(positions, labels.threshold_m or test_set.threshold_m)
    per_city = labels.per_city or test_set.per_city
    cities = _read_city_numbers(database, queries) if per_city else None
    notes = [
        *(positions.notes if positions else ()),
        *_describe_repeats(listed_database, listed_queries),
        *_describe_cities(cities),
    ]
    eval_set = EvalSet(
        name,
        database,
        queries,
        positions,
        truth,
        cities,
        test_set.resize,
        test_set.protocol,
        paper_column=test_set.paper_column,
        notes=tuple(notes),
    )
    if test_set.only_official_queries and truth is not None:
        eval_set = _leave_out_queries_without_positives(eval_set)
    return eval_set


def _positions_if_told(database: _Listed, queries: _Listed, must_tell: bool) -> Positions | None:
    try:
        return join_positions(database.utm, queries.utm)
    except ValueError:
        if must_tell:
            raise
        return None


def _frames_truth(
    name: str,
    test_set: TestSet,
    labels: Labels,
    num_database: int,
    num_listed: int,
    query_frames: np.ndarray,
) -> GroundTruth:
    if labels.threshold_m is not None:
        raise ValueError(
            f"--positive_dist_threshold has no meaning for {name}: its positives are at most "
            f"{test_set.frames} frames away, not metres"
        )
    if num_listed != num_database:
        raise ValueError(
            f"{name} is evaluated by frame number, but has {num_database:,} database images and "
            f"{num_listed:,} query images: there must be one of each per frame"
        )
    return within_frames(num_database, query_frames, test_set.frames)


def _describe_repeats(*lists: _Listed) -> list[str]:
    """Say which lists name an image more than once; it counts as often as it is listed."""
    return [
        f"{listed.num_repeats:,} lines of {listed.paths.list_file} name an image that is named "
        "before: it counts as often as it is named"
        for listed in lists
        if listed.num_repeats
    ]


def _read_city_numbers(database: ImagePaths, queries: ImagePaths) -> tuple[np.ndarray, np.ndarray]:
    _, numbers = np.unique(read_cities(database) + read_cities(queries), return_inverse=True)
    return numbers[: len(database)], numbers[len(database) :]


def _describe_cities(cities: tuple[np.ndarray, np.ndarray] | None) -> list[str]:
    """Say how many queries are of cities that have no database image."""
    num_lost = 0 if cities is None else int((~np.isin(cities[1], cities[0])).sum())
    if not num_lost:
        return []
    return [f"{num_lost:,} queries are of cities without a database image: nothing is found"]


def _leave_out_queries_without_positives(eval_set: EvalSet) -> EvalSet:
    kept = np.flatnonzero(eval_set.truth.has_positives)
    num_left_out = len(eval_set.queries) - len(kept)
    if not len(kept):
        raise ValueError(f"No query of {eval_set.name} has a positive")
    positives = [eval_set.truth.positives_per_query[query] for query in kept]
    database_cities, queries_cities = eval_set.cities or (None, None)
    return dataclasses.replace(
        eval_set,
        queries=eval_set.queries.subset(kept),
        positions=dataclasses.replace(
            eval_set.positions, queries_m=eval_set.positions.queries_m[kept]
        ),
        truth=dataclasses.replace(eval_set.truth, positives_per_query=positives),
        cities=eval_set.cities and (database_cities, queries_cities[kept]),
        denominator="queries that have positives",
        notes=(*eval_set.notes, f"{num_left_out:,} queries without positives are left out"),
    )
