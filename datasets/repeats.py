"""Count images that a list names more than once, among millions of lines."""

import numpy as np

from datasets.image_paths import ImagePaths

_LINES_PER_BLOCK = 1 << 15
_WORD = 8  # bytes that are hashed at a time
_WORD_MASKS = np.array([256**count - 1 for count in range(_WORD + 1)], np.uint64)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, 2**64 divided by the golden ratio


def count_repeats(paths: ImagePaths) -> int:
    """Count the lines that are the same as an earlier one.

    Lines are compared by a hash; those with the same hash are compared themselves.
    """
    hashes = _hash_lines(paths)
    ordered = np.sort(hashes)
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(shared):
        return 0
    suspects = np.flatnonzero(np.isin(hashes, shared))
    return len(suspects) - len(set(paths.subset(suspects).lines()))


def _hash_lines(paths: ImagePaths) -> np.ndarray:
    """Hash the bytes of every line. uint64 [num_images]."""
    blob = paths.blob
    if len(blob) < _WORD:
        blob = np.concatenate((blob, np.zeros(_WORD, np.uint8)))
    words = np.ndarray(len(blob) - _WORD + 1, "<u8", blob, strides=(1,))  # one begins at every byte
    hashes = np.empty(len(paths), np.uint64)
    for first in range(0, len(paths), _LINES_PER_BLOCK):
        block = slice(first, first + _LINES_PER_BLOCK)
        hashes[block] = _hash_block(words, paths.starts[block], paths.ends[block])
    return hashes


def _hash_block(words: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    widths = ends - starts
    hashes = widths.astype(np.uint64)
    num_whole = int(widths.min()) // _WORD  # words that are inside every line
    for column in range(-(-int(widths.max()) // _WORD)):
        at = starts + column * _WORD
        if column < num_whole:
            hashes = _mix(hashes, words[at])
            continue
        left = np.clip(widths - column * _WORD, 0, _WORD)
        beyond = np.clip(at - (len(words) - 1), 0, _WORD - 1)  # no word begins so near the end
        word = words[np.minimum(at, len(words) - 1)] >> (8 * beyond).astype(np.uint64)
        hashes = np.where(left > 0, _mix(hashes, word & _WORD_MASKS[left]), hashes)
    return hashes


def _mix(hashes: np.ndarray, words: np.ndarray) -> np.ndarray:
    mixed = (hashes ^ words) * _FACTOR  # modulo 2**64
    return mixed ^ (mixed >> np.uint64(29))
