"""Networks without their code: TorchScript and ONNX files."""

import importlib.util
import os
import re
import warnings
from collections.abc import Callable

import torch
from torch import nn


def load_torchscript(path: str | os.PathLike) -> nn.Module:
    """Load a TorchScript file onto the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TorchScript.
    """
    _require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, but still reads its files
            return torch.jit.load(os.fspath(path), map_location="cpu")
    except Exception as error:  # torch.jit.load raises many kinds
        reason = re.split(r"\n|\. ", str(error).strip())[0]
        raise ValueError(
            f"{path} is not a TorchScript file ({reason}); a checkpoint goes to --resume"
        ) from None


def load_onnx(
    path: str | os.PathLike, on_cpu: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Load an ONNX file with one input and one output into onnxruntime.

    Args:
        path: The file; not needed afterwards.
        on_cpu: Compute on the CPU, even if the installed onnxruntime is for the GPU.

    Returns:
        A function of images, which returns descriptors on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, or onnxruntime is not installed.
    """
    _require_file(path)
    require_packages("onnxruntime")
    import onnxruntime

    wanted = [*([] if on_cpu else ["CUDAExecutionProvider"]), "CPUExecutionProvider"]
    available = onnxruntime.get_available_providers()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # also where other processes compute
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=[name for name in wanted if name in available]
        )
    except Exception as error:  # onnxruntime has its own kind for each failure
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is not an ONNX file that can be run: {reason}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; needed are one input, "
            "the images, and one output, the descriptors"
        )
    input_name, output_name = inputs[0].name, outputs[0].name

    def compute(images: torch.Tensor) -> torch.Tensor:
        (descriptors,) = session.run([output_name], {input_name: images.detach().cpu().numpy()})
        return torch.from_numpy(descriptors)

    return compute


def require_packages(*names: str) -> None:
    """Raise a ValueError, which says how to install them, if optional packages are missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"ONNX needs {' and '.join(missing)}, not installed: pip install {' '.join(missing)}"
        )


def _require_file(path: str | os.PathLike) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}")
