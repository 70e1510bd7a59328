"""Where log lines go: nothing that happens there ends a run or clutters what it says."""

import contextlib
import logging
import sys


class ConsoleClosed(BrokenPipeError):
    """Who read the output has gone, as `head` does when it has enough."""


class LogStream(logging.StreamHandler):
    """The console, which may be closed, or a full disk."""

    has_failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, the name of logging
        """Warn once that lines are lost, instead of a traceback for each.

        Raises:
            ConsoleClosed: If nobody reads what is printed.
        """
        error = sys.exc_info()[1]
        if isinstance(error, BrokenPipeError) and self.stream is sys.stdout:
            raise ConsoleClosed from None
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.has_failed:
            self.has_failed = True
            name = getattr(self.stream, "name", "The console")
            with contextlib.suppress(OSError):
                sys.stderr.write(f"{name} cannot be written, going on: {error.strerror}\n")


class LogFile(LogStream, logging.FileHandler):
    """A file, on a disk that may be full or vanish."""
