"""State-dict keys and shapes of every backbone, written down from the papers' tables.

Nothing here asks torchvision, timm or the project: these are the keys of the published checkpoints,
and what such a checkpoint computes.
"""

import torch
import torch.nn.functional as F

Shapes = dict[str, tuple[int, ...]]


def conv(name: str, out: int, inputs: int, kernel: int, bias: bool = False) -> Shapes:
    shapes = {f"{name}.weight": (out, inputs, kernel, kernel)}
    return shapes | ({f"{name}.bias": (out,)} if bias else {})


def batch_norm(name: str, channels: int) -> Shapes:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{v}": (channels,) for v in vectors} | {f"{name}.num_batches_tracked": ()}


def resnet(kind: str, blocks: tuple[int, ...]) -> Shapes:
    """Of four layers, or three if there are numbers of blocks for three."""
    shapes = conv("0", 64, 3, 7) | batch_norm("1", 64)
    inputs = 64
    for layer, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=False), start=4):
        for i in range(count):
            block = f"{layer}.{i}"
            if kind == "basic":
                out, convs = width, [(width, inputs, 3), (width, width, 3)]
            else:
                out = 4 * width
                convs = [(width, inputs, 1), (width, width, 3), (out, width, 1)]
            for k, (c_out, c_in, kernel) in enumerate(convs, start=1):
                shapes |= conv(f"{block}.conv{k}", c_out, c_in, kernel)
                shapes |= batch_norm(f"{block}.bn{k}", c_out)
            if i == 0 and inputs != out:
                shapes |= conv(f"{block}.downsample.0", out, inputs, 1)
                shapes |= batch_norm(f"{block}.downsample.1", out)
            inputs = out
    return shapes


VGG16_CONVS = {  # index in torchvision's `features` -> (out, in)
    **{0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128)},
    **{10: (256, 128), 12: (256, 256), 14: (256, 256)},
    **{17: (512, 256), 19: (512, 512), 21: (512, 512)},
    **{24: (512, 512), 26: (512, 512), 28: (512, 512)},
}
VGG16_POOLINGS = (4, 9, 16, 23)


def vgg16() -> Shapes:
    shapes = {}
    for index, (out, inputs) in VGG16_CONVS.items():
        shapes |= conv(str(index), out, inputs, 3, bias=True)
    return shapes


MBCONV_KERNELS = (3, 3, 5, 3, 5, 5, 3)


def efficientnet(stem: int, widths: tuple[int, ...], depths: tuple[int, ...], head: int) -> Shapes:
    shapes = conv("0.0.0", stem, 3, 3) | batch_norm("0.0.1", stem)
    inputs = stem
    stages = zip(widths, depths, MBCONV_KERNELS, strict=True)
    for stage, (out, depth, kernel) in enumerate(stages, start=1):
        for i in range(depth):
            block, layer = f"0.{stage}.{i}.block", 0
            wide = inputs if stage == 1 else 6 * inputs
            if stage > 1:  # expansion
                shapes |= conv(f"{block}.0.0", wide, inputs, 1) | batch_norm(f"{block}.0.1", wide)
                layer = 1
            shapes |= conv(f"{block}.{layer}.0", wide, 1, kernel)
            shapes |= batch_norm(f"{block}.{layer}.1", wide)
            squeeze = inputs // 4
            shapes |= conv(f"{block}.{layer + 1}.fc1", squeeze, wide, 1, bias=True)
            shapes |= conv(f"{block}.{layer + 1}.fc2", wide, squeeze, 1, bias=True)
            shapes |= conv(f"{block}.{layer + 2}.0", out, wide, 1)
            shapes |= batch_norm(f"{block}.{layer + 2}.1", out)
            inputs = out
    return shapes | conv("0.8.0", head, inputs, 1) | batch_norm("0.8.1", head)


