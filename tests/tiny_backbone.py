"""A backbone of 1,400 weights for tests that train or extract but do not test a backbone.

Importing this adds "Tiny" to the tables of backbones. Processes of their own import it, too:

    python tests/tiny_backbone.py train.py --backbone Tiny ...
"""

import runpy
import sys
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import parser
from model.backbones import BACKBONES
from model.recipe import Recipe

CHANNELS = 16


def _make_tiny() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, CHANNELS, 3, stride=2, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()),
    )


if "Tiny" not in BACKBONES:  # second, as checkpoints are compared with one after the other
    table = list(BACKBONES.items())
    table.insert(1, ("Tiny", Recipe(_make_tiny, CHANNELS, dict, frozen=lambda layers: layers[:3])))
    BACKBONES.clear()
    BACKBONES.update(table)
    parser.BACKBONES.insert(1, "Tiny")

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(__file__).parents[1])
    runpy.run_path(sys.argv[0], run_name="__main__")
