"""Open image files, on disks that may fail for a moment."""

import contextlib
import errno
import io
import os
import stat
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from datasets.image_lists import HAS_AVIF, HAS_HEIF

if TYPE_CHECKING:
    import torch  # imported where it is used: tools that only read headers start sooner

# The formats that Pillow may decode, whatever the extension of a file. It knows 40 others, among
# them PostScript, a program that it would run.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
if HAS_HEIF:
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS += ("HEIF",)
if HAS_AVIF:
    FORMATS += ("AVIF",)
_HEIF_STARTS = {b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")}
FIRST_PAUSE_S = 0.1  # before a read is tried again; each further pause is twice as long
MAX_FILE_BYTES = 1 << 30  # no photo is larger; protects the memory
MAX_SCANS = 100  # of a JPEG: programs write some 10, and each goes over all pixels again
_WHOLE_SCAN = b"\xff\xda\0\x0c"  # begins one of three colours; its header has 14 bytes
_FINAL_ERRORS = {  # these do not pass; all others may, on a network disk
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EINVAL),
}


def open_image(path: str | os.PathLike) -> Image.Image:
    """Read an image as RGB, upright as its EXIF orientation says.

    Transparency is dropped; of 16 bits of a colour, the upper 8 are used.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be decoded completely, or has more than 179 million pixels.
    """
    with errors_naming(path):
        return _decode(read_file(path))


def load_image(path: str | os.PathLike, io_retries: int = 0) -> "torch.Tensor":
    """Read an image as `open_image` does, the most common kind of files faster.

    Args:
        path: The file; it is read once.
        io_retries: Number of further attempts, after growing pauses, if a read fails for a reason
            that may pass.

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
    import torch

    return torch.from_numpy(pixels).permute(2, 0, 1)


@contextlib.contextmanager
def errors_naming(path: str | os.PathLike) -> Iterator[None]:
    """Turn any error of reading or decoding a file into a sentence that names it.

    Warnings of Pillow, about metadata and large images, are suppressed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For any other error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image {path}") from None
    except Exception as error:  # Pillow raises anything for broken contents
        raise ValueError(f"The image {path} cannot be read: {_reason(error, path)}") from None


def stack_images(images: "Sequence[torch.Tensor]") -> "torch.Tensor":
    """Join images of one size, [3, H, W], into [B, 3, H, W].

    If the colours of a pixel are side by side in memory, as `load_image` leaves them, they stay so
    (channels_last): a plain copy, while `torch.stack` would separate them.
    """
    import torch

    if images[0].is_contiguous():
        return torch.stack(images)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def read_file(path: str | os.PathLike, io_retries: int = 0) -> bytes:
    """Read a file into memory.

    Args:
        path: The file.
        io_retries: Number of further attempts if a read fails for a reason that may pass.

    Raises:
        OSError: If it cannot be read.
        ValueError: See `open_file`; or if it is too large for an image.
    """
    for retry in range(io_retries):
        try:
            return _read(path)
        except OSError as error:
            if error.errno in _FINAL_ERRORS:
                raise
        time.sleep(FIRST_PAUSE_S * 2**retry)
    return _read(path)


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file that is not empty, and nothing else.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is empty; or a pipe or a device, whose bytes may never come or never end.
    """
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115
    status = os.fstat(file.fileno())
    is_file = stat.S_ISREG(status.st_mode)
    if not is_file or status.st_size == 0:
        file.close()
        raise ValueError("it is empty" if is_file else "it is a pipe or a device, not a file")
    return file


def _read(path: str | os.PathLike) -> bytes:
    with open_file(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes > MAX_FILE_BYTES:
            raise ValueError(f"its {num_bytes:,} bytes are too many for an image")
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for somebody to write, should it be a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(error: Exception, path: str | os.PathLike) -> str:
    if isinstance(error, UnidentifiedImageError):
        with contextlib.suppress(OSError, ValueError), open_file(path) as file:
            if file.read(12)[4:] in _HEIF_STARTS:  # also with the ending of a JPEG
                return "it is HEIC: pip install pillow-heif to read it"
        return f"it is not an image that is read ({', '.join(FORMATS)})"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _check_scans(data: bytes) -> None:
    """Raise a ValueError for a JPEG of very many scans, which would hold the process for minutes.

    Not called for most files: of a scan of all colours that is not progressive, there is one.
    """
    values = np.frombuffer(data, np.uint8)
    marks = np.flatnonzero(values[:-1] == 0xFF)  # ten times as fast as bytes.count
    num_scans = np.count_nonzero(values[marks + 1] == 0xDA)
    if num_scans > MAX_SCANS:
        raise ValueError(f"its {num_scans:,} scans are too many for a JPEG")


def _decode(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.format in ("JPEG", "MPO"):
            _check_scans(data)
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 8
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return upright.convert("RGB")


def _decode_plain_jpeg(data: bytes) -> np.ndarray | None:
    """Decode an upright JPEG in colour with simplejpeg, to the pixels that Pillow gives.

    Returns:
        uint8 [H, W, 3]. None for any other or damaged file, which Pillow reads or refuses.
    """
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        start = image.fp.tell() - 14  # Pillow has read the header of the first scan
        if "progressive" in image.info or data[start : start + 4] != _WHOLE_SCAN:
            _check_scans(data)
        if (image.format, image.mode, orientation) == ("JPEG", "RGB", 1):
            return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    return None
