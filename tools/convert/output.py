"""The folder that a conversion makes: all of it or nothing."""

import functools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import commons

_FILE_MODES = {"copy": shutil.copy2, "symlink": os.symlink, "hardlink": os.link}
MODES = (*_FILE_MODES, "list")


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something, or that has a list file beside it.

    Raises:
        FileExistsError: If it does.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: choose another --out")
    if (list_file := _list_file(folder)).exists():
        raise FileExistsError(
            f"{list_file} exists and would be read instead of the images in {folder}: "
            "choose another --out, or remove that file"
        )


def write_images(files: Sequence[str], names: Sequence[str], folder: Path, mode: str) -> None:
    """Bring image files into a folder under other names, or list them beside it.

    Args:
        files: Absolute paths.
        names: Their '@' names, all different.
        folder: Absolute; must be empty or not there.
        mode: "copy", "symlink", "hardlink"; or "list", which makes an empty folder and
            `<folder>_images_paths.txt` with a line `path<TAB>name` per image.

    Raises:
        FileExistsError: If the folder is not free.
        OSError: If a file cannot be brought there; then nothing is left of it all.
        ValueError: If a path cannot stand in a list.
    """
    if mode == "list":
        _write_list(files, names, folder)
        return
    bring = _FILE_MODES[mode]
    check_free(folder)
    with commons.atomic_folder(folder) as temporary:
        pairs = zip(files, names, strict=True)
        for file, name in tqdm(pairs, desc=f"Images ({mode})", total=len(files), unit="img"):
            try:
                bring(file, temporary / name)
            except OSError as error:
                raise OSError(
                    f"{file} cannot be brought to {folder} with --mode {mode} "
                    f"({error.strerror}); nothing was written"
                ) from None


def _write_list(files: Sequence[str], names: Sequence[str], folder: Path) -> None:
    lines = [f"{_direct_path(file)}\t{name}\n" for file, name in zip(files, names, strict=True)]
    for file, line in zip(files, lines, strict=True):
        if line.count("\t") > 1 or line.count("\n") > 1:
            raise ValueError(f"The path {file!r} has a tab or a newline, so it cannot be listed")
    list_file = _list_file(folder)
    check_free(folder)
    with commons.atomic_folder(folder) as temporary:
        text = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}
        with open(temporary / list_file.name, "w", **text) as file:
            file.writelines(lines)
    os.replace(folder / list_file.name, list_file)


def _list_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}_images_paths.txt")


def _direct_path(file: str) -> str:
    """Return an absolute path without '..', which lists may not have."""
    parent, name = os.path.split(file)
    return os.path.join(_real_folder(parent), name)


@functools.lru_cache(maxsize=4096)
def _real_folder(parent: str) -> str:
    return os.path.realpath(parent)
