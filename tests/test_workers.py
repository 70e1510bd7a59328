import errno
import logging
import os
import re
import signal

import pytest
import torch
from torch.utils.data import Dataset

import commons
from datasets import workers
from datasets.loading import Loader
from datasets.workers import limit_workers, map_in_processes, must_copy

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Return a function that says what is free on the machine."""

    def have(handles=1 << 20, shared_bytes=1 << 34):
        monkeypatch.setattr(workers, "_free_handles", lambda: handles)
        monkeypatch.setattr(workers, "_most_handles", lambda: handles + 12)
        monkeypatch.setattr(workers, "_free_shared_bytes", lambda: shared_bytes)
        workers._warn.cache_clear()

    have()
    return have


@pytest.mark.parametrize(
    ("free", "allowed", "text"),
    [
        ({}, 8, ""),
        ({"handles": 48}, 3, "only 48 more files may be opened (ulimit -n 4096"),
        ({"handles": 12}, 0, "only 12 more files"),
        ({"shared_bytes": 1 << 18}, 7, "/dev/shm has only 262 kB left (docker run --shm-size"),
        ({"shared_bytes": 1 << 15, "handles": 60}, 0, "/dev/shm has only 32 kB"),
    ],
)
def test_scarce_machines_have_fewer_processes_and_say_so_once(machine, caplog, free, allowed, text):
    machine(**free)
    caplog.set_level(logging.WARNING)
    assert [limit_workers(8), limit_workers(8)] == [allowed, allowed]
    assert len(caplog.records) == (allowed < 8) and text in caplog.text


def test_what_is_free_is_measured():
    free = workers._free_handles()
    with open(os.devnull):
        assert workers._free_handles() == free - 1
    assert workers._free_shared_bytes() > 0


@pytest.mark.parametrize(
    ("free", "expected"),
    [({}, False), ({"handles": 244}, True), ({"shared_bytes": 64 << 20}, True)],
)
def test_tensors_are_copied_where_sharing_is_scarce(machine, free, expected):
    machine(**free)
    assert must_copy() == expected


class Images(Dataset):
    """Batches with one number each; loader processes break as asked."""

    def __init__(self, breakage=None):
        self.breakage = breakage

    def __len__(self):
        return 12

    def __getitem__(self, number):
        if self.breakage == "full":
            torch.UntypedStorage._share_fd_cpu_ = _fail
        if self.breakage == "killed" and number == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        dtype = torch.bfloat16 if self.breakage == "strange" else torch.uint8
        return torch.full((2, 3, 4), number, dtype=dtype).permute(2, 0, 1)


def _fail(*_):
    raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


def collate(samples):
    return torch.stack([sample.permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2), 5


def load(breakage=None, num_workers=2):
    batches = [range(first, first + 2) for first in range(0, 12, 2)]
    return list(Loader(Images(breakage), batches, num_workers, collate, CPU))


@pytest.mark.parametrize(
    ("shared_bytes", "breakage"), [(1 << 34, None), (1 << 20, None), (1 << 34, "full")]
)
def test_batches_are_the_same_however_they_come(
    machine, shared_bytes, breakage, capfd, monkeypatch
):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # some may have lost their consoles
    machine(shared_bytes=shared_bytes)
    for number, (images, five) in enumerate(load(breakage)):
        assert images.shape == (2, 4, 2, 3) and images.stride() == (24, 1, 12, 4) and five == 5
        assert images[:, 0, 0, 0].tolist() == [2 * number, 2 * number + 1]
    assert number == 5 and "Traceback" not in capfd.readouterr().err


def test_what_cannot_be_sent_at_all_is_an_error_here(machine):
    machine(shared_bytes=1 << 20)
    with pytest.raises(TypeError, match="BFloat16"):
        load("strange")


@pytest.mark.parametrize("shared_bytes", [1 << 34, 1 << 20])
def test_a_killed_loader_process_is_noticed(machine, shared_bytes):
    machine(shared_bytes=shared_bytes)
    with pytest.raises(RuntimeError) as killed:
        load("killed", num_workers=1)  # another would wait 5 s for the locks of this one
    assert "A loader process was killed" in commons.describe_failure(killed.value)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "/dev/shm is full: enlarge it"),
        (errno.EMFILE, "too many files are open: allow more by ulimit -n 4096"),
        (errno.EAGAIN, "too many processes"),
    ],
)
def test_processes_that_cannot_start_say_what_is_scarce(machine, monkeypatch, number, text):
    def fail():
        raise OSError(number, "")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", lambda self: fail())
    with pytest.raises(OSError, match=re.escape(text)):
        load()
    with pytest.raises(OSError, match=re.escape(text)):
        list(map_in_processes(str, range(4), 2, 1))


def square(number):
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2, os.getpid()


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_processes_map_in_order(machine, num_workers):
    results = list(map_in_processes(square, iter(range(50)), num_workers, 3))
    assert [result for result, _ in results] == [number**2 for number in range(50)]
    assert (os.getpid() in {process for _, process in results}) == (num_workers < 2)


def test_a_killed_process_of_a_pool_ends_the_work_with_a_sentence(machine):
    with pytest.raises(Exception, match="terminated abruptly") as killed:
        list(map_in_processes(square, [1, 2, -1, *range(50)], 2, 1))
    assert commons.describe_failure(killed.value).startswith("A process was killed, most likely")
