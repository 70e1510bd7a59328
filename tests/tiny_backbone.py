"""Backbones of 1,400 weights for tests that train or extract but do not test a backbone.

Importing this adds "Tiny", "TinyPlain" without BatchNorm, and "TinyDINOv2", which has 2 blocks and
a class token, to the table of backbones. Processes of their own import it, too:

    python tests/tiny_backbone.py train.py --backbone Tiny ...
"""

import runpy
import sys
from functools import partial
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from model.backbones import BACKBONES, BackboneSpec
from model.backbones.pretrained import Pretrained

_CHANNELS = 16


def cnn(variant: str) -> Pretrained:
    """Two convolutions, the first one frozen; `variant` says whether with BatchNorm."""
    make, num_frozen = {"normalised": (_make_normalised, 3), "plain": (_make_plain, 2)}[variant]
    return Pretrained(make, imagenet=dict, frozen=lambda backbone: backbone[:num_frozen])


def _make_normalised() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, _CHANNELS, 3, stride=2, bias=False), nn.BatchNorm2d(_CHANNELS), nn.ReLU()),
    )


def _make_plain() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Conv2d(8, _CHANNELS, 3, stride=2), nn.ReLU())
    )


def dinov2(variant: str) -> Pretrained:
    """A DINOv2 of a few blocks, with random weights; `variant` says how many."""
    return Pretrained(partial(make_dinov2, _CHANNELS, int(variant), num_heads=2), imagenet=dict)


def make_dinov2(channels: int, depth: int, num_heads: int) -> nn.Module:
    """Make a DINOv2 whose positional table has 5 x 5 places, as in golden numbers."""
    import timm

    from model.backbones.transformers import DINOv2

    settings = {"embed_dim": channels, "depth": depth, "num_heads": num_heads, "num_classes": 0}
    return DINOv2(timm.models.VisionTransformer(70, 14, init_values=1.0, **settings))


def stand_in(*names: str) -> None:
    """Let the tiny backbone have the names of other ones, in this process."""
    BACKBONES.update(dict.fromkeys(names, BACKBONES["Tiny"]))


sys.modules["model.backbones.tiny"] = sys.modules[__name__]  # where the table looks for families
BACKBONES["Tiny"] = BackboneSpec("tiny:cnn", "normalised", _CHANNELS)
BACKBONES["TinyPlain"] = BackboneSpec("tiny:cnn", "plain", _CHANNELS)
BACKBONES["TinyDINOv2"] = BackboneSpec(
    "tiny:dinov2", "2", _CHANNELS, image_size=56, class_token=True
)

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(__file__).parents[1])
    runpy.run_path(sys.argv[0], run_name="__main__")
