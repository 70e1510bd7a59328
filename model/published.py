"""Published networks: their names, and their files in torch.hub's folder of checkpoints.

cosplace:BACKBONE:DIM               trained on SF-XL and released by the authors of CosPlace
landmark:TRAIN_SET:BACKBONE[:DIM]   trained for landmark retrieval, on SfM120k or GLD (Google
                                    Landmarks 2018), by Radenovic, Tolias and Chum: the other
                                    rows of the paper's Table 4
netvlad:TRAIN_SET[:DIM]             NetVLAD with VGG16 by its authors, on pitts30k or tokyotm
openibl:METHOD[:DIM]                sfrs or sare_ind by OpenIBL, VGG16 with NetVLAD, on pitts30k
vgb:NAME:TRAIN_SET                  NAME in the zoo of the deep visual geo-localization benchmark
                                    (CVPR 2022), such as resnet18-netvlad, on pitts30k or msls

DIM keeps the first dimensions of a whitening, of 2048 or 4096. Only files are downloaded, each
once, and no code; those of Google Drive by the user.
"""

from collections.abc import Callable, Sequence
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
NETVLAD_URL = "https://cvg-data.inf.ethz.ch/hloc/netvlad"
NETVLAD_FILES = {"pitts30k": "Pitts30K_struct.mat", "tokyotm": "TokyoTM_struct.mat"}
OPENIBL_URL = "https://github.com/yxgeee/OpenIBL/releases/download/v0.1.0-beta"
OPENIBL_SARE = "https://drive.google.com/drive/folders/1ZNGdXVRwUJvGH0ZJdwy18A8e9H0wnFHc"
VLAD_DIM = 4096  # of the whitenings of the last two
VGB_URL = "https://drive.google.com/file/d"
VGB_MODELS = {  # name in the zoo -> backbone, descriptor length
    "vgg16-gem": ("VGG16", 512),
    "resnet18-gem": ("ResNet18_conv4", 256),
    "resnet50-gem": ("ResNet50_conv4", 1024),
    "resnet101-gem": ("ResNet101_conv4", 1024),
    "vgg16-netvlad": ("VGG16", 32768),
    "resnet18-netvlad": ("ResNet18_conv4", 16384),
    "resnet50-netvlad": ("ResNet50_conv4", 65536),
    "resnet101-netvlad": ("ResNet101_conv4", 65536),
    "resnet50-gem-fc2048": ("ResNet50_conv4", 2048),
    "resnet50-gem-fc65536": ("ResNet50_conv4", 65536),
    "resnet50-crn": ("ResNet50_conv4", 65536),
}
VGB_FILES = {  # (name in the zoo, train set) -> id at Google Drive
    ("vgg16-gem", "pitts30k"): "1-e9v_mynIX5XBsdtN_mG9tz5-nA5PWiq",
    ("vgg16-gem", "msls"): "1GqgO-qG-WNJXWty43KgvDtW0OpG0Wrq-",
    ("resnet18-gem", "pitts30k"): "1R66NYeLlxBIqLviUVL9XPZkrtmyMn_tU",
    ("resnet18-gem", "msls"): "1IH0d_ME2kU3pagsKhx5ZfRfyWriErajn",
    ("resnet50-gem", "pitts30k"): "1esgXzRFvDFHrMnwwR3GlTnErXjFNrYV7",
    ("resnet50-gem", "msls"): "1uuIYJN4N7lQqqsN32pbZwjhz5Xvv3zr-",
    ("resnet101-gem", "pitts30k"): "1Sd-sezmbzOGbZcy3eqRnWH07eoJ7CM0X",
    ("resnet101-gem", "msls"): "1Iondvd8P3vb3piHFTA-RUgTFpqh0I31M",
    ("vgg16-netvlad", "pitts30k"): "14s7OZor6wrlGBKeXr0vKbPfTzlW9preM",
    ("vgg16-netvlad", "msls"): "1dwai3uNudjvns58JIyaf5CBRg4ojcWIW",
    ("resnet18-netvlad", "pitts30k"): "1KFwonDQYdvzTAIILsOMjmLRUR76jXXvB",
    ("resnet18-netvlad", "msls"): "1_Ozq2TdvwLAJUwy7YH9l69GsfOU-MlFZ",
    ("resnet50-netvlad", "pitts30k"): "1KL8HoAApOjJFETin7Q7u7IcsOvroKlSj",
    ("resnet50-netvlad", "msls"): "1krf0A6CeW8GqLqHWZ7dlSNJ9aTJ4dotF",
    ("resnet101-netvlad", "pitts30k"): "1064kDJ0LPyWoU7J4bMvAa0lTNEhAEi8v",
    ("resnet101-netvlad", "msls"): "1rtPfsgfJ2Zoxs5uu7Ph1_qc7q-hIxJek",
    ("resnet50-gem-fc2048", "pitts30k"): "1GCbE4gzcRXMH8ETD2YCPo0I3suAXDr-y",
    ("resnet50-gem-fc2048", "msls"): "1oSf11wAxaoEbjLnjfX0EWZ65dgccwdDD",
    ("resnet50-gem-fc65536", "pitts30k"): "19GjodUuAGKpac6WhIcfuy3tiPV1J-ikn",
    ("resnet50-gem-fc65536", "msls"): "1OGwt651loL2vXnQYyABqitL39IEiXhag",
    ("resnet50-crn", "pitts30k"): "1mLOkILfIf8Wegi3tva9390TRIbWDxRor",
    ("resnet50-crn", "msls"): "1KJzXwCsbyT0uNDl925H2J0QKXhKaeEgW",
}


