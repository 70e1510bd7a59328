"""Image files of every kind: read right, or refused by name."""

import errno
import os
import time

import numpy as np
import pytest
import torch
from bad_files import COLOURS, READABLE, UNREADABLE, FlakyDisk, encode, jpeg_of_scans
from conftest import name, write_image
from PIL import Image

import eval as evaluation_command
import localize
from datasets.images import MAX_SCANS, load_image, open_image


@pytest.mark.parametrize("kind", READABLE)
def test_values_are_those_of_an_independent_computation(tmp_path, kind):
    content, expected = READABLE[kind]
    (tmp_path / "a.jpg").write_bytes(content)  # the extension does not count
    loaded = load_image(tmp_path / "a.jpg")
    assert loaded.dtype == torch.uint8
    np.testing.assert_array_equal(loaded.permute(1, 2, 0), expected)
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.jpg")), expected)


def test_inks_are_mixed_down(tmp_path):
    inks = np.random.default_rng(7).integers(0, 256, (1, 1, 4), dtype=np.uint8)
    inks = np.tile(inks, (16, 16, 1))  # of one colour: the JPEG keeps it but for rounding
    (tmp_path / "a.jpg").write_bytes(encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=100))
    c, m, y, k = (inks[0, 0] / 255).tolist()
    expected = torch.tensor([255 * (1 - ink) * (1 - k) for ink in (c, m, y)])
    assert (load_image(tmp_path / "a.jpg")[:, 5, 5] - expected).abs().max() < 3


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_files_are_named_and_say_why(tmp_path, kind, capfd):
    put, reason = UNREADABLE[kind]
    put(tmp_path / "x.jpg")
    error = FileNotFoundError if kind == "link to nowhere" else ValueError
    for read in (load_image, open_image):
        with pytest.raises(error, match=f"image {tmp_path}/x.jpg") as raised:
            read(tmp_path / "x.jpg")
        assert reason in str(raised.value) and "0x" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_may_have_many_scans_as_its_standard_says(tmp_path):
    (tmp_path / "x.jpg").write_bytes(jpeg_of_scans(MAX_SCANS))
    assert load_image(tmp_path / "x.jpg").shape == (3, 2000, 2000)


def test_scans_of_common_files_are_not_counted(tmp_path, monkeypatch):
    """They have one, which Pillow has seen: searching their bytes would take 3% of decoding."""
    monkeypatch.setattr("datasets.images._check_scans", None)
    (tmp_path / "x.jpg").write_bytes(encode(COLOURS, "JPEG"))
    assert load_image(tmp_path / "x.jpg").shape == (3, 20, 30)
    (tmp_path / "x.jpg").write_bytes(encode(COLOURS, "JPEG", progressive=True))
    with pytest.raises(ValueError, match="'NoneType' object is not callable"):
        load_image(tmp_path / "x.jpg")


def test_a_file_of_somebody_else_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(encode(COLOURS))

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)  # a test may run as root, whom no mode keeps out
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(ValueError, match="x.jpg cannot be read: Permission denied"):
        load_image(tmp_path / "x.jpg", io_retries=3)
    assert pauses == []


@pytest.mark.filterwarnings("error")
def test_large_images_are_read_without_a_warning(tmp_path, monkeypatch, capfd):
    """Pillow warns between 89 and 179 million pixels, which panoramas have."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    (tmp_path / "large.png").write_bytes(encode(COLOURS))
    np.testing.assert_array_equal(load_image(tmp_path / "large.png").permute(1, 2, 0), COLOURS)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(ValueError, match="600 pixels"):
        load_image(tmp_path / "large.png")


@pytest.mark.parametrize("step", ["_open_at_once", "_read"])
@pytest.mark.parametrize("code", ["EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EBUSY", "EINTR"])
def test_reads_that_fail_for_a_moment_are_tried_again(tmp_path, monkeypatch, code, step):
    (tmp_path / "a.png").write_bytes(encode(COLOURS))
    disk = FlakyDisk(monkeypatch, 3, getattr(errno, code), step)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 3).permute(1, 2, 0), COLOURS)
    assert disk.tries == 4 and disk.pauses == [0.1, 0.2, 0.4]


def test_a_disk_that_stays_away_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encode(COLOURS))
    disk = FlakyDisk(monkeypatch, 99, errno.EIO, "_open_at_once")
    for retries in (0, 2):
        disk.tries = 0
        with pytest.raises(ValueError, match="image .*a.png cannot be read: Input/output error"):
            load_image(tmp_path / "a.png", retries)
        assert disk.tries == retries + 1


def test_a_missing_file_is_not_waited_for(tmp_path, monkeypatch):
    disk = FlakyDisk(monkeypatch, 0, 0, "_read")
    with pytest.raises(FileNotFoundError, match="There is no image .*gone.jpg"):
        load_image(tmp_path / "gone.jpg", 3)
    assert disk.tries == 1 and disk.pauses == []


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_an_image_is_opened_and_read_once(tmp_path, monkeypatch, file_format):
    (tmp_path / "a").write_bytes(encode(COLOURS, file_format))
    disk = FlakyDisk(monkeypatch, 0, 0, "_open_at_once")
    load_image(tmp_path / "a")
    assert disk.tries == 1


@pytest.mark.parametrize("entry_point", [evaluation_command, localize])
def test_the_flag_decides_how_often_is_tried(
    tmp_path, monkeypatch, model_file, refused, entry_point
):
    for role in ("database", "queries"):
        write_image(tmp_path / "set" / role / name(1, 2))
    if entry_point is localize:
        flags = [str(tmp_path / "set" / "queries"), f"--database={tmp_path / 'set' / 'database'}"]
    else:
        flags = [f"--test_set_folder={tmp_path / 'set'}", "--no_report"]
    flags += [f"--resume={model_file}", "--device=cpu", "--num_workers=0"]
    disk = FlakyDisk(monkeypatch, 3, errno.EIO, "_open_at_once")
    error = refused(entry_point.main, [*flags, "--io_retries=2", "--save_dir=refused"], 1)
    assert "cannot be read: Input/output error" in error and disk.tries == 3
    disk.tries = 0
    entry_point.main([*flags, "--save_dir=run"])  # by default 3
    assert disk.tries > 4
