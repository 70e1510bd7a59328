"""Say when a training set is so small that training on it may harm: sentences for users.

How sets of such sizes did: docs/own_images.md.
"""

from collections import defaultdict

import numpy as np
from scipy.spatial import cKDTree

from commons import plural
from datasets.image_lists import ImagePaths
from datasets.image_names import parse_image_name, read_fields

SMALL_NUM_IMAGES = 10_000
PLACE_M = 10  # side of the cells that count as one place
NEAR_M = 25
_FEW = 3  # months of a place
_NEAR_SHARE = 0.1  # of the validation queries


def describe_small_set(train: ImagePaths, validation: ImagePaths | None = None) -> list[str]:
    """Return what is to be known of a small training set; nothing of a large one.

    Args:
        train: All training images, or SMALL_NUM_IMAGES of them.
        validation: Queries that choose the best network, if they are known.

    Returns:
        Sentences: on its size and visits, on validation queries near training images.
    """
    if len(train) >= SMALL_NUM_IMAGES or not len(train):
        return []
    sentences = [
        f"This training set is small: {plural(len(train), 'image')}{_describe_visits(train)}. "
        "Networks may get worse on streets that it does not show. What serves such a set better: a "
        "published network as it is, or --resume_model with one and a low --lr, judged by streets "
        "that were kept apart (docs/own_images.md)"
    ]
    num_near = 0 if validation is None else _count_near(train, validation)
    if num_near and num_near > _NEAR_SHARE * len(validation):
        sentences.append(
            f"{num_near:,} of {len(validation):,} validation queries are within {NEAR_M} m of "
            "training images: their recalls do not say how the network does on other streets"
        )
    return sentences


def _describe_visits(train: ImagePaths) -> str:
    """Return the panoramas and the dates of a place, in the median; "" if few names have both."""
    visits: dict[tuple[int, int], set[str]] = defaultdict(set)
    dates: dict[tuple[int, int], set[str]] = defaultdict(set)
    for number in range(len(train)):
        try:
            name = parse_image_name(train.name(number))
        except ValueError:
            return ""
        place = (int(name.utm_east_m // PLACE_M), int(name.utm_north_m // PLACE_M))
        visits[place].add(name.pano_id)
        dates[place].add(name.timestamp[:6])  # year and month
    num_visits, num_dates = (
        int(np.median([len(one) for one in by.values()])) for by in (visits, dates)
    )
    few = ", so few that classes hardly differ by season and light" if num_dates <= _FEW else ""
    return (
        f" at {plural(len(visits), 'place')} of {PLACE_M} m, each seen in the median by "
        f"{plural(num_visits, 'panorama')} of {plural(num_dates, 'month')}{few}"
    )


def _count_near(train: ImagePaths, queries: ImagePaths) -> int:
    """Return how many queries are near training images, by the UTM positions of their names."""
    fields = ("UTM east", "UTM north", "UTM zone")
    known_m, asked_m = (read_fields(paths, fields).T for paths in (train, queries))
    known_m, asked_m = (one[np.isfinite(one[:, :2]).all(axis=1)] for one in (known_m, asked_m))
    if not len(known_m) or not len(asked_m):
        return 0
    num_near = 0
    for zone in np.unique(np.nan_to_num(asked_m[:, 2])):
        here, there = (one[np.nan_to_num(one[:, 2]) == zone, :2] for one in (known_m, asked_m))
        if len(here):
            num_near += int((cKDTree(here).query(there)[0] <= NEAR_M).sum())
    return num_near
