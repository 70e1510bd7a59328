"""What is done to a process before it starts its command; see `run_forked`."""

import contextlib
import ctypes
import importlib
import operator
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

_CAPABILITY_VERSION = 0x20080522  # of linux/capability.h: two sets of three 32-bit words
_NEW_MOUNTS, _PRIVATE = 0x20000, 1 << 18 | 1 << 14  # CLONE_NEWNS, MS_PRIVATE | MS_REC
_CAN_WRITE_ANYWHERE, _CAN_READ_ANYWHERE = 1 << 1, 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


def do_all(*breakages: Callable[[], object]) -> None:
    """Do several things."""
    for breakage in breakages:
        breakage()


def put(place: str, value: object) -> None:
    """Replace MODULE:NAME or MODULE:CLASS.NAME."""
    owner, name = _find(place)
    setattr(owner, name, value)


def do_at(place: str, call: int, breakage: Callable[[], object]) -> None:
    """Do something when MODULE:FUNCTION is called for the n-th time, before it does its work."""
    owner, name = _find(place)
    function, num_calls = getattr(owner, name), 0

    def counted(*arguments: object, **keywords: object) -> object:
        nonlocal num_calls
        num_calls += 1
        if num_calls == call:
            breakage()
        return function(*arguments, **keywords)

    setattr(owner, name, counted)


def send(number: int) -> None:
    """Send a signal to this process and its loader workers, as clusters do."""
    os.killpg(0, number)


def kill() -> None:
    """End this process and its loader workers by kill -9."""
    send(signal.SIGKILL)


def wait_for(file: Path) -> None:
    """Stand still until a file is there."""
    while not file.exists():
        time.sleep(0.01)


def fill_disk(max_file_bytes: int) -> None:
    """Let no file grow beyond a size; writing more is an error, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))


def allow_handles(number: int) -> None:
    """Let no more files be open at once."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


def shrink_shared_memory(num_bytes: int) -> None:
    """Mount a small /dev/shm for this process and its children, as containers have; needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={num_bytes}".encode()
    if (
        libc.unshare(_NEW_MOUNTS)
        or libc.mount(b"none", b"/", None, _PRIVATE, None)
        or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, options)
    ):
        raise OSError(ctypes.get_errno(), "mount")


def can_mount() -> bool:
    """Return whether this process may mount a file system for itself."""
    child = os.fork()
    if not child:
        with contextlib.suppress(OSError, AttributeError):
            shrink_shared_memory(1 << 20)
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def obey_permissions() -> None:
    """Let permissions of files hold for root as well, on Linux."""
    if os.geteuid() != 0:
        return
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for number in (0, 1):
        sets[number] &= ~(_CAN_WRITE_ANYWHERE | _CAN_READ_ANYWHERE)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _find(place: str) -> tuple[object, str]:
    module, _, path = place.partition(":")
    owner, _, name = path.rpartition(".")
    found = importlib.import_module(module)
    return (operator.attrgetter(owner)(found) if owner else found), name
