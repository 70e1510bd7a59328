"""Pretrained networks as backbones are cut from them, and their files of weights."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from model.checkpoint_files import read_checkpoint

Weights = dict[str, torch.Tensor]

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in a folder of the Hugging Face hub
_ELSEWHERE = (
    "Download it elsewhere and pass --backbone_weights PATH, or put it at {path}; or pass "
    "--backbone_weights none for a random start, or --backbone EfficientNet_Lite0, whose ImageNet "
    "weights come with requirements.txt"
)


def _unchanged(module: nn.Module) -> nn.Module:
    return module


def _no_layers(backbone: nn.Module) -> Iterable[nn.Module]:
    return ()


@dataclass(frozen=True)
class Pretrained:
    """A network as it was pretrained, and how a backbone is cut from it."""

    whole: Callable[[], nn.Module]  # random; the names of its tensors are those of `imagenet`
    imagenet: Callable[[], Weights]  # the weights that "imagenet" stands for, as in their file
    cut: Callable[[nn.Module], nn.Module] = _unchanged  # whole -> up to the last feature map
    frozen: Callable[[nn.Module], Iterable[nn.Module]] = _no_layers  # by default, as in the paper
    translate: Callable[[Weights], Weights] | None = None  # names in files -> those of `whole`
    unused: tuple[str, ...] | None = None  # prefixes of tensors to ignore; None: ignore any other
    # Prefixes in the file -> in the aggregation, where the file has weights of the latter as well.
    aggregation: Mapping[str, str] = field(default_factory=dict)


def read_weights(path: str | os.PathLike) -> Weights:
    """Read the state dict of a file, or of a folder in the format of the Hugging Face hub.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in _HUB_FILES if (path / name).is_file()]
        if not files:
            raise FileNotFoundError(f"The folder {path} has no {' and no '.join(_HUB_FILES)}")
        path = files[0]
    return read_checkpoint(path)


def download_weights(url: str, name: str | None = None) -> Weights:
    """Read weights from the cache of torch.hub; download them into it once.

    Args:
        url: Where the file is.
        name: Name of the file in the cache; that of the URL if None.

    Raises:
        FileNotFoundError: If it cannot be downloaded.
        ValueError: If it cannot be read.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", name or url.rsplit("/", 1)[1])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path))
        except OSError as error:  # no route, a proxy that refuses, a connection that breaks off
            raise cannot_download(url, path, error) from None
    return read_weights(path)


def cannot_download(url: str, path: Path, error: OSError) -> FileNotFoundError:
    """Return the error to raise when weights cannot be downloaded to a path."""
    return FileNotFoundError(f"Cannot download {url} ({error}). {_ELSEWHERE.format(path=path)}")
