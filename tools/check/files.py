"""Which images are read from a folder, and whether the list beside it tells the truth."""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.image_lists import (
    IMAGE_EXTENSIONS,
    ImagePaths,
    find_list_file,
    read_list,
    split_lines,
)
from tools.check.findings import (
    ERROR,
    OK,
    WARNING,
    Cases,
    Finding,
    format_counts,
    plural,
    show,
)
from tools.check.walk import Walk, extension_of, walk_folder

_NAMES_PER_BLOCK = 1 << 17
_EXAMPLES = 3


@dataclass(frozen=True)
class FileFacts:
    """The images that are read from a folder.

    Attributes:
        paths: The listed images if there is a list, else those that lie in the folder.
        walk: What else lies in the folder; the names of the images are in `paths` alone.
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
    blob = np.frombuffer(b"\n".join(walk.images), np.uint8)
    walk.images.clear()  # tens of millions of names take several GB
    in_folder = split_lines(folder, blob)
    list_file, list_problem = find_list_file(given, folder), ""
    if list_file is not None:
        try:
            return _compare(read_list(list_file, folder), in_folder, walk)
        except OSError as error:
            list_problem = f"{show(str(list_file))}: {error.strerror}"
        except ValueError as error:
            list_problem = show(str(error))
    return FileFacts(
        in_folder,
        walk,
        is_missing=np.zeros(len(in_folder), bool),
        num_by_extension=_count_extensions(in_folder),
        list_problem=list_problem,
    )


def make_cases(paths: ImagePaths, indices: np.ndarray) -> Cases:
    """Count images by their indices and keep the relative paths of the first ones."""
    return Cases(len(indices), tuple(show(_path(paths, index)) for index in indices[:_EXAMPLES]))


def make_name_cases(paths: ImagePaths, indices: np.ndarray) -> Cases:
    """Count images by their indices and keep the '@' names of the first ones."""
    return Cases(len(indices), tuple(show(paths.name(index)) for index in indices[:_EXAMPLES]))


def hash_paths(paths: ImagePaths) -> np.ndarray:
    """Return a number per path, equal for equal paths within this process. int64 [num_images]."""
    return _hash_lines(paths, bytes)


def hash_names(paths: ImagePaths) -> np.ndarray:
    """Return a number per '@' name without folders, equal for equal ones. int64 [num_images]."""
    return _hash_lines(paths, _basename_of)


def find_repeated(values: np.ndarray) -> np.ndarray:
    """Return the indices of all but the first of equal values, ascending. int64 [num_repeated]."""
    is_repeated = np.ones(len(values), bool)
    is_repeated[np.unique(values, return_index=True)[1]] = False
    return np.flatnonzero(is_repeated)


def judge_files(facts: FileFacts, num_expected: int | None = None) -> list[Finding]:
    """Say how many images there are, and whether the list beside the folder is right."""
    findings = [_judge_count(facts), judge_expected(len(facts.paths), num_expected, "image")]
    if facts.list_problem or facts.paths.list_file:
        findings += [_judge_missing(facts), _judge_not_listed(facts), _judge_twice(facts)]
    return [finding for finding in findings if finding is not None]


def judge_expected(num: int, num_expected: int | None, noun: str) -> Finding | None:
    """Say whether a count is the published one, if that is known.

    Args:
        num: The count.
        num_expected: The published count.
        noun: What is counted, one of it.
    """
    if num_expected is None:
        return None
    text = plural(num, noun)
    if num == num_expected:
        return Finding(OK, "count", f"{text}, as published")
    return Finding(
        WARNING,
        "count",
        f"{text}, expected {num_expected:,}",
        remedy=f"{text} instead of {num_expected:,}: recalls cannot be compared with "
        "published ones",
    )


def _compare(paths: ImagePaths, in_folder: ImagePaths, walk: Walk) -> FileFacts:
    listed, lying = hash_paths(paths), hash_paths(in_folder)
    is_missing = _find_missing(paths, ~np.isin(listed, lying))
    begins_with_folder = False
    if is_missing.any():
        parent = os.fsencode(paths.folder.parent)
        first = _path(paths, np.argmax(is_missing))
        begins_with_folder = os.path.exists(os.path.join(parent, first))
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
    """Ask for each doubtful path: "./a.jpg", "../b.jpg" or another case may well exist."""
    root = os.fsencode(paths.folder)
    folder_exists = functools.cache(lambda name: os.path.isdir(os.path.join(root, name)))
    is_missing = np.zeros(len(paths), bool)
    for index in np.flatnonzero(is_doubtful):
        path = _path(paths, index)
        is_missing[index] = not (
            folder_exists(path.rpartition(b"/")[0]) and os.path.exists(os.path.join(root, path))
        )
    return is_missing


def _hash_lines(paths: ImagePaths, part_of: Callable[[bytes], bytes]) -> np.ndarray:
    hashes = np.empty(len(paths), np.int64)
    first = 0
    for lines in _blocks_of_lines(paths):
        hashes[first : first + len(lines)] = [hash(part_of(line)) for line in lines]
        first += len(lines)
    return hashes


def _blocks_of_lines(paths: ImagePaths) -> Iterator[list[bytes]]:
    for first in range(0, len(paths), _NAMES_PER_BLOCK):
        block = slice(first, first + _NAMES_PER_BLOCK)
        starts, ends = paths.starts[block], paths.ends[block]
        text = paths.blob[starts[0] : ends[-1]].tobytes()
        places = zip((starts - starts[0]).tolist(), (ends - starts[0]).tolist(), strict=True)
        yield [text[start:end] for start, end in places]


def _path(paths: ImagePaths, index: int) -> bytes:
    return os.fsencode(paths.name(index))


def _basename_of(line: bytes) -> bytes:
    """Return the '@' name of the image, without folders."""
    return line[line.rfind(b"/") + 1 :]


def _count_extensions(paths: ImagePaths) -> dict[str, int]:
    counts: Counter[bytes] = Counter()
    for lines in _blocks_of_lines(paths):
        counts.update(map(extension_of, lines))
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


def _judge_missing(facts: FileFacts) -> Finding | None:
    if facts.list_problem:
        return Finding(
            ERROR,
            "list",
            f"cannot be used: {facts.list_problem}",
            remedy="correct the list, or make it readable",
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
    elif b"\\" in _path(facts.paths, np.argmax(facts.is_missing)):
        remedy = f"lines of {name} must have / between folders, not \\"
    text = f"{missing.num:,} of {len(facts.paths):,} listed images do not exist:"
    return Finding(ERROR, "list", text, missing.examples, remedy)


def _judge_not_listed(facts: FileFacts) -> Finding | None:
    num = facts.not_listed.num
    if not num or facts.list_problem:
        return None
    remedy = (
        f"add {plural(num, 'image')} to {show(facts.paths.list_file.name)}, or delete it: "
        "without it, all images are read"
    )
    return Finding(
        WARNING,
        "list",
        f"{plural(num, 'image')} in the folder and not in the list; not read:",
        facts.not_listed.examples,
        remedy,
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
