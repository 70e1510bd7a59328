"""Augmentation of GSV-Cities and those after it: resize, RandAugment, normalise.

RandAugment applies a few operations, drawn among 14 of colour and geometry, all with one strength
(Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space").
All that is random follows from the seed of an image; torchvision draws it. Pillow applies it, as in
the code of GSV-Cities, which is faster than on tensors.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment
from torchvision.transforms.functional import normalize, resize

from commons import IMAGENET_MEAN, IMAGENET_STD

INTERPOLATIONS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
_NUM_MAGNITUDES = 31  # 0 to 30, torchvision's


@dataclass(frozen=True)
class RandAugmentParams:
    """How much, and how images are resized before."""

    rand_augment: int = 3  # operations applied to an image; 0: none
    rand_augment_magnitude: int = 9  # 0 to 30; torchvision's default is 9
    train_interpolation: str = "bilinear"  # a key of INTERPOLATIONS, of the resize

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rand_augment < 0:
            raise ValueError(f"--rand_augment must not be negative, it is {self.rand_augment}")
        if not 0 <= self.rand_augment_magnitude < _NUM_MAGNITUDES:
            raise ValueError(
                f"--rand_augment_magnitude must be in 0 to {_NUM_MAGNITUDES - 1}, it is "
                f"{self.rand_augment_magnitude}"
            )
        if self.train_interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"--train_interpolation must be one of {', '.join(INTERPOLATIONS)}, it is "
                f"{self.train_interpolation}"
            )


class RandAugmentation:
    """Stretch to a size, augment, normalise; the same in whichever worker or batch an image is."""

    def __init__(self, params: RandAugmentParams, image_size: tuple[int, int]) -> None:
        """Prepare for images of a size: height and width, in pixels."""
        self.image_size = list(image_size)
        self._interpolation = INTERPOLATIONS[params.train_interpolation]
        self._augment = RandAugment(
            params.rand_augment,
            params.rand_augment_magnitude,
            _NUM_MAGNITUDES,
            InterpolationMode.BILINEAR,
        )

    def __call__(self, image: torch.Tensor, seed: int) -> torch.Tensor:
        """Augment one image.

        Args:
            image: uint8 [3, H, W], any size.
            seed: Decides all random choices.

        Returns:
            float32 [3, height, width], ImageNet-normalised.
        """
        image = resize(image, self.image_size, self._interpolation, antialias=True)
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.default_generator.manual_seed(seed)
            picture = self._augment(picture)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return normalize(image.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
