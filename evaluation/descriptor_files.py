"""Descriptors on disk, so that one extraction serves many questions."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commons
from datasets.array_files import map_array
from datasets.image_lists import ImagePaths
from evaluation.descriptors import Extraction, extraction_of, require_some
from evaluation.partial_file import PartialFile
from evaluation.rows import MemoryRows, Rows, gather_facts
from evaluation.views import View

_log = logging.getLogger(__name__)
_SAYS_AFTER_S = 1


@dataclass(frozen=True)
class DescriptorFiles:
    """Folders with a .npy and a .json for each list of images, each view and each model.

    While descriptors are made they are in a .partial, which is taken up after an interruption. Of
    evaluations that share a folder, one makes them, and those that need the same wait.
    """

    model_digest: str  # of the weights: descriptors of another model are other descriptors
    save_folder: str | os.PathLike | None = None
    load_folder: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        """Raise a FileNotFoundError or FileExistsError if the folders cannot be used."""
        if self.save_folder is not None:
            if os.path.isfile(self.save_folder):
                raise FileExistsError(f"{self.save_folder} is a file: give a folder of descriptors")
            os.makedirs(self.save_folder, exist_ok=True)
        if self.load_folder is not None and not os.path.isdir(self.load_folder):
            raise FileNotFoundError(f"There is no folder of descriptors {self.load_folder}")

    def get(
        self,
        paths: ImagePaths,
        view: View,
        fill: Callable[[Rows], None],
        images: range | None = None,
        dtype: str = "float32",
    ) -> Extraction:
        """Return the descriptors of images: memory-mapped, if they are or come into a file.

        Args:
            paths: The images.
            view: What of the images the model sees.
            fill: Makes those descriptors that are not there.
            images: Those of this process; None: all.
            dtype: Of the descriptors, "float32" or "float16".

        Raises:
            ValueError: If the files are damaged, or no image can be read.
        """
        images = range(len(paths)) if images is None else images
        if self.save_folder is None and self.load_folder is None:
            return _make_in_memory(paths, images, dtype, fill)
        description = self._describe(paths, view, dtype)
        with contextlib.ExitStack() as kept:
            stem, is_whole = commons.of_main_process(lambda: self._find_or_lock(description, kept))
            if stem is None:
                return _make_in_memory(paths, images, dtype, fill)
            if not is_whole:
                _make_in_file(stem, paths, images, dtype, fill, description)
        return _load(stem, len(paths), images, dtype)

    def _find_or_lock(
        self, description: dict[str, Any], kept: contextlib.ExitStack
    ) -> tuple[Path | None, bool]:
        """Return where descriptors are or are to be, if in a file, and whether all are there.

        If not, this evaluation makes them, and no other one does at the same time: one that is at
        it is waited for.
        """
        stem = self._choose(description)
        if stem is None:
            return None, False
        if not _is_whole(stem):
            kept.enter_context(_making(stem))
        is_whole = _is_whole(stem)
        if is_whole:
            _log.info(f"Descriptors of {description['folder']} are taken from {stem}.npy")
        elif _file(stem, "partial").is_file():
            _log.info(f"{_file(stem, 'partial')} is from an interrupted run: it is taken up")
        return stem, is_whole

    def _choose(self, description: dict[str, Any]) -> Path | None:
        """Return where descriptors are, else where some are, else where they are to be saved."""
        name, folders = _file_name(description), (self.load_folder, self.save_folder)
        stems = [Path(folder) / name for folder in folders if folder is not None]
        found = [stem for stem in stems if _is_whole(stem)]
        found += [stem for stem in stems if _can_be_taken_up(stem)]
        if self.load_folder is not None and not found:
            _log.warning(
                f"{self.load_folder} has no descriptors of {description['folder']} "
                f"({description['num_images']:,} images, {description['view']}) by this model: "
                f"they are extracted. {_list(Path(self.load_folder))}"
            )
        found += stems[-1:] if self.save_folder is not None else []
        return next(iter(found), None)

    def _describe(self, paths: ImagePaths, view: View, dtype: str) -> dict[str, Any]:
        names = hashlib.sha256()
        for line in paths.lines():
            names.update(line + b"\n")
        description = {
            "model": self.model_digest,
            "folder": os.fsdecode(os.fsencode(paths.folder)),
            "num_images": len(paths),
            "names": names.hexdigest(),
            "view": str(view),
        }
        return description if dtype == "float32" else description | {"dtype": dtype}


def _file_name(description: dict[str, Any]) -> str:
    """Return a name that people recognise and that differs for whatever is described otherwise."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    return "_".join((*Path(description["folder"]).parts[-3:], digest[:12])).replace(os.sep, "")


