"""Read a pickled array of lists, as np.save writes lists of different lengths.

NumPy is not asked to do what a pickle says: of bytes that a file brings along it would also make
an array of objects, whose addresses are then chosen by the file.
"""

import io
import pickle
import re
from typing import Any, BinaryIO

import numpy as np

_MOST_NUMBERS = 10_000_000  # a short file can repeat a list many times
_NUMBERS = (int, float, np.number, np.bool_)
_FORBIDDEN = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.BINPERSID),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.ADDITEMS, pickle.FROZENSET),  # hashing deeply nested tuples overflows the stack
)


def read_lists(file: BinaryIO, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of lists and numbers.

    Args:
        file: Stands behind the header of a .npy file.
        shape: That the header tells.

    Raises:
        ValueError: If it holds anything else than numbers, lists and arrays of numbers. Broken
            pickles raise many other kinds of exceptions.
    """
    content = _ArraysOnly(io.BytesIO(file.read())).load()
    if type(content) is not _Array or content.shape != shape or type(content.content) is not list:
        raise ValueError("its header and its content disagree")
    found = [row.numbers() if type(row) is _Array else row for row in content.content]
    if sum(_num_numbers(row) for row in found) > _MOST_NUMBERS:
        raise ValueError(f"it holds more than {_MOST_NUMBERS:,} numbers")
    rows = np.empty(len(found), object)
    for number, row in enumerate(found):
        values = row if isinstance(row, (list, tuple)) else [row]
        is_array = isinstance(row, np.ndarray)
        if not is_array and not all(isinstance(value, _NUMBERS) for value in values):
            raise ValueError("it holds other things than lists of numbers")
        rows[number] = row
    return rows.reshape(shape, order="F" if content.is_fortran else "C")


def _num_numbers(row: Any) -> int:
    return row.size if isinstance(row, np.ndarray) else len(row) if hasattr(row, "__len__") else 1


class _Type:
    """Stands for the type of an array."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"O8?|b1|[iu][1248]|f[248]", code):
            raise ValueError("it has an array of other things than numbers and lists")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype:
        """Return the type, of numbers only."""
        if self.code.startswith("O"):
            raise ValueError("it holds lists of lists")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for an array: what a pickle says of it."""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.content = state

    def numbers(self) -> np.ndarray:
        """Return the array of numbers."""
        values = np.frombuffer(self.content, self.dtype.numpy())
        return values.reshape(self.shape, order="F" if self.is_fortran else "C")


def _make_array(*_: Any) -> _Array:
    return _Array()


def _of_buffer(content: bytes, dtype: _Type, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _make_scalar(dtype: _Type, content: bytes) -> np.generic:
    return np.frombuffer(content, dtype.numpy())[0]


_NAMES = {
    "_reconstruct": _make_array,
    "_frombuffer": _of_buffer,
    "scalar": _make_scalar,
    "dtype": _Type,
    "ndarray": None,  # an argument of _reconstruct
}


class _ArraysOnly(pickle._Unpickler):  # in Python: that in C cannot be told which steps to refuse
    """Reads pickled arrays and lists; runs nothing that a file may hold."""

    dispatch = {
        operation: step
        for operation, step in pickle._Unpickler.dispatch.items()
        if bytes([operation]) not in _FORBIDDEN
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for the functions of NumPy that make arrays."""
        if module.split(".")[0] == "numpy" and name in _NAMES:
            return _NAMES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")

    def _load_reduce(self) -> None:
        if self.stack[-2] is None or self.stack[-2] not in _NAMES.values():
            raise ValueError("it calls something else than what makes arrays")
        pickle._Unpickler.load_reduce(self)

    def _load_build(self) -> None:
        if type(self.stack[-2]) not in (_Array, _Type):
            raise ValueError("it changes something else than arrays")
        pickle._Unpickler.load_build(self)

    dispatch |= {pickle.REDUCE[0]: _load_reduce, pickle.BUILD[0]: _load_build}
