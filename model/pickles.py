"""Pickles of tensors, followed step by step without making what they tell of.

A pickle is a program. torch.load(weights_only=True) runs no code that a file brings along, but it
does allocate what a file declares, and how strict it is depends on its version. What is let through
here is what torch.save writes for dicts of tensors and plain values.
"""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

# A pickle of one byte can make an object of a hundred: what is read is bounded. The checkpoint of
# a training has some thousand values in a few hundred kilobytes.
MOST_BYTES = 8 << 20
_MOST_VALUES = 1_000_000
_MOST_LEVELS = 100
_MOST_DIMENSIONS = 64  # as torch itself has it
_MOST_REPEATED = 1 << 27  # values of a tensor that is fewer in the file: larger than any layer
_KEYS = (str, int, float, bool, type(None))  # hashing deeply nested tuples overflows the stack
_OPERATIONS = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD),
    *(pickle.BINPERSID, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINSTRING),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
)
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class _StorageType:
    """Stands for a class of storages."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Storage:
    """Stands for numbers that are in a file."""

    def __init__(self, dtype: torch.dtype, num_values: int) -> None:
        self.dtype, self.num_values = dtype, num_values

    @property
    def num_bytes(self) -> int:
        return self.num_values * self.dtype.itemsize


class _Tensor:
    """Stands for a tensor."""


class PickleCheck(pickle._Unpickler):  # in Python: that in C cannot be told which steps to refuse
    """Follows a pickle of torch.save and refuses whatever is not a dict of tensors.

    Any exception of `load` means that the pickle must not be loaded; those with a text for people
    are ValueErrors.
    """

    dispatch = {operation[0]: pickle._Unpickler.dispatch[operation[0]] for operation in _OPERATIONS}

    def __init__(self, file: io.BytesIO) -> None:
        """Begin.

        Args:
            file: Stands at the beginning of the pickle, and afterwards behind it.
        """
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}  # that were asked for, by key

    def load(self) -> Any:
        """Return what the pickle holds, with other objects in the place of tensors."""
        content = super().load()
        _require(not self.stack and not self.metastack, "its pickle leaves something over")
        _check_extent(content)
        return content

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a function, class or dtype that a pickle names."""
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) not in _FUNCTIONS:
            raise ValueError(f"it asks for {ascii(f'{module}.{name}'[:80])}, which is not allowed")
        return _FUNCTIONS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Note a storage that the pickle refers to."""
        _require(type(pid) is tuple and 5 <= len(pid) <= 6, "its storages are of an unknown kind")
        word, kind, key, location, num_values = pid[:5]
        _require(pid[5:] in ((), (None,)), "it has a storage that is part of another one")
        _require(word == "storage" and type(kind) is _StorageType, "it refers to no storage")
        _require(type(key) is str and type(location) is str, "it has a storage without a name")
        _require(_is_count(num_values), "it has a storage without a size")
        storage = self.storages.setdefault(key, _Storage(kind.dtype, num_values))
        is_same = (storage.dtype, storage.num_values) == (kind.dtype, num_values)
        _require(is_same, "it has one storage in two sizes")
        return storage

    def _load_proto(self) -> None:
        _require(self.read(1) == b"\x02", "its pickle is of another protocol")

    def _load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        _require(type(arguments) is tuple and function in _FUNCTIONS.values(), "it calls a value")
        self.stack[-1] = function(*arguments)

    def _load_build(self) -> None:
        """Let an OrderedDict have what a module's state dict has: the versions of layers."""
        state, target = self.stack.pop(), self.stack[-1]
        _require(type(target) is OrderedDict and type(state) is dict, "it sets attributes")
        _require(list(state) == ["_metadata"], "it sets attributes of a dict")
        versions = state["_metadata"]
        _require(isinstance(versions, dict), "it has versions of layers that are no dict")
        are_dicts = all(type(value) is dict for value in versions.values())
        _require(are_dicts, "it has versions of layers that are no dict")
        target._metadata = versions

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [key, value])

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        _set_items(self.stack[-1], items)

    def _load_append(self) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def _load_appends(self) -> None:
        values = self.pop_mark()
        _extend(self.stack[-1], values)

    dispatch |= {
        pickle.PROTO[0]: _load_proto,
        pickle.REDUCE[0]: _load_reduce,
        pickle.BUILD[0]: _load_build,
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
        pickle.APPEND[0]: _load_append,
        pickle.APPENDS[0]: _load_appends,
    }


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _set_items(target: Any, items: list) -> None:
    _require(type(target) in (dict, OrderedDict), "it sets items of something that is no dict")
    _require(all(type(key) in _KEYS for key in items[::2]), "it has a dict with strange keys")
    target.update(zip(items[::2], items[1::2], strict=True))


