"""What a run runs on, in its `environment.json`: code, packages, machine, device, variables."""

import contextlib
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import commons
from runs.provenance import describe_software

FILE = "environment.json"
_PACKAGES = (
    *("torchvision", "faiss-cpu", "faiss-gpu", "pillow", "simplejpeg", "numba", "timm"),
    *("onnxruntime", "onnxruntime-gpu", "scikit-learn", "utm", "filelock"),
)
_VARIABLES = (  # of influence on results or speed; no others: they may be secret
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "CUDA_LAUNCH_BLOCKING"),
    *("NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "NUMBA_CACHE_DIR", "DATASETS_FOLDER", "TORCH_HOME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "NCCL_DEBUG", "NCCL_SOCKET_IFNAME"),
    *("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST", "SLURM_CPUS_PER_TASK"),
    *("PBS_JOBID", "LSB_JOBID"),
)


def record_start(folder: Path, device: torch.device) -> None:
    """Append what this run runs on to `environment.json`, a list with an entry for each start.

    Of several processes, the main one does.

    Args:
        folder: Of the run.
        device: Where it computes.
    """
    if commons.rank() > 0:
        return
    commons.write_json([*_read_starts(folder / FILE), describe_start(device)], folder / FILE)


def describe_start(device: torch.device) -> dict[str, Any]:
    """Return what this process runs on, as plain values; what cannot be known is left out."""
    return {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "working_folder": os.getcwd(),
        **describe_software(),
        "packages": _describe_packages(),
        **_describe_machine(),
        **_describe_device(device),
        "num_processes": commons.num_ranks(),
        "num_threads": torch.get_num_threads(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _read_starts(file: Path) -> list[Any]:
    """Return the entries of earlier starts; a file that is none of ours is begun again."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        starts = json.loads(file.read_text(encoding="utf-8"))
        return starts if isinstance(starts, list) else []
    return []


def _describe_packages() -> dict[str, str]:
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
    }
    if hasattr(os, "sched_getaffinity"):
        facts["num_usable_cores"] = len(os.sched_getaffinity(0))
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows
        facts["ram_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    return facts


def _processor() -> str:
    """Return the name of the processor; Linux tells it in a file."""
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
    """Return the version of the driver of NVIDIA's GPUs; None if it does not say."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.split("\n")[0].strip() or None
