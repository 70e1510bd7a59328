"""Rows of made-up descriptors, for the tests of where these go."""

import numpy as np

from evaluation.descriptors import UNREADABLE, Rows


def make_rows(images, shape=(2,), unreadable=()):
    """Return descriptors filled with the indices of the images, of 30 x 20 or 20 x 30."""
    indices = np.array(images)
    sizes = np.where(indices[:, None] % 3, (30, 20), (20, 30)).astype(np.int32)
    sizes[np.isin(indices, unreadable)] = UNREADABLE
    descriptors = np.full((len(indices), *shape), np.nan, np.float32)
    readable = ~np.isin(indices, unreadable)
    descriptors[readable] = indices[readable].reshape(-1, *[1] * len(shape))
    return Rows(images, descriptors if readable.any() else None, sizes)
