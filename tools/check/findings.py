"""Findings: how bad they are and what to do about them, as aligned plain text."""

import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.image_lists import ImagePaths

ERROR = "ERROR"  # stops training or evaluation, or makes its results wrong
WARNING = "warning"  # works, but is seldom intended
OK = "ok"
FACT = ""
_LEVEL_WIDTH, _SUBJECT_WIDTH = 7, 14
_WIDTH = 110
_SHOWN_NAMES = 3
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a1-\U0010ffff]|[\ud800-\udfff\u2028-\u202e]")


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        level: ERROR, WARNING, OK or FACT.
        subject: One or two words.
        text: A sentence with counts.
        details: Lines to show below: names of files, rows of a table.
        remedy: What to do, one line; empty if nothing.
    """

    level: str
    subject: str
    text: str
    details: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True)
class Section:
    """The findings about one folder, or about one database with its queries."""

    label: str  # of the folder, as in "test/queries"
    title: str
    findings: tuple[Finding, ...]


def show(name: str | bytes) -> str:
    """Return a file name as printable text; other bytes are shown in hexadecimal."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def show_names(paths: ImagePaths, indices: np.ndarray) -> tuple[str, ...]:
    """Return the relative paths of the first few of some images."""
    return tuple(show(paths.name(index)) for index in indices[:_SHOWN_NAMES])


def format_section(section: Section) -> str:
    """Return label, title and one aligned line per finding, with its details below."""
    lines = [f"{section.label}: {section.title}"]
    for finding in section.findings:
        head = f"  {finding.level:{_LEVEL_WIDTH}}  {finding.subject:{_SUBJECT_WIDTH}}  "
        lines += _wrap(head, finding.text)
        lines += [" " * len(head) + detail for detail in finding.details]
    return "\n".join(lines)


def format_remedies(sections: Sequence[Section]) -> str:
    """Return each remedy once, those of errors before those of warnings."""
    remedies = dict.fromkeys(
        (level, f"{section.label}: {finding.remedy}")
        for level in (ERROR, WARNING)
        for section in sections
        for finding in section.findings
        if finding.level == level and finding.remedy
    )
    if not remedies:
        return "Nothing has to be renamed or changed"
    lines = ["What to rename or to change"]
    for level, remedy in remedies:
        lines += _wrap(f"  {level:{_LEVEL_WIDTH}}  ", remedy)
    return "\n".join(lines)


def count_level(sections: Iterable[Section], level: str) -> int:
    """Return the number of findings of a level."""
    return sum(finding.level == level for section in sections for finding in section.findings)


def format_counts(counts: Mapping[object, int], limit: int = 5) -> str:
    """Return the most frequent keys with their counts, as "480x640: 7,000, 640x480: 12"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    parts = [f"{key}: {count:,}" for key, count in ordered[:limit]]
    if len(ordered) > limit:
        rest = sum(count for _, count in ordered[limit:])
        parts.append(f"{len(ordered) - limit:,} others: {rest:,}")
    return ", ".join(parts)


def _wrap(head: str, text: str) -> list[str]:
    """Break a text into lines that stand below each other, after its head."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
