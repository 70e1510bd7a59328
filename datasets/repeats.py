"""Count images that a list names more than once, among millions of lines."""

import numpy as np

from datasets.image_paths import ImagePaths
from datasets.name_loops import hash_texts


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
    hashes = np.empty(len(paths), np.uint64)
    bounds = np.stack((paths.starts, paths.ends)).astype(np.int64)
    hash_texts(paths.blob, bounds[None], hashes)
    return hashes
