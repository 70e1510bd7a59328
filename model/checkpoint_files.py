"""Read checkpoints safely, write them atomically.

Code in a checkpoint never runs: torch.load(weights_only=True) makes tensors and plain values only.
A file that declares more than it holds is refused before its memory is taken.

torch.save writes a CRC-32 of every record of its zip archive, which torch.load ignores; it is
checked here. So every flipped bit that would change the loaded content is noticed. Flips without
influence are not: in the padding that aligns tensors, and in dates, versions, sizes and checksums
that the archive repeats (6,679 of the 16,168 bits of a checkpoint of 2 kB with torch 2.14, some 170
bytes a tensor in large ones). Files of torch < 1.6 and .safetensors have no checksums.

Files of others are read as well: checkpoints with NumPy's numbers, such as recalls, whose values
are not read, and arrays of HDF5 and of MATLAB.
"""

import importlib.util
import json
import os
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

import commons
from model.published import FAMILIES

_CHECKPOINTS = ("best_model.pth", "last_checkpoint.pth")  # of a run of train.py
_ZIP_START = b"PK\x03\x04"
_IS_FOLDER = 0x10  # attribute of a record, for which torch would read nothing


class DamagedFileError(ValueError):
    """A file without the content that it was written with, or that was never a checkpoint."""


def require_packages(what: str, *names: str) -> None:
    """Raise a ValueError, which says how to install them, if optional packages are missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{what} needs {' and '.join(missing)}, not installed: pip install {' '.join(missing)}"
        )


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a dict of tensors and plain values onto the CPU.

    Args:
        path: A file of torch.save, of any version; a .safetensors file; an .h5 or .hdf5 file, of
            arrays; or a .mat file of MATLAB up to version 7, whose structures become dicts, and
            cells lists.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is cut short, has changed, or is something else; a ValueError.
        ValueError: If the disk fails, or it holds no dict.
    """
    if os.path.isdir(path):
        files = " or ".join(os.path.join(path, name) for name in _CHECKPOINTS)
        raise FileNotFoundError(f"{path} is a folder: give a file in it, such as {files}")
    if not os.path.isfile(path):
        is_name = os.fspath(path).partition(":")[0].partition("@")[0] in FAMILIES
        advice = ": published networks go by name to --model of eval.py, not to --resume"
        raise FileNotFoundError(f"There is no checkpoint {path}{advice if is_name else ''}")
    try:
        if load := _LOADERS.get(Path(path).suffix.lower()):
            return load(path)
        with open(path, "rb") as file:
            checkpoint = _load(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except DamagedFileError as error:
        raise DamagedFileError(
            f"{path} is not a checkpoint that can be read safely: {error}"
        ) from None
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def _load_safetensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError, safe_open  # comes with timm, as hub users lack
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"{path} needs safetensors: pip install safetensors") from None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        architecture = json.loads(metadata.pop("architecture", "{}"))
        texts = {name: text for name, text in metadata.items() if name.endswith("_extra_state")}
        state = OrderedDict(load_file(path) | texts)  # others write authors and titles there
        state._metadata = {"": {"architecture": architecture}}
        return state
    except (SafetensorError, ValueError, RecursionError) as error:
        raise DamagedFileError(str(error)) from None


def _load_hdf5(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    require_packages(f"{path} is an HDF5 file, which", "h5py")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return {name: torch.from_numpy(np.asarray(array[()])) for name, array in file.items()}
    except (OSError, TypeError, RuntimeError) as error:
        raise DamagedFileError(" ".join(str(error).split())) from None


def _load_matlab(path: str | os.PathLike) -> dict[str, Any]:
    from scipy.io import loadmat  # here, as users of torch.hub may lack it

    with open(path, "rb") as file:
        try:
            content = loadmat(file, struct_as_record=False, squeeze_me=True)
        except Exception as error:  # scipy raises many kinds, also for version 7.3, which is HDF5
            raise DamagedFileError(" ".join(str(error).split())) from None
    return {name: _plain(value) for name, value in content.items()}


def _plain(value: Any) -> Any:
    """Return what scipy read as dicts, lists, tensors, and others as they are."""
    if names := getattr(value, "_fieldnames", None):
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_plain(item) for item in value.flat]
    is_numeric = isinstance(value, np.ndarray) and value.dtype.kind in "fi"
    return torch.from_numpy(value) if is_numeric else value


_LOADERS = {
    ".safetensors": _load_safetensors,
    ".h5": _load_hdf5,
    ".hdf5": _load_hdf5,
    ".mat": _load_matlab,
}


class _NotRead:
    """In the place of NumPy's numbers and arrays, whose code is not called."""

    def __init__(self, *_: Any) -> None:
        """Make an object without content."""

    def __setstate__(self, _: Any) -> None:
        """Ignore the content."""


_NUMPY = [
    type(name, (_NotRead,), {"__module__": module})
    for module, names in {
        "numpy": ("dtype", "ndarray"),
        "numpy.core.multiarray": ("scalar", "_reconstruct"),  # of NumPy 1
        "numpy._core.multiarray": ("scalar", "_reconstruct"),
    }.items()
    for name in names
]


