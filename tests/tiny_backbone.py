"""Backbones of 1,400 weights for tests that train or extract but do not test a backbone.

Importing this adds "Tiny", and "TinyPlain" without BatchNorm, to the table of backbones. Processes
of their own import it, too:

    python tests/tiny_backbone.py train.py --backbone Tiny ...
"""

import runpy
import sys
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


def stand_in(*names: str) -> None:
    """Let the tiny backbone have the names of other ones, in this process."""
    BACKBONES.update(dict.fromkeys(names, BACKBONES["Tiny"]))


sys.modules["model.backbones.tiny"] = sys.modules[__name__]  # where the table looks for families
BACKBONES["Tiny"] = BackboneSpec("tiny:cnn", "normalised", _CHANNELS)
BACKBONES["TinyPlain"] = BackboneSpec("tiny:cnn", "plain", _CHANNELS)

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(__file__).parents[1])
    runpy.run_path(sys.argv[0], run_name="__main__")
