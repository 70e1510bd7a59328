"""Augmentation of training images, the same in workers and on a device."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from datasets.augmenting.batch import augment_batch
from datasets.augmenting.kernel import augment_image, compile_kernel
from datasets.augmenting.recipes import RandomRecipes


@dataclass(frozen=True)
class AugmentationParams:
    """Strength of the augmentation; the defaults are the paper's."""

    image_size: int = 512  # side of the square output, pixels
    brightness: float = 0.7  # factor from [1 - b, 1 + b]
    contrast: float = 0.7
    saturation: float = 0.7
    hue: float = 0.5  # shift from [-h, h] turns, at most 0.5
    random_resized_crop: float = 0.5  # the crop covers at least 1 - r of the image's area

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.image_size < 1:
            raise ValueError(f"--image_size must be at least 1 pixel, it is {self.image_size}")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, it is {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"--hue must be in 0 to 0.5, it is {self.hue}")
        if not 0 <= self.random_resized_crop < 1:
            raise ValueError(
                f"--random_resized_crop must be in 0 to 1, 1 excluded, "
                f"it is {self.random_resized_crop}"
            )


class Augmentation:
    """Colour jitter, random resized crop, normalisation (paper supplementary, section 2.2).

    Each image has a seed of its own: the result does not depend on which worker or which batch it
    is in, and on the device by rounding only.
    """

    def __init__(self, params: AugmentationParams) -> None:
        """Make ready; the first time on a machine, this compiles for some seconds."""
        self.image_size = params.image_size
        self.recipes = RandomRecipes(
            (params.brightness, params.contrast, params.saturation, params.hue),
            smallest_crop=1 - params.random_resized_crop,
        )
        compile_kernel()

    def __call__(self, image: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment one image.

        Args:
            image: uint8 [3, H, W], any size, on any device.
            seed: Decides all random choices.

        Returns:
            float32 [3, image_size, image_size], ImageNet-normalised, on the image's device.
        """
        if image.device.type != "cpu":
            return self.batch([image], [seed])[0]
        return augment_image(image, self.recipes.draw(image, seed), self.image_size)

    def batch(self, images: Iterable[torch.Tensor], seeds: Iterable[int]) -> torch.Tensor:
        """Augment images of any sizes into one batch.

        Args:
            images: uint8 [B, 3, H, W], or B of uint8 [3, H, W] of any sizes; on one device.
            seeds: One for each image.

        Returns:
            float32 [B, 3, image_size, image_size], ImageNet-normalised, on the images' device.
        """
        images, seeds = list(images), [int(seed) for seed in seeds]
        if images[0].device.type == "cpu":
            return torch.stack([self(*pair) for pair in zip(images, seeds, strict=True)])
        recipes = [self.recipes.draw(*pair) for pair in zip(images, seeds, strict=True)]
        return augment_batch(images, recipes, self.image_size)
