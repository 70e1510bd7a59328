"""Loops over millions of images that number their classes; `partition` says what they are for."""

import numpy as np

from datasets.compiled import compiled

_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, 2**64 divided by the golden ratio
_ONE = np.uint64(1)


@compiled
def number_keys(
    keys: np.ndarray,
    slots: np.ndarray,
    known_keys: np.ndarray,
    counts: np.ndarray,
    num_known: int,
    numbers: np.ndarray,
) -> int:
    """Number keys in the order in which they are first met, and count each.

    Args:
        keys: uint64 [num_keys].
        slots: Hash table of the numbers, -1 where it is free. Its length is a power of 2, greater
            than num_known + num_keys. int32 [num_slots], written to.
        known_keys: The key of each number. uint64 [at least num_known + num_keys], written to.
        counts: How often each was met. int64, as long as known_keys, written to.
        num_known: How many there were before this call.
        numbers: The number of each key, written to. int32 [num_keys].

    Returns:
        How many different keys are known now.
    """
    last_slot = np.uint64(len(slots)) - _ONE
    shift = np.uint64(64)
    while np.uint64(1) << (np.uint64(64) - shift) <= last_slot:
        shift -= _ONE  # the upper bits of the product choose the slot
    for index in range(len(keys)):
        key = keys[index]
        slot = (key * _HASH_FACTOR) >> shift
        while slots[slot] >= 0 and known_keys[slots[slot]] != key:
            slot = (slot + _ONE) & last_slot
        if slots[slot] < 0:
            slots[slot] = num_known
            known_keys[num_known] = key
            num_known += 1
        numbers[index] = slots[slot]
        counts[slots[slot]] += 1
    return num_known


@compiled
def place_members(
    images: np.ndarray, classes: np.ndarray, next_places: np.ndarray, members: np.ndarray
) -> None:
    """Put images behind those of their class that were put there before.

    Args:
        images: What they are called. int [num_images].
        classes: The class of each image. int32 [num_images].
        next_places: Where the next image of each class goes; negative leaves the class out.
            int64 [num_classes], written to.
        members: int, written to.
    """
    for index in range(len(classes)):
        place = next_places[classes[index]]
        if place >= 0:
            members[place] = images[index]
            next_places[classes[index]] = place + 1
