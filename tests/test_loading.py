import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import REPOSITORY, name, run, write_image
from torch.utils.data import DataLoader, Dataset

from datasets.loading import defer_interrupts, ignore_job_signals

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "sigwaitinfo"), reason="tells whom signals are from"
)


class Pids(Dataset):
    """The process that loads each item; item 0 is never loaded."""

    def __len__(self):
        return 60

    def __getitem__(self, item):
        if item == 0:
            time.sleep(1000)
        return os.getpid()


def start_loading(items):
    loader = DataLoader(
        Pids(),
        sampler=items,
        num_workers=2,
        worker_init_fn=ignore_job_signals,
        prefetch_factor=1,
    )
    return iter(loader)


def load_in(has_begun):
    ignore_job_signals(0)
    has_begun.set()
    time.sleep(1000)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_the_main_process_ends_them_however_they_were_started(method):
    context = multiprocessing.get_context(method)
    has_begun = context.Event()
    worker = context.Process(target=load_in, args=(has_begun,))
    worker.start()
    assert has_begun.wait(60)
    signal_as_a_cluster_does(signal.SIGTERM, [worker.pid])
    assert worker.is_alive()
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 0


def signal_as_a_cluster_does(number, pids):
    """Send a signal from a process that is not the parent of the others."""
    subprocess.run(["kill", f"-{number.value}", *map(str, pids)], check=True)
    time.sleep(0.05)  # signals that wait together are one


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]],
)
def test_loading_goes_on_after_signals_and_ends_at_once(signals):
    loading = start_loading(range(1, 41))
    pids = {int(next(loading)) for _ in range(4)}
    assert len(pids) == 2 and os.getpid() not in pids
    for number in signals:
        signal_as_a_cluster_does(number, pids)
    rest = torch.cat(list(loading)).tolist()
    assert set(rest) == pids and len(rest) == 36
    workers = loading._workers
    del loading
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_the_main_process_ends_a_worker_that_is_stuck():
    loading = start_loading([1, 2, 0, 3])
    pids = [int(next(loading)) for _ in range(2)]
    worker = next(worker for worker in loading._workers if worker.pid == pids[0])
    signal_as_a_cluster_does(signal.SIGTERM, [worker.pid])
    assert worker.is_alive()
    worker.terminate()
    worker.join(timeout=30)
    assert worker.exitcode == 0 and worker not in multiprocessing.active_children()


@pytest.mark.parametrize("num_signals", [0, 1])
def test_a_main_process_that_fails_ends_with_its_workers(num_signals):
    """At exit, multiprocessing sends each one SIGTERM and waits without limit."""
    code = "import os, sys; sys.path.insert(0, 'tests'); import test_loading as t; "
    code += (
        "loading = t.start_loading([1, 2, 0, 0]); pids = [int(next(loading)) for _ in range(2)]; "
    )
    code += f"[t.signal_as_a_cluster_does(t.signal.SIGTERM, pids) for _ in range({num_signals})]; "
    code += "raise SystemExit(7)"
    result = run("-c", code)
    assert result.returncode == 7, result.stderr


def test_ctrl_c_while_processes_start_reaches_the_main_process_afterwards():
    loading = None
    with pytest.raises(KeyboardInterrupt), defer_interrupts():
        os.kill(os.getpid(), signal.SIGINT)  # a terminal gives it to all processes
        loading = start_loading(range(1, 41))
        for worker in loading._workers:
            os.kill(worker.pid, signal.SIGINT)
    assert len(list(loading)) == 40, "the workers live on, until the main process ends them"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_nothing_is_deferred_nothing_is_raised():
    with defer_interrupts():
        pass
    with pytest.raises(ZeroDivisionError), defer_interrupts():
        1 / 0  # noqa: B018
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_evaluation_that_is_interrupted_says_so_and_no_more(tmp_path):
    """Ctrl-C reaches all processes: none of them shows a traceback."""
    for role in ("database", "queries"):
        for number in range(40):
            write_image(tmp_path / "set" / role / name(10 * number, 2), size=(640, 480))
    command = [sys.executable, "eval.py", "--untrained", "--backbone_weights=none"]
    command += ["--device=cpu", "--num_workers=2", f"--test_set_folder={tmp_path / 'set'}"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [*command, f"--save_dir={tmp_path / 'run'}"],
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        while b"Database:  " not in (tmp_path / "log").read_bytes() and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=100) == 130
    said = (tmp_path / "log").read_text()
    assert said.count("Stopped by SIGINT. Start again") == 1 and "Traceback" not in said
