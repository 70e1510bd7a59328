"""The model that a command line names, and what identifies it in results."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import commons
from model.any_model import describe_any_model, load_any_model, parse_model_spec
from model.checkpoint_files import read_checkpoint
from model.checkpoints import network_of
from model.landmarks import is_landmark_checkpoint, landmark_network_of


def load_model(checkpoint: str | None, spec: str | None) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model in evaluation mode, on the CPU, with its file, SHA-256 and architecture.

    Args:
        checkpoint: File of a network of ours or a released CosPlace network, see `load_network`,
            or of a landmark-retrieval network, see `model.landmarks`.
        spec: Of any other model, see `model.any_model`; if there is no checkpoint.

    Raises:
        FileNotFoundError: If there is no such file or repository.
        ValueError: If the model cannot be made.
    """
    if checkpoint is None:
        model = load_any_model(spec)
        return model, describe_any_model(model) | _describe_code(spec) | model.architecture
    content = read_checkpoint(checkpoint)
    make = landmark_network_of if is_landmark_checkpoint(content) else network_of
    network = make(content, checkpoint).eval()
    return network, describe_model(checkpoint) | network.architecture


def describe_model(file: str | os.PathLike) -> dict[str, str]:
    """Return the name of a model, its file and the file's SHA-256."""
    path = os.fspath(file)
    return {"model": path, "model_file": path, "model_sha256": commons.sha256_of(file)}


def identify(facts: Mapping[str, Any]) -> str:
    """Return a text that is the same for models that give the same descriptors.

    A file is known by its SHA-256 wherever it lies, and by the number of dimensions if only the
    first ones of its descriptors are kept. What is made by a function is known by its
    text, its tensors and its architecture: arguments that are in no tensor change descriptors.

    Args:
        facts: Of `load_model`, and more.
    """
    if facts.get("model_file"):
        kept = facts.get("kept_dims")
        return f"{facts['model_sha256']}:{kept}" if kept else facts["model_sha256"]
    names = ("model", "model_sha256", "code_sha256", "backbone", "pooling", "fc_output_dim")
    return json.dumps({name: facts.get(name) for name in names})


def _describe_code(spec: str) -> dict[str, str]:
    """Return a SHA-256 of the file of FILE.py:FUNCTION; other code has versions of its own."""
    file = Path(parse_model_spec(spec).source).expanduser()
    if file.suffix != ".py" or not file.is_file():
        return {}
    return {"code_sha256": commons.sha256_of(file)}
