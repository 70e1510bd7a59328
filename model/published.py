"""Published networks: their names, and their files in torch.hub's folder of checkpoints.

cosplace:BACKBONE:DIM               trained on SF-XL and released by the authors of CosPlace
landmark:TRAIN_SET:BACKBONE[:DIM]   trained for landmark retrieval, on SfM120k or GLD (Google
                                    Landmarks 2018), by Radenovic, Tolias and Chum: the other
                                    rows of the paper's Table 4. DIM is 2048; with less, see
                                    `model.landmarks`

Only files are downloaded, each once; no code comes with them.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch

RELEASE_URL = "https://github.com/gmberton/CosPlace/releases/download/v1.0"
TRAINED_DIMS = {  # backbone -> descriptor lengths of the released CosPlace networks
    "VGG16": (64, 128, 256, 512),
    "ResNet18": (32, 64, 128, 256, 512),
    "ResNet50": (32, 64, 128, 256, 512, 1024, 2048),
    "ResNet101": (32, 64, 128, 256, 512, 1024, 2048),
    "ResNet152": (32, 64, 128, 256, 512, 1024, 2048),
}
LANDMARK_URL = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/networks"
LANDMARK_FILES = {  # names end in the first digits of the file's SHA-256, as torch.hub wants it
    ("SfM120k", "ResNet50"): "retrieval-SfM-120k/rSfM120k-tl-resnet50-gem-w-97bf910.pth",
    ("SfM120k", "ResNet101"): "retrieval-SfM-120k/rSfM120k-tl-resnet101-gem-w-a155e54.pth",
    ("GLD", "ResNet50"): "gl18/gl18-tl-resnet50-gem-w-83fdc30.pth",
    ("GLD", "ResNet101"): "gl18/gl18-tl-resnet101-gem-w-a4d43db.pth",
}
LANDMARK_DIM = 2048
FAMILIES = ("cosplace", "landmark")


class PublishedModel(NamedTuple):
    """What the text of a published network says."""

    family: str  # one of FAMILIES
    train_set: str  # "SF-XL", "SfM120k" or "GLD"
    backbone: str
    dim: int  # length of the descriptors


def parse_published(text: str) -> PublishedModel:
    """Read the text that names a published network, see the top of this file.

    Raises:
        ValueError: If there is no such network.
    """
    family, *names = text.split(":")
    if family == "cosplace" and len(names) == 2 and names[1].isdecimal():
        model = PublishedModel(family, "SF-XL", names[0], int(names[1]))
        if model.dim in TRAINED_DIMS.get(model.backbone, ()):
            return model
    if family == "landmark" and len(names) in (2, 3):
        dim = names[2] if len(names) == 3 else str(LANDMARK_DIM)
        if (names[0], names[1]) in LANDMARK_FILES and dim.isdecimal():
            model = PublishedModel(family, names[0], names[1], int(dim))
            if 1 <= model.dim <= LANDMARK_DIM:
                return model
    released = "; ".join(f"{name} {', '.join(map(str, d))}" for name, d in TRAINED_DIMS.items())
    landmark = ", ".join(f"landmark:{train_set}:{name}" for train_set, name in LANDMARK_FILES)
    raise ValueError(
        f"'{text}' names no published network: there are cosplace:BACKBONE:DIM with {released}; "
        f"and {landmark}, each also with :DIM below {LANDMARK_DIM}"
    )


def fetch_published(model: PublishedModel) -> Path:
    """Return the file of a network; see `fetch_cosplace` and `fetch_landmark`."""
    if model.family == "cosplace":
        return fetch_cosplace(model.backbone, model.dim)
    return fetch_landmark(model.train_set, model.backbone)


def fetch_cosplace(backbone: str, dim: int) -> Path:
    """Return the file of a released CosPlace network, downloaded if it is not there yet.

    Args:
        backbone: Key of TRAINED_DIMS.
        dim: Length of the descriptors, one of those released for the backbone.

    Raises:
        ValueError: If there is no such network.
        FileNotFoundError: If it cannot be downloaded; says where to put it.
    """
    if int(dim) not in TRAINED_DIMS.get(backbone, ()):
        raise ValueError(
            f"No published network has backbone {backbone} and {dim}-D descriptors; "
            f"there are: {TRAINED_DIMS}"
        )
    return _fetch(f"{RELEASE_URL}/{backbone}_{int(dim)}_cosplace.pth")


def fetch_landmark(train_set: str, backbone: str) -> Path:
    """Return the file of a landmark-retrieval network, downloaded if it is not there yet.

    Args:
        train_set: "SfM120k" or "GLD".
        backbone: "ResNet50" or "ResNet101".

    Raises:
        ValueError: If there is no such network, or the file is another one than was published.
        FileNotFoundError: If it cannot be downloaded; says where to put it.
    """
    if (train_set, backbone) not in LANDMARK_FILES:
        known = ", ".join(" ".join(names) for names in LANDMARK_FILES)
        raise ValueError(f"No landmark network is {train_set} {backbone}; there are: {known}")
    name = LANDMARK_FILES[train_set, backbone]
    return _fetch(f"{LANDMARK_URL}/{name}", name.removesuffix(".pth").rpartition("-")[2])


def _fetch(url: str, digits: str | None = None) -> Path:
    """Return a file of torch.hub's folder, downloaded under a temporary name if it is not there.

    Args:
        url: Of the file.
        digits: The first ones of its SHA-256, if they are known.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.exists():
        _check_digits(path, digits)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
    except OSError as error:
        raise FileNotFoundError(f"Cannot download {url} ({error}): put it at {path}") from None
    except RuntimeError as error:  # the digits are others; nothing is kept
        raise ValueError(
            f"What {url} sends is not the published file ({error}): try again, or put it at {path}"
        ) from None
    return path


def _check_digits(path: Path, digits: str | None) -> None:
    """Raise a ValueError if somebody put another file at the place of a published one."""
    if digits is None:
        return
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(digits):
        raise ValueError(
            f"{path} is not the published file: its SHA-256 begins with {found[: len(digits)]}, "
            f"not {digits}; delete it to have it downloaded again, or pass it to --resume"
        )
