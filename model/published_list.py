"""The table of published networks that `eval.py --model list` shows."""

from collections.abc import Callable

from model.backbones import find_spec
from model.published import (
    BOQ_FILES,
    CONVAP_CHANNELS,
    EIGENPLACES_DIMS,
    LANDMARK_FILES,
    MIXVPR_FILES,
    NETVLAD_FILES,
    TRAINED_DIMS,
    VGB_MODELS,
    PublishedModel,
    parse_published,
    rule_of,
)

_NOT_VERIFIED = "not verified"
_SOURCES = {  # family -> licence, and where network and paper come from
    "cosplace": (_NOT_VERIFIED, "github.com/gmberton/CosPlace"),
    "eigenplaces": ("MIT", "github.com/gmberton/EigenPlaces"),
    "landmark": ("MIT", "github.com/filipradenovic/cnnimageretrieval-pytorch"),
    "netvlad": (
        "MIT",
        "github.com/Relja/netvlad, as hloc has it",
    ),
    "openibl": ("MIT", "github.com/yxgeee/OpenIBL"),
    "vgb": (_NOT_VERIFIED, "github.com/gmberton/deep-visual-geo-localization-benchmark"),
    "convap": (_NOT_VERIFIED, "github.com/amaralibey/gsv-cities"),
    "mixvpr": (_NOT_VERIFIED, "github.com/amaralibey/MixVPR"),
    "boq": ("MIT", "github.com/amaralibey/Bag-of-Queries"),
    "salad": (f"GPL-3.0, {_NOT_VERIFIED}", "github.com/serizba/salad"),
    "cliquemining": (_NOT_VERIFIED, "github.com/serizba/cliquemining"),
    "megaloc": (f"MIT, {_NOT_VERIFIED}", "github.com/gmberton/MegaLoc"),
}
_BACKBONES = {  # parameters
    "VGG16": 14_714_688,
    "ResNet18": 11_176_512,
    "ResNet50": 23_508_032,
    "ResNet101": 42_500_160,
    "ResNet152": 58_143_808,
    "ResNet18_conv4": 2_782_784,
    "ResNet50_conv4": 8_543_296,
    "ResNet101_conv4": 27_535_424,
    "DINOv2_B": 86_580_480,  # with the mask token, which MegaLoc's file lacks
}
_BYTES = 4  # a parameter
_HEADER = ("--model", "dimensions", "MB", "test images", "licence", "file", "from")
_NOTES = """
MB: 4 bytes a parameter, not the size of the file: a training's checkpoint may hold more.
Licence: of the code, as its repository's LICENSE says; "not verified" where no such file was read.
File: downloaded when first used, or by hand from Google Drive: the error says from where to where.
DIM is one of the dimensions; a range: the first ones of a whitening. --model NAME@RULE or
--resize_test_imgs resizes test images otherwise."""


def _linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def _gem(model: PublishedModel) -> int:
    return 1 + _linear(find_spec(model.backbone).out_channels, model.full_dim)


def _netvlad(model: PublishedModel) -> int:
    vlad = 64 * find_spec(model.backbone).out_channels
    return 2 * vlad + _linear(vlad, model.full_dim)


def _vgb(model: PublishedModel) -> int:
    channels = find_spec(model.backbone).out_channels
    if "netvlad" in model.file or "crn" in model.file:
        sides = ((3, 32), (5, 32), (7, 20)) if "crn" in model.file else ()
        filters = sum(_linear(channels * side**2, out) for side, out in sides)
        return 2 * model.full_dim + filters + (_linear(84, 1) if sides else 0)
    return 1 + (_linear(channels, model.full_dim) if "-fc" in model.file else 0)


