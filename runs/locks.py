"""Locks that end with their process, however it ends."""

import contextlib
import errno
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

_log = logging.getLogger(__name__)
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_POLL_S = 0.2


@contextlib.contextmanager
def held(file: Path, while_waiting: Callable[[float], None]) -> Iterator[None]:
    """Hold a lock, which no two processes do at once; where a disk has none, a warning says so.

    Args:
        file: The lock, in a folder that is there. The file stays.
        while_waiting: Called as long as another process holds the lock, with the seconds waited so
            far; raises an error to give up.

    Raises:
        OSError: If the file cannot be made.
    """
    lock, start_s = FileLock(file), time.monotonic()
    try:
        while not _take(lock):
            while_waiting(time.monotonic() - start_s)
            time.sleep(_POLL_S)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning(f"The disk of {file.parent} has no locks: let one run at a time use it")
    try:
        yield
    finally:
        lock.release()


def _take(lock: FileLock) -> bool:
    """Take a lock if it is free.

    Raises:
        OSError: With one of _NO_LOCKS if the disk has none. There, filelock either says so or turns
            to files that stand for locks: these would outlive a process that is killed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it turns to such files
            lock.acquire(timeout=0)
    except Timeout:
        pass
    except NotImplementedError as error:
        raise OSError(errno.ENOSYS, str(error)) from None
    if isinstance(lock, SoftFileLock):
        lock.release()
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return lock.is_locked
