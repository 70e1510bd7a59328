"""Mixed precision, where it pays."""

import platform
from pathlib import Path

import torch

AMP_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_CPU_UNITS = {  # words in /proc/cpuinfo, of x86 and ARM processors
    "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
}


def check_amp_dtype(name: str, device: torch.device) -> None:
    """Raise a ValueError if mixed precision in "fp16" or "bf16" does not pay on a device.

    A processor that has to emulate it takes many times as long as in 32 bits (40 times were
    measured for bf16).
    """
    if device.type == "cpu" and not cpu_computes_in(name):
        raise ValueError(
            f"--amp_dtype {name}: this processor does not compute in {name}, mixed precision would "
            "take many times as long as 32 bits: leave --use_amp16 out"
        )


def cpu_computes_in(name: str) -> bool:
    """Tell whether the processor has units for a 16-bit type; yes where it cannot be known."""
    if platform.system() != "Linux":
        return True
    words = set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    return bool(_CPU_UNITS[name] & words)
