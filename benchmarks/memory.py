"""How much memory this process uses, on Linux."""

from pathlib import Path


def read_memory_mb(field: str) -> float:
    """Read a field of /proc/self/status, such as VmRSS (now) or VmHWM (the most), in MB.

    The peak that getrusage tells counts what the parent process used as well.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {field}")
