"""Read the names of millions of images in blocks, so that they need not be in memory."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.folder_lists import keep_list, walk_images
from datasets.image_paths import (
    BYTE_ORDER_MARK,
    ImagePaths,
    find_folder,
    split_names,
)
from datasets.list_lines import check_lines

_BYTES_PER_BLOCK = 1 << 23  # bounds the memory


@dataclass(frozen=True)
class NameSource:
    """A text with the names of the images of a folder, one a line.

    Attributes:
        folder: Absolute folder that the paths are relative to.
        list_file: The file that holds the text; None if the folder was walked.
        walked: The text, if the folder was walked.
    """

    folder: Path
    list_file: Path | None
    walked: bytes = b""

    def texts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield blocks of whole lines: where each begins, and its bytes. uint8.

        Raises:
            ValueError: If a line is longer than a block.
        """
        with open(self.list_file, "rb") if self.list_file else io.BytesIO(self.walked) as file:
            start = 0
            if self.list_file and file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK:
                start = len(BYTE_ORDER_MARK)
            file.seek(start)
            while text := file.read(_BYTES_PER_BLOCK):
                length = text.rfind(b"\n") + 1
                if not length and len(text) == _BYTES_PER_BLOCK:
                    raise ValueError(
                        f"{self.list_file} has a line of more than {_BYTES_PER_BLOCK:,} bytes: "
                        "each line must be the path of one image"
                    )
                length = length or len(text)  # the last line may have no end
                yield start, np.frombuffer(text, np.uint8, length)
                start += length
                file.seek(start)

    def blocks(self) -> Iterator[tuple[int, ImagePaths]]:
        """Yield the same blocks, cut into names; some may have none.

        Raises:
            ValueError: If a line leads out of the folder.
        """
        for start, text in self.texts():
            paths = split_names(self.folder, text, self.list_file)
            if self.list_file is not None:
                check_lines(paths.blob, paths.starts, paths.ends, self.list_file, start)
            yield start, paths

    def first_block(self) -> ImagePaths:
        """Return some of the first names, unchecked; none only if there are none at all."""
        blocks = (split_names(self.folder, text, self.list_file) for _, text in self.texts())
        none = split_names(self.folder, np.empty(0, np.uint8), self.list_file)
        return next((paths for paths in blocks if len(paths)), none)


def find_names(folder: str | os.PathLike) -> NameSource:
    """Find the `<folder>_images_paths.txt` beside a folder, or walk through it if there is none.

    The list of a large folder is kept there for next time, see `folder_lists`. The names are those
    of `list_images`, in the same order.

    Raises:
        FileNotFoundError: If the folder is missing.
    """
    folder, list_file = find_folder(folder)
    if list_file is not None:
        return NameSource(folder, list_file)
    walk = walk_images(folder)
    if list_file := keep_list(walk, folder):
        return NameSource(folder, list_file)
    return NameSource(folder, None, b"".join(walk.texts))
