"""Trained networks for torch.hub.

torch.hub.load("OWNER/REPO", "get_trained_model", backbone="ResNet50", fc_output_dim=512)
torch.hub.load("OWNER/REPO", "cosplace", weights="best_model.pth")
"""

dependencies = ["torch", "torchvision"]

import os  # noqa: E402

import torch  # noqa: E402

from model import GeoLocalizationNet, build_network  # noqa: E402
from model.checkpoints import load_network  # noqa: E402

RELEASE_URL = "https://github.com/gmberton/CosPlace/releases/download/v1.0"
TRAINED_DIMS = {  # backbone -> descriptor lengths of the published networks
    "VGG16": (64, 128, 256, 512),
    "ResNet18": (32, 64, 128, 256, 512),
    "ResNet50": (32, 64, 128, 256, 512, 1024, 2048),
    "ResNet101": (32, 64, 128, 256, 512, 1024, 2048),
    "ResNet152": (32, 64, 128, 256, 512, 1024, 2048),
}


def get_trained_model(backbone: str = "ResNet18", fc_output_dim: int = 32) -> GeoLocalizationNet:
    """Return a network that the authors of CosPlace trained on SF-XL and published.

    The file is downloaded once, into the checkpoints folder of torch.hub.

    Args:
        backbone: Key of TRAINED_DIMS.
        fc_output_dim: Length of the descriptors, one of those published for the backbone.

    Raises:
        ValueError: If there is no such network.
        FileNotFoundError: If it cannot be downloaded.
    """
    if int(fc_output_dim) not in TRAINED_DIMS.get(backbone, ()):
        raise ValueError(
            f"No published network has backbone {backbone} and {fc_output_dim}-D descriptors; "
            f"there are: {TRAINED_DIMS}"
        )
    name = f"{backbone}_{int(fc_output_dim)}_cosplace.pth"
    path = os.path.join(torch.hub.get_dir(), "checkpoints", name)
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            torch.hub.download_url_to_file(f"{RELEASE_URL}/{name}", path)
        except OSError as error:
            raise FileNotFoundError(
                f"Cannot download {RELEASE_URL}/{name} ({error}): put it at {path}"
            ) from None
    return load_network(path).eval()


def cosplace(
    weights: str | None = None,
    backbone: str = "ResNet18",
    fc_output_dim: int = 512,
    pooling: str = "gem",
    backbone_weights: str = "imagenet",
) -> GeoLocalizationNet:
    """Return the network of a checkpoint, or an untrained one.

    Args:
        weights: Path of a checkpoint, ours or a published one; the rest is read from it.
        backbone: Of the untrained network.
        fc_output_dim: Length of its descriptors.
        pooling: "gem", "avg" or "max".
        backbone_weights: "imagenet", "none" or a path, see `model.backbones.build_backbone`.
    """
    if weights is not None:
        return load_network(weights).eval()
    return build_network(backbone, fc_output_dim, pooling, backbone_weights).eval()
