"""Read and write files of tensors safely.

What is written is whole, on the disk and carries its own SHA-256. What is read may come from
strangers: nothing in it is run, and nothing is made that is larger than the file.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

import commons
from model.archives import check_content
from model.digests import has_digest, is_intact, save_with_digest

_CHECKPOINTS = ("best_model.pth", "last_checkpoint.pth")  # of a run of train.py
_OTHER_KIND = "it is damaged, or holds other things than tensors and plain values"


class DamagedFileError(ValueError):
    """A file that does not have the content that it was written with."""


def read_checkpoint(path: str | os.PathLike, needs_digest: bool = False) -> dict[str, Any]:
    """Read a dict of tensors and plain values, without running code that the file may hold.

    A file with a digest is compared with it. What is declared in a file is compared with what is
    there before anything is made of it.

    Args:
        path: A file of torch.save, of any version.
        needs_digest: The file is one of `save_atomically`: without a digest, it was cut short.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it was changed since it was written; a ValueError.
        ValueError: If it cannot be read, or is not a dict.
    """
    if os.path.isdir(path):
        files = " or ".join(os.path.join(path, name) for name in _CHECKPOINTS)
        raise FileNotFoundError(f"{path} is a folder: give a file in it, such as {files}")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no checkpoint {path}")
    refused = f"{path} is not a checkpoint that can be read safely"
    try:
        with open(path, "rb") as file:
            _check_digest(file, needs_digest)
            checkpoint = _load(file)
    except DamagedFileError as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from None
    except ValueError as error:
        raise ValueError(f"{refused}: {error}") from None
    except OSError as error:
        raise ValueError(f"{refused}: {error.strerror or error}") from None
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    return dict(checkpoint)


def _check_digest(file: BinaryIO, needs_digest: bool) -> None:
    if has_digest(file):
        if not is_intact(file):
            raise DamagedFileError(
                "its content is no longer what its SHA-256 was made of; use an older checkpoint"
            )
    elif needs_digest:
        raise DamagedFileError(
            "it has no SHA-256 at its end, so it was cut short or changed; use an older checkpoint"
        )


def _load(file: BinaryIO) -> Any:
    """Check what a file declares, and load it."""
    try:
        check_content(file)
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(f"{_OTHER_KIND} ({error})") from None
    except Exception:  # what follows a broken pickle meets many kinds
        raise ValueError(_OTHER_KIND) from None
    file.seek(0)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # so does torch
        raise ValueError(_OTHER_KIND) from None


def save_atomically(content: Any, path: str | os.PathLike) -> None:
    """Write a checkpoint with its SHA-256 and rename it: no reader ever meets half a file.

    It stays readable for torch.load, memory-mapped as well. When this returns, it is on the disk.

    Args:
        content: Tensors and plain Python values only, so that it can be read safely.
        path: Where to.

    Raises:
        OSError: If it cannot be written. A file that was there is as before.
    """
    with commons.atomic_write(Path(path)) as temporary:
        _write(content, temporary)


def save_keeping_previous(
    content: Any, path: str | os.PathLike, previous: str | os.PathLike
) -> None:
    """Do what `save_atomically` does, and give the file that was at `path` the name `previous`.

    Whenever this process dies, one of the two names has a whole file that is on the disk, and a
    file is at `path` if one was there before. The latter does not hold on disks without hard links
    (FAT, some network disks): there the old file is renamed an instant before the new one, and only
    `previous` is there in between.

    Args:
        content: Tensors and plain Python values only.
        path: Where to.
        previous: For the file that is at `path` now, in the same folder.

    Raises:
        OSError: If it cannot be written.
    """
    path, previous = Path(path), Path(previous)
    kept = commons.temporary_path(previous)
    try:
        with commons.atomic_write(path) as temporary:
            _write(content, temporary)
            is_linked = _link(path, kept)
            if not is_linked and path.exists():
                os.replace(path, previous)
        if is_linked:  # only now: if the old file is damaged, the new one is in its place already
            os.replace(kept, previous)
            commons.sync_folder(previous.parent)
    finally:
        with suppress(OSError):
            kept.unlink()


def _write(content: Any, path: Path) -> None:
    """Write a checkpoint and bring it to the disk."""
    with open(path, "w+b") as file:
        save_with_digest(content, file)
        file.flush()
        os.fsync(file.fileno())


def _link(path: Path, kept: Path) -> bool:
    """Give a file a second name; return whether it was there and the disk can do that."""
    try:
        os.link(path, kept)
    except OSError:
        return False
    return True
