"""Open image files."""

import os
import struct

import numpy as np
import torch
from PIL import Image, ImageOps

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DECODING_ERRORS = (  # what Pillow raises for broken pixels and broken metadata
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def open_image(path: str | os.PathLike) -> Image.Image:
    """Read an image as RGB, upright as its EXIF orientation says.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be decoded whole.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image {path}") from None
    except DECODING_ERRORS as error:
        raise ValueError(f"The image {path} cannot be read: {error}") from None


def load_image(path: str | os.PathLike) -> torch.Tensor:
    """Read an image as a tensor, uint8 [3, H, W]; raises like `open_image`."""
    return torch.from_numpy(np.array(open_image(path))).permute(2, 0, 1)
