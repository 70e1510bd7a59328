"""Small copies of images, to be put into pages."""

import base64
import io
import os

from PIL import Image

from datasets.images import open_image


def encode_thumbnail(path: str | os.PathLike, size_px: tuple[int, int], quality: int) -> str:
    """Return an upright, small JPEG of an image as a data URI; raises like `open_image`.

    Args:
        path: The image.
        size_px: Largest width and height; smaller images keep their size.
        quality: Of the JPEG.
    """
    image = open_image(path)
    image.thumbnail(size_px, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
