"""The network: backbone, pooling, linear layer; and how its weights are read and written."""

from model.network import GeoLocalizationNet, build_network

__all__ = ["GeoLocalizationNet", "build_network"]
