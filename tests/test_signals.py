import os
import signal
import threading

import pytest
import torch

import stops
from commons import Stopped
from runs.signals import StopSignals

BOTH = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def a_second_later(monkeypatch):
    """Count every signal."""
    for name in ("_ECHO_S", "_PATIENCE_S"):
        monkeypatch.setattr(stops, name, 0)


@pytest.mark.parametrize("number", BOTH)
def test_signals_stop_at_once_and_handlers_are_restored(number):
    before = signal.getsignal(number)
    with (
        pytest.raises(Stopped, match="^Stopped by SIG.*. Continue$") as stopped,
        StopSignals("Continue", can_resume=False),
    ):
        signal.raise_signal(number)
        pytest.fail("it continues")
    assert (stopped.value.signal_number, stopped.value.can_resume) == (number, False)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", BOTH)
def test_a_postponed_signal_waits_until_received(number):
    with StopSignals("Continue", can_resume=True) as signals:
        with signals.postponed():
            assert signals.received() == 0
            signal.raise_signal(number)
            assert signals.received() == number
        with signals.postponed():
            assert signals.received() == number
    assert str(signals.stopped(number)) == f"Stopped by {number.name}. Continue"


def test_a_signal_that_comes_twice_counts_once():
    with StopSignals("Continue", can_resume=True) as signals, signals.postponed():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signals.received() == signal.SIGTERM
    with StopSignals("Continue", can_resume=True), pytest.raises(Stopped) as stopped:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
    assert stopped.value.signal_number == signal.SIGTERM


def test_a_second_signal_does_not_wait(a_second_later):
    with StopSignals("Continue", can_resume=True) as signals, signals.postponed():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGINT)


def stop_and_raise(error):
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        raise error


def test_what_breaks_as_processes_end_is_the_stop_itself():
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")
    with pytest.raises(Stopped), StopSignals("Continue", can_resume=True):
        stop_and_raise(killed)


def test_a_disk_that_is_full_at_the_stop_is_an_error():
    with pytest.raises(OSError, match="full"), StopSignals("Continue", can_resume=True):
        stop_and_raise(OSError("full"))


def test_a_full_gpu_at_the_stop_is_an_error():
    with pytest.raises(torch.cuda.OutOfMemoryError), StopSignals("Continue", can_resume=True):
        stop_and_raise(torch.cuda.OutOfMemoryError("CUDA out of memory"))


def test_other_errors_stay():
    with pytest.raises(RuntimeError, match="a bug"), StopSignals("Continue", can_resume=True):
        raise RuntimeError("a bug")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked")
def test_processes_that_are_forked_leave_the_stop_to_this_one():
    with StopSignals("Continue", can_resume=True):
        child = os.fork()
        if not child:
            try:
                signal.raise_signal(signal.SIGINT)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_thread_cannot_take_signals_over():
    done = []

    def work():
        with StopSignals("Continue", can_resume=True):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
