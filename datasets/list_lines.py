"""Which paths a list of images may name.

A list often comes with the images from somebody else, and must not make this program read, and
perhaps show in a report, other files than theirs. A path is therefore relative to the folder of the
list and never leads out of it: no `..`. A line that gives a file another name after a tab, as
`tools.convert --mode list` writes it, may have an absolute path, for it is made here to name
files that lie elsewhere, as symbolic links do; a list from somebody else could only guess one.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.name_loops import has_suspects

_LINES_PER_BLOCK = 4096  # looked at one by one if there is something suspicious among them
_MARKS_OF_WINDOWS = (b":", b"\\") if os.name == "nt" else ()


def check_lines(
    text: np.ndarray, starts: np.ndarray, ends: np.ndarray, list_file: Path, offset: int = 0
) -> None:
    """Refuse a text that names a file outside of the folder.

    Args:
        text: Lines of a list. uint8 [num_bytes].
        starts: First byte of each line. int64 [num_lines].
        ends: One past the last byte of each line. int64 [num_lines].
        list_file: Where they are from.
        offset: Where in that file the text begins, in bytes.

    Raises:
        ValueError: If a line leads out of the folder; names list, line and path.
    """
    for first in range(0, len(starts), _LINES_PER_BLOCK):
        block = slice(first, first + _LINES_PER_BLOCK)
        for start, end in _suspicious(text, starts[block], ends[block]):
            if fault := find_fault(text[start:end].tobytes()):
                number = _count_lines_before(list_file, offset) + 1
                number += int(np.count_nonzero(text[:start] == ord("\n")))
                raise ValueError(f"{list_file}, line {number:,}: {fault}")


def find_fault(line: bytes) -> str:
    """Return why a line may not be in a list; empty if it may."""
    path, tab, _ = line.partition(b"\t")
    text = os.fsdecode(path)
    if b"\0" in line:
        return f"{text!r} has a zero byte, which no path has"
    if ".." in text.replace(os.sep, "/").split("/"):
        return f"{text!r} may lead out of the folder: paths in a list are without '..'"
    if not tab and (text[:1] in ("/", os.sep) or os.path.splitdrive(text)[0]):
        return f"{text!r} is not relative to the folder, as paths in a list must be"
    return ""


def _suspicious(
    text: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Yield the bounds of lines that may have a fault: all of them, or the first one alone."""
    block = text[starts[0] : ends[-1]]
    has_drives = any(mark in block.tobytes() for mark in _MARKS_OF_WINDOWS)
    num_looked_at = len(starts) if has_suspects(block) or has_drives else 1
    return zip(starts[:num_looked_at].tolist(), ends[:num_looked_at].tolist(), strict=True)


def _count_lines_before(list_file: Path, offset: int) -> int:
    with open(list_file, "rb") as file:
        return file.read(offset).count(b"\n")
