"""Published networks: their names, and their files in torch.hub's folder of checkpoints.

cosplace:BACKBONE:DIM               trained on SF-XL and released by the authors of CosPlace
eigenplaces:BACKBONE:DIM            the same of EigenPlaces (ICCV 2023)
landmark:TRAIN_SET:BACKBONE[:DIM]   trained for landmark retrieval, on SfM120k or GLD (Google
                                    Landmarks 2018), by Radenovic, Tolias and Chum: the other
                                    rows of the paper's Table 4
netvlad:TRAIN_SET[:DIM]             NetVLAD with VGG16 by its authors, on pitts30k or tokyotm
openibl:METHOD[:DIM]                sfrs or sare_ind by OpenIBL, VGG16 with NetVLAD, on pitts30k
vgb:NAME:TRAIN_SET                  NAME in the zoo of the deep visual geo-localization benchmark
                                    (CVPR 2022), such as resnet18-netvlad, on pitts30k or msls
convap:ResNet50:DIM                 Conv-AP, trained on GSV-Cities by its authors, as the next two
mixvpr:ResNet50:DIM                 MixVPR (WACV 2023)
boq:BACKBONE                        Bag of Queries (CVPR 2024), with ResNet50 or DINOv2
salad:DINOv2                        SALAD (CVPR 2024), trained on GSV-Cities
cliquemining:DINOv2                 SALAD trained with CliqueMining (ECCV 2024), also on MSLS
megaloc                             MegaLoc (2025), SALAD and a linear layer, trained on five sets

DIM of landmark, netvlad and openibl keeps the first dimensions of a whitening, of 2048 or 4096.
Only files are downloaded, each once, and no code; those of Google Drive by the user. Networks from
convap on have a resize rule of their own, by which their authors tested them.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import commons

RELEASE_URL = "https://github.com/gmberton/CosPlace/releases/download/v1.0"
TRAINED_DIMS = {  # backbone -> descriptor lengths of the released CosPlace networks
    "VGG16": (64, 128, 256, 512),
    "ResNet18": (32, 64, 128, 256, 512),
    "ResNet50": (32, 64, 128, 256, 512, 1024, 2048),
    "ResNet101": (32, 64, 128, 256, 512, 1024, 2048),
    "ResNet152": (32, 64, 128, 256, 512, 1024, 2048),
}
EIGENPLACES_URL = "https://github.com/gmberton/EigenPlaces/releases/download/v1.0"
EIGENPLACES_DIMS = {  # 1024 is in the list of its hubconf.py, not in its README
    "VGG16": (512,),
    "ResNet18": (256, 512),
    "ResNet50": (128, 256, 512, 1024, 2048),
    "ResNet101": (128, 256, 512, 1024, 2048),
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
DRIVE_URL = "https://drive.google.com/file/d"
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
CONVAP_URL = "https://drive.google.com/drive/folders/1VYPw9uGD11NgiGFgfWueLt3noJYOIuhL"
CONVAP_CHANNELS = {512: 128, 2048: 512, 4096: 1024, 8192: 2048}  # length -> channels of 2 x 2 cells
MIXVPR_FILES = {  # length -> file, and its id at Google Drive
    4096: ("resnet50_MixVPR_4096_channels(1024)_rows(4).ckpt", "1vuz3PvnR7vxnDDLQrdHJaOA04SQrtk5L"),
    512: ("resnet50_MixVPR_512_channels(256)_rows(2).ckpt", "1khiTUNzZhfV2UUupZoIsPIbsMRBYVDqj"),
    128: ("resnet50_MixVPR_128_channels(64)_rows(2).ckpt", "1DQnefjk1hVICOEYPwE4-CZAZOvi1NSJz"),
}
SALAD_URL = "https://github.com/serizba/salad/releases/download/v1.0.0"
CLIQUEMINING_ID = "1B06ysb-Wjb4KDcNrl-7pyj1mJve1jqdk"  # at Google Drive
BOQ_URL = "https://github.com/amaralibey/Bag-of-Queries/releases/download/v1.0"
BOQ_FILES = {  # backbone -> ours, length, file
    "ResNet50": ("ResNet50_conv4", 16384, "resnet50_16384.pth"),
    "DINOv2": ("DINOv2_B", 12288, "dinov2_12288.pth"),
}
MEGALOC_URL = "https://huggingface.co/gberton/MegaLoc/resolve/main"
SALAD_DIM = 8448  # also CliqueMining's and MegaLoc's
_INPUT_RULES = {  # family, or family and backbone -> how its authors resize test images
    "convap": "320x320-pillow",
    "mixvpr": "320x320-pillow",
    "boq:ResNet50": "384x384-bicubic",
    "boq:DINOv2": "322x322-bicubic",
    "salad": "322x322-pillow",
    "cliquemining": "322x322-pillow",
    "megaloc": "multiple14",
}


class PublishedModel(NamedTuple):
    """A published network."""

    family: str  # one of FAMILIES
    train_set: str
    backbone: str
    dim: int  # length of the descriptors
    full_dim: int  # the same without cutting
    url: str  # of the file, or of the page that it is downloaded from by hand
    file: str  # below torch.hub's folder of checkpoints
    digits: str | None = None  # the first ones of its SHA-256, where they are known
    by_hand: str | None = None  # what to download from the page, if a program cannot


def _cosplace(*names: str) -> PublishedModel | None:
    return _of_sf_xl("cosplace", TRAINED_DIMS, RELEASE_URL, names)


def _eigenplaces(*names: str) -> PublishedModel | None:
    return _of_sf_xl("eigenplaces", EIGENPLACES_DIMS, EIGENPLACES_URL, names)


def _of_sf_xl(
    family: str, dims: Mapping[str, Sequence[int]], url: str, names: Sequence[str]
) -> PublishedModel | None:
    backbone, dim = names[0] if names else "", _parse_dim(names[1:], 0)
    if not dim or dim not in dims.get(backbone, ()):
        return None
    file = f"{backbone}_{dim}_{family}.pth"
    return PublishedModel(family, "SF-XL", backbone, dim, dim, f"{url}/{file}", file)


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
    url, file = f"{DRIVE_URL}/{VGB_FILES[names]}", f"vgb_{'_'.join(names)}.pth"
    return PublishedModel("vgb", names[1], backbone, dim, dim, url, file, None, "the file")


def _convap(*names: str) -> PublishedModel | None:
    dim = _parse_dim(names[1:], 0)
    if names[:1] != ("ResNet50",) or dim not in CONVAP_CHANNELS:
        return None
    file = f"resnet50_ConvAP_{CONVAP_CHANNELS[dim]}_2x2.ckpt"
    where = (CONVAP_URL, file, None, file)
    return PublishedModel("convap", "GSV-Cities", "ResNet50", dim, dim, *where)


def _mixvpr(*names: str) -> PublishedModel | None:
    dim = _parse_dim(names[1:], 0)
    if names[:1] != ("ResNet50",) or dim not in MIXVPR_FILES:
        return None
    file, drive_id = MIXVPR_FILES[dim]
    where = (f"{DRIVE_URL}/{drive_id}", file, None, file)
    return PublishedModel("mixvpr", "GSV-Cities", "ResNet50_conv4", dim, dim, *where)


def _boq(*names: str) -> PublishedModel | None:
    if len(names) != 1 or names[0] not in BOQ_FILES:
        return None
    backbone, dim, file = BOQ_FILES[names[0]]
    return PublishedModel("boq", "GSV-Cities", backbone, dim, dim, f"{BOQ_URL}/{file}", file)


def _salad(*names: str) -> PublishedModel | None:
    file = "dino_salad.ckpt"
    where = (f"{SALAD_URL}/{file}", file)
    return _of_dinov2("salad", "GSV-Cities", names, *where)


def _cliquemining(*names: str) -> PublishedModel | None:
    where = (f"{DRIVE_URL}/{CLIQUEMINING_ID}", "cliquemining.ckpt", None, "the file")
    return _of_dinov2("cliquemining", "GSV-Cities and MSLS", names, *where)


def _megaloc(*names: str) -> PublishedModel | None:
    where = (f"{MEGALOC_URL}/model.safetensors", "megaloc.safetensors")
    sets = "SF-XL, GSV-Cities, MSLS, MegaScenes and ScanNet"
    return _of_dinov2("megaloc", sets, names, *where)


def _of_dinov2(
    family: str, train_set: str, names: Sequence[str], *where: str | None
) -> PublishedModel | None:
    """Return a network of 8448 dimensions, whose name may end with its only backbone or not."""
    if names not in ((), ("DINOv2",)):
        return None
    return PublishedModel(family, train_set, "DINOv2_B", SALAD_DIM, SALAD_DIM, *where)


FAMILIES: dict[str, Callable[..., PublishedModel | None]] = {
    "cosplace": _cosplace,
    "eigenplaces": _eigenplaces,
    "landmark": _landmark,
    "netvlad": _netvlad,
    "openibl": _openibl,
    "sfrs": functools.partial(_openibl, "sfrs"),  # the same as openibl:sfrs
    "vgb": _vgb,
    "convap": _convap,
    "mixvpr": _mixvpr,
    "boq": _boq,
    "salad": _salad,
    "cliquemining": _cliquemining,
    "megaloc": _megaloc,
}


def _parse_dim(names: Sequence[str], full_dim: int) -> int | None:
    """Return the length that the end of a name asks for; None if it is out of range.

    A `full_dim` of 0: the length has to be there, and may be any.
    """
    if not names:
        return full_dim or None
    dim = int(names[0]) if len(names) == 1 and names[0].isdecimal() else 0
    return dim if 1 <= dim <= (full_dim or dim) else None


def rule_of(family: str, backbone: str) -> str | None:
    """Return how the authors of a network resize test images; None: as the test set prescribes.

    Args:
        family: One of FAMILIES.
        backbone: Key of BACKBONES; families may have a rule for DINOv2 and one for ResNet50.
    """
    kind = "DINOv2" if backbone.startswith("DINOv2") else "ResNet50"
    return _INPUT_RULES.get(family, _INPUT_RULES.get(f"{family}:{kind}"))


def parse_published(text: str) -> PublishedModel:
    """Parse the name of a published network, see the top of this file.

    Raises:
        ValueError: If there is no such network.
    """
    family, *names = text.split(":")
    model = FAMILIES[family](*names) if family in FAMILIES else None
    if model is None:
        raise ValueError(
            f"'{text}' names no published network: there are {_list_names(family)}; "
            "--model list shows all"
        )
    return model


def _list_names(family: str) -> str:
    """Return all names of a family, or of all if there is no such family."""
    released, eigenplaces = (
        "; ".join(f"{name} {', '.join(map(str, d))}" for name, d in dims.items())
        for dims in (TRAINED_DIMS, EIGENPLACES_DIMS)
    )
    names = {
        "cosplace": f"cosplace:BACKBONE:DIM with {released}",
        "eigenplaces": f"eigenplaces:BACKBONE:DIM with {eigenplaces}",
        "landmark": ", ".join(":".join(("landmark", *key)) for key in LANDMARK_FILES)
        + f", each also with :DIM below {LANDMARK_DIM}",
        "netvlad": ", ".join(f"netvlad:{train_set}" for train_set in NETVLAD_FILES)
        + f", each also with :DIM below {VLAD_DIM}",
        "openibl": f"openibl:sfrs, openibl:sare_ind, each also with :DIM below {VLAD_DIM}",
        "vgb": f"vgb:NAME:TRAIN_SET with {', '.join(VGB_MODELS)} and pitts30k or msls",
        "convap": f"convap:ResNet50:DIM with {', '.join(map(str, CONVAP_CHANNELS))}",
        "mixvpr": f"mixvpr:ResNet50:DIM with {', '.join(map(str, MIXVPR_FILES))}",
        "boq": "boq:ResNet50, boq:DINOv2",
        "salad": "salad:DINOv2",
        "cliquemining": "cliquemining:DINOv2",
        "megaloc": "megaloc",
    }
    family = "openibl" if family == "sfrs" else family
    return names.get(family) or "; ".join(names.values())


def find_start(text: str) -> str | Path:
    """Return the file of a published network if a text names one, else the text: a path."""
    is_name = text.split(":")[0] in FAMILIES and not os.path.exists(text)
    return fetch_published(parse_published(text)) if is_name else text


def check_published(
    model: PublishedModel, name: str, file: str | os.PathLike, network: nn.Module
) -> None:
    """Raise a ValueError if a file holds another network than the published one.

    Args:
        model: The published one.
        name: Its name.
        file: For the error.
        network: What the file holds.
    """
    found = network.architecture["backbone"], network.resize
    wanted = model.backbone, rule_of(model.family, model.backbone)
    if network.out_dim != model.dim:
        what = f"its descriptors have {network.out_dim} numbers, not {model.dim}"
    elif found != wanted:
        what = "it has the backbone {} and the resize rule {}, not {} and {}".format(
            *found, *wanted
        )
    else:
        return
    raise ValueError(
        f"{file} is not the network that {name} names: {what}; needed is "
        f"{model.by_hand or 'the file'} from {model.url}"
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
                "to --resume_model"
            )
        return path
    if model.by_hand is not None:
        raise FileNotFoundError(
            f"There is no {path}: download {model.by_hand} from {url} in a browser, as Google "
            "Drive serves no programs, and put it there, or pass it to --resume_model"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits)
    except OSError as error:
        raise FileNotFoundError(
            f"Cannot download {url} ({error}): put it at {path}, or pass it to --resume_model"
        ) from None
    except RuntimeError as error:  # other digits; nothing is kept
        raise ValueError(
            f"What {url} sends is not the published file ({error}): try again, or put it at {path}"
        ) from None
    return path
