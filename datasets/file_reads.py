"""Read image files from disks that may fail for a moment, by names that may be traps."""

import errno
import os
import stat
import time
from typing import BinaryIO

FIRST_PAUSE_S = 0.1  # before a read is tried again; each further pause is twice as long
MAX_FILE_BYTES = 1 << 30  # no photo is larger: what is, must not fill the memory
_FINAL_ERRORS = {  # these do not pass; all others may, on a network disk
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EINVAL),
}


def read_file(path: str | os.PathLike, io_retries: int = 0) -> bytes:
    """Read a file whole.

    Args:
        path: The file.
        io_retries: How often a read is tried again that failed for a reason that may pass.

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
    """Open a file, and nothing else that a name may stand for.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is a pipe or a device, whose bytes may never come or never end.
    """
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is a pipe or a device, not a file")
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
