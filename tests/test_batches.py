import os
import signal

import numpy as np
import pytest
import torch
from conftest import write_image
from torch.utils.data import DataLoader

from datasets.image_lists import list_images
from datasets.loading import ImageDataset, collate_by_size
from evaluation import batches
from evaluation.batches import batch_by_size, load_windows, split_windows, window_size


def load(*sizes, first=0):
    """Return a load with one image of each side length, numbered from `first`."""
    images = [torch.full((3, side, side), side, dtype=torch.uint8) for side in sizes]
    return collate_by_size([*enumerate(images, first)])


def taken(loads, batch_size):
    """Return the numbers of the images in each batch, and check what is in it."""
    found = []
    for batch in batch_by_size(loads, batch_size):
        images = torch.cat(batch.pieces)
        assert len(images) == len(batch.numbers) <= batch_size
        assert (images == images.shape[3]).all(), "images of one size, each with its number"
        found.append(batch.numbers.tolist())
    return found


def test_images_of_one_size_wait_for_each_other_across_loads():
    loads = [load(4, 5, 4), load(5, 5, 6, first=3), load(4, 4, 5, first=6)]
    assert taken(loads, 3) == [[1, 3, 4], [0, 2, 6], [7], [8], [5]]


def test_of_one_size_each_load_is_a_batch_and_nothing_is_copied():
    loads = [load(4, 4), load(4, 4, first=2), load(4, first=4)]
    found = list(batch_by_size(loads, 2))
    assert [batch.numbers.tolist() for batch in found] == [[0, 1], [2, 3], [4]]
    for batch, [(_, images)] in zip(found, loads, strict=True):
        assert [piece.data_ptr() for piece in batch.pieces] == [images.data_ptr()]


def test_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(batches, "_MAX_WAITING_BYTES", 3 * (4 * 4 + 5 * 5 + 6 * 6))
    loads = [load(4, 5, 6), load(4, first=3), load(5, first=4)]
    assert taken(loads, 3) == [[0, 3], [1], [2], [4]], "emptied when a fourth one came"


def test_windows_cover_images_once():
    windows = split_windows(range(32, 75), 2)
    assert windows == [range(32, 48), range(48, 64), range(64, 75)]
    assert window_size(2) == 16
    assert split_windows(range(5, 5), 2) == []


@pytest.fixture
def paths(tmp_path):
    for number in range(45):
        size = [(8, 8), (9, 8), (8, 8), (7, 9)][number % 4]
        write_image(tmp_path / "set" / f"{number:02d}.png", size)
    return list_images(tmp_path / "set")


def numbers_of(windows):
    return {
        window.images: [batch.numbers.tolist() for batch in window.batches] for window in windows
    }


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_a_window_depend_on_it_alone(paths, num_workers):
    windows = split_windows(range(45), 2)
    settings = {"num_workers": num_workers, "skip_unreadable": False, "pin_memory": False}
    of_all = numbers_of(load_windows(paths, windows, 2, **settings))
    of_some = numbers_of(load_windows(paths, windows[1:], 2, **settings))
    assert list(of_all) == windows and of_some == {w: of_all[w] for w in windows[1:]}
    assert sorted(sum(sum(of_all.values(), []), [])) == list(range(45))
    assert [len(found) for found in of_all.values()] == [8, 8, 8]


def test_unreadable_images_are_in_no_batch(paths):
    for number in (3, 17):
        with open(paths[number], "wb") as file:
            file.write(b"broken")
    found = numbers_of(
        load_windows(paths, split_windows(range(45), 2), 2, 0, True, pin_memory=False)
    )
    expected = [number for number in range(45) if number not in (3, 17)]
    assert sorted(sum(sum(found.values(), []), [])) == expected


def test_collate_keeps_images_as_they_are(paths):
    dataset = ImageDataset(paths)
    pieces = collate_by_size([dataset[number] for number in (1, 0, 5, 3)])
    assert [numbers.tolist() for numbers, _ in pieces] == [[1, 5], [0], [3]]
    for numbers, images in pieces:
        for number, image in zip(numbers.tolist(), images, strict=True):
            np.testing.assert_array_equal(image, dataset[number][1])


def test_ctrl_c_waits_until_the_loader_has_started(paths, monkeypatch):
    class Loader(DataLoader):
        def __iter__(self):
            os.kill(os.getpid(), signal.SIGINT)
            started.append(super().__iter__())
            return started[0]

    started = []
    monkeypatch.setattr(batches, "DataLoader", Loader)
    with pytest.raises(KeyboardInterrupt):
        list(load_windows(paths, split_windows(range(45), 2), 2, 0, True, pin_memory=False))
    assert len(started) == 1
