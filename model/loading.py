"""The model that a command line names, and what identifies it in results."""

from typing import Any

from torch import nn

import commons
from model.any_model import describe_any_model, load_any_model
from model.checkpoints import load_network


def load_model(checkpoint: str | None, spec: str | None) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model in evaluation mode, on the CPU, with its file, SHA-256 and architecture.

    Args:
        checkpoint: File of a network of ours or a published one, see `load_network`.
        spec: Of any other model, see `model.any_model`; if there is no checkpoint.

    Raises:
        FileNotFoundError: If there is no such file or repository.
        ValueError: If the model cannot be made.
    """
    if checkpoint is None:
        model = load_any_model(spec)
        return model, describe_any_model(model)
    network = load_network(checkpoint).eval()
    return network, commons.describe_model(checkpoint) | network.architecture
