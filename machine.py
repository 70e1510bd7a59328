"""The machine: cores that this process may use, threads that wait, devices.

Imports torch only where it is used: entry points call `prepare` before they import it.
"""

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import commons

if TYPE_CHECKING:
    import torch

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # GNU's OpenMP; LLVM's, Intel's


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set how OpenMP's threads wait, and how many there are; call it before torch is imported.

    They wait asleep: by default they spin, and where another process has a core, each operation
    then takes as long as the time slice of that process. In a container with a quota of CPU time
    there are no more threads than it has cores. Variables that are set stay.

    Args:
        environment: Variables, also of the processes that this one starts.
    """
    if not environment.keys() & _WAITING.keys():
        environment.update(_WAITING)
    if num_usable_cores() < _num_allowed_cores():
        environment.setdefault("OMP_NUM_THREADS", str(num_usable_cores()))


def num_usable_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its quota."""
    return max(1, int(min((_num_allowed_cores(), *_read_quotas()))))


def _num_allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_quotas() -> Iterator[float]:
    """Yield the quotas of CPU time, in cores, of the control groups that this process is in.

    A container may see its own groups as the root of all, whatever their names are outside.
    """
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:  # another system than Linux
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        is_second_version = not controllers
        if not is_second_version and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(name).relative_to("/")
        for folder in (_CGROUPS / controllers / one for one in (group, *group.parents)):
            yield from _read_quota(folder)


def _read_quota(folder: Path) -> Iterator[float]:
    """Yield the quota of a control group, in either version's format, if it has one."""
    files = ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    for names in files:
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
        except (OSError, ValueError):
            continue


def choose_device(name: str) -> "torch.device":
    """Return a device by name; "auto" is CUDA, Apple's GPU or the CPU, the first that is there.

    Of several processes on a node, each gets a CUDA device of its own.

    Args:
        name: "auto", "cpu", "mps", "cuda", or "cuda:1" for the second GPU.

    Raises:
        ValueError: If there is no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return _own_cuda_device()
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, True):
        raise ValueError(f"--device {name}: no such device is available; try --device auto or cpu")
    if not number:
        return _own_cuda_device() if name == "cuda" else torch.device(name)
    if commons.num_ranks() > 1:
        raise ValueError(
            f"--device {name} is one GPU: with torchrun give --device cuda, and choose the GPUs by "
            "the variable CUDA_VISIBLE_DEVICES"
        )
    if int(number) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ValueError(f"--device {name}: the last GPU of this machine is cuda:{last}")
    torch.cuda.set_device(int(number))
    return torch.device(name)


def _own_cuda_device() -> "torch.device":
    import torch

    if commons.num_ranks() == 1:
        return torch.device("cuda")
    local_rank, num_devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local_rank >= num_devices:
        raise ValueError(
            f"torchrun started more processes on a node than it has GPUs ({num_devices}): "
            f"--nproc_per_node {num_devices}, or --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
