"""Open image files."""

import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import ExifTags, Image, ImageOps

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
    """Read an image as `open_image` does, the most common kind of files faster.

    Returns:
        uint8 [3, H, W]; in memory, the colours of a pixel are side by side.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be decoded whole.
    """
    pixels = _decode_plain_jpeg(path)
    if pixels is None:
        pixels = np.array(open_image(path))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def stack_images(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join images of one size, [3, H, W], into [B, 3, H, W].

    If the colours of a pixel are side by side in memory, as `load_image` leaves them, they stay so
    (channels_last): that is a plain copy, while `torch.stack` would take them apart.
    """
    if images[0].is_contiguous():
        return torch.stack(images)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _decode_plain_jpeg(path: str | os.PathLike) -> np.ndarray | None:
    """Decode an upright JPEG in colour with simplejpeg, to the pixels that Pillow gives.

    Returns:
        uint8 [H, W, 3]. None for any other file, a missing and a damaged one as well: Pillow reads
        it, or says what is wrong.
    """
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as image:  # reads the header only
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if (image.format, image.mode, orientation) == ("JPEG", "RGB", 1):
                return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except DECODING_ERRORS:
        pass
    return None
