"""Read .npy files that may be damaged, or made to do damage."""

import math
import os
from typing import Any, BinaryIO

import numpy as np


def map_array(path: str | os.PathLike) -> np.ndarray:
    """Map the array of a .npy file into memory, to be read only.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds no array of numbers or text, or less than its header tells.
    """
    with open(path, "rb") as file:
        shape, dtype = read_header(file)
        check_size(file, shape, dtype)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Read the shape and the type of the array that follows in a file.

    Raises:
        ValueError: If the header is damaged.
    """
    try:
        version = np.lib.format.read_magic(file)
        readers: dict[Any, Any] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, dtype = readers[version](file)
    except Exception as error:  # NumPy evaluates it as Python: its errors are of many kinds
        raise ValueError(f"its header is no header of a .npy file ({error})") from None
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"its header tells of the shape {shape}")
    return shape, dtype


def check_size(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Check that the numbers of an array follow in a file; its place stays.

    Raises:
        ValueError: If they do not, or if the array holds Python objects.
    """
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not read")
    num_bytes = math.prod(shape) * max(dtype.itemsize, 1)
    found = os.fstat(file.fileno()).st_size - file.tell()
    if num_bytes > found:
        raise ValueError(f"its header tells of {num_bytes:,} bytes, and {found:,} are there")
