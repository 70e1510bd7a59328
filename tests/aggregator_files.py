"""Files as MixVPR, Conv-AP, SALAD, CliqueMining, BoQ and MegaLoc publish them.

Names and shapes are those of their networks; `SHAPES` has the digests of the lists that the public
code gave. Values are random, or golden. What such a file computes is here, too, without our layers.
"""

import torch
import torch.nn.functional as F
from state_dict_keys import BACKBONE_SHAPES, Shapes, conv
from torch import nn
from torchvision.models import resnet50

_TORCHVISION = {"0": "conv1", "1": "bn1"} | {str(i + 3): f"layer{i}" for i in range(1, 5)}


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def resnet_shapes(backbone: str) -> Shapes:
    """Of torchvision's ResNet, under its own names."""
    parts = {name: name.partition(".") for name in BACKBONE_SHAPES[backbone]}
    return {
        f"backbone.model.{_TORCHVISION[first]}.{rest}": BACKBONE_SHAPES[backbone][name]
        for name, (first, _, rest) in parts.items()
    }


def dinov2_shapes(width: int = 768, depth: int = 12, side: int = 37) -> Shapes:
    """Of the official ViT with patches of 14 x 14 pixels."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, side**2 + 1, width)}
    shapes |= {"mask_token": (1, width)} | conv("patch_embed.proj", width, 3, 14, bias=True)
    for i in range(depth):
        block = norm("norm1", width) | linear("attn.qkv", 3 * width, width)
        block |= linear("attn.proj", width, width) | {"ls1.gamma": (width,)} | norm("norm2", width)
        block |= linear("mlp.fc1", 4 * width, width) | linear("mlp.fc2", width, 4 * width)
        shapes |= prefixed(f"blocks.{i}.", block | {"ls2.gamma": (width,)})
    return shapes | norm("norm", width)


def mixvpr_shapes(out_channels: int, rows: int, places: int = 400, depth: int = 4) -> Shapes:
    shapes = linear("channel_proj", out_channels, 1024) | linear("row_proj", rows, places)
    for i in range(depth):
        shapes |= norm(f"mix.{i}.mix.0", places)
        shapes |= linear(f"mix.{i}.mix.1", places, places)
        shapes |= linear(f"mix.{i}.mix.3", places, places)
    return resnet_shapes("ResNet50_conv4") | prefixed("aggregator.", shapes)


def convap_shapes(out_channels: int) -> Shapes:
    pool = conv("aggregator.channel_pool", out_channels, 2048, 1, bias=True)
    return resnet_shapes("ResNet50") | pool


def salad_head_shapes(
    width: int, clusters: int = 64, dim: int = 128, token: int = 256, hidden: int = 512
) -> Shapes:
    shapes = {"dust_bin": ()} | linear("token_features.0", hidden, width)
    shapes |= linear("token_features.2", token, hidden)
    for name, outputs in (("cluster_features", dim), ("score", clusters)):
        shapes |= conv(f"{name}.0", hidden, width, 1, bias=True)
        shapes |= conv(f"{name}.3", outputs, hidden, 1, bias=True)
    return shapes


def salad_shapes(width: int = 768, depth: int = 12, side: int = 37, **sizes: int) -> Shapes:
    head = prefixed("aggregator.", salad_head_shapes(width, **sizes))
    return prefixed("backbone.model.", dinov2_shapes(width, depth, side)) | head


def megaloc_shapes() -> Shapes:
    shapes = prefixed("backbone.", dinov2_shapes())
    del shapes["backbone.mask_token"]
    shapes |= prefixed("aggregator.agg.", salad_head_shapes(768, dim=256))
    return shapes | linear("aggregator.linear", 8448, 64 * 256 + 256)


def boq_head_shapes(channels: int, width: int, queries: int = 64, rows: int = 32) -> Shapes:
    def attention(name: str) -> Shapes:
        shapes = {
            f"{name}.in_proj_weight": (3 * width, width),
            f"{name}.in_proj_bias": (3 * width,),
        }
        return shapes | linear(f"{name}.out_proj", width, width)

    shapes = conv("proj_c", width, channels, 3, bias=True) | norm("norm_input", width)
    for i in range(2):
        block = {"queries": (1, queries, width)} | attention("encoder.self_attn")
        block |= linear("encoder.linear1", 4 * width, width)
        block |= linear("encoder.linear2", width, 4 * width)
        block |= norm("encoder.norm1", width) | norm("encoder.norm2", width)
        block |= attention("self_attn") | norm("norm_q", width)
        block |= attention("cross_attn") | norm("norm_out", width)
        shapes |= prefixed(f"boqs.{i}.", block)
    return shapes | linear("fc", rows, 2 * queries)


def boq_resnet_shapes() -> Shapes:
    body = prefixed("backbone.net.", BACKBONE_SHAPES["ResNet50_conv4"])
    return body | prefixed("aggregator.", boq_head_shapes(1024, 512))


def boq_dinov2_shapes(
    width: int = 768, depth: int = 12, side: int = 37, head_width: int = 384, **sizes: int
) -> Shapes:
    body = prefixed("backbone.dino.", dinov2_shapes(width, depth, side))
    return body | prefixed("aggregator.", boq_head_shapes(width, head_width, **sizes))


SHAPES = {  # digest of names and shapes by the public code -> the same by hand, and the name
    "9a7d991d92a348e2": (mixvpr_shapes(1024, 4), "mixvpr:ResNet50:4096"),
    "ee2024cb30e7626c": (mixvpr_shapes(256, 2), "mixvpr:ResNet50:512"),
    "baba366cbd857af7": (mixvpr_shapes(64, 2), "mixvpr:ResNet50:128"),
    "5c18469f16e45e6c": (convap_shapes(1024), "convap:ResNet50:4096"),
    "251cbf02be18050e": (salad_shapes(), "salad:DINOv2"),
    "d8e421d9968e1bf8": (boq_resnet_shapes(), "boq:ResNet50"),
    "0cfb3eaf94e693ed": (boq_dinov2_shapes(), "boq:DINOv2"),
    "a93b7c79dac4b504": (megaloc_shapes(), "megaloc"),
}


def part_of(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }


def resnet_maps(state: dict[str, torch.Tensor], images: torch.Tensor, cut: int) -> torch.Tensor:
    """Compute maps by torchvision's own network, whose last children are cut."""
    network = resnet50(weights=None)
    network.load_state_dict(part_of(state, "backbone.model."), strict=False)
    return nn.Sequential(*list(network.children())[:-cut]).eval()(images)


