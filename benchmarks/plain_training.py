"""The obvious program that trains CosPlace, to compare with."""

import random
import time
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from commons import IMAGENET_MEAN, IMAGENET_STD
from cosface_loss import MarginCosineProduct
from datasets.class_index import ClassIndex
from model.network import GeoLocalizationNet, build_network
from training.state import Optimization


class TrainingSetting(NamedTuple):
    """What is measured."""

    backbone: str
    batch_size: int
    image_size: int
    num_classes: int
    iterations: int  # of a measurement
    repetitions: int
    num_workers: int
    device: torch.device
    optimization: Optimization
    lr: float  # of the network
    classifiers_lr: float  # of the head


def make_network(setting: TrainingSetting) -> GeoLocalizationNet:
    """Return the same random network each time; the head that is made next is the same, too."""
    torch.manual_seed(0)
    return build_network(setting.backbone, backbone_weights="none")


def random_batch(setting: TrainingSetting) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and labels on the device."""
    generator = torch.Generator().manual_seed(0)
    side = setting.image_size
    images = torch.randn(setting.batch_size, 3, side, side, generator=generator)
    labels = torch.randint(setting.num_classes, (setting.batch_size,), generator=generator)
    return images.to(setting.device), labels.to(setting.device)


class PlainTraining:
    """Network, head and optimizers as PyTorch makes them."""

    def __init__(self, setting: TrainingSetting) -> None:
        """Put them on the device."""
        self.device = setting.device
        self.network = make_network(setting).to(self.device).train()
        self.head = MarginCosineProduct(self.network.out_dim, setting.num_classes).to(self.device)
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, setting.lr)
        self.head_optimizer = torch.optim.Adam(self.head.parameters(), setting.classifiers_lr)
        self.dtype = setting.optimization.autocast_dtype
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Do one iteration; return the loss."""
        self.optimizer.zero_grad()
        self.head_optimizer.zero_grad()
        with torch.autocast(self.device.type, self.dtype, self.dtype is not None):
            loss = F.cross_entropy(self.head(self.network(images), labels), labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.step(self.head_optimizer)
        self.scaler.update()
        return loss.item()


def plain_step(setting: TrainingSetting) -> Callable[[], float]:
    """Return the plain counterpart of `benchmarks.training.our_step`."""
    training, batch = PlainTraining(setting), random_batch(setting)

    def run() -> float:
        start_s = time.perf_counter()
        for _ in range(setting.iterations):
            training.step(*batch)
        return setting.batch_size * setting.iterations / (time.perf_counter() - start_s)

    return run


class PlainTrainDataset(Dataset):
    """One random image of each class as floats, augmented or not."""

    def __init__(self, index: ClassIndex, augmentation: Callable | None) -> None:
        """Keep the paths of each class in a dict."""
        classes = {number: index.images(number) for number in index.classes(0)}
        self.paths = {
            number: [index.path(image) for image in images] for number, images in classes.items()
        }
        self.augmentation = augmentation or (lambda image: image)

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.paths)

    def __getitem__(self, label: int) -> tuple[torch.Tensor, int]:
        """Load an image of a class."""
        with Image.open(random.choice(self.paths[label])) as image:
            return self.augmentation(transforms.functional.to_tensor(image.convert("RGB"))), label


def plain_loop(setting: TrainingSetting, index: ClassIndex) -> Callable[[], float]:
    """Return the plain counterpart of `benchmarks.training.our_loop`."""
    augmentation = transforms.Compose(
        [
            transforms.ColorJitter(0.7, 0.7, 0.7, 0.5),
            transforms.RandomResizedCrop(setting.image_size, scale=(0.5, 1), antialias=True),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    on_cuda = setting.device.type == "cuda"
    loader = DataLoader(
        PlainTrainDataset(index, None if on_cuda else augmentation),
        setting.batch_size,
        shuffle=True,
        num_workers=setting.num_workers,
        pin_memory=on_cuda,
        drop_last=True,
    )
    training = PlainTraining(setting)

    def run() -> float:
        batches, start_s = iter(loader), time.perf_counter()
        for images, labels in islice(batches, setting.iterations):
            images, labels = images.to(setting.device), labels.to(setting.device)
            if on_cuda:
                images = torch.stack([augmentation(image) for image in images])
            training.step(images, labels)
        return setting.batch_size * setting.iterations / (time.perf_counter() - start_s)

    return run
