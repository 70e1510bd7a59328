import numpy as np
import pytest
from PIL import Image

from datasets.images import load_image, open_image


def test_pixels_are_those_of_the_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png").permute(1, 2, 0), pixels)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path, mode):
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode).save(file)
    assert load_image(file).shape == (3, 4, 6)


def test_exif_orientation_is_respected(tmp_path):
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to show"
    image.save(tmp_path / "a.png", exif=exif)
    shown = open_image(tmp_path / "a.png")
    assert shown.size == (4, 6) and shown.getpixel((3, 0)) == (255, 0, 0)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image .*gone.jpg"):
        open_image(tmp_path / "gone.jpg")
    Image.new("RGB", (64, 64)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not an image"):
        (tmp_path / "cut.jpg").write_bytes(broken)
        with pytest.raises(ValueError, match="cut.jpg cannot be read"):
            open_image(tmp_path / "cut.jpg")
