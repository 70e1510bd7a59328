import numpy as np
import pytest

from datasets import repeats
from datasets.image_paths import split_names
from datasets.repeats import count_repeats


def listed(text):
    return split_names("/set", np.frombuffer(text, np.uint8))


def count_in_a_set(paths):
    return len(paths) - len(set(paths.lines()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a\nb\na\n", 1),
        (b"a\na\na", 2),
        (b"a.jpg\na.jp\nA.jpg\n", 0),
        (b"12345678\n1234567\n12345678\r\n", 1),
        (b"abcdefgh12345678\n12345678abcdefgh\n", 0),
        (b"x", 0),
    ],
)
def test_by_hand(text, expected):
    assert count_repeats(listed(text)) == expected


def test_equals_a_set_of_lines():
    rng = np.random.default_rng(0)
    for num_letters in (2, 60):  # of short lines many are the same
        lines = [
            bytes(rng.integers(97, 97 + num_letters, rng.integers(1, 30)).astype(np.uint8))
            for _ in range(300)
        ]
        lines += [lines[number] for number in rng.integers(300, size=40)]
        paths = listed(b"\n".join(lines))
        assert count_repeats(paths) == count_in_a_set(paths) >= 40
        some = paths.subset(rng.permutation(len(paths))[:200])
        assert count_repeats(some) == count_in_a_set(some)


def test_lines_with_the_same_hash_are_compared(monkeypatch):
    monkeypatch.setattr(repeats, "hash_texts", lambda text, bounds, hashes: hashes.fill(7))
    assert count_repeats(listed(b"aa\nbb\ncc\nbb\nccc\n")) == 1
