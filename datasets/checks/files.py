"""Which images are read from a folder, and whether the list beside it tells the truth."""

import functools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.checks.findings import (
    ERROR,
    OK,
    WARNING,
    Cases,
    Finding,
    format_counts,
    plural,
    show,
)
from datasets.checks.walk import Walk, extension_of, walk_folder
from datasets.image_paths import IMAGE_EXTENSIONS, ImagePaths, find_list_file, split_names

_NAMES_PER_BLOCK = 1 << 17
_EXAMPLES = 3


@dataclass(frozen=True)
class FileFacts:
    """The images that are read from a folder.

    Attributes:
        paths: The listed images if there is a list, else those that lie in the folder.
        walk: What lies in the folder.
        is_missing: Which of the images do not exist. bool [num_images].
        num_by_extension: How many images have which extension, in lower case.
        not_listed: Images in the folder that the list does not name.
        listed_twice: Images that the list names more than once.
        list_problem: Why the list cannot be read; empty if it can, or if there is none.
        begins_with_folder: Whether the lines of the list begin with the name of the folder.
    """

    paths: ImagePaths
    walk: Walk
    is_missing: np.ndarray
    num_by_extension: dict[str, int]
    not_listed: Cases = Cases()
    listed_twice: Cases = Cases()
    list_problem: str = ""
    begins_with_folder: bool = False


def measure_files(folder: Path) -> FileFacts:
    """Walk through a folder and compare it with the list beside it, if there is one."""
    given, folder = Path(os.path.abspath(folder)), Path(os.path.realpath(folder))
    walk = walk_folder(folder)
    blob = np.frombuffer(b"".join(name + b"\n" for name in walk.images), np.uint8)
    in_folder = split_names(folder, blob)
    list_file, list_problem = find_list_file(given, folder), ""
    if list_file is not None:
        try:
            blob = np.fromfile(list_file, np.uint8)
            return _compare(split_names(folder, blob, list_file), in_folder, walk)
        except OSError as error:
            list_problem = f"{show(str(list_file))}: {error.strerror}"
    return FileFacts(
        in_folder,
        walk,
        is_missing=np.zeros(len(in_folder), bool),
        num_by_extension=_count_extensions(in_folder),
        list_problem=list_problem,
    )


def make_cases(paths: ImagePaths, indices: np.ndarray) -> Cases:
    """Count images by their indices and keep the names of the first ones."""
    return Cases(len(indices), tuple(show(_name(paths, index)) for index in indices[:_EXAMPLES]))


def hash_names(paths: ImagePaths, only_basename: bool = False) -> np.ndarray:
    """Return a number per name, equal for equal names within this process. int64 [num_images].

    Args:
        paths: The images.
        only_basename: Whether to leave out the folders above a file.
    """
    hashes = np.empty(len(paths), np.int64)
    first = 0
    for names in _blocks_of_names(paths):
        if only_basename:
            names = [name[name.rfind(b"/") + 1 :] for name in names]
        hashes[first : first + len(names)] = [hash(name) for name in names]
        first += len(names)
    return hashes


def find_repeated(values: np.ndarray) -> np.ndarray:
    """Return the indices of all but the first of equal values, ascending. int64 [num_repeated]."""
    is_repeated = np.ones(len(values), bool)
    is_repeated[np.unique(values, return_index=True)[1]] = False
    return np.flatnonzero(is_repeated)


def judge_files(facts: FileFacts, num_expected: int | None = None) -> list[Finding]:
    """Say how many images there are, and whether the list beside the folder is right."""
    findings = [_judge_count(facts), _judge_expected(len(facts.paths), num_expected)]
    if facts.list_problem or facts.paths.list_file:
        findings += [_judge_missing(facts), _judge_not_listed(facts), _judge_twice(facts)]
    return [finding for finding in findings if finding is not None]


def _compare(paths: ImagePaths, in_folder: ImagePaths, walk: Walk) -> FileFacts:
    listed, lying = hash_names(paths), hash_names(in_folder)
    is_missing = _find_missing(paths, ~np.isin(listed, lying))
    begins_with_folder = False
    if is_missing.any():
        name = os.fsdecode(_name(paths, np.argmax(is_missing)))
        begins_with_folder = os.path.exists(os.path.join(paths.folder.parent, name))
    return FileFacts(
        paths,
        walk,
        is_missing,
        _count_extensions(paths),
        not_listed=make_cases(in_folder, np.flatnonzero(~np.isin(lying, listed))),
        listed_twice=make_cases(paths, find_repeated(listed)),
        begins_with_folder=begins_with_folder,
    )


