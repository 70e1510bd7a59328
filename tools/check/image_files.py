"""Sizes, modes and health of image files: from their headers, or by decoding all of them."""

import hashlib
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image
from tqdm import tqdm

from commons import plural
from datasets.image_lists import ImagePaths
from datasets.images import FORMATS, open_image
from datasets.workers import map_in_pool, map_in_processes
from tools.check.files import find_repeated
from tools.check.findings import (
    ERROR,
    FACT,
    OK,
    WARNING,
    Finding,
    format_counts,
    show,
    show_names,
)

_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, above 4 height and width change places
_FILES_PER_TASK = 32
_EXTENSIONS_OF = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff")}
_EXTENSIONS_OF |= {"HEIF": (".heic", ".heif")}  # of others, the extension is their name
_MODE_NAMES = {"L": "grey", "P": "palette", "RGBA": "RGB with alpha", "1": "black and white"}
_SHOWN_FILES = 20


@dataclass(frozen=True)
class ImageReport:
    """One image file."""

    problem: str = ""  # why it cannot be used; then the rest is unknown
    size: str = ""  # HxW in pixels, upright
    mode: str = ""  # Pillow's
    format: str = ""  # Pillow's
    is_rotated: bool = False  # by EXIF
    is_huge: bool = False  # too large to decode without care for memory; not decoded
    digest: int = 0  # of its bytes, if it was decoded


@dataclass(frozen=True)
class ImageFacts:
    """The image files of a folder.

    Attributes:
        num_seen: Number of files inspected.
        is_decoded: Whether they were decoded completely, or only their headers read.
        problems: Path and reason of every file that cannot be used.
        sizes: Images of each size, HxW, upright.
        modes: Images of each mode of Pillow.
        misnamed: Number of files with another extension than their contents: "PNG in .jpg".
        num_rotated: Images that EXIF turns or mirrors.
        huge: Indices of images too large to decode without care for memory.
        digests: Of the bytes of each usable file, if decoded. int64 [num_seen - num_problems].
        identical: Indices of files with the bytes of an earlier file, if decoded.
    """

    num_seen: int
    is_decoded: bool
    problems: list[tuple[str, str]] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    misnamed: Counter[str] = field(default_factory=Counter)
    num_rotated: int = 0
    huge: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    digests: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    identical: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


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
    """Inspect files, in several processes if they are decoded, else in several threads.

    Args:
        paths: The images.
        indices: Those to inspect. int64 [num_seen].
        decode: Whether to decode them completely.
        num_workers: Number of processes or threads; 0: none beside this one.
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
    """Read the header of a file, or decode it completely as training and evaluation do."""
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
    except Exception as error:  # Pillow raises anything for broken contents
        return ImageReport(_reason(error))


def judge_images(paths: ImagePaths, facts: ImageFacts, num_existing: int) -> list[Finding]:
    """Say which files cannot be used, and the sizes and types of the others.

    Args:
        paths: The images.
        facts: The files that were inspected.
        num_existing: Number of images that exist; more than inspected if those were a sample.
    """
    if not facts.num_seen:
        return []
    findings = [_judge_problems(facts)]
    if facts.sizes:
        sample = f", in a sample of {facts.num_seen:,}" * (facts.num_seen < num_existing)
        text = f"{format_counts(facts.sizes)} (HxW){sample}"
        findings.append(Finding(FACT, "sizes", text))
    modes = {_MODE_NAMES.get(mode, mode): n for mode, n in facts.modes.items() if mode != "RGB"}
    deep = {mode: modes.pop(mode) for mode in [*modes] if mode.startswith(("I", "F"))}
    if deep:
        num = plural(sum(deep.values()), "image")
        text = f"{num} of more than 8 bits a channel, which are cut off: {format_counts(deep)}"
        remedy = f"convert {num} to 8 bits a channel"
        findings.append(Finding(WARNING, "modes", text, remedy=remedy))
    if modes:
        findings.append(Finding(FACT, "modes", f"read as RGB: {format_counts(modes)}"))
    if facts.misnamed:
        text = f"contents differ from the extension: {format_counts(facts.misnamed)}"
        findings.append(Finding(WARNING, "types", text))
    if num := len(facts.huge):
        text = f"{plural(num, 'image')} of more than {round(Image.MAX_IMAGE_PIXELS / 1e6)} "
        text += "megapixels, not decoded here:"
        remedy = f"make {plural(num, 'image')} smaller: each takes hundreds of MB in every loader "
        remedy += "process"
        findings.append(Finding(WARNING, "sizes", text, show_names(paths, facts.huge), remedy))
    if num := len(facts.identical):
        text = f"{plural(num, 'file')} with the bytes of another:"
        remedy = f"remove {plural(num, 'copied file')}"
        examples = show_names(paths, facts.identical)
        findings.append(Finding(WARNING, "duplicates", text, examples, remedy))
    if facts.num_rotated:
        text = f"{plural(facts.num_rotated, 'image')} turned or mirrored, read upright"
        findings.append(Finding(FACT, "EXIF", text))
    return findings


def _judge_problems(facts: ImageFacts) -> Finding:
    num = len(facts.problems)
    how = "decoded" if facts.is_decoded else "opened"
    if not num:
        return Finding(OK, "readable", f"{facts.num_seen:,} {how}")
    reasons = format_counts(Counter(reason.split(" (")[0] for _, reason in facts.problems))
    shown = tuple(show(f"{path}: {reason}") for path, reason in facts.problems[:_SHOWN_FILES])
    if num > _SHOWN_FILES:
        shown += (f"and {num - _SHOWN_FILES:,} more (--decode --bad_list FILE writes all of them)",)
    return Finding(
        ERROR,
        "readable",
        f"{num:,} of {facts.num_seen:,} cannot be {how} ({show(reasons)}):",
        shown,
        f"delete or copy again {plural(num, 'file')} that cannot be read",
    )


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


def _inspect_all(
    paths: ImagePaths, indices: np.ndarray, decode: bool, num_workers: int
) -> Iterator[ImageReport]:
    files = (paths[index] for index in indices)
    if decode:
        return map_in_processes(_decode_quietly, files, num_workers, _FILES_PER_TASK)
    if not num_workers:
        return (inspect_image(file, False) for file in files)
    threads = ThreadPoolExecutor(num_workers)  # they wait for the disk
    read_header = partial(inspect_image, decode=False)
    return map_in_pool(threads, read_header, files, num_workers, _FILES_PER_TASK)


def _decode_quietly(path: str) -> ImageReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return inspect_image(path, decode=True)


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
        if extension not in _EXTENSIONS_OF.get(report.format, (f".{report.format.lower()}",)):
            misnamed[f"{report.format} in {show(extension)}"] += 1
        if report.is_huge:
            huge.append(index)
        usable.append(index)
        digests.append(report.digest)
    digests = np.array(digests if decode else [], np.int64)
    return ImageFacts(
        len(indices),
        decode,
        problems,
        sizes,
        modes,
        misnamed,
        num_rotated,
        np.array(huge, np.int64),
        digests,
        np.array(usable, np.int64)[find_repeated(digests)],
    )
