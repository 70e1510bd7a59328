"""All that lies below a folder: images, other files, links that lead nowhere."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from datasets.image_lists import IMAGE_EXTENSIONS
from tools.check.findings import ERROR, FACT, WARNING, Finding, format_counts, plural, show

_OTHER_IMAGES = re.compile(
    r"\.(jfif|jpe|jp2|j2k|jxl|webp|avif|heic|heif|bmp|gif|tiff?|ppm|pgm|pnm|tga|dng|cr2|nef|arw)"
)
_EXTENSIONS = frozenset(extension.encode() for extension in IMAGE_EXTENSIONS)
_EXAMPLES = 3


@dataclass(frozen=True)
class Walk:
    """What lies below a folder; names are relative to it, with slashes."""

    images: list[bytes] = field(default_factory=list)  # sorted
    others: dict[bytes, list[bytes]] = field(default_factory=dict)  # extension -> names
    broken_links: list[bytes] = field(default_factory=list)  # images that lead nowhere
    special: list[bytes] = field(default_factory=list)  # image names that are no regular files
    with_newline: list[bytes] = field(default_factory=list)
    mac_metadata: list[bytes] = field(default_factory=list)  # "._x.jpg", among the images too
    unreadable_folders: list[bytes] = field(default_factory=list)  # whole paths


def walk_folder(folder: Path) -> Walk:
    """Find all files below a folder; links are followed, every folder is entered once.

    The images are those that `list_images` finds, but nothing on the way is an error.
    """
    walk, visited = Walk(), set()
    stack = [(os.fsencode(folder), b"")]
    while stack:
        parent, prefix = stack.pop()
        real_parent = os.path.realpath(parent)
        if real_parent in visited:  # a link that leads back to where we have been
            continue
        visited.add(real_parent)
        folders = []
        try:
            with os.scandir(parent) as entries:
                for entry in entries:
                    if _is(entry.is_dir):
                        folders.append(entry.name)
                    else:
                        _sort_in(walk, prefix + entry.name, entry)
        except OSError:
            walk.unreadable_folders.append(parent)
        folders.sort(reverse=True)  # of several links to a folder, the first is followed
        stack += [(os.path.join(parent, name), prefix + name + b"/") for name in folders]
    walk.images.sort()
    return walk


def extension_of(name: bytes) -> bytes:
    """Return what follows the last dot of a file name, with the dot, in lower case."""
    dot = name.rfind(b".")
    return name[dot:].lower() if dot > name.rfind(b"/") else b""


def judge_walk(walk: Walk) -> list[Finding]:
    """Say what in a folder is not read, and what will fail to be read."""
    findings = []
    for names, noun, text, remedy in (
        (walk.broken_links, "link", "with the name of an image and no file behind", "remove"),
        (walk.special, "image name", "of a pipe or a device, not of a file", "remove"),
        (walk.with_newline, "image", "with a newline in the name", "rename"),
        (walk.mac_metadata, "file", "of macOS, not images but read as such", "delete"),
        (walk.unreadable_folders, "folder", "that cannot be opened", "make readable"),
    ):
        if names:
            what = f"{plural(len(names), noun)} {text}"
            findings.append(Finding(ERROR, "files", f"{what}:", _show(names), f"{remedy} {what}"))
    return findings + _judge_others(walk)


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link that leads to itself
        return False


def _sort_in(walk: Walk, name: bytes, entry: os.DirEntry) -> None:
    extension = extension_of(name)
    if extension not in _EXTENSIONS:
        walk.others.setdefault(extension, []).append(name)
    elif b"\n" in name:
        walk.with_newline.append(name)
    elif _is(entry.is_file):
        walk.images.append(name)
        if entry.name.startswith(b"._"):
            walk.mac_metadata.append(name)
    elif entry.is_symlink():
        walk.broken_links.append(name)
    else:
        walk.special.append(name)


def _show(names: list[bytes]) -> tuple[str, ...]:
    return tuple(show(name) for name in sorted(names)[:_EXAMPLES])


def _judge_others(walk: Walk) -> list[Finding]:
    images = {key: files for key, files in walk.others.items() if _is_image(key)}
    rest = {key: files for key, files in walk.others.items() if not _is_image(key)}
    findings = []
    if images:
        text = f"of types that are not read: {_count(images)}"
        types = ", ".join(sorted(map(show, images)))
        remedy = f"convert {types} to .jpg or .png: only {', '.join(IMAGE_EXTENSIONS)} are read"
        findings.append(Finding(WARNING, "other images", text, _firsts(images), remedy))
    if rest:
        text = f"not images, not read: {_count(rest)}"
        findings.append(Finding(FACT, "other files", text, _firsts(rest)))
    return findings


def _is_image(extension: bytes) -> bool:
    return _OTHER_IMAGES.fullmatch(show(extension)) is not None


def _count(names: dict[bytes, list[bytes]]) -> str:
    return format_counts({show(key) or "no extension": len(files) for key, files in names.items()})


def _firsts(names: dict[bytes, list[bytes]]) -> tuple[str, ...]:
    return _show([files[0] for files in names.values()])
