"""What a model sees of an image: the whole of it, resized, or crops.

Query images are resized and cropped as in the deep visual geo-localization benchmark (CVPR 2022),
which resizes the database to one size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional

from commons import IMAGENET_MEAN, IMAGENET_STD

BENCHMARK_SIZE = "480x640"  # what the benchmark resizes to
NO_ANTIALIAS = "-no_antialias"  # as tensors were resized when the benchmark was published


def parse_resize(rule: str) -> list[int]:
    """Read a resize rule: "none" -> [], "480" (shorter side) -> [480], "480x640" (HxW) -> both.

    A size may end with "-no_antialias".

    Raises:
        ValueError: If it is none of these.
    """
    sizes = [] if rule == "none" else rule.lower().removesuffix(NO_ANTIALIAS).split("x")
    if len(sizes) > 2 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise ValueError(
            f"A resize rule is 'none', the shorter side as in '480' or HxW as in '480x640', "
            f"in pixels, with '{NO_ANTIALIAS}' after it or not; not '{rule}'"
        )
    return [int(size) for size in sizes]


def _whole(images: torch.Tensor, size: list[int], antialias: bool) -> torch.Tensor:
    resized = functional.resize(images, size, antialias=antialias) if size else images
    return resized[:, None]


def _single_query(images: torch.Tensor, size: list[int], antialias: bool) -> torch.Tensor:
    return functional.resize(images, [min(size)], antialias=antialias)[:, None]


def _central_crop(images: torch.Tensor, size: list[int], antialias: bool) -> torch.Tensor:
    """Scale until the image covers the size, by the nearest pixels; cut what stands over."""
    height, width = images.shape[2:]
    scale = max(size[0] / height, size[1] / width)
    if int(height * scale) < size[0] or int(width * scale) < size[1]:  # it was rounded down
        scale = math.nextafter(scale, math.inf)
    return functional.center_crop(F.interpolate(images, scale_factor=scale), size)[:, None]


def _five_squares(images: torch.Tensor, size: list[int], antialias: bool) -> torch.Tensor:
    """Scale the shorter side, cut squares of it in the corners and in the centre."""
    side = min(size)
    resized = functional.resize(images, [side], antialias=antialias)
    return torch.stack(functional.five_crop(resized, [side, side]), dim=1)


TEST_METHODS: dict[str, Callable[[torch.Tensor, list[int], bool], torch.Tensor]] = {
    # images [B, 3, H, W], [height, width], whether to resize with antialias -> [B, V, 3, h, w]
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
        size = parse_resize(self.resize)
        if self.method is not None and self.method not in TEST_METHODS:
            raise ValueError(
                f"Unknown --test_method '{self.method}': choose from {', '.join(TEST_METHODS)}"
            )
        if self.method is not None and len(size) != 2:
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
        antialias = not self.resize.lower().endswith(NO_ANTIALIAS)
        views = cut(images, parse_resize(self.resize), antialias)
        return functional.normalize(views, list(IMAGENET_MEAN), list(IMAGENET_STD))

    def __str__(self) -> str:
        """Return the rule in words."""
        if self.method is None:
            return "not resized" if self.resize == "none" else f"resized to {self.resize}"
        return f"{self.method} {self.resize}"
