"""Models from anywhere, by one text: all that is asked is model(images) -> descriptors.

hub:OWNER/NAME[:REF]:ENTRY       a function of a GitHub repository's hubconf.py; as in torch.hub,
                                 REF is a branch, tag or commit
hub:FOLDER:ENTRY                 the same of a local copy
MODULE:FUNCTION                  of a module that is installed, or in the current folder
FILE.py:FUNCTION                 of a file
torchscript:FILE, onnx:FILE      such as `python -m model.export` writes
cosplace:BACKBONE:DIM            a released CosPlace network, see `model.published`
landmark:TRAIN_SET:BACKBONE      a published landmark-retrieval network, see there

:KEY=VALUE may follow a function, once for each argument. A value is a Python literal (512, 1e-3,
True, None, 'text', [1, 2]) or else text as it stands; within quotes it is text in any case.
The first four run code that is not ours, as importing it would. That code may have packages called
as ours are (`model`, `datasets`). It has to import all of them while it is loaded.
"""

import ast
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from model.checkpoints import load_network
from model.exported import load_onnx, load_torchscript
from model.foreign_code import call_function, call_hub_entry, explained
from model.landmarks import load_landmark_network
from model.published import FAMILIES, fetch_published, parse_published

_FILE_KINDS = {"torchscript": load_torchscript, "onnx": load_onnx}
_FUNCTION_KINDS = {"hub": call_hub_entry, "python": call_function}
_SYNTAX = (
    "hub:OWNER/NAME[:REF]:ENTRY, hub:FOLDER:ENTRY, MODULE:FUNCTION or FILE.py:FUNCTION, each with "
    ":KEY=VALUE for every argument, torchscript:FILE or onnx:FILE, cosplace:BACKBONE:DIM or "
    "landmark:TRAIN_SET:BACKBONE; a checkpoint goes to --resume"
)
_ARGUMENT = re.compile(  # up to the next one, since paths and URLs hold colons, too
    r""":([A-Za-z_]\w*)=('[^']*'|"[^"]*"|.*?)(?=:[A-Za-z_]\w*=|$)""", re.DOTALL
)


class ModelSpec(NamedTuple):
    """Where a model comes from."""

    kind: str  # key of _FILE_KINDS or _FUNCTION_KINDS, or one of FAMILIES
    source: str  # repository, folder, module, file, or name of a published network
    function: str  # "" unless the kind is one of functions
    keywords: dict[str, Any]


