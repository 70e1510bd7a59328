"""How much memory a run has taken."""

import contextlib
import sys
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the most memory that this process has had so far, without its loader processes.

    Args:
        device: Where it computes.

    Returns:
        "peak_ram_mb", where the system tells it, with the pages of mapped files; on CUDA devices
        "peak_vram_mb", what torch has reserved there, which decides what fits.
    """
    peaks = {}
    if (ram_mb := _peak_ram_mb()) is not None:
        peaks["peak_ram_mb"] = round(ram_mb, 1)
    if device.type == "cuda":
        peaks["peak_vram_mb"] = round(torch.cuda.max_memory_reserved(device) / 1e6, 1)
    return peaks


def _peak_ram_mb() -> float | None:
    with contextlib.suppress(OSError):  # what getrusage tells on Linux counts the parent, too
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    if resource is None:
        return None
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 1e6
