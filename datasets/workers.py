"""Loader processes that leave it to the main process when to end."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


def outlive_signals(worker_id: int) -> None:
    """Let a loader process live on when its whole job is told to stop; a `worker_init_fn`.

    Ctrl-C and a cluster's notice that time is up reach all processes of a job, while the main
    process still needs batches to finish what it is at. SIGINT is ignored, and on Linux so is a
    SIGTERM that is not from the main process. One from there ends the process at once, even if it
    is stuck: that is how a main process that exits ends its loader processes, and waits for them.

    Args:
        worker_id: Which process of the loader; all do the same.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere it cannot be told whom a signal is from
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    main_process = multiprocessing.parent_process()  # not what forked this one, a server perhaps
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main_process.pid:
        pass
    os._exit(0)  # as loader processes of torch do


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Let Ctrl-C wait while processes are started.

    Where it comes during a fork, the main process would lose it, or take a loader process that it
    ended for a failure.
    """
    if threading.current_thread() is not threading.main_thread():  # others never get it
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda *signal_and_frame: held.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held and callable(before):
            before(*held[0])
