"""Descriptors on disk, so that one extraction serves many questions."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import commons
from datasets.image_paths import ImagePaths
from evaluation.descriptors import Extraction
from evaluation.views import View

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DescriptorFiles:
    """Folders with a .npy and a .json for each list of images, each view and each model."""

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

    def get(self, paths: ImagePaths, view: View, extract: Callable[[], Extraction]) -> Extraction:
        """Return the descriptors of images: loaded, memory-mapped, if they are there.

        Args:
            paths: The images.
            view: What of the images the model sees.
            extract: Called if they are not there.

        Raises:
            ValueError: If the files are damaged.
        """
        if self.save_folder is None and self.load_folder is None:
            return extract()
        description = self._describe(paths, view)
        name = _file_name(description)
        if self.load_folder is not None:
            folder = Path(self.load_folder)
            if (folder / f"{name}.json").is_file():
                return _load(folder / name, len(paths))
            _log.warning(
                f"{self.load_folder} has no descriptors of {paths.folder} ({len(paths):,} images, "
                f"{view}) by this model: they are extracted. {_list(folder)}"
            )
        extraction = extract()
        if self.save_folder is not None:
            _save(Path(self.save_folder) / name, extraction, description)
        return extraction

    def _describe(self, paths: ImagePaths, view: View) -> dict[str, Any]:
        names = hashlib.sha256()
        for line in paths.lines():
            names.update(line + b"\n")
        return {
            "model": self.model_digest,
            "folder": os.fsdecode(os.fsencode(paths.folder)),
            "num_images": len(paths),
            "names": names.hexdigest(),
            "view": str(view),
        }


def _file_name(description: dict[str, Any]) -> str:
    """Return a name that people recognise and that differs for whatever is described otherwise."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
    return "_".join((*Path(description["folder"]).parts[-3:], digest[:12])).replace(os.sep, "")


def _load(stem: Path, num_images: int) -> Extraction:
    try:
        content = json.loads(stem.with_name(f"{stem.name}.json").read_text())
        descriptors = np.load(stem.with_name(f"{stem.name}.npy"), mmap_mode="r", allow_pickle=False)
        if descriptors.dtype != np.float32 or len(descriptors) != num_images:
            raise ValueError(f"it has {descriptors.dtype} of shape {descriptors.shape}")
        _log.info(f"Descriptors of {content['folder']} are loaded from {stem}.npy")
        return Extraction(descriptors, content["image_sizes"], num_images, content["unreadable"])
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{stem}.npy holds no descriptors that can be used: {error}") from None


def _save(stem: Path, extraction: Extraction, description: dict[str, Any]) -> None:
    array_file = stem.with_name(f"{stem.name}.npy")
    with commons.written_whole(array_file) as temporary, open(temporary, "wb") as file:
        np.save(file, extraction.descriptors)
    sizes = {"image_sizes": extraction.image_sizes, "unreadable": extraction.unreadable}
    # The description comes last: descriptors without one are not there.
    commons.write_json(description | sizes, stem.with_name(f"{stem.name}.json"))
    _log.info(f"Descriptors of {description['folder']} are in {array_file}")


def _list(folder: Path) -> str:
    names = sorted(file.stem for file in folder.glob("*.json"))
    return f"It holds {', '.join(names)}" if names else "It is empty"
