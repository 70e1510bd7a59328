import pytest
import torch
from torchvision import transforms

from datasets.augmentations import Augmentation, AugmentationParams
from datasets.images import IMAGENET_MEAN, IMAGENET_STD

NONE = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "random_resized_crop": 0}


def random_image(height=40, width=48):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 2**62])
def test_equals_the_transforms_of_the_paper(seed):
    """Colour jitter, then random resized crop, then normalise, drawn from the given seed."""
    image = random_image()
    paper = transforms.Compose(
        [
            transforms.ColorJitter(0.7, 0.7, 0.7, 0.5),
            transforms.RandomResizedCrop(32, scale=(0.5, 1), antialias=True),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    torch.manual_seed(seed)
    expected = paper(image.float() / 255)
    actual = Augmentation(AugmentationParams(image_size=32))(image, seed)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


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