def _extend(target: Any, values: list) -> None:
    _require(type(target) is list, "it appends to something that is no list")
    target.extend(values)


def _make_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
) -> _Tensor:
    """Check that a tensor is within its storage, and bounded if it repeats what is there."""
    _require(type(storage) is _Storage, "it has a tensor without a storage")
    _require(type(size) is tuple and type(stride) is tuple, "it has a tensor without a shape")
    counts = (offset, *size, *stride)
    is_shaped = all(map(_is_count, counts)) and len(size) == len(stride) <= _MOST_DIMENSIONS
    _require(is_shaped, "it has a tensor without a shape")
    _require(not hooks and type(requires_grad) is bool, "it has a tensor with hooks")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    is_small = count <= max(storage.num_values, _MOST_REPEATED)
    fits = count == 0 or (last < storage.num_values and is_small)
    _require(fits and offset <= storage.num_values, "it has a tensor larger than its numbers")
    return _Tensor()


def _make_parameter(data: Any, requires_grad: Any, hooks: Any) -> _Tensor:
    _require(type(data) is _Tensor and not hooks, "it has a parameter that is no tensor")
    return data


def _make_dict(items: Any = ()) -> OrderedDict:
    """Return an OrderedDict; Python 2 pickled the items as a list of pairs."""
    target: OrderedDict = OrderedDict()
    for key, value in items:
        _set_items(target, [key, value])
    return target


def _make_size(sizes: Any) -> tuple:
    _require(type(sizes) is tuple and all(map(_is_count, sizes)), "it has a strange torch.Size")
    return sizes


def _make_device(kind: Any, number: Any = 0) -> None:
    _require(type(kind) is str and _is_count(number), "it has a strange torch.device")


def _make_bytes(text: Any, encoding: Any) -> bytes:
    """Return bytes; other encodings are able to double them again and again."""
    _require(type(text) is str and encoding == "latin1", "it has strange bytes")
    return text.encode("latin1")


_FUNCTIONS: dict[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor"): _make_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _make_tensor,
    ("torch._utils", "_rebuild_parameter"): _make_parameter,
    ("collections", "OrderedDict"): _make_dict,
    ("torch", "Size"): _make_size,
    ("torch", "device"): _make_device,
    ("_codecs", "encode"): _make_bytes,
}


_VALUES = (*_KEYS, bytes, dict, OrderedDict, list, tuple, _Tensor)


def _check_extent(content: Any) -> None:
    """Check that all values are plain, and containers unfold to a tree of bounded depth and size.

    A list within itself is of endless depth; lists of one list, again and again, of endless size.
    """
    waiting, num_values = [(content, 0)], 1
    while waiting:
        value, level = waiting.pop()
        _require(type(value) in _VALUES or isinstance(value, torch.dtype), "it has odd values")
        children = value if isinstance(value, (list, tuple)) else ()
        if isinstance(value, dict):
            children = [*value.values(), *getattr(value, "__dict__", {}).values()]
        num_values += len(children)
        _require(level <= _MOST_LEVELS, "its values are nested too deeply")
        _require(num_values <= _MOST_VALUES, f"it has more than {_MOST_VALUES:,} values")
        waiting.extend((child, level + 1) for child in children)