def efficientnet_lite0() -> Shapes:
    """B0 without squeeze-and-excitation, under timm's names."""
    shapes = conv("conv_stem", 32, 3, 3) | batch_norm("bn1", 32)
    inputs = 32
    widths, depths = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)
    for stage, (out, depth, kernel) in enumerate(zip(widths, depths, MBCONV_KERNELS, strict=True)):
        for i in range(depth):
            block = f"blocks.{stage}.{i}"
            if stage == 0:
                shapes |= conv(f"{block}.conv_dw", inputs, 1, kernel)
                shapes |= batch_norm(f"{block}.bn1", inputs)
                shapes |= conv(f"{block}.conv_pw", out, inputs, 1) | batch_norm(f"{block}.bn2", out)
            else:
                wide = 6 * inputs
                shapes |= conv(f"{block}.conv_pw", wide, inputs, 1)
                shapes |= conv(f"{block}.conv_dw", wide, 1, kernel)
                shapes |= conv(f"{block}.conv_pwl", out, wide, 1)
                shapes |= batch_norm(f"{block}.bn1", wide) | batch_norm(f"{block}.bn2", wide)
                shapes |= batch_norm(f"{block}.bn3", out)
            inputs = out
    return shapes | conv("conv_head", 1280, 320, 1) | batch_norm("bn2", 1280)


def mobilenet_v2() -> Shapes:
    shapes = conv("0.0.0", 32, 3, 3) | batch_norm("0.0.1", 32)
    shapes |= conv("0.1.conv.0.0", 32, 1, 3) | batch_norm("0.1.conv.0.1", 32)
    shapes |= conv("0.1.conv.1", 16, 32, 1) | batch_norm("0.1.conv.2", 16)
    inputs, index = 16, 2
    for out, count in ((24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)):
        for _ in range(count):
            block, wide = f"0.{index}.conv", 6 * inputs
            shapes |= conv(f"{block}.0.0", wide, inputs, 1) | batch_norm(f"{block}.0.1", wide)
            shapes |= conv(f"{block}.1.0", wide, 1, 3) | batch_norm(f"{block}.1.1", wide)
            shapes |= conv(f"{block}.2", out, wide, 1) | batch_norm(f"{block}.3", out)
            inputs, index = out, index + 1
    return shapes | conv("0.18.0", 1280, 320, 1) | batch_norm("0.18.1", 1280)


BACKBONE_SHAPES: dict[str, Shapes] = {
    "ResNet18": resnet("basic", (2, 2, 2, 2)),
    "ResNet50": resnet("bottleneck", (3, 4, 6, 3)),
    "ResNet101": resnet("bottleneck", (3, 4, 23, 3)),
    "ResNet152": resnet("bottleneck", (3, 8, 36, 3)),
    "ResNet18_conv4": resnet("basic", (2, 2, 2)),
    "ResNet50_conv4": resnet("bottleneck", (3, 4, 6)),
    "ResNet101_conv4": resnet("bottleneck", (3, 4, 23)),
    "VGG16": vgg16(),
    "EfficientNet_B0": efficientnet(
        32, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 1280
    ),
    "EfficientNet_B1": efficientnet(
        32, (16, 24, 40, 80, 112, 192, 320), (2, 3, 3, 4, 4, 5, 2), 1280
    ),
    "EfficientNet_B2": efficientnet(
        32, (16, 24, 48, 88, 120, 208, 352), (2, 3, 3, 4, 4, 5, 2), 1408
    ),
    "EfficientNet_B3": efficientnet(
        40, (24, 32, 48, 96, 136, 232, 384), (2, 3, 3, 5, 5, 6, 2), 1536
    ),
    "EfficientNet_B4": efficientnet(
        48, (24, 32, 56, 112, 160, 272, 448), (2, 4, 4, 6, 6, 8, 2), 1792
    ),
    "EfficientNet_B5": efficientnet(
        48, (24, 40, 64, 128, 176, 304, 512), (3, 5, 5, 7, 7, 9, 3), 2048
    ),
    "EfficientNet_B6": efficientnet(
        56, (32, 40, 72, 144, 200, 344, 576), (3, 6, 6, 8, 8, 11, 3), 2304
    ),
    "EfficientNet_B7": efficientnet(
        64, (32, 48, 80, 160, 224, 384, 640), (4, 7, 7, 10, 10, 13, 4), 2560
    ),
    "EfficientNet_Lite0": efficientnet_lite0(),
    "MobileNetV2": mobilenet_v2(),
}

