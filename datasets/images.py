"""Open image files."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import simplejpeg
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from datasets.file_reads import read_file

# What Pillow may take a file for, whatever its extension. It knows some 40 formats more, among them
# PostScript, which is a program that it lets another program run.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")


def open_image(path: str | os.PathLike) -> Image.Image:
    """Read an image as RGB, upright as its EXIF orientation says.

    Transparency is left out; of 16 bits of a colour, the upper 8 are taken.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be decoded whole, or has more than 179 million pixels.
    """
    with errors_naming(path):
        return _decode(read_file(path))


def load_image(path: str | os.PathLike, io_retries: int = 0) -> torch.Tensor:
    """Read an image as `open_image` does, the most common kind of files faster.

    Args:
        path: The file; it is read once.
        io_retries: How often a read that failed is tried again, after growing pauses, if the
            reason may pass.

    Returns:
        uint8 [3, H, W]; in memory, the colours of a pixel are side by side.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, see `open_image`.
    """
    with errors_naming(path):
        data = read_file(path, io_retries)
        pixels = _decode_plain_jpeg(data)
        if pixels is None:
            pixels = np.array(_decode(data))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@contextlib.contextmanager
def errors_naming(path: str | os.PathLike) -> Iterator[None]:
    """Turn whatever reading and decoding a file raises into a sentence that names it.

    What Pillow warns of, metadata and large images, does not reach the console.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If anything else is wrong.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image {path}") from None
    except Exception as error:  # what Pillow raises for broken contents is anything
        raise ValueError(f"The image {path} cannot be read: {_reason(error)}") from None


def stack_images(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join images of one size, [3, H, W], into [B, 3, H, W].

    If the colours of a pixel are side by side in memory, as `load_image` leaves them, they stay so
    (channels_last): that is a plain copy, while `torch.stack` would take them apart.
    """
    if images[0].is_contiguous():
        return torch.stack(images)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image (JPEG, PNG, WebP, BMP or GIF)"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _decode(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 8
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return upright.convert("RGB")


def _decode_plain_jpeg(data: bytes) -> np.ndarray | None:
    """Decode an upright JPEG in colour with simplejpeg, to the pixels that Pillow gives.

    Returns:
        uint8 [H, W, 3]. None for any other file, a damaged one as well: Pillow reads it, or says
        what is wrong.
    """
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if (image.format, image.mode, orientation) == ("JPEG", "RGB", 1):
            return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    return None
