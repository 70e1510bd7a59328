"""Provenance of a result: code, packages, machine, device, environment variables, memory.

Each start of a run adds an entry to its `environment.json`.
"""

import contextlib
import datetime
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import commons
from machine import num_usable_cores

try:
    import resource
except ImportError:  # Windows
    resource = None

VERSION = "0.1.0"
FILE = "environment.json"
_PACKAGES = (
    *("torchvision", "faiss-cpu", "faiss-gpu", "pillow", "simplejpeg", "numba", "timm"),
    "pytorch-metric-learning",
    *("onnxruntime", "onnxruntime-gpu", "scikit-learn", "utm", "filelock"),
)
_VARIABLES = (  # that influence results or speed; no others: they may be secret
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "CUDA_LAUNCH_BLOCKING"),
    *("NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "NUMBA_CACHE_DIR", "DATASETS_FOLDER", "TORCH_HOME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "NCCL_DEBUG", "NCCL_SOCKET_IFNAME"),
    *("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST", "SLURM_CPUS_PER_TASK"),
    *("PBS_JOBID", "LSB_JOBID"),
)


def code_version() -> str:
    """Return the version of this code, with the git commit if it is a checkout of its own."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return VERSION
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.check_output(command, cwd=folder, stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return VERSION
    return f"{VERSION}+{commit.decode().strip()}"


def describe_software() -> dict[str, str]:
    """Return the versions that a result depends on; call it at the start, before files change."""
    return {
        "code_version": code_version(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def name_device(device: torch.device) -> str:
    """Return a device with its name and size: a GPU's memory, a processor's threads and cores."""
    found = _describe_device(device)
    if device.type == "cuda":
        text = f"{device}, {found['device_name']}, {found['vram_gb']:g} GB"
    elif device.type == "cpu":
        threads = commons.plural(torch.get_num_threads(), "thread")
        text = f"cpu, {_processor()}, {threads} on {commons.plural(num_usable_cores(), 'core')}"
    else:
        text = str(device)
    num_processes = commons.num_ranks()
    return f"{num_processes} processes; the first on {text}" if num_processes > 1 else text


def record_start(folder: Path, device: torch.device) -> None:
    """Append software, machine and device to `environment.json`, a list with one entry a start.

    Of several processes, the main one does.

    Args:
        folder: Of the run.
        device: Where it computes.
    """
    if commons.rank() > 0:
        return
    start = {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "working_folder": os.getcwd(),
        **describe_software(),
        "packages": _find_packages(),
        **_describe_machine(),
        **_describe_device(device),
        "num_processes": commons.num_ranks(),
        "num_threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    commons.write_json([*_read_starts(folder / FILE), start], folder / FILE)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the peak memory of this process so far, without its loader processes.

    Args:
        device: Where it computes.

    Returns:
        "peak_ram_mb", with the pages of mapped files, where the system reports it; on CUDA devices
        "peak_vram_mb", reserved by torch, which decides what fits.
    """
    peaks = {}
    if (ram_mb := _peak_ram_mb()) is not None:
        peaks["peak_ram_mb"] = round(ram_mb, 1)
    if device.type == "cuda":
        peaks["peak_vram_mb"] = round(torch.cuda.max_memory_reserved(device) / 1e6, 1)
    return peaks


def _peak_ram_mb() -> float | None:
    with contextlib.suppress(OSError):  # on Linux, getrusage includes the parent's peak
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    if resource is None:
        return None
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 1e6


def _read_starts(file: Path) -> list[Any]:
    """Return the entries of earlier starts; a damaged file starts anew."""
    try:
        starts = json.loads(file.read_bytes())
        if isinstance(starts, list):
            return starts
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError):
        pass
    logging.warning(f"{file} is damaged (it holds no list): it begins anew with this start")
    return []


def _find_packages() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _describe_machine() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "host": platform.node(),
        "os": platform.platform(),
        "cpu": _processor(),
        "num_cores": os.cpu_count(),
        "num_usable_cores": num_usable_cores(),
    }
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows
        facts["ram_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    return facts


def _processor() -> str:
    """Return the name of the processor; Linux has it in a file."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _describe_device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": str(device)}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": str(device),
        "device_name": properties.name,
        "vram_gb": round(properties.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _driver(),
    }


def _driver() -> str | None:
    """Return the version of the NVIDIA driver, None if unknown."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.split("\n")[0].strip() or None