def _find_missing(paths: ImagePaths, is_doubtful: np.ndarray) -> np.ndarray:
    """Ask for each doubtful name: "./a.jpg", "../b.jpg" or another case may well exist."""
    root = os.fsencode(paths.folder)
    folder_exists = functools.cache(lambda name: os.path.isdir(os.path.join(root, name)))
    is_missing = np.zeros(len(paths), bool)
    for index in np.flatnonzero(is_doubtful):
        name = _name(paths, index)
        is_missing[index] = not (
            folder_exists(name.rpartition(b"/")[0]) and os.path.exists(os.path.join(root, name))
        )
    return is_missing


def _blocks_of_names(paths: ImagePaths) -> Iterator[list[bytes]]:
    for first in range(0, len(paths), _NAMES_PER_BLOCK):
        block = slice(first, first + _NAMES_PER_BLOCK)
        starts, ends = paths.starts[block], paths.ends[block]
        text = paths.blob[starts[0] : ends[-1]].tobytes()
        places = zip((starts - starts[0]).tolist(), (ends - starts[0]).tolist(), strict=True)
        yield [text[start:end] for start, end in places]


def _name(paths: ImagePaths, index: int) -> bytes:
    return paths.blob[paths.starts[index] : paths.ends[index]].tobytes()


def _count_extensions(paths: ImagePaths) -> dict[str, int]:
    counts: Counter[bytes] = Counter()
    for names in _blocks_of_names(paths):
        counts.update(map(extension_of, names))
    return {show(extension): count for extension, count in counts.items()}


def _judge_count(facts: FileFacts) -> Finding:
    where = facts.paths.list_file or facts.paths.folder
    if not len(facts.paths):
        looked_for = ", ".join(IMAGE_EXTENSIONS)
        text = f"none in {show(str(where))}: looked for {looked_for}"
        remedy = f"put images ({looked_for}) into {show(str(facts.paths.folder))}"
        if facts.paths.list_file is not None:
            remedy = f"write paths into {show(facts.paths.list_file.name)}, or delete it"
        expected = "Expected: images, or train/ val/ test/, or database/ and queries/"
        return Finding(ERROR, "images", text, (expected,), remedy)
    text = f"{len(facts.paths):,} ({format_counts(facts.num_by_extension)})"
    if facts.paths.list_file is not None:
        text += f", as listed in {show(str(where))}"
    return Finding(OK, "images", text)


def _judge_expected(num: int, num_expected: int | None) -> Finding | None:
    if num_expected is None:
        return None
    if num == num_expected:
        return Finding(OK, "count", f"{num:,}, as published")
    return Finding(
        WARNING,
        "count",
        f"{num:,} images, expected {num_expected:,}",
        remedy=f"{num:,} images instead of {num_expected:,}: recalls cannot be compared with "
        "published ones",
    )


def _judge_missing(facts: FileFacts) -> Finding | None:
    if facts.list_problem:
        return Finding(
            ERROR, "list", f"cannot be read: {facts.list_problem}", remedy="make the list readable"
        )
    missing = make_cases(facts.paths, np.flatnonzero(facts.is_missing))
    if not len(facts.paths):
        return None  # said already
    if not missing.num:
        return Finding(OK, "list", "every listed image exists")
    folder, name = show(str(facts.paths.folder)), show(facts.paths.list_file.name)
    num = plural(missing.num, "missing image")
    remedy = f"bring {num} into {folder}, or delete {name}: it is optional"
    if facts.begins_with_folder:
        remedy = f"lines of {name} must be relative to {folder}: take its name off their beginning"
    elif "\\" in missing.examples[0]:
        remedy = f"lines of {name} must have / between folders, not \\"
    text = f"{missing.num:,} of {len(facts.paths):,} listed images do not exist:"
    return Finding(ERROR, "list", text, missing.examples, remedy)


def _judge_not_listed(facts: FileFacts) -> Finding | None:
    num = facts.not_listed.num
    if not num or facts.list_problem:
        return None
    name = show(facts.paths.list_file.name)
    return Finding(
        WARNING,
        "list",
        f"{plural(num, 'image')} in the folder and not in the list; not read:",
        facts.not_listed.examples,
        f"add {plural(num, 'image')} to {name}, or delete it: without it, all images are read",
    )


def _judge_twice(facts: FileFacts) -> Finding | None:
    num = facts.listed_twice.num
    if not num:
        return None
    return Finding(
        WARNING,
        "list",
        f"{plural(num, 'line')} for an image that is listed before:",
        facts.listed_twice.examples,
        f"remove {plural(num, 'repeated line')} from {show(facts.paths.list_file.name)}",
    )
