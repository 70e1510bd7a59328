"""Files of torch.save that carry the SHA-256 of themselves.

torch.save writes a zip archive, and the end of a zip archive has room for a comment, which readers
pass over. The comment here is `SHA-256:` and the hexadecimal digest of the file as torch.save wrote
it, without a comment.
"""

import hashlib
import struct
from typing import Any, BinaryIO

import torch

END = struct.Struct(
    "<4s4H2LH"
)  # end of the central directory; the last field is the comment's size
END_SIGNATURE = b"PK\x05\x06"
COMMENT_SIZE = len("SHA-256:") + 64
_BLOCK_BYTES = 1 << 20
_NO_COMMENT = struct.pack("<H", 0)


class _HashingWriter:
    """Passes on what torch.save writes and hashes it on the way.

    torch.save calls `write` from C++ code that must not be left by an exception: its destructor
    would go on writing and end the process. So the first error is kept; what follows is dropped.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.error: BaseException | None = None
        self._file = file

    def write(self, block: Any) -> int:
        """Write and hash a block of bytes."""
        num_bytes = memoryview(block).nbytes
        if self.error is None:
            try:
                self._file.write(block)
                self.digest.update(block)
            except BaseException as error:  # also an interruption: see above
                self.error = error
        return num_bytes

    def flush(self) -> None:
        """Do nothing: the file is flushed after the comment."""


def save_with_digest(content: Any, file: BinaryIO) -> None:
    """Do what torch.save does, and put the digest of what it wrote into the archive's comment.

    Args:
        content: Tensors and plain values.
        file: An empty file, open for writing and reading ("w+b").

    Raises:
        OSError: If it cannot be written.
    """
    writer = _HashingWriter(file)
    torch.save(content, writer)
    if writer.error is not None:
        raise writer.error
    file.seek(-len(_NO_COMMENT), 2)
    if file.read() != _NO_COMMENT:
        raise RuntimeError("torch.save no longer ends its archives without a comment")
    file.seek(-len(_NO_COMMENT), 2)
    file.write(struct.pack("<H", COMMENT_SIZE) + _comment(writer.digest.hexdigest()))


def has_digest(file: BinaryIO) -> bool:
    """Tell whether a file ends as those of `save_with_digest` do."""
    end = _read_end(file)
    fields = END.unpack(end[: END.size]) if len(end) > END.size else (b"",)
    comment = end[END.size :]
    is_ours = fields[0] == END_SIGNATURE and fields[-1] == COMMENT_SIZE
    return is_ours and comment.startswith(_comment("")) and comment[-64:].islower()


def is_intact(file: BinaryIO) -> bool:
    """Tell whether a file has the content that its digest was made of."""
    end = _read_end(file)
    num_left = file.seek(0, 2) - COMMENT_SIZE - len(_NO_COMMENT)
    file.seek(0)
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES))
    while num_left > 0 and (num_read := file.readinto(block[:num_left])):
        digest.update(block[:num_read])
        num_left -= num_read
    digest.update(_NO_COMMENT)
    return end[END.size :] == _comment(digest.hexdigest())


def _comment(digest: str) -> bytes:
    return f"SHA-256:{digest}".encode()


def _read_end(file: BinaryIO) -> bytes:
    """Return the end of the central directory with a comment of the size of ours."""
    size = file.seek(0, 2)
    file.seek(max(size - END.size - COMMENT_SIZE, 0))
    return file.read()