OUT_CHANNELS = {
    **{"ResNet18": 512, "ResNet50": 2048, "ResNet101": 2048, "ResNet152": 2048, "VGG16": 512},
    **{"ResNet18_conv4": 256, "ResNet50_conv4": 1024, "ResNet101_conv4": 1024},
    **{"EfficientNet_B0": 1280, "EfficientNet_B1": 1280, "EfficientNet_B2": 1408},
    **{"EfficientNet_B3": 1536, "EfficientNet_B4": 1792, "EfficientNet_B5": 2048},
    **{"EfficientNet_B6": 2304, "EfficientNet_B7": 2560},
    **{"EfficientNet_Lite0": 1280, "MobileNetV2": 1280},
}


def network_shapes(backbone: str, dim: int) -> Shapes:
    """Keys and shapes of a published checkpoint: backbone, GeM, linear layer."""
    shapes = {f"backbone.{name}": shape for name, shape in BACKBONE_SHAPES[backbone].items()}
    return shapes | {
        "aggregation.1.p": (1,),
        "aggregation.3.weight": (dim, OUT_CHANNELS[backbone]),
        "aggregation.3.bias": (dim,),
    }


def random_state(shapes: Shapes, seed: int = 0, p: float = 3.7) -> dict[str, torch.Tensor]:
    """Return a state dict of these shapes with values as a trained network might have."""
    generator = torch.Generator().manual_seed(seed)

    def make(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if name == "aggregation.1.p":
            return torch.tensor([p])
        if len(shape) > 1:  # keeps the variance of what passes a ReLU
            fan_in = torch.Size(shape[1:]).numel()
            return torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        values = torch.rand(shape, generator=generator)
        return values * 0.2 - 0.1 if name.endswith(("bias", "mean")) else values + 0.5

    return {name: make(name, shape) for name, shape in shapes.items()}


def descriptors_by_hand(
    state: dict[str, torch.Tensor], images: torch.Tensor, backbone: str
) -> torch.Tensor:
    """Compute the descriptors of a CosPlace network in evaluation mode, without any module."""
    maps = maps_by_hand(state, images, backbone)
    maps = maps / maps.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
    p = state["aggregation.1.p"]
    pooled = maps.clamp(min=1e-6).pow(p).flatten(2).mean(2).pow(1 / p)
    descriptors = pooled @ state["aggregation.3.weight"].T + state["aggregation.3.bias"]
    return descriptors / descriptors.square().sum(1, keepdim=True).sqrt()


def maps_by_hand(
    state: dict[str, torch.Tensor], images: torch.Tensor, backbone: str, prefix: str = "backbone."
) -> torch.Tensor:
    """Compute the feature maps of a backbone in evaluation mode, without any module."""
    body = {key.removeprefix(prefix): value for key, value in state.items()}
    by_hand = {"ResNet18": _resnet18_by_hand, "ResNet18_conv4": _resnet18_by_hand}
    return (by_hand | {"VGG16": _vgg16_by_hand})[backbone](body, images)


def _resnet18_by_hand(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def bn(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{v}"][:, None, None]
            for v in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = F.max_pool2d(F.relu(bn(F.conv2d(x, state["0.weight"], None, 2, 3), "1")), 3, 2, 1)
    for layer in (4, 5, 6, 7):
        if f"{layer}.0.conv1.weight" not in state:  # cut at conv4
            break
        for i in (0, 1):
            block, stride = f"{layer}.{i}", 2 if layer > 4 and i == 0 else 1
            y = F.conv2d(x, state[f"{block}.conv1.weight"], None, stride, 1)
            y = F.relu(bn(y, f"{block}.bn1"))
            y = bn(F.conv2d(y, state[f"{block}.conv2.weight"], None, 1, 1), f"{block}.bn2")
            if stride == 2:
                x = F.conv2d(x, state[f"{block}.downsample.0.weight"], None, 2)
                x = bn(x, f"{block}.downsample.1")
            x = F.relu(x + y)
    return x


def _vgg16_by_hand(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for index in sorted([*VGG16_CONVS, *VGG16_POOLINGS]):
        if index in VGG16_POOLINGS:
            x = F.max_pool2d(x, 2, 2)
            continue
        x = F.conv2d(x, state[f"{index}.weight"], state[f"{index}.bias"], padding=1)
        if index != 28:  # conv5_3 has no ReLU
            x = F.relu(x)
    return x
