"""A list of names as nobody should write them, which must be split correctly all the same."""

from pathlib import Path

import numpy as np

_NUMBERS = ("{:.0f}", "{:010.2f}", "{:.5f}", "{:.14f}", "{!r}", "{:e}", "{:+.3f}", "{:09.1f}")
_FOLDERS = ("", "37.70/", "a@b@c/", "deep/er@/", "x/" * 150)


def make_odd_lines(num_lines: int, seed: int = 0) -> list[str]:
    """Return lines with headings that are negative, huge or fractions, and '@' in folders."""
    rng = np.random.default_rng(seed)

    def number(low: float, high: float) -> str:
        return str(rng.choice(_NUMBERS)).format(float(rng.uniform(low, high)))

    lines = []
    for image in range(num_lines):
        east, north, heading = number(-60, 60), number(-60, 60), number(-400, 800)
        rest = "@" * int(rng.integers(1, 9))
        name = f"@{east}@{north}@10@S@@@pano{image}@@{heading}{rest}.jpg"
        lines.append(f"{rng.choice(_FOLDERS)}{name}")
    return lines


def write_odd_names(folder: Path, num_lines: int) -> Path:
    """Write such a list with a byte order mark, CRLF and an open end, and an empty first image."""
    lines = make_odd_lines(num_lines)
    first = folder / lines[0]
    first.parent.mkdir(parents=True)
    first.touch()
    list_file = folder.with_name(f"{folder.name}_images_paths.txt")
    list_file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    return list_file
