"""How runs end early: asked to by a signal, or by errors such as a full disk or full memory."""

import errno
import os
import signal
import traceback

DISK_IS_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
USER_ERRORS = (ValueError, OSError)  # bad data, missing files: their text is a sentence

_SMALLER = "lower --batch_size, --infer_batch_size or --num_workers"
_REMEDIES = {  # what errors say that have no type of their own, in the order of trying
    ("shared memory", "Bus error", "bus error", "</torch_"): (
        "The loader processes have too little shared memory: enlarge /dev/shm "
        "(docker run --shm-size=8g) or lower --num_workers"
    ),
    ("killed by signal: Killed", "exited unexpectedly"): (
        f"A loader process was killed, most likely as the memory was full: {_SMALLER}"
    ),
    ("OutOfMemoryError", "out of memory", "STATUS_ALLOC_FAILED"): (
        "The memory of the GPU is full: lower --batch_size or --infer_batch_size"
    ),
    ("deterministic implementation", "CUBLAS_WORKSPACE_CONFIG"): (
        "This training has an operation that gives other bits each time on this device: leave out "
        "--deterministic, or freeze the layers that need it"
    ),
    ("MemoryError", "allocate memory", "bad_alloc"): f"The memory is full: {_SMALLER}",
}


class Stopped(BaseException):  # so that nothing takes it for an error
    """A signal has asked the run to stop, and it has done so in good order."""

    def __init__(self, signal_number: int, message: str = "", can_continue: bool = True) -> None:
        """Keep how the process is to end.

        Args:
            signal_number: SIGTERM or SIGINT.
            message: How to go on.
            can_continue: Whether the same command, or the one that the message names, goes on
                where this one has stopped.
        """
        super().__init__(message or f"Stopped by {signal.Signals(signal_number).name}")
        self.signal_number, self.can_continue = signal_number, can_continue

    @property
    def exit_code(self) -> int:
        """What the process ends with; SIGTERM is no failure, if nothing is lost."""
        return 130 if self.signal_number == signal.SIGINT else int(not self.can_continue)


def describe_failure(error: Exception) -> str:
    """Return a sentence on an error that the user can do something about, else nothing."""
    if isinstance(error, USER_ERRORS) and getattr(error, "errno", None) != errno.ENOMEM:
        return _describe_user_error(error)
    said = f"{type(error).__name__}: {error}"
    for signs, remedy in _REMEDIES.items():
        if any(sign in said for sign in signs):
            return f"{remedy} ({said.splitlines()[0]})"
    return ""


def describe_place(error: Exception) -> str:
    """Return an unexpected error in one line: its kind, its message and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(place.filename)}, line {place.lineno}, in {place.name}"
    return f"{type(error).__name__}: {error} ({where})"


def _describe_user_error(error: Exception) -> str:
    """Return the text of an error; those of the operating system are a file and a reason."""
    if not isinstance(error, OSError) or not error.strerror:
        return _without_worker_traceback(str(error), type(error).__name__)
    file = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    remedy = "; free some space, or write to another disk" * (error.errno in DISK_IS_FULL)
    return f"{file}{error.strerror}{remedy}"


def _without_worker_traceback(message: str, kind: str) -> str:
    """Cut what a loader process puts before the message of an error that it passes on."""
    marker = f"{kind}: "
    return message.rsplit(marker, 1)[-1].strip() if "Original Traceback" in message else message
