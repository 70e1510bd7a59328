"""Backbones: images [B, 3, H, W] to feature maps [B, out_channels, h, w].

One line of BACKBONES adds a backbone of a family; a new family is a file of this package. The table
names functions and does not import them: readers of names and sizes, such as the parser, do without
torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneSpec:
    """How to build a backbone, and the settings that it has by default."""

    family: str  # MODULE:FUNCTION of this package; the function makes a `Pretrained` of a variant
    variant: str  # of the family
    out_channels: int
    aggregation: str = "gem"  # key of AGGREGATIONS; this and the next two hold unless flags differ
    fc_output_dim: int = 512  # 0: no linear layer
    image_size: int | None = None  # side in pixels of training and test images; None: any size
    class_token: bool = False  # whether it gives one beside the map, to aggregations that take it


BACKBONES = {
    "ResNet18": BackboneSpec("cnns:resnet", "resnet18", 512),
    "ResNet50": BackboneSpec("cnns:resnet", "resnet50", 2048),
    "ResNet101": BackboneSpec("cnns:resnet", "resnet101", 2048),
    "ResNet152": BackboneSpec("cnns:resnet", "resnet152", 2048),
    "ResNet18_conv4": BackboneSpec("cnns:resnet_conv4", "resnet18", 256),
    "ResNet50_conv4": BackboneSpec("cnns:resnet_conv4", "resnet50", 1024),
    "ResNet101_conv4": BackboneSpec("cnns:resnet_conv4", "resnet101", 1024),
    "VGG16": BackboneSpec("cnns:vgg", "vgg16", 512),
    "EfficientNet_B0": BackboneSpec("cnns:efficientnet", "efficientnet_b0", 1280),
    "EfficientNet_B1": BackboneSpec("cnns:efficientnet", "efficientnet_b1", 1280),
    "EfficientNet_B2": BackboneSpec("cnns:efficientnet", "efficientnet_b2", 1408),
    "EfficientNet_B3": BackboneSpec("cnns:efficientnet", "efficientnet_b3", 1536),
    "EfficientNet_B4": BackboneSpec("cnns:efficientnet", "efficientnet_b4", 1792),
    "EfficientNet_B5": BackboneSpec("cnns:efficientnet", "efficientnet_b5", 2048),
    "EfficientNet_B6": BackboneSpec("cnns:efficientnet", "efficientnet_b6", 2304),
    "EfficientNet_B7": BackboneSpec("cnns:efficientnet", "efficientnet_b7", 2560),
    "EfficientNet_Lite0": BackboneSpec("cnns:efficientnet_lite", "tf_efficientnet_lite0", 1280),
    "MobileNetV2": BackboneSpec("cnns:mobilenet", "mobilenet_v2", 1280),
    "ViT_B16": BackboneSpec("transformers:vit", "vit_base_patch16_224", 768, "none", 0, 224),
    "CCT14_224": BackboneSpec("cct:cct14", "224", 384, "seqpool", 0, 224),
    "CCT14_384": BackboneSpec("cct:cct14", "384", 384, "seqpool", 0, 384),
    "DINOv2_S": BackboneSpec("transformers:dinov2", "small", 384, image_size=224, class_token=True),
    "DINOv2_B": BackboneSpec("transformers:dinov2", "base", 768, image_size=224, class_token=True),
    "DINOv2_L": BackboneSpec(
        "transformers:dinov2", "large", 1024, image_size=224, class_token=True
    ),
}

# Images that weights of a backbone are for: mean and std of RGB, in grey levels from 0 to 255.
INPUT_SCALINGS = {
    "imagenet": None,  # those that networks get: normalised by ImageNet's mean and std
    "vgg_caffe": ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),  # VGG's by Caffe and MatConvNet
}


def find_spec(name: str) -> BackboneSpec:
    """Return the line of a backbone.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in BACKBONES:
        raise ValueError(f"Unknown backbone '{name}': choose from {', '.join(BACKBONES)}")
    return BACKBONES[name]
