"""Image files of every kind that disks and the web have, written by hand, and a disk that fails."""

import io
import os
import struct
import time
import zlib

import numpy as np
from PIL import Image

from datasets import images

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY16 = np.random.default_rng(1).integers(0, 1 << 16, (20, 30), dtype=np.uint16)
ORIENTATION = 0x0112  # EXIF tag


def png(rows, width, height, bits, colour_type, before=()):
    """Return a PNG out of its raw rows, written by hand."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    text = b"".join(b"\0" + bytes(row) for row in rows)  # each row without a filter
    data = chunk(b"IDAT", zlib.compress(text))
    chunks = [chunk(kind, content) for kind, content in before]
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + data + end


def encode(pixels, file_format="PNG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def turned(pixels, orientation):
    """Turn stored pixels as the EXIF standard says, by hand."""
    rows_flipped, columns_flipped = {
        1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1),
    }[orientation]  # fmt: skip
    pixels = pixels[::-1] if rows_flipped else pixels
    pixels = pixels[:, ::-1] if columns_flipped else pixels
    return pixels.transpose(1, 0, 2) if orientation > 4 else pixels


def oriented(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(COLOURS, exif=exif)


ALPHA = np.random.default_rng(2).integers(0, 256, (20, 30, 1), dtype=np.uint8)
PALETTE = np.random.default_rng(3).integers(0, 256, (200, 3), dtype=np.uint8)
INDICES = np.random.default_rng(4).integers(0, 200, (20, 30), dtype=np.uint8)
RGB16 = np.random.default_rng(5).integers(0, 1 << 16, (20, 30, 3)).astype(">u2")
BITS = np.random.default_rng(6).integers(0, 2, (20, 30), dtype=np.uint8)
WIDE = np.tile(COLOURS[:1, :1], (1, 20_000, 1))
INDEXED = png(INDICES, 30, 20, 8, 3, before=[(b"PLTE", PALETTE.tobytes())])
TRANSPARENT = png(
    INDICES, 30, 20, 8, 3,
    before=[(b"PLTE", PALETTE.tobytes()), (b"tRNS", bytes(range(200)))],
)  # fmt: skip
READABLE = {
    "RGB": (encode(COLOURS), COLOURS),
    "16-bit grey": (png(GREY16.astype(">u2"), 30, 20, 16, 0), grey(GREY16 // 256)),
    "16-bit grey with alpha": (
        png(np.ascontiguousarray(RGB16[..., :2]), 30, 20, 16, 4),
        grey(RGB16[..., 0] // 256),
    ),
    "16-bit RGB": (png(RGB16, 30, 20, 16, 2), (RGB16 // 256).astype(np.uint8)),
    "palette": (INDEXED, PALETTE[INDICES]),
    "palette with transparency": (TRANSPARENT, PALETTE[INDICES]),
    "RGBA": (encode(np.concatenate((COLOURS, ALPHA), 2)), COLOURS),
    "LA": (png(np.concatenate((COLOURS[..., :1], ALPHA), 2), 30, 20, 8, 4), grey(COLOURS[..., 0])),
    "grey": (encode(COLOURS[..., 0]), grey(COLOURS[..., 0])),
    "1 bit": (png(np.packbits(BITS, axis=1), 30, 20, 1, 0), grey(255 * BITS)),
    "1 x 1": (encode(COLOURS[:1, :1]), COLOURS[:1, :1]),
    "20,000 x 1": (encode(WIDE), WIDE),
    **{f"EXIF {n}": (oriented(n), turned(COLOURS, n)) for n in range(1, 9)},
}


def jpeg_of(width, height):
    """Return a JPEG whose header declares another size."""
    content = encode(COLOURS, "JPEG")
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def square_of_zeros(side):
    """Return a PNG of one bit a pixel, hardly anything as a file."""
    return png([bytes(-(-side // 8))] * side, side, side, 1, 0)


def text_of_zeros(num_bytes):
    text = b"Comment\0\0" + zlib.compress(bytes(num_bytes))
    return png(COLOURS, 30, 20, 8, 2, before=[(b"zTXt", text)])


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def jpeg_of_scans(num_scans):
    """Return a JPEG whose last scan, of few bytes, is repeated; all pixels are computed in each."""
    whole = encode(np.full((2000, 2000), 128, np.uint8), "JPEG", progressive=True)
    first = whole.rindex(b"\xff\xda")
    repeated = whole[first:-2] * (num_scans - whole.count(b"\xff\xda") + 1)
    return whole[:first] + repeated + whole[-2:]


def sequential_jpeg_of_scans(num_scans):
    """Return a JPEG that is not progressive, with scans of one colour that have no data."""
    whole = encode(np.zeros((2000, 2000, 3), np.uint8), "JPEG")
    scan = b"\xff\xda\0\x08\x01\x01\x00\x00\x3f\x00"
    return whole[: whole.index(b"\xff\xda")] + scan * num_scans + whole[-2:]


UNREADABLE = {  # kind: how to put it to a path, and the reason that is given
    "truncated JPEG": (lambda p: p.write_bytes(encode(COLOURS, "JPEG")[:-99]), "truncated"),
    "truncated PNG": (lambda p: p.write_bytes(encode(COLOURS)[:900]), "truncated"),
    "no bytes": (lambda p: p.touch(), "it is empty"),
    "text": (lambda p: p.write_text("@1@2@ no image\n" * 50), "it is not an image"),
    "PostScript": (lambda p: p.write_bytes(POSTSCRIPT), "it is not an image"),
    "20,000 x 20,000 px": (lambda p: p.write_bytes(square_of_zeros(20_000)), "400000000 pixels"),
    "JPEG of 65,500 px": (lambda p: p.write_bytes(jpeg_of(65_500, 65_500)), "4290250000 pixels"),
    "JPEG of 5,000 scans": (lambda p: p.write_bytes(jpeg_of_scans(5000)), "its 5,000 scans are"),
    "plain JPEG of 999 scans": (
        lambda p: p.write_bytes(sequential_jpeg_of_scans(999)),
        "its 999 scans are too many for a JPEG",
    ),
    "gigantic text": (lambda p: p.write_bytes(text_of_zeros(1 << 24)), "too large"),
    "pipe": (os.mkfifo, "a pipe or a device"),
    "device without end": (lambda p: p.symlink_to("/dev/zero"), "a pipe or a device"),
    "sparse file of 1 TB": (lambda p: p.touch() or os.truncate(p, 1 << 40), "too many for"),
    "folder": (lambda p: p.mkdir(), "Is a directory"),
    "link to nowhere": (lambda p: p.symlink_to("nowhere.jpg"), "There is no image"),
    "link to itself": (lambda p: p.symlink_to(p), "Too many levels"),
}


class FlakyDisk:
    """Fails the first times that a file is opened or read."""

    def __init__(self, monkeypatch, failures, error, step):
        self.failures, self.error, self.pauses, self.tries = failures, error, [], 0
        self.read = getattr(images, step)
        monkeypatch.setattr(images, step, self.fail)
        monkeypatch.setattr(time, "sleep", self.pauses.append)

    def fail(self, *arguments):
        self.tries += 1
        if self.tries <= self.failures:
            raise OSError(self.error, os.strerror(self.error))
        return self.read(*arguments)
