"""Files of pretrained weights: found, downloaded, read."""

import os
from pathlib import Path

import torch

from model.checkpoint_files import read_checkpoint

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in a folder of the Hugging Face hub
_ELSEWHERE = (
    "Download it elsewhere and pass --backbone_weights PATH, or put it at {path}; or pass "
    "--backbone_weights none for a random start, or --backbone EfficientNet_Lite0, whose ImageNet "
    "weights come with requirements.txt"
)


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the state dict of a file, or of a folder as the Hugging Face hub has them.

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
    if path.suffix == ".safetensors" and path.is_file():
        return _read_safetensors(path)
    return read_checkpoint(path)


def download_weights(url: str, name: str | None = None) -> dict[str, torch.Tensor]:
    """Read weights from the cache of torch.hub, into which they are downloaded once.

    Args:
        url: Where the file is.
        name: Of the file in the cache; that of the URL if None.

    Raises:
        FileNotFoundError: If it cannot be downloaded.
        ValueError: If it cannot be read.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", name or url.rsplit("/", 1)[1])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path))
        except OSError as error:  # no route, a proxy's refusal, a connection that breaks off
            raise cannot_download(url, path, error) from None
    return read_weights(path)


def cannot_download(url: str, path: Path, error: OSError) -> FileNotFoundError:
    """Return the error to raise when weights cannot be downloaded to a path."""
    return FileNotFoundError(f"Cannot download {url} ({error}). {_ELSEWHERE.format(path=path)}")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError  # comes with timm
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"{path} needs safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no file of weights that can be read: {error}") from None
