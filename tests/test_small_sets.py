"""What is said of small training sets."""

from pathlib import Path

import numpy as np
import pytest
from conftest import name

from datasets.image_lists import ImagePaths
from datasets.small_sets import SMALL_NUM_IMAGES, describe_small_set
from tools.check.__main__ import main as check_main

EAST_M, NORTH_M = 550_000.0, 4_180_000.0


def listed(*names):
    """Return paths of images that need not be there."""
    blob = np.frombuffer("".join(f"{one}\n" for one in names).encode(), np.uint8)
    ends = np.flatnonzero(blob == ord("\n"))
    return ImagePaths(Path("/d"), blob, np.append(0, ends[:-1] + 1)[: len(ends)], ends)


def images(*fields):
    """Return paths of images: (metres east, pano_id, timestamp)."""
    return listed(
        *(
            name(EAST_M + east_m, NORTH_M, pano_id=pano_id, timestamp=timestamp)
            for east_m, pano_id, timestamp in fields
        )
    )


def test_images_and_visits_are_counted():
    train = images(
        *((1, "a", "201604"), (2, "b", "201604"), (3, "b", "201604")),  # a place seen twice
        *((11, "c", "201605"), (12, "c", "201605")),
        *((25, "d", "201605"), (26, "e", "201606"), (27, "f", "201707"), (28, "g", "201808")),
    )
    (sentence,) = describe_small_set(train)
    assert "9 images at 3 places of 10 m, each seen in the median by 2 panoramas of" in sentence
    assert " of 1 month, so few" in sentence
    assert "--resume_model" in sentence and "docs/own_images.md" in sentence


def test_validation_near_training_is_found():
    train = images((0, "a", ""), (100, "b", ""))
    near = images((25, "q", ""), (125.5, "r", ""), (1000, "s", ""))
    assert describe_small_set(train, near)[1].startswith(
        "1 of 3 validation queries are within 25 m"
    )
    assert len(describe_small_set(train, images((126, "q", ""), (5000, "r", "")))) == 1
    other_zone = listed(name(EAST_M, NORTH_M, zone_number=11))
    assert len(describe_small_set(train, other_zone)) == 1
    assert len(describe_small_set(train, listed("photo.jpg"))) == 1


def test_names_without_positions_are_only_counted():
    (sentence,) = describe_small_set(listed("a.jpg", "b.jpg"))
    assert "small: 2 images. Networks" in sentence


def test_large_sets_are_left_alone():
    train = listed(*(f"{number}.jpg" for number in range(SMALL_NUM_IMAGES)))
    assert describe_small_set(train) == []
    assert describe_small_set(listed()) == []


@pytest.mark.parametrize("flags", [[], ["--for", "training"]])
def test_the_check_says_it(datasets_folder, flags, caplog):
    caplog.set_level("INFO")
    folder = datasets_folder / "mini_city" / "processed" / "train"
    check_main([str(folder), "--num_workers=0", "--max_headers=2", *flags])
    text = " ".join(caplog.text.split())
    assert "This training set is small: 1,176 images at" in text, text