def unit(x: torch.Tensor, dim: int = 1) -> torch.Tensor:
    return x / x.square().sum(dim, keepdim=True).sqrt()


def mixvpr_by_hand(maps: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    x = maps.flatten(2)
    for i in range(4):
        layer = part_of(state, f"aggregator.mix.{i}.mix.")
        y = (x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        y = y * layer["0.weight"] + layer["0.bias"]
        y = (y @ layer["1.weight"].T + layer["1.bias"]).relu()
        x = x + y @ layer["3.weight"].T + layer["3.bias"]
    head = part_of(state, "aggregator.")
    x = x.transpose(1, 2) @ head["channel_proj.weight"].T + head["channel_proj.bias"]
    x = x.transpose(1, 2) @ head["row_proj.weight"].T + head["row_proj.bias"]
    return unit(x.flatten(1))


def convap_by_hand(maps: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    head = part_of(state, "aggregator.channel_pool.")
    maps = F.conv2d(maps, head["weight"], head["bias"])
    half = maps.shape[2] // 2  # of even sides
    rows = (maps[:, :, :half], maps[:, :, half:])
    cells = [cell.mean((2, 3)) for row in rows for cell in (row[..., :half], row[..., half:])]
    return unit(torch.stack(cells, 2).flatten(1))


def salad_by_hand(
    maps: torch.Tensor, token: torch.Tensor, head: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Compute SALAD by plain Sinkhorn iterations, not in logarithms. float64 [B, D]."""

    def mlp(name: str, last: int, x: torch.Tensor) -> torch.Tensor:
        weights = [head[f"{name}.{i}.weight"].double().flatten(1) for i in (0, last)]
        x = (x @ weights[0].T + head[f"{name}.0.bias"]).relu()
        return x @ weights[1].T + head[f"{name}.{last}.bias"]

    descriptors = []
    for image, own in zip(maps.double().flatten(2).transpose(1, 2), token.double(), strict=True):
        features, scores = mlp("cluster_features", 3, image), mlp("score", 3, image)
        places, clusters = scores.shape
        plan = torch.cat((scores, head["dust_bin"].double().expand(places, 1)), 1).exp()
        masses = torch.ones(clusters + 1, dtype=torch.float64)
        masses[-1] = places - clusters
        for _ in range(3):
            plan = plan * (masses / plan.sum(0))
            plan = plan / plan.sum(1, keepdim=True)
        gathered = unit(features.T @ plan[:, :clusters], 0)  # [dim, clusters]
        own = unit(mlp("token_features", 2, own), 0)
        descriptors.append(unit(torch.cat((own, gathered.flatten())), 0))
    return torch.stack(descriptors)


def boq_by_hand(maps: torch.Tensor, head: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute BoQ by torch's own transformer layers."""
    width = len(head["norm_input.weight"])

    def normalise(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (width,), head[f"{name}.weight"], head[f"{name}.bias"])

    def load(layer: nn.Module, prefix: str) -> nn.Module:
        layer = layer.to(maps.dtype)
        layer.load_state_dict(part_of(head, prefix))
        return layer.eval()

    tokens = F.conv2d(maps, head["proj_c.weight"], head["proj_c.bias"], padding=1)
    tokens = normalise(tokens.flatten(2).transpose(1, 2), "norm_input")
    gathered = []
    for i in range(2):
        block = f"boqs.{i}."
        heads = (width, width // 64)
        encoder = nn.TransformerEncoderLayer(*heads, 4 * width, dropout=0.0, batch_first=True)
        tokens = load(encoder, f"{block}encoder.")(tokens)
        own, cross = (
            load(nn.MultiheadAttention(*heads, batch_first=True), f"{block}{name}.")
            for name in ("self_attn", "cross_attn")
        )
        queries = head[f"{block}queries"].expand(len(maps), -1, -1)
        queries = normalise(queries + own(queries, queries, queries)[0], f"{block}norm_q")
        gathered.append(normalise(cross(queries, tokens, tokens)[0], f"{block}norm_out"))
    rows = torch.cat(gathered, 1).transpose(1, 2) @ head["fc.weight"].T + head["fc.bias"]
    return unit(rows.flatten(1))