def _mixvpr(model: PublishedModel) -> int:
    rows, locations = 4 if model.full_dim == 4096 else 2, 20 * 20
    block = 2 * locations + 2 * _linear(locations, locations)
    return 4 * block + _linear(1024, model.full_dim // rows) + _linear(locations, rows)


def _convap(model: PublishedModel) -> int:
    return _linear(2048, CONVAP_CHANNELS[model.full_dim])


def _boq(model: PublishedModel) -> int:
    width = model.full_dim // 32
    attention, norm = 4 * _linear(width, width), 2 * width
    block = 3 * attention + 4 * norm + _linear(width, 4 * width) + _linear(4 * width, width)
    block += 64 * width  # the queries
    first = _linear(9 * find_spec(model.backbone).out_channels, width)
    return first + norm + 2 * block + _linear(2 * 64, 32)


def _salad(model: PublishedModel, cluster_dim: int = 128) -> int:
    layers = sum(_linear(768, 512) + _linear(512, out) for out in (256, cluster_dim, 64))
    return layers + 1


def _megaloc(model: PublishedModel) -> int:
    return _salad(model, 256) + _linear(64 * 256 + 256, model.full_dim) - 768


_HEADS: dict[str, Callable[[PublishedModel], int]] = {  # parameters beside the backbone's
    "cosplace": _gem,
    "eigenplaces": _gem,
    "landmark": _gem,
    "netvlad": _netvlad,
    "openibl": _netvlad,
    "vgb": _vgb,
    "convap": _convap,
    "mixvpr": _mixvpr,
    "boq": _boq,
    "salad": _salad,
    "cliquemining": _salad,
    "megaloc": _megaloc,
}
NAMES = {  # as the table shows them -> names of one network each
    **{
        f"{family}:{backbone}:DIM": [f"{family}:{backbone}:{dim}" for dim in dims]
        for family, table in (("cosplace", TRAINED_DIMS), ("eigenplaces", EIGENPLACES_DIMS))
        for backbone, dims in table.items()
    },
    **{f"landmark:{':'.join(one)}[:DIM]": [f"landmark:{':'.join(one)}"] for one in LANDMARK_FILES},
    **{f"netvlad:{name}[:DIM]": [f"netvlad:{name}"] for name in NETVLAD_FILES},
    **{f"openibl:{name}[:DIM]": [f"openibl:{name}"] for name in ("sfrs", "sare_ind")},
    **{f"vgb:{name}:{{pitts30k,msls}}": [f"vgb:{name}:msls"] for name in VGB_MODELS},
    "convap:ResNet50:DIM": [f"convap:ResNet50:{dim}" for dim in CONVAP_CHANNELS],
    "mixvpr:ResNet50:DIM": [f"mixvpr:ResNet50:{dim}" for dim in sorted(MIXVPR_FILES)],
    **{f"boq:{name}": [f"boq:{name}"] for name in BOQ_FILES},
    **{name: [name] for name in ("salad:DINOv2", "cliquemining:DINOv2", "megaloc")},
}


def count_parameters(model: PublishedModel) -> int:
    """Return the number of parameters of a published network, its whitening's included."""
    return _BACKBONES[model.backbone] + _HEADS[model.family](model)


def format_list() -> str:
    """Return the table of published networks, and what its columns mean."""
    rows = [_HEADER, *(_format_row(name, names) for name, names in NAMES.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join([*lines, *_NOTES.splitlines()])


def _format_row(name: str, names: list[str]) -> tuple[str, ...]:
    models = [parse_published(one) for one in names]
    last, family = models[-1], models[-1].family
    megabytes = [f"{_BYTES * count_parameters(model) / 1e6:.0f}" for model in models]
    dims = ", ".join(str(model.dim) for model in models)
    licence, source = _SOURCES[family]
    return (
        name,
        f"1 to {dims}" if name.endswith("[:DIM]") else dims,
        " to ".join(dict.fromkeys((megabytes[0], megabytes[-1]))),
        rule_of(family, last.backbone) or "as the test set",
        licence,
        "downloaded" if last.by_hand is None else "by hand",
        source,
    )
