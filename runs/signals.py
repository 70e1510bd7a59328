"""Signals that ask a run to stop, from Ctrl-C or a cluster."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

import commons
import stops


class StopSignals:
    """Within its context, SIGTERM and SIGINT raise `Stopped`, or wait while `postponed`.

    A second signal is not postponed, unless it repeats the first one within seconds.
    """

    def __init__(self, how_to_resume: str, can_resume: bool) -> None:
        """Prepare; signals are handled within the context.

        Args:
            how_to_resume: A sentence for the user. May change during the run.
            can_resume: See `Stopped`.
        """
        self.how_to_resume, self._can_resume = how_to_resume, can_resume
        self._process = os.getpid()
        self._received = 0
        self._is_postponed = False

    def __enter__(self) -> "StopSignals":
        """Handle the signals, if this is the main thread: Python allows no other."""
        is_main = threading.current_thread() is threading.main_thread()
        self._before = {
            number: signal.signal(number, self._handle) for number in stops.SIGNALS if is_main
        }
        stops.forget()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the handlers; an error that the end of other processes caused is the stop."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._received and isinstance(error, Exception) and _is_of_other_process(error):
            logging.debug("After the signal:", exc_info=error)
            raise self.stopped(self._received) from error

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader process, which this one ends
        if not stops.counts(number):
            return
        is_first, self._received = not self._received, number
        if not (self._is_postponed and is_first):
            raise self.stopped(number)
        logging.info(f"{signal.Signals(number).name}: finishing the iteration")

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """Let a signal wait until `received` is called."""
        self._is_postponed = True
        try:
            yield
        finally:
            self._is_postponed = False

    def received(self) -> int:
        """Return the signal that any process of the job received, 0 for none.

        All processes must call this at the same point of the run.
        """
        if commons.num_ranks() == 1:
            return self._received
        number = torch.tensor(self._received)  # on the CPU: without waiting for a GPU
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def stopped(self, number: int) -> commons.Stopped:
        """Return the exception that ends the run after a signal."""
        name = signal.Signals(number).name
        return commons.Stopped(number, f"Stopped by {name}. {self.how_to_resume}", self._can_resume)


def _is_of_other_process(error: Exception) -> bool:
    """Whether the end of other processes of the job, by a signal, causes such an error."""
    if isinstance(error, (EOFError, ConnectionError)) or commons.is_lost_connection(error):
        return True
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
