"""Trained networks for torch.hub.

torch.hub.load("OWNER/REPO", "get_trained_model", backbone="ResNet50", fc_output_dim=512)
torch.hub.load("OWNER/REPO", "published", name="salad:DINOv2")
torch.hub.load("OWNER/REPO", "cosplace", weights="best_model.pth")
"""

dependencies = ["torch", "torchvision"]

from model.checkpoints import load_network  # noqa: E402
from model.network import GeoLocalizationNet, build_network  # noqa: E402
from model.other_models import load_model  # noqa: E402
from model.published import fetch_published, parse_published  # noqa: E402


def get_trained_model(backbone: str = "ResNet18", fc_output_dim: int = 32) -> GeoLocalizationNet:
    """Return a network that the authors of CosPlace trained on SF-XL and published.

    The file is downloaded once, into the checkpoints folder of torch.hub.

    Args:
        backbone: Key of `model.published.TRAINED_DIMS`.
        fc_output_dim: Length of the descriptors, one of those published for the backbone.

    Raises:
        ValueError: If there is no such network.
        FileNotFoundError: If it cannot be downloaded.
    """
    model = parse_published(f"cosplace:{backbone}:{fc_output_dim}")
    return load_network(fetch_published(model)).eval()


def published(name: str) -> GeoLocalizationNet:
    """Return a published network by its name, as of `eval.py --model list`.

    Its file is downloaded once, into the checkpoints folder of torch.hub. The attribute `resize` is
    the rule by which its authors resize images, see `model.resizing`; None: any size will do.

    Args:
        name: Such as "eigenplaces:ResNet50:2048", "boq:DINOv2" or "megaloc".

    Raises:
        ValueError: If there is no such network, or its file is another one.
        FileNotFoundError: If the file cannot be downloaded, or is to be downloaded by hand.
    """
    parse_published(name)
    network, _ = load_model(None, name)
    return network


def cosplace(
    weights: str | None = None,
    backbone: str = "ResNet18",
    fc_output_dim: int | None = None,
    aggregation: str | None = None,
    backbone_weights: str = "imagenet",
    aggregation_args: dict[str, int | float | str | bool] | None = None,
) -> GeoLocalizationNet:
    """Return the network of a checkpoint, or an untrained one.

    Args:
        weights: Path of a checkpoint, ours or a published one; the rest is read from it.
        backbone: Of the untrained network.
        fc_output_dim: Length of its descriptors, 0 for no linear layer; None for the default of
            the aggregation, or else of the backbone, 512 for CNNs.
        aggregation: Key of `model.aggregation.AGGREGATIONS`; None for the backbone's default,
            "gem" for CNNs.
        backbone_weights: "imagenet", "none" or a path, see `model.backbones.build.build_backbone`.
        aggregation_args: Options of the aggregation; None for their defaults.
    """
    if weights is not None:
        return load_network(weights).eval()
    return build_network(
        backbone, fc_output_dim, aggregation, backbone_weights, aggregation_args=aggregation_args
    ).eval()