class PublishedModel(NamedTuple):
    """A published network."""

    family: str  # one of FAMILIES
    train_set: str  # "SF-XL", "SfM120k", "GLD", "pitts30k", "tokyotm" or "msls"
    backbone: str
    dim: int  # length of the descriptors
    full_dim: int  # the same without cutting
    url: str  # of the file, or of the page that it is downloaded from by hand
    file: str  # below torch.hub's folder of checkpoints
    digits: str | None = None  # the first ones of its SHA-256, where they are known
    by_hand: str | None = None  # what to download from the page, if a program cannot


def _cosplace(*names: str) -> PublishedModel | None:
    if len(names) != 2 or not names[1].isdecimal():
        return None
    backbone, dim = names[0], int(names[1])
    file = f"{backbone}_{dim}_cosplace.pth"
    if dim not in TRAINED_DIMS.get(backbone, ()):
        return None
    return PublishedModel("cosplace", "SF-XL", backbone, dim, dim, f"{RELEASE_URL}/{file}", file)


def _landmark(*names: str) -> PublishedModel | None:
    path, dim = LANDMARK_FILES.get(names[:2]), _parse_dim(names[2:], LANDMARK_DIM)
    if path is None or dim is None:
        return None
    file = path.rpartition("/")[2]
    digits = file.removesuffix(".pth").rpartition("-")[2]
    where = (LANDMARK_DIM, f"{LANDMARK_URL}/{path}", file, digits)
    return PublishedModel("landmark", *names[:2], dim, *where)


def _netvlad(*names: str) -> PublishedModel | None:
    file, dim = NETVLAD_FILES.get("".join(names[:1])), _parse_dim(names[1:], VLAD_DIM)
    if file is None or dim is None:
        return None
    where = (VLAD_DIM, f"{NETVLAD_URL}/{file}", file)
    return PublishedModel("netvlad", names[0], "VGG16", dim, *where)


def _openibl(*names: str) -> PublishedModel | None:
    sources = {
        "sfrs": (f"{OPENIBL_URL}/vgg16_netvlad.pth", "vgg16_netvlad.pth"),
        "sare_ind": (
            OPENIBL_SARE,
            "openibl_sare_ind/model_best.pth.tar",
            None,
            "model_best.pth.tar, with pca_params_model_best.h5 beside it,",
        ),
    }
    source, dim = sources.get("".join(names[:1])), _parse_dim(names[1:], VLAD_DIM)
    if source is None or dim is None:
        return None
    return PublishedModel("openibl", "pitts30k", "VGG16", dim, VLAD_DIM, *source)


def _vgb(*names: str) -> PublishedModel | None:
    if names not in VGB_FILES:
        return None
    backbone, dim = VGB_MODELS[names[0]]
    url, file = f"{VGB_URL}/{VGB_FILES[names]}", f"vgb_{'_'.join(names)}.pth"
    return PublishedModel("vgb", names[1], backbone, dim, dim, url, file, None, "the file")


FAMILIES: dict[str, Callable[..., PublishedModel | None]] = {
    "cosplace": _cosplace,
    "landmark": _landmark,
    "netvlad": _netvlad,
    "openibl": _openibl,
    "vgb": _vgb,
}


def _parse_dim(names: Sequence[str], full_dim: int) -> int | None:
    """Return the length that the end of a name asks for; None if it is out of range."""
    if not names:
        return full_dim
    dim = int(names[0]) if len(names) == 1 and names[0].isdecimal() else 0
    return dim if 1 <= dim <= full_dim else None


def parse_published(text: str) -> PublishedModel:
    """Parse the name of a published network, see the top of this file.

    Raises:
        ValueError: If there is no such network.
    """
    family, *names = text.split(":")
    model = FAMILIES[family](*names) if family in FAMILIES else None
    if model is None:
        raise ValueError(f"'{text}' names no published network: there are {_list_names()}")
    return model


def _list_names() -> str:
    """Return all names, those with a DIM without it."""
    released = "; ".join(f"{name} {', '.join(map(str, d))}" for name, d in TRAINED_DIMS.items())
    landmark = ", ".join(":".join(("landmark", *key)) for key in LANDMARK_FILES)
    netvlad = ", ".join(f"netvlad:{train_set}" for train_set in NETVLAD_FILES)
    return (
        f"cosplace:BACKBONE:DIM with {released}; {landmark}, each also with :DIM below "
        f"{LANDMARK_DIM}; {netvlad}, openibl:sfrs, openibl:sare_ind, each also with :DIM below "
        f"{VLAD_DIM}; vgb:NAME:TRAIN_SET with {', '.join(VGB_MODELS)} and pitts30k or msls"
    )


def fetch_published(model: PublishedModel) -> Path:
    """Return the file of a network in torch.hub's folder of checkpoints, downloaded once.

    Raises:
        ValueError: If the file is not the published one.
        FileNotFoundError: If it cannot be downloaded; says where to put it.
    """
    url, digits = model.url, model.digits
    path = Path(torch.hub.get_dir(), "checkpoints", model.file)
    if path.exists():
        if digits is not None and not (found := commons.sha256_of(path)).startswith(digits):
            raise ValueError(
                f"{path} is not the published file: its SHA-256 begins with "
                f"{found[: len(digits)]}, not {digits}; delete it to download it again, or pass it "
                "to --resume"
            )
        return path
    if model.by_hand is not None:
        raise FileNotFoundError(
            f"There is no {path}: download {model.by_hand} from {url} in a browser, as Google "
            "Drive serves no programs, and put it there, or pass it to --resume"
        )
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
