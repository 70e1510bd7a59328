"""Images that cannot be read: training replaces and names them, evaluation refuses them."""

import errno
import json
import os

import pytest
import torch
from bad_files import READABLE, UNREADABLE, FlakyDisk
from conftest import name, write_image
from torch.utils.data import DataLoader

import eval as evaluation_command
from datasets.augmentation import Augmentation, AugmentationParams
from datasets.class_index import ClassIndex, load_index
from datasets.groups import Draw, GroupSampler, TrainDataset, collate
from datasets.images import load_image
from datasets.partition import PartitionParams

# ---- training ----


@pytest.fixture
def index(tmp_path):
    """Return an index of one group with 3 classes of 4 images."""
    for column in (0, 2, 4):
        for number in range(4):
            write_image(tmp_path / "train" / name(10 * column + 1, 1, 1, pano_id=f"{number}"))
    return load_index(
        tmp_path / "train", PartitionParams(N=2, L=1, min_images_per_class=4), tmp_path / "cache"
    )


def break_images(index, numbers):
    for number in numbers:
        with open(index.path(number), "wb") as file:
            file.write(b"broken")


def label_of(index, sample):
    """Return the class of an image by its pixels."""
    (label,) = (
        label
        for label, class_num in enumerate(index.classes(0))
        for number in index.images(class_num)
        if number not in index.broken and torch.equal(load_image(index.path(number)), sample.image)
    )
    return label


def test_an_unreadable_image_is_replaced_by_another_of_its_class(index):
    index.broken = [4, 6]
    break_images(index, index.broken)
    dataset = TrainDataset(index, None)
    for seed in range(4):
        draw = Draw(0, 1, 40 + seed)
        sample = dataset[draw]
        assert (sample.label, sample.seed) == (1, 40 + seed) and label_of(index, sample) == 1
        is_bad = 4 + seed in index.broken
        assert len(sample.unreadable) == is_bad
        if is_bad:
            assert sample.unreadable[0].startswith(f"The image {dataset.path(draw)} cannot be read")
        else:
            assert torch.equal(sample.image, load_image(dataset.path(draw)))


def test_where_a_whole_class_is_unreadable_the_next_one_of_the_group_is_drawn(index):
    index.broken = [8, 9, 10, 11, 0]
    break_images(index, index.broken)
    sample = TrainDataset(index, None)[Draw(0, 2, 8)]
    assert sample.label == label_of(index, sample) == 0, "after the last class comes the first"
    assert [text.split()[2] for text in sample.unreadable] == [
        index.path(number) for number in index.broken
    ]


def test_many_unreadable_images_in_a_row_end_with_a_sentence(index, monkeypatch):
    break_images(index, range(12))
    first = index.path(7)
    with pytest.raises(ValueError) as raised:
        TrainDataset(index, None)[Draw(0, 1, 3)]
    message = str(raised.value)
    assert message.startswith("12 images in a row cannot be read. Is the disk there that holds")
    assert f"{index.folder}?" in message and f"The image {first} cannot be read" in message
    monkeypatch.setattr("datasets.groups._MAX_TRIES", 5)
    with pytest.raises(ValueError, match="^5 images in a row"):
        TrainDataset(index, None)[Draw(0, 1, 3)]


def test_training_tries_again(index, monkeypatch):
    disk = FlakyDisk(monkeypatch, 2, errno.ESTALE, "_open_at_once")
    dataset = TrainDataset(index, None, io_retries=2)
    assert dataset[Draw(0, 0, 0)].unreadable == () and disk.tries == 3
    disk.tries, dataset.io_retries = 0, 1
    assert "Stale file handle" in dataset[Draw(0, 0, 0)].unreadable[0]


def test_an_index_that_is_cut_while_it_is_open_ends_the_training(index):
    os.truncate(index.index_folder / "images_paths.txt", 0)
    with pytest.raises(ValueError, match="12 images in a row cannot be read"):
        TrainDataset(index, None)[Draw(0, 0, 0)]
    with pytest.raises(ValueError, match="is damaged .* delete that folder"):
        ClassIndex(index.index_folder)


@pytest.mark.parametrize("pin_memory", [False, torch.cuda.is_available()])
def test_replacements_do_not_depend_on_workers(index, pin_memory):
    break_images(index, [1, 2, 4, 5, 6, 7, 11])

    def load(num_workers):
        sampler = GroupSampler(index, 1, 4, 6, seed=5)
        loader = DataLoader(
            TrainDataset(index, None),
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
        )
        return list(loader)

    expected = load(0)
    for batch, other in zip(expected, load(2), strict=True):
        assert torch.equal(batch[0], other[0]) and torch.equal(batch[1], other[1])
        assert batch[2:] == other[2:]
    assert sum(len(batch[3]) for batch in expected) > 5
    assert all(isinstance(text, str) for batch in expected for text in batch[3])


# ---- evaluation ----


@pytest.fixture
def mixed_set(tmp_path):
    """Return a folder whose database has every kind of readable image, and one of every other."""
    for number, (content, _) in enumerate(READABLE.values()):
        file = tmp_path / "set" / "database" / name(100 * number, 1, pano_id="d")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for number, (put, _) in enumerate(UNREADABLE.values()):
        put(tmp_path / "set" / "database" / name(100 * number, 5000, pano_id="bad"))
    write_image(tmp_path / "set" / "queries" / name(0, 2, pano_id="q"))
    return tmp_path / "set"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_evaluation_names_the_image_or_counts_it(mixed_set, tmp_path, refused, num_workers):
    flags = [
        *("--untrained", "--backbone=Tiny", "--backbone_weights=none", "--fc_output_dim=8"),
        *("--device=cpu", f"--test_set_folder={mixed_set}", "--resize_test_imgs=32x32"),
        *("--no_report", f"--num_workers={num_workers}", "--io_retries=1"),
    ]
    said = refused(evaluation_command.main, [*flags, f"--save_dir={tmp_path / 'refused'}"], code=1)
    assert "image" in said and "@bad@" in said
    evaluation_command.main([*flags, "--skip_unreadable", f"--save_dir={tmp_path / 'run'}"])
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert result["num_unreadable"]["database"] == len(UNREADABLE) - 1, "not the folder"


def test_every_kind_of_image_is_trained_on_or_replaced(tmp_path):
    for number, (content, _) in enumerate(READABLE.values()):
        file = tmp_path / "train" / name(1, 1, 1, pano_id=f"{number}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for number, (put, _) in enumerate(UNREADABLE.values()):
        put(tmp_path / "train" / name(1, 1, 1, pano_id=f"{number}", note="bad"))
    index = load_index(tmp_path / "train", PartitionParams(), tmp_path / "cache")
    dataset = TrainDataset(index, Augmentation(AugmentationParams(image_size=12)))
    samples = [dataset[Draw(0, 0, number)] for number in index.images(0)]
    assert all(torch.isfinite(sample.image).all() for sample in samples)
    assert {sample.image.shape for sample in samples} == {(3, 12, 12)}
    bad = {text for sample in samples for text in sample.unreadable}
    assert len(bad) == len(UNREADABLE) - 1 and all("@bad@" in text for text in bad)