class AnyModel(nn.Module):
    """A model that is not ours, in evaluation mode, whose descriptors are checked.

    Images come in as for our networks, float32 [B, 3, H, W], ImageNet-normalised. Descriptors may
    have any length, also any norm: they are compared by their L2 distance as they are.
    """

    def __init__(self, model: Callable[[torch.Tensor], Any], spec: str, file: str | None) -> None:
        """Wrap a model.

        Args:
            model: A module, or any other function of images.
            spec: The text that it was loaded by.
            file: The file that holds it, if it is one.
        """
        super().__init__()
        self.model = model
        self.spec = spec
        self.file = file
        self.architecture: dict[str, str | int] = {}  # as GeoLocalizationNet, where it is known
        self.out_dim: int | None = None  # the same
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return descriptors [B, D].

        Raises:
            ValueError: If the model fails, or returns something else.
        """
        hint = "; if it takes one size only: --resize_test_imgs HxW, and --infer_batch_size"
        with explained(f"{self.spec} fails on images {list(images.shape)}", hint):
            descriptors = self.model(images)
        if not _are_descriptors(descriptors, len(images)):
            raise ValueError(
                f"{self.spec} returns {_describe(descriptors)} for images {list(images.shape)}; "
                f"needed is a float tensor [{len(images)}, D], a descriptor for each image: write "
                "a function that returns such a model, and pass it as FILE.py:FUNCTION"
            )
        return descriptors


def load_any_model(text: str) -> AnyModel:
    """Make the model that a text tells, see the top of this file.

    Returns:
        The model on the CPU, or wherever its function puts it.

    Raises:
        FileNotFoundError: If there is no such repository or file.
        ValueError: If the text cannot be read, or the model cannot be made.
    """
    spec = parse_model_spec(text)
    if spec.kind in FAMILIES:
        return _load_published(text)
    if spec.kind in _FILE_KINDS:
        file = os.path.expanduser(spec.source)
        return AnyModel(_FILE_KINDS[spec.kind](file), text, file)
    model = _FUNCTION_KINDS[spec.kind](spec.source, spec.function, spec.keywords)
    if not callable(model):
        raise ValueError(
            f"{text} makes {_describe(model)}; needed is a function of images, such as a module"
        )
    return AnyModel(model, text, None)


def describe_any_model(model: AnyModel) -> dict[str, str | None]:
    """Return where a model comes from, and a SHA-256 of its file or else of its tensors.

    The tensors do not tell a model alone: see `model.loading.identify`.
    """
    if model.file is not None:
        digest = hashlib.sha256(Path(model.file).read_bytes()).hexdigest()
    else:
        digest = hash_tensors(model.model)
    return {"model": model.spec, "model_file": model.file, "model_sha256": digest}


def parse_model_spec(text: str) -> ModelSpec:
    """Read the text that names a model; nothing is loaded.

    Raises:
        ValueError: If it cannot be read.
    """
    kind, _, rest = text.partition(":")
    if kind in FAMILIES:
        parse_published(text)
        return ModelSpec(kind, rest, "", {})
    if kind in _FILE_KINDS and rest:
        return ModelSpec(kind, rest, "", {})
    if kind != "hub":
        kind, rest = "python", text
    first = _ARGUMENT.search(rest)
    head = rest[: first.start()] if first else rest
    source, _, function = head.rpartition(":")
    is_named = all(part.isidentifier() for part in function.split("."))
    is_module = source.endswith(".py") or all(part.isidentifier() for part in source.split("."))
    if not source or not is_named or (kind == "python" and not is_module):
        raise ValueError(f"'{text}' names no model: write {_SYNTAX}")
    return ModelSpec(kind, source, function, _read_arguments(rest[len(head) :]))


def _load_published(text: str) -> AnyModel:
    published = parse_published(text)
    file = fetch_published(published)
    if published.family == "landmark":
        network = load_landmark_network(file, published.dim)
    else:
        network = load_network(file)
    model = AnyModel(network, text, os.fspath(file))
    model.architecture, model.out_dim = network.architecture, network.out_dim
    return model


def _read_arguments(text: str) -> dict[str, Any]:
    arguments = {}
    for key, value in _ARGUMENT.findall(text):
        if key in arguments:
            raise ValueError(f"'{text}' gives '{key}' twice")
        arguments[key] = _read_value(key, value)
    return arguments


def _read_value(key: str, value: str) -> Any:
    if value in ("true", "false"):  # as text, both would count as true
        raise ValueError(f"'{key}={value}': write {value.capitalize()}, or '{value}' for the text")
    if len(value) > 1 and value[0] in "'\"" and value[-1] == value[0]:
        return value[1:-1]  # as it stands: in Windows paths, a backslash is no escape
    try:
        return ast.literal_eval(value)
    except (SyntaxError, TypeError, ValueError):
        return value


def _are_descriptors(output: Any, num_images: int) -> bool:
    return (
        isinstance(output, torch.Tensor)
        and output.is_floating_point()
        and output.ndim == 2
        and output.shape[0] == num_images
        and output.shape[1] > 0
    )


def _describe(output: Any) -> str:
    if isinstance(output, torch.Tensor):
        return f"a {str(output.dtype).removeprefix('torch.')} tensor {list(output.shape)}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {', '.join(map(_describe, output)) or 'nothing'}"
    if isinstance(output, dict):
        return f"a dict of {', '.join(map(str, output)) or 'nothing'}"
    return "None" if output is None else f"an object of type {type(output).__name__}"


def hash_tensors(model: Any) -> str | None:
    """Return a SHA-256 of the state dict: names, types, shapes and values; None without tensors."""
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest() if tensors else None
