"""Where a network's descriptor looks: a number for each location of its feature map.

What the number is depends on the aggregation:

    BoQ                       what the queries attend to, mean over heads and queries, of each layer
    SALAD                     the mass that clusters take, and not the dustbin
    SeqPool                   the weights by which it adds up locations
    class token               what it attends to in the last block of the backbone, mean over heads
    NetVLAD and its relatives a location's residuals, sum over clusters k of a_k g_k |f - c_k|, with
                              assignments a and, if there are any, gates g: CRN's mask, the shares
                              of SRALNet and APPSVR
    GeM, average, maximum     gradient x activation: a location's share of the length of the vector
                              that the last L2 then scales
    any other                 gradient x (activation - mean of the map), as the length of a vector:
                              how far the descriptor moves, to first order, if the location fades

The gradient is that of the length before the last L2, and the activations are what the pooling
gets: behind an L2 the gradient along a vector is 0, so that no unit descriptor has one along
itself, and CosPlace's map, which begins with an L2 of each location, has none either.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.aggregation.boq import BoQ
from model.aggregation.netvlad import NetVLAD
from model.aggregation.pooling import AvgPool, ClassToken, GeM, L2Norm, MaxPool, SeqPool
from model.aggregation.salad import MapSALAD, TokenSALAD
from model.backbones.transformers import ClassTokenViT, PatchTransformer
from model.network import GeoLocalizationNet

_NUM_DIRECTIONS = 32  # of a descriptor; random ones give lengths to 1 in sqrt(2 x 32), 13 %

Features = torch.Tensor | tuple[torch.Tensor, torch.Tensor]  # see `feature_maps` of a network


@dataclass(frozen=True)
class HeatMaps:
    """Where a descriptor looks."""

    kind: str  # of the numbers, in words
    maps: dict[str, np.ndarray]  # by layer, "" where there is one; float32 [h, w]


def heat_maps(network: nn.Module, images: torch.Tensor) -> HeatMaps:
    """Return where the descriptor of an image looks.

    Args:
        network: Of ours, in evaluation mode.
        images: One image as the network takes it, ImageNet-normalised float32 [1, 3, H, W].

    Raises:
        ValueError: If the network is none of ours, or shows no locations.
    """
    if not isinstance(network, GeoLocalizationNet):
        raise ValueError(
            "Where a descriptor looks is seen in networks of ours, published ones too: backbone, "
            "map, aggregation. Code and files of other frameworks do not show their maps"
        )
    layers = network.aggregation
    if isinstance(network.backbone, ClassTokenViT) or isinstance(layers, ClassToken):
        attention = class_token_attention(network.backbone, network.input_scaling(images))
        return _one("attention of the class token", attention)
    with torch.no_grad():
        features = network.feature_maps(images)
    maps = features[0] if isinstance(features, tuple) else features
    pooling, before, after = _split(layers)
    if isinstance(layers, BoQ):
        return HeatMaps("attention of queries", boq_attentions(layers, maps))
    if isinstance(layers, MapSALAD | TokenSALAD):
        with torch.no_grad():
            return _one("mass outside the dustbin", layers.masses(maps).sum(1))
    if isinstance(layers, NetVLAD):
        return _one("residuals by assignment", netvlad_mass(layers, maps))
    if isinstance(pooling, SeqPool):
        with torch.no_grad():
            return _one("attention", seqpool_weights(pooling, before(maps)))
    if maps.shape[2] * maps.shape[3] == 1:
        raise ValueError(
            f"The map of images {images.shape[2]}x{images.shape[3]} has one location: a descriptor "
            "of it looks nowhere in particular; larger images may have more (--resize_test_imgs)"
        )
    if pooling is not None:
        return _one(
            "gradient x activation", gradient_times_activation(pooling, before, after, maps)
        )
    return _one("gradient x (activation - mean)", moves_if_faded(network, features))


def _one(kind: str, heat: torch.Tensor) -> HeatMaps:
    return HeatMaps(kind, {"": heat[0].float().cpu().numpy()})


@torch.no_grad()
def boq_attentions(layers: BoQ, maps: torch.Tensor) -> dict[str, np.ndarray]:
    """Return what the queries of each layer attend to, in the mean, by layer.

    Args:
        layers: The aggregation.
        maps: Of one image, [1, C, h, w].
    """
    means = [attention.mean(1)[0] for attention in layers.attentions(maps)]  # each [h w]
    grids = [mean.unflatten(0, maps.shape[2:]).float().cpu().numpy() for mean in means]
    return {f"layer {number}": grid for number, grid in enumerate(grids, start=1)}


def _split(layers: nn.Module) -> tuple[nn.Module | None, nn.Module, nn.Module]:
    """Return the pooling of an aggregation that is a sequence, and what is before and after it.

    After it, without the L2 at the end. (None, layers, layers) for others.
    """
    parts = list(layers) if isinstance(layers, nn.Sequential) else []
    for place, part in enumerate(parts):
        if isinstance(part, GeM | AvgPool | MaxPool | SeqPool):
            after = parts[place + 1 :]
            after = after[:-1] if isinstance(after[-1], L2Norm) else after
            return part, nn.Sequential(*parts[:place]), nn.Sequential(*after)
    return None, layers, layers


@torch.no_grad()
def netvlad_mass(layers: NetVLAD, maps: torch.Tensor) -> torch.Tensor:
    """Return the lengths of the residuals of locations, by assignment.

    What comes later is left aside: the L2 of each cluster, and weights of clusters.

    Args:
        layers: The aggregation.
        maps: [B, C, h, w].

    Returns:
        Sum over clusters k of a_k g_k |f - c_k|, [B, h, w].
    """
    unit = F.normalize(maps.float())
    assigned = layers.conv(unit).flatten(2).softmax(1)  # [B, K, h w]
    gates = layers.gates(maps.float())
    assigned = assigned if gates is None else assigned * gates
    lengths = torch.cdist(unit.flatten(2).transpose(1, 2), layers.centroids)  # [B, h w, K]
    return (assigned * lengths.transpose(1, 2)).sum(1).unflatten(1, maps.shape[2:])


def seqpool_weights(pooling: SeqPool, maps: torch.Tensor) -> torch.Tensor:
    """Return the weights of locations of maps [B, C, h, w], [B, h, w]; they add up to 1."""
    logits = pooling.attention(maps.flatten(2).transpose(1, 2))  # [B, h w, 1]
    return logits.softmax(1).flatten(1).unflatten(1, maps.shape[2:])


def gradient_times_activation(
    pooling: nn.Module, before: nn.Module, after: nn.Module, maps: torch.Tensor
) -> torch.Tensor:
    """Return the shares that locations have in the length of the vector before the last L2.

    GeM is homogeneous: without a linear layer the shares add up to the length, with one to the
    length less the share of its bias. Negative are locations that make it shorter.

    Args:
        pooling: Maps to [B, C, 1, 1].
        before: What the maps go through first; its outputs are the activations.
        after: From what is pooled to the vector before the last L2.
        maps: [B, C, h, w].

    Returns:
        Sum over channels of gradient x activation, [B, h, w].
    """
    with torch.enable_grad():
        activations = before(maps.detach()).detach().float().requires_grad_()
        lengths = after(pooling(activations)).flatten(1).norm(dim=1)
        (gradient,) = torch.autograd.grad(lengths.sum(), activations)
    return (gradient * activations.detach()).sum(1)


def moves_if_faded(network: GeoLocalizationNet, features: Features) -> torch.Tensor:
    """Return how far the descriptor moves, to first order, if a location fades.

    A location fades towards the mean of the map. What the descriptor's numbers do then are products
    with their gradients; the length of all of these is found from random directions, always the
    same ones, or of short descriptors exactly.

    Args:
        network: Aggregation and whitening are those of the descriptor.
        features: What the aggregation gets, of one image.

    Returns:
        Lengths, [1, h, w].
    """
    maps, *tokens = features if isinstance(features, tuple) else (features,)
    maps = maps.detach().requires_grad_()
    with torch.enable_grad():
        descriptor = network.whitening(network.aggregation((maps, *tokens) if tokens else maps))
    dim = descriptor.shape[1]
    if dim <= _NUM_DIRECTIONS:
        directions = torch.eye(dim)
    else:
        drawn = torch.randn(_NUM_DIRECTIONS, dim, generator=torch.Generator().manual_seed(0))
        directions = drawn / _NUM_DIRECTIONS**0.5
    fading, squares = (maps - maps.mean((2, 3), keepdim=True)).detach(), 0.0
    for direction in directions.to(descriptor):
        (gradient,) = torch.autograd.grad(descriptor, maps, direction[None], retain_graph=True)
        squares = squares + (gradient * fading).sum(1).square()
    return squares.sqrt()


@torch.no_grad()
def class_token_attention(backbone: PatchTransformer, images: torch.Tensor) -> torch.Tensor:
    """Return what the class token attends to in the last block, in the mean of the heads.

    Args:
        backbone: In evaluation mode.
        images: As it takes them, [B, 3, H, W].

    Returns:
        Attention to the patches, [B, h, w]; the rest of 1 is its attention to itself.
    """
    tokens, height, width = backbone.embed(images)
    *first, last = backbone.blocks
    for block in first:
        tokens = block(tokens)
    attention, tokens = last.attn, last.norm1(tokens)
    qkv = attention.qkv(tokens).unflatten(2, (3, attention.num_heads, -1))
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, 1 + h * w, C / heads]
    weights = (query[:, :, :1] @ key.mT * attention.scale).softmax(dim=3)
    return weights[:, :, 0, 1:].mean(1).unflatten(1, (height, width))
