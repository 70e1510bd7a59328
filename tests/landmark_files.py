"""Files as cnnimageretrieval-pytorch publishes them, and what a network in one computes."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from state_dict_keys import BACKBONE_SHAPES, Shapes, random_state


def landmark_shapes(backbone: str) -> Shapes:
    """Return names and shapes in such a file."""
    features = {f"features.{name}": shape for name, shape in BACKBONE_SHAPES[backbone].items()}
    return features | {"pool.p": (1,), "whiten.weight": (2048, 2048), "whiten.bias": (2048,)}


def landmark_meta(backbone: str) -> dict[str, Any]:
    """Return `meta` as the toolbox makes it."""
    return {
        "architecture": backbone.lower(),
        "local_whitening": False,
        "pooling": "gem",
        "regional": False,
        "whitening": True,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "outputdim": 2048,
    }


def landmark_content(backbone: str = "ResNet50", p: float = 2.8) -> dict[str, Any]:
    """Return the content of such a file with random values."""
    state = random_state(landmark_shapes(backbone))
    state["pool.p"] = torch.tensor([p])
    return {"meta": landmark_meta(backbone), "state_dict": OrderedDict(state)}


def empty_content(backbone: str) -> dict[str, Any]:
    """Return the same with all zeros that take no memory."""
    state = {
        name: torch.tensor(0) if name.endswith("tracked") else torch.zeros(()).expand(shape)
        for name, shape in landmark_shapes(backbone).items()
    }
    return {"meta": landmark_meta(backbone), "state_dict": OrderedDict(state)}


def write_landmark_file(content: dict[str, Any], path: Path) -> Path:
    """Write it in the format before PyTorch 1.6: the published files are of 2019."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def whitened_by_hand(content: dict[str, Any], images: torch.Tensor) -> torch.Tensor:
    """Compute the whitened vectors [B, 2048] of a ResNet-50, before the last normalisation."""
    state = content["state_dict"]
    features = torch.nn.Sequential(*list(torchvision.models.resnet50(weights=None).children())[:-2])
    features.load_state_dict(
        {key.removeprefix("features."): state[key] for key in state if key.startswith("features.")}
    )
    maps = features.eval()(images)
    p = state["pool.p"].item()
    pooled = F.avg_pool2d(maps.clamp(min=1e-6) ** p, maps.shape[2:]).flatten(1) ** (1 / p)
    pooled = pooled / (pooled.square().sum(1, keepdim=True).sqrt() + 1e-6)
    return F.linear(pooled, state["whiten.weight"], state["whiten.bias"])