@contextmanager
def _without_numpy() -> Iterator[None]:
    """Let torch.load read NumPy's numbers as objects without content."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_NUMPY)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(allowed)


def _load(file: BinaryIO) -> Any:
    """Load a file of torch.save; a DamagedFileError says why it cannot be."""
    try:
        is_archive = file.read(len(_ZIP_START)) == _ZIP_START
        num_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        if is_archive:
            num_bytes = _check_records(file, num_bytes)
        elif tarfile.is_tarfile(file):  # torch < 2.6 runs code in it
            raise DamagedFileError("it is a tar archive, as torch.save wrote before 2017")
        file.seek(0)
        with _without_numpy():
            content = torch.load(file, map_location="cpu", weights_only=True)
        _check_sizes(content, num_bytes)
    except DamagedFileError:
        raise
    except OSError as error:
        raise DamagedFileError(f"it is damaged ({error.strerror or error})") from None
    except Exception as error:  # torch and zipfile raise many kinds
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            reason = f"it holds {refused[1]}, needed are tensors and plain values only"
            raise DamagedFileError(reason) from None
        raise DamagedFileError("it is damaged, or was not written by torch.save") from None
    return content


def _check_records(file: BinaryIO, num_bytes: int) -> int:
    """Check that the records of an archive fit into its bytes and agree with their CRC-32.

    Returns:
        How many of the bytes are tensors.
    """
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.filename.endswith("/constants.pkl") for record in records):
            raise DamagedFileError("it is a TorchScript program, for --model torchscript:FILE")
        for record in records:
            is_stored = record.compress_type == zipfile.ZIP_STORED
            if not is_stored or record.file_size != record.compress_size:
                raise DamagedFileError(
                    f"its record {record.filename} is compressed, as torch.save never does"
                )
            if record.external_attr & _IS_FOLDER:
                raise DamagedFileError(f"its record {record.filename} is marked as a folder")
        if sum(record.file_size for record in records) > num_bytes:
            raise DamagedFileError("it declares records that are larger than the file")
        if changed := archive.testzip():
            raise DamagedFileError(
                f"it is damaged: its record {changed} has another CRC-32 than when it was written; "
                "use an older checkpoint"
            )
    return sum(record.file_size for record in records if "/data/" in record.filename)


def _check_sizes(content: Any, num_bytes: int) -> None:
    """Raise a DamagedFileError if tensors have more bytes than the file has for them."""
    storages = {}
    for tensor in _tensors_of(content):
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            raise DamagedFileError("it holds sparse, quantised or nested tensors")
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
    if sum(storages.values()) > num_bytes:
        raise DamagedFileError("it declares tensors that are larger than the file")


def _tensors_of(content: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in nested dicts, lists and tuples, each once."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)


def save_atomically(content: Any, path: str | os.PathLike) -> None:
    """Write a checkpoint under a temporary name, sync it to the disk, rename it.

    Args:
        content: Tensors and plain Python values only, so that it can be read safely.
        path: The file; torch.load can read it.

    Raises:
        OSError: If it cannot be written. An older file at `path` stays as it was.
    """
    with commons.atomic_write(Path(path)) as temporary:
        _write(content, temporary)


def save_safetensors(state: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write the tensors of a state dict as .safetensors, with its architecture as metadata.

    Args:
        state: Of a network of ours.
        path: The file.

    Raises:
        OSError: If it cannot be written.
        ValueError: If safetensors is not installed.
    """
    require_packages(f"{path}", "safetensors")
    from safetensors.torch import save_file

    tensors = {name: value for name, value in state.items() if torch.is_tensor(value)}
    texts = {name: value for name, value in state.items() if isinstance(value, str)}
    texts |= {"architecture": json.dumps(state._metadata[""]["architecture"]), "format": "pt"}
    with commons.atomic_write(Path(path)) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, texts)
        commons.sync_file(temporary)


def save_keeping_previous(
    content: Any, path: str | os.PathLike, previous: str | os.PathLike
) -> None:
    """Do what `save_atomically` does, and rename the older file at `path` to `previous`.

    Whenever this process dies, at least one of the two names is a complete file on the disk. `path`
    is always one if it was before, except on disks without hard links (FAT, some network disks):
    there the older file is renamed an instant before the new one, and only `previous` exists in
    between.

    Args:
        content: Tensors and plain Python values only.
        path: The file.
        previous: New name of the older file, in the same folder.

    Raises:
        OSError: If it cannot be written.
    """
    path, previous = Path(path), Path(previous)
    kept = commons.temporary_path(previous)
    try:
        with commons.atomic_write(path) as temporary:
            _write(content, temporary)
            is_linked = _link(path, kept)
            if not is_linked and path.exists():
                os.replace(path, previous)
        if is_linked:  # only now: if the older file is damaged, the new one is in its place already
            os.replace(kept, previous)
            commons.sync_folder(previous.parent)
    finally:
        with suppress(OSError):
            kept.unlink()


class _ErrorHoldingWriter:
    """Passes blocks of bytes on to a file; after an error it drops them.

    torch.save calls `write` from C++, where an exception would end the process: the first error is
    held until torch.save has returned.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.error: BaseException | None = None
        self._file = file

    def write(self, block: Any) -> int:
        """Write a block."""
        if self.error is None:
            try:
                self._file.write(block)
            except BaseException as error:  # also KeyboardInterrupt
                self.error = error
        return memoryview(block).nbytes

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is closed."""


def _write(content: Any, path: Path) -> None:
    with open(path, "wb") as file:
        writer = _ErrorHoldingWriter(file)
        torch.save(content, writer)
        if writer.error is not None:
            raise writer.error
        file.flush()
        os.fsync(file.fileno())


def _link(path: Path, kept: Path) -> bool:
    """Give a file a second name; return False if it does not exist or the disk has no links."""
    try:
        os.link(path, kept)
    except OSError:
        return False
    return True
