"""Sizes, modes and health of image files: from their headers, or by decoding all of them."""

import hashlib
import os
import stat
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.image_lists import ImagePaths
from datasets.images import FORMATS, open_image
from tools.check.files import find_repeated, make_cases
from tools.check.findings import Cases, show

_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, above 4 height and width change places
_FILES_PER_TASK = 32
_EXTENSIONS_OF = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",)}


@dataclass(frozen=True)
class ImageReport:
    """What one file is."""

    problem: str = ""  # why it cannot be used; then the rest is not known
    size: str = ""  # HxW in pixels, upright
    mode: str = ""  # Pillow's
    format: str = ""  # Pillow's
    is_rotated: bool = False  # by EXIF
    is_huge: bool = False  # too large to be decoded without care for memory: it was not
    digest: int = 0  # of its bytes, if it was decoded


@dataclass(frozen=True)
class ImageFacts:
    """What the files of a folder are.

    Attributes:
        num_seen: How many files were looked at.
        is_decoded: Whether they were decoded whole, or only their headers read.
        problems: Path and reason of every file that cannot be used.
        sizes: Images of each size, HxW, upright.
        modes: Images of each mode of Pillow.
        misnamed: Files whose extension is not that of their contents: "PNG in .jpg" -> how many.
        num_rotated: Images that EXIF turns or mirrors.
        huge: Images too large to be decoded without care for memory.
        digests: Of the bytes of each usable file, if decoded. int64 [num_seen - num_problems].
        identical: Files with the very bytes of a file before, if decoded.
    """

    num_seen: int
    is_decoded: bool
    problems: tuple[tuple[str, str], ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    misnamed: dict[str, int] = field(default_factory=dict)
    num_rotated: int = 0
    huge: Cases = Cases()
    digests: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    identical: Cases = Cases()


def choose_sample(is_missing: np.ndarray, max_images: int | None) -> np.ndarray:
    """Return evenly spread indices of images that exist, all of them if there is no limit.

    Returns:
        int64 [at most max_images], ascending.
    """
    existing = np.flatnonzero(~is_missing)
    if max_images is None or len(existing) <= max_images:
        return existing
    return existing[np.arange(max_images) * len(existing) // max_images]


def measure_images(
    paths: ImagePaths, indices: np.ndarray, decode: bool, num_workers: int, label: str
) -> ImageFacts:
    """Look at files, in several processes if they are decoded, else in several threads.

    Args:
        paths: The images.
        indices: Which of them to look at. int64 [num_seen].
        decode: Whether to decode them whole.
        num_workers: How many processes or threads; 0 is none beside this one.
        label: Of the progress bar.

    Raises:
        ValueError: If the system ended a process, as it does when memory runs out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about metadata and large images
        reports = _inspect_all(paths, indices, decode, num_workers)
        bar = tqdm(reports, total=len(indices), desc=label, unit="img", leave=False, disable=None)
        try:
            return _tally(paths, indices, bar, decode)
        except BrokenExecutor:
            raise ValueError(
                f"A process that decoded images of {show(str(paths.folder))} was ended by the "
                "system, probably because memory ran out: lower --num_workers"
            ) from None


def inspect_image(path: str, decode: bool) -> ImageReport:
    """Read the header of a file, or decode it whole just as training and evaluation do."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            return ImageReport("not a file")
        if status.st_size == 0:
            return ImageReport("empty")
        report = _read_header(path)
        if not decode:
            return report
        if not report.is_huge:
            open_image(path)
        return ImageReport(**vars(report) | {"digest": _hash_file(path)})
    except Image.DecompressionBombError:
        return ImageReport("too many pixels to decode")
    except OSError as error:
        return ImageReport(error.strerror or _reason(error))
    except Exception as error:  # what Pillow's readers raise for broken contents is anything
        return ImageReport(_reason(error))


def _read_header(path: str) -> ImageReport:
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        orientation = 1
        if image.format != "PNG" or "exif" in image.info:  # else Pillow decodes to look for it
            orientation = image.getexif().get(_ORIENTATION, 1)
        turned = orientation in (5, 6, 7, 8)
        return ImageReport(
            size=f"{width}x{height}" if turned else f"{height}x{width}",
            mode=image.mode,
            format=image.format or "",
            is_rotated=orientation in range(2, 9),
            is_huge=width * height > (Image.MAX_IMAGE_PIXELS or np.inf),
        )


def _reason(error: Exception) -> str:
    text = str(error).rpartition("cannot be read: ")[2]
    return "not an image" if "cannot identify" in text else text or type(error).__name__


def _hash_file(path: str) -> int:
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return int.from_bytes(digest.digest(), "little", signed=True)


def _inspect_task(paths: Sequence[str], decode: bool) -> list[ImageReport]:
    return [inspect_image(path, decode) for path in paths]


def _inspect_all(
    paths: ImagePaths, indices: np.ndarray, decode: bool, num_workers: int
) -> Iterator[ImageReport]:
    if not num_workers:
        yield from (inspect_image(paths[index], decode) for index in indices)
        return
    waiting = deque()  # a few tasks for each worker, not one for each of millions of images
    with _make_executor(decode, num_workers) as executor:
        for first in range(0, len(indices), _FILES_PER_TASK):
            task = [paths[index] for index in indices[first : first + _FILES_PER_TASK]]
            waiting.append(executor.submit(_inspect_task, task, decode))
            if len(waiting) > 4 * num_workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _make_executor(decode: bool, num_workers: int) -> Executor:
    if decode:
        return ProcessPoolExecutor(
            num_workers, initializer=warnings.simplefilter, initargs=("ignore",)
        )
    return ThreadPoolExecutor(num_workers)  # headers: waiting for the disk


def _tally(
    paths: ImagePaths, indices: np.ndarray, reports: Iterable[ImageReport], decode: bool
) -> ImageFacts:
    sizes, modes, misnamed = Counter(), Counter(), Counter()
    problems, huge, usable, digests = [], [], [], []
    num_rotated = 0
    for index, report in zip(indices, reports, strict=True):
        if report.problem:
            problems.append((paths[index], report.problem))
            continue
        sizes[report.size] += 1
        modes[report.mode] += 1
        num_rotated += report.is_rotated
        extension = os.path.splitext(paths[index])[1].lower()
        if extension not in _EXTENSIONS_OF.get(report.format, ()):
            misnamed[f"{report.format} in {show(extension)}"] += 1
        if report.is_huge:
            huge.append(index)
        usable.append(index)
        digests.append(report.digest)
    usable, digests = np.array(usable, np.int64), np.array(digests if decode else [], np.int64)
    return ImageFacts(
        len(indices),
        decode,
        tuple(problems),
        dict(sizes),
        dict(modes),
        dict(misnamed),
        num_rotated,
        make_cases(paths, np.array(huge, np.int64)),
        digests,
        make_cases(paths, usable[find_repeated(digests)]),
    )
