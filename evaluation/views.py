"""What a model sees of an image: the whole of it, resized, or crops.

Query images are resized and cropped as in the deep visual geo-localization benchmark (CVPR 2022),
which resizes the database to one size.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from commons import IMAGENET_MEAN, IMAGENET_STD
from model.resizing import ResizeRule, describe_resize, read_rule

BENCHMARK_SIZE = "480x640"  # what the benchmark resizes to
_PILLOW_BITS = 22  # of the fractions that Pillow multiplies grey levels by
Resize = Callable[[torch.Tensor, list[int]], torch.Tensor]


def resize(images: torch.Tensor, size: list[int], rule: ResizeRule) -> torch.Tensor:
    """Resize images [B, 3, H, W] in 0 to 1; `size` is the shorter side, or height and width."""
    if rule.as_pillow:
        return _resize_as_pillow(images, size, rule.bicubic)
    mode = InterpolationMode.BICUBIC if rule.bicubic else InterpolationMode.BILINEAR
    return functional.resize(images, size, mode, antialias=rule.antialias)


def _resize_as_pillow(images: torch.Tensor, size: list[int], bicubic: bool) -> torch.Tensor:
    """Resize whole grey levels to whole grey levels, first the width, then the height.

    On a CPU Pillow does it, in a tenth of the time, one axis after the other: it had this order
    when these methods were published, and since version 13 begins with the height for some sizes.
    It counts in integers, and so do the products for other devices, in float64: grey levels are the
    same on any. torch rounds once, or not at all, which differs in a sixth of the pixels.
    """
    height, width = images.shape[2:]
    if len(size) == 1:
        longer = int(size[0] * max(height, width) / min(height, width))
        size = [size[0], longer] if height <= width else [longer, size[0]]
    if images.device.type == "cpu":
        kernel = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
        levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        wide = [Image.fromarray(one).resize((size[1], height), kernel) for one in levels]
        resized = np.stack([np.asarray(one.resize((size[1], size[0]), kernel)) for one in wide])
        return torch.from_numpy(resized).permute(0, 3, 1, 2).float() / 255
    return resize_by_products(images, size, bicubic)


def resize_by_products(images: torch.Tensor, size: list[int], bicubic: bool) -> torch.Tensor:
    """Do what Pillow does in integers, width first, on any device.

    Args:
        images: Whole grey levels, divided by 255. float32 [B, 3, H, W].
        size: Height and width of the results.
        bicubic: Instead of bilinear.
    """
    weights = [
        _pillow_weights(*sides, bicubic, images.device)
        for sides in zip(images.shape[2:], size, strict=True)
    ]
    levels = (images.double() * 255).round()
    for product in (lambda x: x @ weights[1].T, lambda x: weights[0] @ x):
        levels = ((product(levels) + 2 ** (_PILLOW_BITS - 1)) / 2**_PILLOW_BITS).floor()
        levels = levels.clamp(0, 255)
    return levels.float() / 255


@functools.lru_cache(maxsize=32)
def _pillow_weights(
    size_in: int, size_out: int, bicubic: bool, device: torch.device
) -> torch.Tensor:
    """Return the integers that Pillow weighs the pixels of a line by, [size_out, size_in]."""
    scale = size_in / size_out
    stretch = max(scale, 1.0)  # of the filter, where there are fewer pixels than before
    reach = (2.0 if bicubic else 1.0) * stretch
    centres = (torch.arange(size_out, dtype=torch.float64)[:, None] + 0.5) * scale
    pixels = torch.arange(size_in, dtype=torch.float64)
    first = (centres - reach + 0.5).floor()
    end = (centres + reach + 0.5).floor()
    x = ((pixels - centres + 0.5) / stretch).abs()
    if bicubic:  # Catmull-Rom
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    else:
        weights = (1 - x).clamp(min=0)
    weights = torch.where((pixels >= first) & (pixels < end), weights, 0.0)
    weights = weights / weights.sum(1, keepdim=True) * 2**_PILLOW_BITS
    return (weights + 0.5 * weights.sign()).trunc().to(device)


def _whole(images: torch.Tensor, size: list[int], resize: Resize) -> torch.Tensor:
    return (resize(images, size) if size else images)[:, None]


def _single_query(images: torch.Tensor, size: list[int], resize: Resize) -> torch.Tensor:
    return resize(images, [min(size)])[:, None]


def _central_crop(images: torch.Tensor, size: list[int], resize: Resize) -> torch.Tensor:
    """Scale until the image covers the size, by the nearest pixels; cut what stands over."""
    height, width = images.shape[2:]
    scale = max(size[0] / height, size[1] / width)
    if int(height * scale) < size[0] or int(width * scale) < size[1]:  # it was rounded down
        scale = math.nextafter(scale, math.inf)
    return functional.center_crop(F.interpolate(images, scale_factor=scale), size)[:, None]


def _five_squares(images: torch.Tensor, size: list[int], resize: Resize) -> torch.Tensor:
    """Scale the shorter side, cut squares of it in the corners and in the centre."""
    side = min(size)
    return torch.stack(functional.five_crop(resize(images, [side]), [side, side]), dim=1)


TEST_METHODS: dict[str, Callable[[torch.Tensor, list[int], Resize], torch.Tensor]] = {
    # images [B, 3, H, W], [height, width], how to resize -> [B, V, 3, h, w]
    "hard_resize": _whole,
    "single_query": _single_query,
    "central_crop": _central_crop,
    "five_crops": _five_squares,  # the mean descriptor
    "nearest_crop": _five_squares,  # the prediction that is nearest to any crop
    "maj_voting": _five_squares,  # the same, in favour of what several crops predict
}


@dataclass(frozen=True)
class View:
    """How images are prepared: a resize rule and, for queries, one of TEST_METHODS."""

    resize: str = "none"
    method: str | None = None

    def __post_init__(self) -> None:
        """Check that the method has the size that it needs."""
        sides = read_rule(self.resize).sides
        if self.method is not None and self.method not in TEST_METHODS:
            raise ValueError(
                f"Unknown --test_method '{self.method}': choose from {', '.join(TEST_METHODS)}"
            )
        if self.method is not None and len(sides) != 2:
            raise ValueError(
                f"--test_method {self.method} needs --resize_test_imgs HxW, as in "
                f"{BENCHMARK_SIZE}; it is '{self.resize}'"
            )

    @property
    def takes_mean(self) -> bool:
        """Whether the descriptors of the crops are averaged; they are not normalised again."""
        return self.method == "five_crops"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Scale uint8 [B, 3, H, W] to [0, 1], cut views [B, V, 3, h, w], normalise as ImageNet."""
        images = functional.to_dtype(images, torch.float32, scale=True)
        cut = TEST_METHODS[self.method or "hard_resize"]
        rule = read_rule(self.resize)
        views = cut(images, rule.size_of(*images.shape[2:]), functools.partial(resize, rule=rule))
        return functional.normalize(views, list(IMAGENET_MEAN), list(IMAGENET_STD))

    def __str__(self) -> str:
        """Return the rule in words."""
        if self.method is None:
            return describe_resize(self.resize)
        return f"{self.method} {self.resize}"
