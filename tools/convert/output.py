"""The folder that a conversion makes: all of it or nothing."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import commons

MODES = {"copy": shutil.copy2, "symlink": os.symlink, "hardlink": os.link}


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
    """Bring image files into a folder under other names.

    Args:
        files: Absolute paths.
        names: Their '@' names, all different.
        folder: Absolute; must be empty or not there.
        mode: A key of MODES.

    Raises:
        FileExistsError: If the folder is not free.
        OSError: If a file cannot be brought there; then nothing is left of it all.
    """
    bring = MODES[mode]
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


def _list_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}_images_paths.txt")
