import errno
import io
import signal
import sys

import pytest

import stops


@pytest.fixture
def clock(monkeypatch):
    """Return a function that sets the time."""
    now = [0.0]
    monkeypatch.setattr(stops.time, "monotonic", lambda: now[0])
    stops.forget()
    yield lambda time_s: now.__setitem__(0, time_s)
    stops.forget()


def test_a_signal_counts_once_within_seconds(clock):
    seen = []
    for time_s, number in (
        *((0, signal.SIGTERM), (0.5, signal.SIGINT), (2, signal.SIGTERM), (3, signal.SIGINT)),
        *((9.9, signal.SIGTERM), (10.1, signal.SIGTERM)),
    ):
        clock(time_s)
        seen.append(stops.counts(number))
    assert seen == [True, False, False, True, False, True]


def test_errors_are_raised_in_the_main_function_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), stops.raising(lambda number: ZeroDivisionError(number)):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


class Full(io.StringIO):
    name = "<stdout>"

    def __init__(self, number):
        super().__init__()
        self.error = OSError(number, "No")

    def write(self, text):
        if self.error:
            raise self.error
        return super().write(text)

    flush = lambda self: self.write("")  # noqa: E731


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "<stdout> cannot be written, continuing: [Errno 28] No\n"), (errno.EPIPE, "")],
)
def test_a_console_that_fails_is_said_once_and_may_come_back(monkeypatch, number, said):
    full, errors = Full(number), io.StringIO()
    stream = stops.LastingStream(full)
    monkeypatch.setattr(sys, "stderr", errors)
    assert stream.write("lost") == 4
    stream.flush()
    assert errors.getvalue() == said
    full.error = None
    stream.write("kept")
    assert (full.getvalue(), stream.name, stream.closed) == ("kept", "<stdout>", False)


def test_a_console_that_is_not_there_takes_everything():
    stream = stops.LastingStream(None)
    stream.write("lost")
    stream.flush()
    assert not stream.isatty()
