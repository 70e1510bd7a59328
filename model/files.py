"""Read and write files of tensors safely."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_CHECKPOINTS = ("best_model.pth", "last_checkpoint.pth")  # of a run of train.py


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a dict of tensors and plain values, without running code that the file may hold.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or is not a dict.
    """
    if os.path.isdir(path):
        files = " or ".join(os.path.join(path, name) for name in _CHECKPOINTS)
        raise FileNotFoundError(f"{path} is a folder: give a file in it, such as {files}")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for what is not a checkpoint
        reason = (
            error.strerror
            if isinstance(error, OSError)
            else ("it is damaged, or holds other things than tensors and plain values")
        )
        raise ValueError(f"{path} is not a checkpoint that can be read safely: {reason}") from None
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    return dict(checkpoint)


def save_atomically(content: Any, path: str | os.PathLike) -> None:
    """Write a checkpoint under a temporary name, then rename it: no reader ever meets half a file.

    Args:
        content: Tensors and plain Python values only, so that it can be read safely.
        path: Where to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}_{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
