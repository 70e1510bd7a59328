"""Files as OpenIBL, MatConvNet and the visual geo-localization benchmark ("VGB") publish them.

Names and shapes are those of their networks; `SHAPES` has the digests of the lists that the public
code gave. Values are random.
"""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import torch
from state_dict_keys import (
    BACKBONE_SHAPES,
    VGG16_CONVS,
    Shapes,
    conv,
    random_state,
)

MEAN = (123.68, 116.779, 103.939)  # grey levels that OpenIBL and MatConvNet subtract
CONTEXT_FILTERS = {3: 32, 5: 32, 7: 20}  # of CRN: side -> channels


def vgb_shapes(backbone: str, aggregation: Shapes) -> Shapes:
    """Names and shapes of a benchmark's file."""
    shapes = {f"backbone.{name}": shape for name, shape in BACKBONE_SHAPES[backbone].items()}
    return shapes | {f"aggregation.{name}": shape for name, shape in aggregation.items()}


def vlad_shapes(channels: int, clusters: int = 64) -> Shapes:
    return {"centroids": (clusters, channels), "conv.weight": (clusters, channels, 1, 1)}


def crn_shapes(channels: int, clusters: int = 64) -> Shapes:
    shapes = vlad_shapes(channels, clusters) | conv("crn.acc_w", 1, 84, 1, bias=True)
    for side, out in CONTEXT_FILTERS.items():
        shapes |= conv(f"crn.filter_{side}_{side}", out, channels, side, bias=True)
    return shapes


def fc_shapes(pooling: str, channels: int, dim: int) -> Shapes:
    return {pooling: (1,), "1.weight": (dim, channels), "1.bias": (dim,)}


def openibl_shapes(clusters: int = 64, dim: int | None = 4096) -> Shapes:
    """Of a released file; without the whitening, `dim` None, of a checkpoint of a training."""
    shapes = {f"base_model.base.{name}": shape for name, shape in BACKBONE_SHAPES["VGG16"].items()}
    shapes |= {f"net_vlad.{name}": shape for name, shape in vlad_shapes(512, clusters).items()}
    return shapes | (conv("pca_layer", dim, 512 * clusters, 1, bias=True) if dim else {})


def digest(shapes: Shapes) -> str:
    lines = "\n".join(f"{name} {tuple(shapes[name])}" for name in sorted(shapes))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


SHAPES = {  # digest of names and shapes by the public code -> the same by hand, and what it is
    "7e73c6c099e66892": (vgb_shapes("VGG16", {"1.p": (1,)}), "gem"),
    "07b17442e7faf0d1": (vgb_shapes("VGG16", vlad_shapes(512)), "netvlad"),
    "5788ac34471f4ffb": (vgb_shapes("VGG16", crn_shapes(512)), "crn"),
    "57458e9fa005b37c": (vgb_shapes("ResNet50_conv4", vlad_shapes(1024)), "netvlad"),
    "bd88eaeb61d9215f": (vgb_shapes("ResNet18_conv4", vlad_shapes(256)), "netvlad"),
    "650035ff17750cf6": (vgb_shapes("ResNet50", fc_shapes("0.0.p", 2048, 2048)), "gem_plain"),
    "bd577db7ada42cc3": (openibl_shapes(), "netvlad"),
    "0e0d4c5db645140d": (openibl_shapes(dim=None), "netvlad"),
}


def empty_state(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Zeros that take no memory."""
    return {
        name: torch.tensor(0) if name.endswith("tracked") else torch.zeros(()).expand(shape)
        for name, shape in shapes.items()
    }


def random_vlad_state(shapes: Shapes, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random values, with assignments that are neither equal nor all to one cluster."""
    state = random_state(shapes, seed)
    for name in state:
        if name.endswith("centroids"):
            state[name] = 0.05 * torch.randn(shapes[name], generator=torch.manual_seed(seed))
    return state


def write_training(state: dict[str, torch.Tensor], path: Path) -> Path:
    """Write a checkpoint of OpenIBL's training, in the format of its PyTorch, 1.1."""
    content = {
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "epoch": 4,
        "best_recall5": np.float64(0.96),
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def write_whitening(path: Path, clusters: int, dim: int) -> dict[str, np.ndarray]:
    """Write mean, axes and variances as OpenIBL does, and return them."""
    rng, size = np.random.default_rng(0), 512 * clusters
    arrays = {
        "U": np.linalg.qr(rng.normal(size=(size, dim)))[0],
        "lams": np.sort(rng.uniform(1e-4, 1e-2, dim))[::-1],
        "mu": 0.01 * rng.normal(size=(size, 1)),
    }
    arrays |= {"Utmu": arrays["U"].T @ arrays["mu"]}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array.astype(np.float32))
    return arrays


def write_matlab(
    state: dict[str, torch.Tensor], path: Path, mean: tuple[float, ...] = MEAN
) -> Path:
    """Write the network of OpenIBL's names as MatConvNet has it."""

    def cells(values: list[Any]) -> np.ndarray:
        array = np.empty((1, len(values)), object)
        array[0] = values
        return array

    def layer(kind: str, *weights: np.ndarray) -> dict[str, Any]:
        return {"type": kind, "name": kind, "weights": cells(list(weights)) if weights else []}

    layers = []
    for index in VGG16_CONVS:
        kernel, bias = (state[f"base_model.base.{index}.{part}"] for part in ("weight", "bias"))
        layers += [layer("conv", kernel.permute(2, 3, 1, 0).numpy(), bias[None].numpy())]
        layers += [{"type": "relu", "name": "relu"}]
    layers[-1] = layer("normalize")  # conv5_3 has no ReLU
    opposite = -state["net_vlad.centroids"].T
    assignment = state["net_vlad.conv.weight"].flatten(1).T
    layers += [layer("vlad", assignment.numpy(), opposite.numpy()), layer("normalize")]
    if "pca_layer.weight" in state:
        channels, clusters = opposite.shape
        kernel = state["pca_layer.weight"].reshape(-1, clusters, channels)
        kernel = kernel.permute(2, 1, 0).reshape(1, 1, clusters * channels, -1)
        layers += [layer("conv", kernel.numpy(), state["pca_layer.bias"][:, None].numpy())]
        layers += [layer("normalize")]
    image = np.broadcast_to(np.array(mean, np.float32), (4, 4, 3))
    network = {"layers": cells(layers), "meta": {"normalization": {"averageImage": image}}}
    scipy.io.savemat(path, {"net": network})
    return path


def grey_levels(images: torch.Tensor) -> torch.Tensor:
    """Return ImageNet-normalised images as grey levels minus their mean."""
    mean, std = (
        torch.tensor(c)[:, None, None] for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return 255 * (images * std + mean) - torch.tensor(MEAN)[:, None, None]


def vlad_by_hand(
    maps: torch.Tensor, state: dict[str, torch.Tensor], masks: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute NetVLAD by loops over images, locations and clusters, in float64."""
    centroids, weight = state["centroids"].double(), state["conv.weight"].flatten(1).double()
    descriptors = []
    for number, image in enumerate(maps.double().flatten(2)):
        vlad = torch.zeros_like(centroids)
        for place, location in enumerate(image.T):
            location = location / location.square().sum().sqrt()
            assigned = torch.softmax(weight @ location, 0)
            mask = 1.0 if masks is None else masks[number].flatten()[place]
            for k, share in enumerate(assigned):
                vlad[k] += share * mask * (location - centroids[k])
        vlad = vlad / vlad.square().sum(1, keepdim=True).sqrt()
        descriptors.append(vlad.flatten() / vlad.square().sum().sqrt())
    return torch.stack(descriptors)
