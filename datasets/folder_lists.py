"""Walk through a folder of images, and keep the list of them for next time.

The list of a large folder is kept as `<folder>_images_paths.txt` beside it, as data sets bring one
along. A record of our own, `<folder>_images_paths.json`, says of every folder below when it was
last changed: adding, removing or renaming a file changes its folder. Thus a list that we wrote is
not used when it is outdated, for the price of one look at each folder. A list without a record, or
one that was edited since, is the user's: it is always used and never written over.
"""

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import commons

_log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")
LIST_ENDING = "_images_paths.txt"
_MIN_KEPT_IMAGES = 100_000  # to walk through fewer takes a fraction of a second
_EXTENSIONS = tuple(extension.encode() for extension in IMAGE_EXTENSIONS)
_SETTLED_NS = 2_000_000_000  # some file systems tell times in steps of 2 s


@dataclass
class Walk:
    """What was found below a folder.

    Attributes:
        root: The folder.
        texts: Parts of the list of all images: relative paths, each with a newline, sorted.
        num_images: How many there are.
        stamps: Folders that were entered, relative, and their stamps; "" if just changed.
        bad: Paths that cannot stand in a list.
    """

    root: bytes
    texts: list[bytes] = field(default_factory=list)
    num_images: int = 0
    stamps: dict[str, str] = field(default_factory=dict)
    bad: list[bytes] = field(default_factory=list)


def walk_images(folder: str | os.PathLike) -> Walk:
    """Find .jpg, .jpeg and .png in any case, in all sub-folders; links are followed once.

    Of several links to a folder, the first is followed.

    Raises:
        OSError: If a folder cannot be read.
        ValueError: If paths contain a newline or a tab.
    """
    walk, entered = Walk(os.fsencode(folder)), set()
    waiting: list[tuple[bytes, list[bytes] | None]] = [(b"", None)]
    while waiting:  # a stack: folders may lie deeper in each other than functions may
        prefix, images = waiting.pop()
        if images is None:
            waiting += reversed(_enter(walk, prefix, entered))
        else:
            _add_images(walk, prefix, images)
    _refuse(walk.bad)
    return walk


def check_no_separators(names: Sequence[bytes]) -> None:
    """Raise a ValueError if names contain a newline or a tab, which separate names in a list."""
    _refuse([name for name in names if b"\n" in name or b"\t" in name])


def read_stamp(file: str | os.PathLike | int, if_settled: bool = False) -> str:
    """Return what changes whenever the content of a file or a folder does.

    Args:
        file: Path or descriptor.
        if_settled: Return "" if it changed in the last seconds: it might change once more within
            the same tick of the clock of its file system.
    """
    status = os.stat(file)
    return "" if if_settled and not _is_settled(status) else _stamp(status)


def is_outdated(list_file: Path) -> bool:
    """Tell whether we wrote a list, and folders changed since."""
    record = _read_record(list_file)
    if record is None:
        return False
    folder = list_file.with_name(list_file.name.removesuffix(LIST_ENDING))
    try:
        return any(
            read_stamp(os.path.join(folder, name)) != stamp
            for name, stamp in record["folders"].items()
        )
    except OSError:  # a folder is gone
        return True


def keep_list(walk: Walk, folder: Path) -> Path | None:
    """Write the list of a walk beside the folder for next time, if that pays and is possible.

    Returns:
        The list file; None if there are few images, a list of the user's, or nothing can be
        written there.
    """
    list_file = folder.with_name(f"{folder.name}{LIST_ENDING}")
    is_ours = _read_record(list_file) is not None
    if walk.num_images < _MIN_KEPT_IMAGES or (list_file.exists() and not is_ours):
        return None
    try:
        if is_ours:
            list_file.unlink(missing_ok=True)
        _write(list_file, walk)
    except OSError as error:
        _log.debug(f"The list of {folder} is not kept: {error}")
        return None
    _log.info(
        f"{list_file} now lists the {walk.num_images:,} images of {folder}, to save the walk next "
        "time. It is written anew when a folder changes; you may delete it at any time"
    )
    return list_file


def _enter(
    walk: Walk, prefix: bytes, entered: set[tuple[int, int]]
) -> list[tuple[bytes, list[bytes] | None]]:
    """Look into a folder, which is given relative to the root and with a slash.

    Returns:
        What is in it, in order: images with the prefix of the folder, and prefixes of sub-folders.
    """
    folder = os.path.join(walk.root, prefix)
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in entered:  # a link leads back to where we have been
        return []
    entered.add((status.st_dev, status.st_ino))
    walk.stamps[os.fsdecode(prefix)] = _stamp(status) if _is_settled(status) else ""
    images, folders = _scan(folder)
    if not folders:
        return [(prefix, sorted(images))] if images else []
    found: list[tuple[bytes, list[bytes] | None]] = []
    # Sorted with their slash among the images: thus all paths come in order.
    for is_folder, names in groupby(sorted(images + folders), key=_has_slash):
        if is_folder:
            found += [(prefix + name, None) for name in names]
        else:
            found.append((prefix, list(names)))
    return found


def _scan(folder: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the names of images and those of sub-folders, the latter with a slash."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            if is_folder:
                folders.append(entry.name + b"/")
            else:
                files.append(entry.name)
    # Few extensions have capitals: most names need no copy in lower case.
    return [
        name for name in files if name.endswith(_EXTENSIONS) or name.lower().endswith(_EXTENSIONS)
    ], folders


def _has_slash(name: bytes) -> bool:
    return name.endswith(b"/")


def _add_images(walk: Walk, prefix: bytes, names: list[bytes]) -> None:
    text = prefix + (b"\n" + prefix).join(names) + b"\n"
    if text.count(b"\n") != len(names) or b"\t" in text:
        paths = [prefix + name for name in names]
        walk.bad += [path for path in paths if b"\n" in path or b"\t" in path]
    walk.texts.append(text)
    walk.num_images += len(names)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _is_settled(status: os.stat_result) -> bool:
    return max(status.st_mtime_ns, status.st_ctime_ns) <= time.time_ns() - _SETTLED_NS


def _refuse(bad: list[bytes]) -> None:
    if bad:
        raise ValueError(
            f"{len(bad)} image names contain a newline or a tab, for example {bad[0]!r}: rename"
        )


def _record_file(list_file: Path) -> Path:
    return list_file.with_suffix(".json")


def _write(list_file: Path, walk: Walk) -> None:
    """Write a list whole or not at all, and never over one that appeared meanwhile.

    Its record comes first: a list without one would pass for the user's, who keeps it up to date.
    """
    temporary = list_file.with_name(f".{list_file.name}_{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            stream.writelines(walk.texts)
        commons.sync_file(temporary)  # cut short, it would not be known for ours
        record = {"list": _stamp_of_list(temporary), "folders": walk.stamps}
        commons.write_json(record, _record_file(list_file))
        try:
            os.link(temporary, list_file)
            commons.sync_folder(list_file.parent)
        except OSError:
            _record_file(list_file).unlink()
            raise
    finally:
        temporary.unlink(missing_ok=True)


def _stamp_of_list(list_file: Path) -> str:
    """Return what changes when somebody edits a list; a new name for the file does not count."""
    status = os.stat(list_file)
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _read_record(list_file: Path) -> dict | None:
    """Return the record of a list that we wrote and nobody changed since."""
    try:
        record = json.loads(_record_file(list_file).read_text())
        return record if record["list"] == _stamp_of_list(list_file) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
