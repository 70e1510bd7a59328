import pytest
from training_runs import small_training

from runs.signals import StopSignals
from training.checkpoints import Checkpointer
from training.metrics import UnreadableImages


def test_each_image_is_listed_once_also_by_a_run_that_goes_on(tmp_path):
    images = UnreadableImages(tmp_path, max_share=0.5, images_per_epoch=100)
    images.note(["The image a.jpg cannot be read.", "The image b\nc.jpg cannot be read."], 8)
    images.note([], 16)
    images = UnreadableImages(tmp_path, max_share=0.5, images_per_epoch=100)
    images.note(["The image a.jpg cannot be read.", "The image \udce9.jpg cannot be read."], 24)
    lines = (tmp_path / "unreadable_images.txt").read_bytes().split(b"\n")
    assert lines == [
        b"The image a.jpg cannot be read.",
        b"The image b\\nc.jpg cannot be read.",
        b"The image \xe9.jpg cannot be read.",
        b"",
    ]
    assert images.count == 2 == images.count_of_all()


def test_they_are_counted_through_all_parts_of_a_run(tmp_path):
    training, counts = small_training(), []
    for checkpoint in (None, {"num_unreadable": 2, "metrics": [], "args": {}}):
        images = UnreadableImages(tmp_path, max_share=1, images_per_epoch=10)
        signals = StopSignals("Start again", can_resume=True)
        checkpointer = Checkpointer(tmp_path, {}, 0, images, signals)
        checkpointer.start(training, checkpoint)
        checkpointer.after_iteration(training, ["a", "b"])
        counts.append(images.count_of_all())
    assert counts == [2, 4]


def test_too_many_are_an_error(tmp_path):
    images = UnreadableImages(tmp_path, max_share=0.1, images_per_epoch=30)
    images.note(["a"] * 3, num_drawn=4)  # 10% of an epoch
    images.note(["a"], num_drawn=40)
    with pytest.raises(ValueError, match="5 images could not be read, of 41 .*--max_bad_images"):
        images.note(["a"], num_drawn=41)
    with pytest.raises(ValueError, match="max_bad_images"):
        UnreadableImages(tmp_path, max_share=0, images_per_epoch=30).note(["b"], 1000)
