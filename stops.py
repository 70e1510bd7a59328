"""Processes that end in good order: by a signal at any time, with a console that may be closed.

Entry points call `begin` first: what they import takes seconds, and a closed stderr would be the
number of the next file that is opened. Imports nothing but the standard library.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ECHO_S = 1.0  # torchrun, clusters and shells may send one stop to a process twice
_PATIENCE_S = 10.0  # one of the same kind counts again after so long
_counted: dict[int, float] = {}  # when a signal counted last
_has_run = False  # whether the main function has ended
Handler = Callable[[int, FrameType | None], Any]


def begin(can_resume: bool = False) -> None:
    """Hold the console, and end by a sentence if a signal comes before the main function runs.

    When that has ended, signals are ignored, so that the exit code stays what it is.

    Args:
        can_resume: Whether SIGTERM is no failure then: the same command continues.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the lowest free number is this one
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = LastingStream(sys.stdout), LastingStream(sys.stderr)
    process = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        is_second = number in _counted
        if os.getpid() != process or not counts(number) or (_has_run and not is_second):
            return
        with contextlib.suppress(OSError):
            os.write(2, f"Stopped by {signal.Signals(number).name}. Start again\n".encode())
        os._exit(130 if number == signal.SIGINT else int(not can_resume))

    _handle(leave)


def imports_for_module() -> bool:
    """Return whether Python imports a package to run a module of it: python -m PACKAGE.MODULE."""
    return sys.argv[:1] == ["-m"]


def counts(number: int) -> bool:
    """Note a signal; return whether it counts, or repeats another one."""
    now_s, same_s = time.monotonic(), _counted.get(number, -math.inf)
    last_s = max(_counted.values(), default=-math.inf)
    if now_s - last_s < _ECHO_S or now_s - same_s < _PATIENCE_S:
        return False
    _counted[number] = now_s
    return True


def forget() -> None:
    """Let the next signal count."""
    _counted.clear()


@contextlib.contextmanager
def raising(make_error: Callable[[int], BaseException]) -> Iterator[None]:
    """Let signals raise an error in the main function.

    Where Python swallows it, as in `__del__`, it is raised soon afterwards.

    Args:
        make_error: Gets the number of the signal.
    """
    global _has_run
    process, hook = os.getpid(), sys.unraisablehook

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process and counts(number):
            raise make_error(number)

    def send_again(unraisable: Any) -> None:
        number = getattr(unraisable.exc_value, "signal_number", None)
        if number is None:
            hook(unraisable)
        else:
            forget()
            threading.Timer(0.1, os.kill, (process, number)).start()

    before = _handle(stop)
    sys.unraisablehook = send_again
    forget()
    try:
        yield
    finally:
        _has_run, sys.unraisablehook = True, hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handler: Handler) -> dict[int, Any]:
    """Handle signals, in the main thread: Python allows no other; return the handlers before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in SIGNALS}


class LastingStream:
    """A console. It may be closed, or a file on a full disk: the process continues without it."""

    def __init__(self, stream: TextIO | None) -> None:
        """Write to a stream; None, as Python has it where there is none: to nowhere."""
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115
        self._has_failed = False

    def __getattr__(self, name: str) -> Any:
        """Return what else the stream has."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as far as possible."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush as far as possible."""
        self._try(self._stream.flush)

    def _try(self, do: Callable, *arguments: str) -> None:
        try:
            do(*arguments)
        except (OSError, RuntimeError) as error:  # RuntimeError: a signal during another write
            is_worth_a_line = not isinstance(error, BrokenPipeError)  # as `head` leaves
            if is_worth_a_line and not self._has_failed and self is not sys.stderr:
                sys.stderr.write(f"{self._stream.name} cannot be written, continuing: {error}\n")
            self._has_failed = True
