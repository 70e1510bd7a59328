import pytest
import torch
from torchvision import transforms

from commons import IMAGENET_MEAN, IMAGENET_STD
from datasets.augmentation import Augmentation, AugmentationParams, augment_batch

NONE = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "random_resized_crop": 0}
PAPER = {"brightness": 0.7, "contrast": 0.7, "saturation": 0.7, "hue": 0.5}
STRONG = {"brightness": 2, "contrast": 2, "saturation": 2, "hue": 0.5, "random_resized_crop": 0.9}
ROUNDING = 5e-4  # of normalised values: 70 times less than the 2/255 of a colour asked for


def random_image(height=40, width=48):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


IMAGES = {
    "noise": random_image(),
    "grey": random_image()[:1].expand(3, -1, -1),
    "nearly grey": random_image() // 100 + 100,
    "saturated": random_image() // 128 * 255,
    "one colour": torch.full((3, 40, 48), 77, dtype=torch.uint8),
    "black": torch.zeros(3, 40, 48, dtype=torch.uint8),
}


def paper_transforms(params):
    """Return the transforms of the paper, in torchvision's own words."""
    return transforms.Compose(
        [
            transforms.ColorJitter(
                params.brightness, params.contrast, params.saturation, params.hue
            ),
            transforms.RandomResizedCrop(
                params.image_size, scale=(1 - params.random_resized_crop, 1), antialias=True
            ),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def assert_as_in_the_paper(params, image, seeds):
    """Check image by image and as a batch in operations of torch."""
    augmentation, transform = Augmentation(params), paper_transforms(params)
    recipes = [augmentation.draw(image, seed) for seed in seeds]
    in_batch = augment_batch([image] * len(recipes), recipes, params.image_size)
    for seed, of_batch in zip(seeds, in_batch, strict=True):
        torch.manual_seed(seed)
        expected = transform(image.float() / 255)
        for actual in (augmentation(image, seed), of_batch):
            torch.testing.assert_close(actual, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("name", IMAGES)
def test_equals_the_transforms_of_the_paper(name):
    """Colour jitter, then random resized crop, then normalise, drawn from the given seed."""
    params = AugmentationParams(image_size=32)
    assert_as_in_the_paper(params, IMAGES[name], [*range(40), 2**62, 2**63 - 1])


@pytest.mark.parametrize("name", IMAGES)
def test_equals_stronger_transforms(name):
    assert_as_in_the_paper(AugmentationParams(32, **STRONG), IMAGES[name], range(40))


@pytest.mark.parametrize("name", PAPER)
def test_each_step_alone_equals_torchvision(name):
    params = AugmentationParams(**{"image_size": 40} | NONE | {name: PAPER[name]})
    assert_as_in_the_paper(params, random_image(40, 40), range(10))
    params = AugmentationParams(**{"image_size": 40} | PAPER | {name: 0})
    assert_as_in_the_paper(params, random_image(40, 40), range(10))


@pytest.mark.parametrize(
    ("height", "width", "image_size"),
    [
        (64, 64, 64),
        (300, 200, 24),  # reduced 8 times: each pixel is the mean of many
        (301, 203, 128),
        (20, 30, 97),  # enlarged
        (1, 57, 16),
        (57, 1, 16),
        (1, 1, 8),
        (2, 3, 7),
        (40, 40, 1),
        (20, 200, 32),  # no crop has a shape that is allowed: the centre is taken
        (200, 20, 32),
    ],
)
def test_sizes_equal_torchvision(height, width, image_size):
    image = random_image(height, width)
    assert_as_in_the_paper(AugmentationParams(image_size), image, range(15))
    assert_as_in_the_paper(AugmentationParams(image_size, **STRONG), image, range(15))


@pytest.mark.parametrize("image_size", [512, 224, 128])
def test_images_of_the_paper_equal_torchvision(image_size):
    image = random_image(64, 64).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    assert_as_in_the_paper(AugmentationParams(image_size), image, [3, 4])


def test_without_strength_only_normalises():
    image = random_image(32, 32)
    augmentation = Augmentation(AugmentationParams(image_size=32, **NONE))
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    expected = (image / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(augmentation(image, 5), expected, atol=1e-5, rtol=0)


def test_seed_decides_and_global_generator_is_left_alone():
    augmentation = Augmentation(AugmentationParams(image_size=16))
    image = random_image()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert torch.equal(augmentation(image, 1), augmentation(image, 1))
    assert not torch.equal(augmentation(image, 1), augmentation(image, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_is_its_images_one_by_one():
    augmentation = Augmentation(AugmentationParams(image_size=16))
    images = torch.stack([random_image(), random_image().flip(1), random_image().flip(2)])
    expected = [augmentation(image, seed) for image, seed in zip(images, (5, 6, 7), strict=True)]
    for batch in (images, list(images), images.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(augmentation.batch(batch, (5, 6, 7)), torch.stack(expected))
    with pytest.raises(ValueError, match="zip"):
        augmentation.batch(images, (5, 6))


@pytest.mark.parametrize("size", [(20, 90), (512, 512), (1, 1), (33, 17)])
def test_any_input_size_gives_the_asked_square(size):
    augmented = Augmentation(AugmentationParams(image_size=24))(random_image(*size), 0)
    assert augmented.shape == (3, 24, 24) and augmented.dtype == torch.float32
    assert augmented.isfinite().all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 0),
        ("brightness", -0.1),
        ("hue", 0.6),
        ("random_resized_crop", 1.0),
        ("random_resized_crop", -0.1),
    ],
)
def test_impossible_strengths_are_refused(name, value):
    with pytest.raises(ValueError, match=f"--{name} "):
        AugmentationParams(**{name: value})
