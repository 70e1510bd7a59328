"""Published networks: their names, and their files in torch.hub's folder of checkpoints.

cosplace:BACKBONE:DIM               trained on SF-XL and released by the authors of CosPlace
landmark:TRAIN_SET:BACKBONE[:DIM]   trained for landmark retrieval, on SfM120k or GLD (Google
                                    Landmarks 2018), by Radenovic, Tolias and Chum: the other
                                    rows of the paper's Table 4. DIM is 2048; with less, see
                                    `model.landmarks`

Only files are downloaded, each once, and no code.
"""

from pathlib import Path
from typing import NamedTuple

import torch

import commons

RELEASE_URL = "https://github.com/gmberton/CosPlace/releases/download/v1.0"
TRAINED_DIMS = {  # backbone -> descriptor lengths of the released CosPlace networks
    "VGG16": (64, 128, 256, 512),
    "ResNet18": (32, 64, 128, 256, 512),
    "ResNet50": (32, 64, 128, 256, 512, 1024, 2048),
    "ResNet101": (32, 64, 128, 256, 512, 1024, 2048),
    "ResNet152": (32, 64, 128, 256, 512, 1024, 2048),
}
LANDMARK_URL = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/networks"
LANDMARK_FILES = {  # a name ends in the first digits of the SHA-256, as torch.hub expects
    ("SfM120k", "ResNet50"): "retrieval-SfM-120k/rSfM120k-tl-resnet50-gem-w-97bf910.pth",
    ("SfM120k", "ResNet101"): "retrieval-SfM-120k/rSfM120k-tl-resnet101-gem-w-a155e54.pth",
    ("GLD", "ResNet50"): "gl18/gl18-tl-resnet50-gem-w-83fdc30.pth",
    ("GLD", "ResNet101"): "gl18/gl18-tl-resnet101-gem-w-a4d43db.pth",
}
LANDMARK_DIM = 2048
FAMILIES = ("cosplace", "landmark")


class PublishedModel(NamedTuple):
    """A published network, by the parts of its name."""

    family: str  # one of FAMILIES
    train_set: str  # "SF-XL", "SfM120k" or "GLD"
    backbone: str
    dim: int  # length of the descriptors


def parse_published(text: str) -> PublishedModel:
    """Parse the name of a published network, see the top of this file.

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
    """Return the file of a network in torch.hub's folder of checkpoints, downloaded once.

    Raises:
        ValueError: If the file is not the published one.
        FileNotFoundError: If it cannot be downloaded; says where to put it.
    """
    digits = None  # the first ones of the SHA-256, where they are known
    if model.family == "cosplace":
        url = f"{RELEASE_URL}/{model.backbone}_{model.dim}_cosplace.pth"
    else:
        name = LANDMARK_FILES[model.train_set, model.backbone]
        url, digits = f"{LANDMARK_URL}/{name}", name.removesuffix(".pth").rpartition("-")[2]
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.exists():
        if digits is not None and not (found := commons.sha256_of(path)).startswith(digits):
            raise ValueError(
                f"{path} is not the published file: its SHA-256 begins with "
                f"{found[: len(digits)]}, not {digits}; delete it to download it again, or pass it "
                "to --resume"
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
    except OSError as error:
        raise FileNotFoundError(f"Cannot download {url} ({error}): put it at {path}") from None
    except RuntimeError as error:  # other digits; nothing is kept
        raise ValueError(
            f"What {url} sends is not the published file ({error}): try again, or put it at {path}"
        ) from None
    return path
