import numpy as np
import pytest
import torch
from golden_cases import golden
from PIL import Image
from torchvision.transforms.v2 import functional

from commons import IMAGENET_MEAN, IMAGENET_STD
from evaluation.views import TEST_METHODS, View, resize_by_products


def test_a_method_needs_a_height_and_a_width():
    with pytest.raises(ValueError, match="--test_method central_crop needs .* HxW"):
        View("480", "central_crop")
    with pytest.raises(ValueError, match="--test_method five_crops needs .* HxW"):
        View("multiple14", "five_crops")
    with pytest.raises(ValueError, match="Unknown --test_method 'big': choose from hard_resize"):
        View("480x640", "big")


def normalised(images):
    return functional.normalize(images / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randint(0, 256, (2, 3, 24, 60), dtype=torch.uint8)


def test_images_are_scaled_and_normalised(images):
    torch.testing.assert_close(View()(images), normalised(images.float())[:, None])


@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("hard_resize", (2, 1, 3, 24, 32)),
        ("single_query", (2, 1, 3, 24, 60)),
        ("central_crop", (2, 1, 3, 24, 32)),
        ("five_crops", (2, 5, 3, 24, 24)),
        ("nearest_crop", (2, 5, 3, 24, 24)),
        ("maj_voting", (2, 5, 3, 24, 24)),
    ],
)
def test_shapes(images, method, shape):
    assert method in TEST_METHODS
    assert View("24x32", method)(images).shape == shape


def test_what_is_cut_where_no_scaling_is_needed(images):
    """The images are as high as asked for, so that pixels can be compared."""
    whole = normalised(images.float())
    centre = View("24x32", "central_crop")(images)[:, 0]
    torch.testing.assert_close(centre, whole[:, :, :, 14:46])
    crops = View("24x32", "nearest_crop")(images)
    lefts = [0, 36, 0, 36, 18]
    for crop, left in enumerate(lefts):
        torch.testing.assert_close(crops[:, crop], whole[:, :, :, left : left + 24])


def test_a_smaller_image_is_scaled_until_it_covers_the_size():
    image = torch.zeros(1, 3, 10, 10, dtype=torch.uint8)
    image[..., :5] = 255
    view = View("20x40", "central_crop")(image)[0, 0, 0]
    assert view.shape == (20, 40)
    assert (view[:, :18] > 2).all() and (view[:, 22:] < -2).all(), "40 of 40 columns are kept"


def test_words():
    assert str(View()) == "not resized"
    assert str(View("480")) == "resized to 480"
    assert str(View("480x640", "maj_voting")) == "maj_voting 480x640"
    assert str(View("322x322-bicubic")) == "resized to 322x322-bicubic"
    assert str(View("multiple14")) == "sides resized to multiples of 14"


@pytest.mark.parametrize(
    ("method", "rule", "name"),
    [
        ("hard_resize", "24x32", "vgb_hard_resize_antialias1"),
        ("hard_resize", "24x32-no_antialias", "vgb_hard_resize_antialias0"),
        ("single_query", "24x32", "vgb_single_query_antialias1"),
        ("single_query", "24x32-no_antialias", "vgb_single_query_antialias0"),
        ("five_crops", "24x32", "vgb_five_crops_antialias1"),
        ("five_crops", "24x32-no_antialias", "vgb_five_crops_antialias0"),
        ("central_crop", "24x32", "vgb_central_crop"),
    ],
)
def test_views_are_those_of_the_benchmark(method, rule, name):
    """As its code gives them with the torchvision of today, and with that of its time."""
    case = golden("preprocess_a")
    images = torch.from_numpy(case["in.image_uint8_hwc"]).permute(2, 0, 1)[None]
    expected = torch.from_numpy(case[f"out.{name}"])
    views = View(rule, method)(images)[0]
    torch.testing.assert_close(views.squeeze(0), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "name"),
    [("24x32-bicubic", "boq_readme_transform"), ("24x32-pillow", "gsv_mixvpr_valid")],
)
def test_views_are_those_of_the_methods_since(rule, name):
    case = golden("preprocess_a")
    images = torch.from_numpy(case["in.image_uint8_hwc"]).permute(2, 0, 1)[None]
    expected = torch.from_numpy(case[f"out.{name}"])
    torch.testing.assert_close(View(rule)(images)[0, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        ("24x32-pillow", (24, 32)),
        ("9x100-bicubic-pillow", (9, 100)),
        ("30-pillow", (30, 40)),
        ("30-bicubic-pillow", (30, 40)),
    ],
)
@pytest.mark.parametrize("is_upright", [False, True])
def test_grey_levels_are_exactly_pillows(rule, size, is_upright):
    """Of noise, whose neighbours differ most."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (45, 60, 3), generator=generator, dtype=torch.uint8)
    if is_upright:
        image = image.transpose(0, 1)
        size = size if "x" in rule else size[::-1]
    method = Image.Resampling.BICUBIC if "bicubic" in rule else Image.Resampling.BILINEAR
    wide = Image.fromarray(image.numpy()).resize((size[1], len(image)), method)
    expected = torch.from_numpy(np.array(wide.resize(size[::-1], method))).permute(2, 0, 1)[None]
    view = View(rule)(image.permute(2, 0, 1)[None])[0]
    torch.testing.assert_close(view, normalised(expected))
    weighed = resize_by_products(image.permute(2, 0, 1)[None] / 255, list(size), "bicubic" in rule)
    torch.testing.assert_close((weighed * 255).round().to(torch.uint8), expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((28, 42), (28, 42)),
        ((45, 60), (42, 56)),  # 3.2 and 4.3 times 14
        ((21, 35), (28, 28)),  # 1.5 and 2.5: halves become even
        ((49, 63), (56, 56)),  # 3.5 and 4.5
        ((3, 50), (14, 56)),  # none becomes 0
    ],
)
def test_sides_become_the_nearest_multiples(size, expected):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    view = View("multiple14")(images)[:, 0]
    assert view.shape == (2, 3, *expected)
    bilinear = torch.nn.functional.interpolate(
        normalised(images.float()), expected, mode="bilinear", antialias=True
    )
    torch.testing.assert_close(view, bilinear if size != expected else normalised(images.float()))


def test_a_central_crop_is_full_for_any_size():
    """The scale is a fraction, which may be rounded down: no border is left over."""
    for side in range(1, 60):
        image = torch.full((1, 3, side, side + 3), 255, dtype=torch.uint8)
        for size in ("7x9", "24x32", "31x17"):
            assert (View(size, "central_crop")(image) > 2).all(), (side, size)
