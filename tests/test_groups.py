from collections import Counter

import numpy as np
import pytest
import torch
from conftest import name, write_image
from torch.utils.data import DataLoader

from datasets.augmentation import Augmentation, AugmentationParams
from datasets.class_index import load_index
from datasets.groups import GroupSampler, TrainDataset, collate
from datasets.images import load_image
from datasets.partition import PartitionParams


@pytest.fixture
def index(tmp_path):
    """Return an index of 2 groups with 7 and 5 classes of 2 to 4 images of several sizes."""
    for column in (0, 2, 4, 6, 8, 10, 12, 1, 3, 5, 7, 9):  # the even ones are a group, the odd too
        for number in range(2 + column % 3):
            file = name(10 * column + 1, 1, 1, pano_id=f"{number}")
            write_image(tmp_path / "train" / file, size=(20 + 4 * number, 16))
    params = PartitionParams(N=2, L=1, min_images_per_class=2)
    index = load_index(tmp_path / "train", params, tmp_path / "cache")
    assert [len(index.classes(group)) for group in range(index.num_groups)] == [7, 5]
    return index


def sampler_of(index, **changes):
    return GroupSampler(
        **{"index": index, "groups_num": 2, "batch_size": 4, "iterations": 35, "seed": 3} | changes
    )


def draws(sampler, epoch):
    sampler.epoch = epoch
    return [draw for batch in sampler for draw in batch]


def test_each_class_is_drawn_once_before_any_is_drawn_again(index):
    for epoch, num_classes in ((0, 7), (1, 5), (2, 7)):
        labels = [draw.label for draw in draws(sampler_of(index), epoch)]
        assert len(labels) == 35 * 4
        for first in range(0, len(labels) - num_classes, num_classes):
            assert sorted(labels[first : first + num_classes]) == list(range(num_classes))
        assert labels[:num_classes] != labels[num_classes : 2 * num_classes], "in another order"


def test_labels_count_inside_the_group(index):
    for epoch in (0, 1):
        for draw in draws(sampler_of(index), epoch):
            assert draw.group == epoch and 0 <= draw.label < len(index.classes(epoch))


def test_epoch_and_seed_decide_everything(index):
    assert draws(sampler_of(index), 4) == draws(sampler_of(index), 4)
    assert draws(sampler_of(index), 4) != draws(sampler_of(index), 2)
    assert draws(sampler_of(index), 4) != draws(sampler_of(index, seed=4), 4)
    longer = draws(sampler_of(index, iterations=50), 4)
    assert longer[: 35 * 4] == draws(sampler_of(index), 4)


def test_batches_may_be_larger_than_the_group(index):
    (batch,) = sampler_of(index, batch_size=16, iterations=1)
    assert Counter(Counter(draw.label for draw in batch).values()) == {2: 5, 3: 2}


def test_images_come_from_the_class_and_all_of_them_do(index):
    dataset = TrainDataset(index, augmentation=None)
    seen = {}
    for draw in draws(sampler_of(index, iterations=100), 0):
        image, label, seed, unreadable = dataset[draw]
        assert (label, seed, unreadable) == (draw.label, draw.seed, ())
        assert image.dtype == torch.uint8
        paths = [
            index.path(number) for number in index.images(index.classes(draw.group)[draw.label])
        ]
        matches = [path for path in paths if torch.equal(load_image(path), image)]
        assert matches == [dataset.path(draw)]
        seen.setdefault(label, set()).add(matches[0])
    assert {label: len(paths) for label, paths in seen.items()} == {
        label: len(index.images(class_num)) for label, class_num in enumerate(index.classes(0))
    }


def loaded(index, num_workers, augmentation, start_method=None):
    sampler = sampler_of(index, iterations=6)
    loader = DataLoader(
        TrainDataset(index, augmentation),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
        multiprocessing_context=start_method,
    )
    batches = []
    for epoch in (0, 1):
        sampler.epoch = epoch
        batches += list(loader)
    return batches


@pytest.mark.parametrize(("num_workers", "start_method"), [(2, "fork"), (1, "spawn")])
def test_workers_change_nothing(index, num_workers, start_method):
    augmentation = Augmentation(AugmentationParams(image_size=12))
    expected = loaded(index, 0, augmentation)
    actual = loaded(index, num_workers, augmentation, start_method)
    for batch, other in zip(expected, actual, strict=True):
        assert torch.equal(batch[0], other[0]) and torch.equal(batch[1], other[1])
        assert batch[2:] == other[2:] and batch[3] == []
    assert expected[0][0].shape == (4, 3, 12, 12)


def test_augmenting_on_the_device_gives_what_workers_give(index):
    augmentation = Augmentation(AugmentationParams(image_size=12))
    raw = loaded(index, 0, None)
    assert any(isinstance(images, tuple) for images, *_ in raw), "sizes differ: not one tensor"
    for (images, _, seeds, _), (expected, *_) in zip(
        raw, loaded(index, 0, augmentation), strict=True
    ):
        assert torch.equal(augmentation.batch(images, seeds), expected)


def plain_batches(sampler, epoch):
    """Return the batches of an epoch as one loop over its random numbers."""
    rng = np.random.default_rng((sampler.seed, epoch))
    group = epoch % sampler.groups_num
    num_classes = len(sampler.index.classes(group))
    order, batches = [], []
    for _ in range(sampler.iterations):
        while len(order) < sampler.batch_size:
            order += rng.permutation(num_classes).tolist()
        seeds = rng.integers(2**63, size=sampler.batch_size).tolist()
        labels, order = order[: sampler.batch_size], order[sampler.batch_size :]
        batch = [(group, label, seed, 0) for label, seed in zip(labels, seeds, strict=True)]
        number, num_shares = sampler.share
        size = sampler.batch_size // num_shares
        batches.append(batch[number * size : (number + 1) * size])
    return batches


@pytest.mark.parametrize("share", [(0, 1), (1, 2)])
@pytest.mark.parametrize("first", [0, 1, 17, 34, 35])
def test_an_epoch_may_begin_in_its_middle(index, first, share):
    sampler = sampler_of(index, share=share)
    assert sampler.first_iteration == 0 and len(sampler) == 35
    sampler.epoch, sampler.first_iteration = 3, first
    expected = plain_batches(sampler, 3)
    assert list(sampler) == expected[first:] and len(sampler) == 35 - first
    assert [sampler.batch(3, number) for number in (0, 16, 34)] == [
        expected[number] for number in (0, 16, 34)
    ]
    assert sampler.batch(2, 5) == plain_batches(sampler, 2)[5], "whatever epoch is set"
