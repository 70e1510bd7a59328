"""What a result depends on, beside data and flags: the code and the model."""

import hashlib
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

VERSION = "0.1.0"


def describe_software() -> dict[str, str]:
    """Return the versions that a result may depend on; at the start, before files change."""
    return {
        "code_version": code_version(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def describe_model(path: str | os.PathLike) -> dict[str, str]:
    """Return the file of a model and its SHA-256."""
    return {
        "model": os.fspath(path),
        "model_file": os.fspath(path),
        "model_sha256": _file_hash(path),
    }


def code_version() -> str:
    """Return the version of this code, with the git commit if it is a checkout of its own."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return VERSION
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return VERSION
    return f"{VERSION}+{commit}"


def _file_hash(path: str | os.PathLike) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
