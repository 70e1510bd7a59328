"""Put what image files are into words: which cannot be used, and what the others are."""

from collections import Counter

from PIL import Image

from tools.check.findings import (
    ERROR,
    FACT,
    OK,
    WARNING,
    Finding,
    format_counts,
    plural,
    show,
)
from tools.check.image_files import ImageFacts

SHOWN_FILES = 20
_MODE_NAMES = {"L": "grey", "P": "palette", "RGBA": "RGB with alpha", "1": "black and white"}


def judge_images(facts: ImageFacts, num_existing: int) -> list[Finding]:
    """Say which files cannot be used and what the others are.

    Args:
        facts: What was seen of the files.
        num_existing: How many there are; more than were seen if that was a sample.
    """
    if not facts.num_seen:
        return []
    findings = [
        _judge_problems(facts),
        _judge_sizes(facts, num_existing),
        _judge_modes(facts),
        _judge_misnamed(facts),
        _judge_huge(facts),
        _judge_identical(facts),
    ]
    if facts.num_rotated:
        text = f"{plural(facts.num_rotated, 'image')} turned or mirrored, read upright"
        findings.append(Finding(FACT, "EXIF", text))
    return [finding for finding in findings if finding is not None]


def _judge_problems(facts: ImageFacts) -> Finding:
    num = len(facts.problems)
    how = "decoded whole" if facts.is_decoded else "opened"
    if not num:
        return Finding(OK, "readable", f"{facts.num_seen:,} {how}")
    reasons = format_counts(Counter(reason.split(" (")[0] for _, reason in facts.problems))
    shown = tuple(show(f"{path}: {reason}") for path, reason in facts.problems[:SHOWN_FILES])
    if num > SHOWN_FILES:
        shown += (f"and {num - SHOWN_FILES:,} more (--decode --bad_list FILE writes all of them)",)
    return Finding(
        ERROR,
        "readable",
        f"{num:,} of {facts.num_seen:,} cannot be {how} ({show(reasons)}):",
        shown,
        f"delete or copy again {plural(num, 'file')} that cannot be read",
    )


def _judge_sizes(facts: ImageFacts, num_existing: int) -> Finding | None:
    if not facts.sizes:
        return None
    text = f"{format_counts(facts.sizes)} (HxW)"
    if facts.num_seen < num_existing:
        text += f", in a sample of {facts.num_seen:,}"
    return Finding(FACT, "sizes", text)


def _judge_modes(facts: ImageFacts) -> Finding | None:
    others = {_MODE_NAMES.get(mode, mode): n for mode, n in facts.modes.items() if mode != "RGB"}
    if not others:
        return None
    deep = sum(n for mode, n in facts.modes.items() if mode.startswith(("I", "F")))
    if deep:
        num = plural(deep, "image")
        text = f"{num} of more than 8 bits a channel, which are cut off: {format_counts(others)}"
        return Finding(WARNING, "modes", text, remedy=f"convert {num} to 8 bits a channel")
    return Finding(FACT, "modes", f"read as RGB: {format_counts(others)}")


def _judge_misnamed(facts: ImageFacts) -> Finding | None:
    if not facts.misnamed:
        return None
    text = f"contents are not what the extension says: {format_counts(facts.misnamed)}"
    return Finding(WARNING, "types", text)


def _judge_huge(facts: ImageFacts) -> Finding | None:
    if not facts.huge.num:
        return None
    limit = round(Image.MAX_IMAGE_PIXELS / 1e6)
    num = plural(facts.huge.num, "image")
    return Finding(
        WARNING,
        "sizes",
        f"{num} of more than {limit} megapixels, not decoded here:",
        facts.huge.examples,
        f"make {num} smaller: each takes hundreds of MB in every loader process",
    )


def _judge_identical(facts: ImageFacts) -> Finding | None:
    num = facts.identical.num
    if not num:
        return None
    return Finding(
        WARNING,
        "duplicates",
        f"{plural(num, 'file')} with the very bytes of another:",
        facts.identical.examples,
        f"remove {plural(num, 'copied file')}",
    )
