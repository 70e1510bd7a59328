"""Which images are read from a folder, and whether the list beside it is correct."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from commons import plural
from datasets.image_lists import (
    IMAGE_EXTENSIONS,
    ImagePaths,
    find_list_file,
    read_list,
    split_lines,
    walk_images,
)
from tools.check.findings import (
    ERROR,
    FACT,
    OK,
    WARNING,
    Finding,
    format_counts,
    show,
    show_names,
)

_OTHER_IMAGES = {  # extensions of images that are not read
    *(".jfif", ".jpe", ".jp2", ".j2k", ".jxl", ".avif", ".heic", ".heif", ".gif"),
    *(".ppm", ".pgm", ".pnm", ".tga", ".dng", ".cr2", ".nef", ".arw"),
}


def check_files(
    folder: Path, num_expected: int | None = None
) -> tuple[ImagePaths, np.ndarray, list[Finding]]:
    """List the images of a folder and compare the list beside it, if there is one.

    Args:
        folder: Holds images, in sub-folders as well.
        num_expected: The published number of images.

    Returns:
        The images that training or evaluation would read; which of them are missing,
        bool [num_images]; findings.
    """
    given, folder = Path(os.path.abspath(folder)), Path(os.path.realpath(folder))
    findings: list[Finding] = []
    in_folder, others = split_lines(folder, np.empty(0, np.uint8)), Counter()
    try:
        text, others = walk_images(folder)
        in_folder = split_lines(folder, np.frombuffer(text, np.uint8))
    except (OSError, ValueError) as error:
        text = f"cannot be listed: {show(str(error))}"
        findings.append(
            Finding(ERROR, "files", text, remedy="make all folders readable, or rename")
        )
    paths, is_missing = in_folder, np.zeros(len(in_folder), bool)
    if list_file := find_list_file(given, folder):
        try:
            paths = read_list(list_file, folder)
            is_missing = _find_missing(paths, in_folder)
            findings += _compare(paths, in_folder, is_missing)
        except (OSError, ValueError) as error:
            text = f"cannot be used: {show(str(error))}"
            remedy = "correct the list, or make it readable"
            findings.append(Finding(ERROR, "list", text, remedy=remedy))
    counts = [_count(paths), *judge_count(len(paths), num_expected, "image")]
    return paths, is_missing, counts + findings + _judge_others(others)


def hash_lines(paths: ImagePaths, without_folders: bool = False) -> np.ndarray:
    """Hash each path, or each name; equal ones have equal hashes in this process. int64 [N]."""
    lines = paths.lines()
    if without_folders:
        lines = (line[line.rfind(b"/") + 1 :] for line in lines)
    return np.fromiter(map(hash, lines), np.int64, len(paths))


def find_repeated(values: np.ndarray) -> np.ndarray:
    """Return the indices of all but the first of equal values, ascending. int64 [num_repeated]."""
    is_repeated = np.ones(len(values), bool)
    is_repeated[np.unique(values, return_index=True)[1]] = False
    return np.flatnonzero(is_repeated)


def judge_count(num: int, num_expected: int | None, noun: str) -> list[Finding]:
    """Say whether a count is the published one, if that is known.

    Args:
        num: The count.
        num_expected: The published count.
        noun: Name of one counted thing.
    """
    if num_expected is None:
        return []
    text = plural(num, noun)
    if num == num_expected:
        return [Finding(OK, "count", f"{text}, as published")]
    remedy = f"{text} instead of {num_expected:,}: recalls cannot be compared with published ones"
    return [Finding(WARNING, "count", f"{text}, expected {num_expected:,}", remedy=remedy)]


def _count(paths: ImagePaths) -> Finding:
    where = show(str(paths.list_file or paths.folder))
    if not len(paths):
        looked_for = ", ".join(IMAGE_EXTENSIONS)
        remedy = f"put images ({looked_for}) into {show(str(paths.folder))}"
        if paths.list_file is not None:
            remedy = f"write paths into {show(paths.list_file.name)}, or delete it"
        expected = "Expected: images, or train/ val/ test/, or database/ and queries/"
        text = f"none in {where}: looked for {looked_for}"
        return Finding(ERROR, "images", text, (expected,), remedy)
    extensions = Counter(map(_extension_of, paths.lines()))
    text = f"{len(paths):,} ({format_counts(extensions)})"
    return Finding(OK, "images", text + f", as listed in {where}" * (paths.list_file is not None))


def _extension_of(name: bytes) -> str:
    dot = name.rfind(b".")
    return show(name[dot:].lower()) if dot > name.rfind(b"/") else "no extension"


def _find_missing(paths: ImagePaths, in_folder: ImagePaths) -> np.ndarray:
    """Find listed images that do not exist. bool [num_images]."""
    is_missing = ~np.isin(hash_lines(paths), hash_lines(in_folder))
    for index in np.flatnonzero(is_missing):  # "./a.jpg" or another case may exist
        is_missing[index] = not os.path.exists(paths[index])
    return is_missing


def _compare(paths: ImagePaths, in_folder: ImagePaths, is_missing: np.ndarray) -> list[Finding]:
    """Find lines that name no image or repeat one, and images that the list lacks."""
    name, folder = show(paths.list_file.name), show(str(paths.folder))
    findings = []
    if missing := int(is_missing.sum()):
        first = paths.name(int(is_missing.argmax()))
        remedy = f"bring {plural(missing, 'missing image')} into {folder}, or delete {name}: it is "
        remedy += "optional"
        if os.path.exists(paths.folder.parent / first):
            remedy = f"lines of {name} must be relative to {folder}: remove its name from them"
        elif "\\" in first:
            remedy = f"lines of {name} must have / between folders, not \\"
        text = f"{missing:,} of {len(paths):,} listed images do not exist:"
        shown = show_names(paths, np.flatnonzero(is_missing))
        findings.append(Finding(ERROR, "list", text, shown, remedy))
    elif len(paths):
        findings.append(Finding(OK, "list", "every listed image exists"))
    not_listed = np.flatnonzero(~np.isin(hash_lines(in_folder), hash_lines(paths)))
    if num := len(not_listed):
        text = f"{plural(num, 'image')} in the folder and not in the list; not read:"
        remedy = f"add {plural(num, 'image')} to {name}, or delete it: without it, all are read"
        shown = show_names(in_folder, not_listed)
        findings.append(Finding(WARNING, "list", text, shown, remedy))
    repeated = find_repeated(hash_lines(paths))
    if num := len(repeated):
        text = f"{plural(num, 'line')} for an image that is listed before:"
        remedy = f"remove {plural(num, 'repeated line')} from {name}"
        findings.append(Finding(WARNING, "list", text, show_names(paths, repeated), remedy))
    return findings


def _judge_others(others: Counter[str]) -> list[Finding]:
    """Name what a walk has left out, see `walk_images`."""
    counts = {show(kind): num for kind, num in others.items()}
    images = {extension: num for extension, num in counts.items() if extension in _OTHER_IMAGES}
    rest = {extension: num for extension, num in counts.items() if extension not in images}
    findings = []
    if images:
        types = ", ".join(sorted(images))
        remedy = f"convert {types} to .jpg or .png: only {', '.join(IMAGE_EXTENSIONS)} are read"
        text = f"of types that are not read: {format_counts(images)}"
        findings.append(Finding(WARNING, "other images", text, remedy=remedy))
    if rest:
        text = f"not images, not read: {format_counts(rest)}"
        findings.append(Finding(FACT, "other files", text))
    return findings
