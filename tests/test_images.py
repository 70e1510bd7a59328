import io

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.image_lists import HAS_HEIF
from datasets.images import load_image, open_image, stack_images

ORIENTATION = 0x0112  # EXIF tag
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="{}"/></x:xmpmeta>'


def make_photo(width=61, height=47):
    """Return a smooth picture with some detail, so that JPEG has something to lose."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) * 0.8
    return Image.fromarray((pixels + rng.uniform(0, 50, pixels.shape)).astype(np.uint8))


def encode(image, file_format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def oriented(tag, value):
    """Return a JPEG that says in EXIF or in XMP how it is to be turned."""
    if tag == "xmp":
        segment = b"http://ns.adobe.com/xap/1.0/\0" + XMP.format(value).encode()
        length = (2 + len(segment)).to_bytes(2, "big")
        jpeg = encode(make_photo())
        return jpeg[:2] + b"\xff\xe1" + length + segment + jpeg[2:]
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return encode(make_photo(), exif=exif)


PLAIN_JPEGS = {
    **{f"4:{part}": encode(make_photo(), subsampling=i) for i, part in enumerate(("4:4", "2:2"))},
    "4:2:0": encode(make_photo(), subsampling=2),
    "one pixel": encode(make_photo(1, 1)),
    "narrow": encode(make_photo(1, 90)),
    "progressive": encode(make_photo(), progressive=True, quality=30),
    "restarts": encode(make_photo(), restart_marker_blocks=2),
    "optimised": encode(make_photo(), optimize=True, quality=100),
    "stored as RGB": encode(make_photo(), keep_rgb=True),
    "upright by EXIF": oriented("exif", 1),
    "bytes after the end": encode(make_photo()) + b"trailing",
}
OTHER_FILES = {
    **{f"{tag} {value}": oriented(tag, value) for tag in ("exif", "xmp") for value in range(2, 9)},
    "grey": encode(make_photo().convert("L")),
    "CMYK": encode(make_photo().convert("CMYK")),
    "PNG": encode(make_photo(), "PNG"),
    "RGBA": encode(make_photo().convert("RGBA"), "PNG"),
    "palette": encode(make_photo().convert("P"), "PNG"),
    "16 bits": encode(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)), "PNG"),
    "WebP": encode(make_photo(), "WEBP"),
    "BMP": encode(make_photo(), "BMP"),
}


@pytest.mark.parametrize("name", PLAIN_JPEGS | OTHER_FILES)
def test_loaded_pixels_are_those_of_pillow(tmp_path, monkeypatch, name):
    """Whatever the extension says; plain JPEGs are read without Pillow's decoder."""
    path = tmp_path / "a.jpg"
    path.write_bytes((PLAIN_JPEGS | OTHER_FILES)[name])
    expected = np.array(open_image(path))
    if name in PLAIN_JPEGS:
        monkeypatch.setattr("datasets.images._decode", None)
    loaded = load_image(path)
    assert loaded.dtype == torch.uint8
    np.testing.assert_array_equal(loaded.permute(1, 2, 0), expected)


def pixels_or_error(read, path):
    try:
        return read(path).tolist()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", ["4:2:0", "progressive", "restarts"])
def test_damage_is_judged_by_pillow(tmp_path, name):
    """Truncated files are refused; what Pillow makes of others is what is loaded."""
    whole, path = PLAIN_JPEGS[name], tmp_path / "cut.jpg"
    for length in range(0, len(whole) - 2, 11):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut.jpg cannot be read"):
            load_image(path)
    rng = np.random.default_rng(0)
    for position in rng.integers(2, len(whole), 100):
        for damaged in (
            whole[:position] + b"\xff\xd9",
            whole[:position] + bytes([rng.integers(256)]) + whole[position + 1 :],
            whole[:position] + whole[position + 20 :],
        ):
            path.write_bytes(damaged)
            loaded = pixels_or_error(lambda path: load_image(path).permute(1, 2, 0), path)
            assert loaded == pixels_or_error(lambda path: np.array(open_image(path)), path)


def test_real_photos_are_those_of_pillow(shared_data):
    paths = [*sorted(shared_data.glob("lund/*.jpg")), *sorted(shared_data.glob("*/ref/*.jpg"))[:9]]
    assert len(paths) > 20
    for path in paths:
        np.testing.assert_array_equal(load_image(path).permute(1, 2, 0), np.array(open_image(path)))


def test_stacked_images_keep_their_layout(tmp_path):
    (tmp_path / "a.jpg").write_bytes(PLAIN_JPEGS["4:2:0"])
    photos = [load_image(tmp_path / "a.jpg"), load_image(tmp_path / "a.jpg").flip(1, 2)]
    stacked = stack_images(photos)
    assert torch.equal(stacked, torch.stack(photos))
    assert stacked.is_contiguous(memory_format=torch.channels_last)
    planes = stack_images([photo.float().contiguous() for photo in photos])
    assert torch.equal(planes, torch.stack(photos).float()) and planes.is_contiguous()


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
    (tmp_path / "cut.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="cut.jpg cannot be read: it is empty"):
        open_image(tmp_path / "cut.jpg")


@pytest.mark.skipif(HAS_HEIF, reason="HEIC is read")
def test_heic_with_the_ending_of_a_jpeg_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(ValueError, match="it is HEIC: pip install pillow-heif"):
        load_image(tmp_path / "a.jpg")