def _file(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")


def _is_whole(stem: Path) -> bool:
    return _file(stem, "npy").is_file() and _file(stem, "json").is_file()


def _can_be_taken_up(stem: Path) -> bool:
    partial = _file(stem, "partial")
    if not partial.is_file():
        return False
    can_be_written = os.access(partial, os.W_OK) and os.access(stem.parent, os.W_OK)
    if not can_be_written:
        _log.warning(
            f"{partial} is from an interrupted run, but cannot be written: it is not taken up"
        )
    return can_be_written


@contextlib.contextmanager
def _making(stem: Path) -> Iterator[None]:
    """Wait until no other evaluation makes these descriptors, and let none do so."""
    lock = _file(stem, "lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(commons.file_lock(lock, _SAYS_AFTER_S))
        except TimeoutError:
            _log.info(f"Waiting for another evaluation, which makes {_file(stem, 'npy')}")
            is_alone = commons.num_ranks() == 1
            longest_s = -1 if is_alone else 0.9 * commons.LONGEST_WAIT.total_seconds()
            try:
                stack.enter_context(commons.file_lock(lock, longest_s))
            except TimeoutError:
                raise TimeoutError(
                    f"Another evaluation still makes {_file(stem, 'npy')}: wait for it"
                ) from None
        yield
    if _is_whole(stem):  # nobody needs it any more
        with contextlib.suppress(OSError):
            lock.unlink()


def _make_in_memory(
    paths: ImagePaths, images: range, dtype: str, fill: Callable[[Rows], None]
) -> Extraction:
    rows = MemoryRows(images, dtype)
    fill(rows)
    return extraction_of(rows, gather_facts(rows), paths)


def _make_in_file(
    stem: Path,
    paths: ImagePaths,
    images: range,
    dtype: str,
    fill: Callable[[Rows], None],
    description: dict[str, Any],
) -> None:
    rows = PartialFile(_file(stem, "partial"), len(paths), images, dtype)
    fill(rows)
    facts = gather_facts(rows)
    require_some(facts, paths)
    with commons.main_process_first():
        if commons.rank() == 0:
            rows.fill_gaps(facts)
            sizes = {"image_sizes": facts.image_sizes, "unreadable": facts.unreadable}
            commons.write_json(description | sizes, _file(stem, "json"))
            rows.become_whole(_file(stem, "npy"))  # last: both files there mean that all is there
            _log.info(f"Descriptors of {paths.folder} are in {_file(stem, 'npy')}")


def _load(stem: Path, num_images: int, images: range, dtype: str) -> Extraction:
    array_file = _file(stem, "npy")
    try:
        content = json.loads(_file(stem, "json").read_text())
        descriptors = map_array(array_file)
        if descriptors.dtype != dtype or len(descriptors) != num_images:
            raise ValueError(f"it has {descriptors.dtype} of shape {descriptors.shape}")
        _check_facts(content, num_images)
        return Extraction(
            descriptors[images.start : images.stop],
            content["image_sizes"],
            num_images,
            content["unreadable"],
            images if len(images) < num_images else None,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{array_file} holds no descriptors that can be used: {error}") from None


def _check_facts(content: dict[str, Any], num_images: int) -> None:
    """Raise a ValueError if what is told of the images cannot be true."""
    sizes, unreadable = content["image_sizes"], content["unreadable"]
    if type(sizes) is not dict or not all(type(count) is int for count in sizes.values()):
        raise ValueError("its image_sizes are no counts")
    if type(unreadable) is not list or not all(type(number) is int for number in unreadable):
        raise ValueError("its unreadable are no numbers of images")
    if unreadable != sorted(set(unreadable) & set(range(num_images))):
        raise ValueError("its unreadable are not in order, or not among the images")


def _list(folder: Path) -> str:
    names = sorted(file.stem for file in folder.glob("*.json"))
    return f"It holds {', '.join(names)}" if names else "It is empty"
