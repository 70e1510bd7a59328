"""Descriptors of a mini city, repeated with noise: very many, and their places are known."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from datasets.eval_set import load_test_set
from evaluation.descriptors import Inference, extract_descriptors
from evaluation.views import View
from mini_city import PRESETS, generate
from model.network import build_network

NOISE = 0.25  # times the difference of two descriptors drawn from the database
DIM = 512
_ROWS_PER_BLOCK = 50_000


@dataclasses.dataclass(frozen=True)
class TiledCity:
    """Descriptors on disk; row i of the database is of image i modulo the number of images."""

    folder: Path  # database.npy and queries.npy, float32 [num, DIM]
    num_images: int
    positives_per_query: list[np.ndarray]  # among the images; of query i modulo their number

    @property
    def database(self) -> np.ndarray:
        """Memory-mapped."""
        return np.load(self.folder / "database.npy", mmap_mode="r")

    @property
    def queries(self) -> np.ndarray:
        """In memory."""
        return np.load(self.folder / "queries.npy")

    def recall_at_1(self, predictions: np.ndarray) -> float:
        """Return how many top-1 predictions are of a place of the query, in percent."""
        first, num_queries = predictions[:, 0], len(self.positives_per_query)
        found = [
            image >= 0 and image % self.num_images in self.positives_per_query[query % num_queries]
            for query, image in enumerate(first.tolist())
        ]
        return 100 * float(np.mean(found))


def make_tiled_city(folder: Path, num_database: int, num_queries: int) -> TiledCity:
    """Extract the test district of the demo's mini city, and repeat it.

    The network is the untrained one of `make demo`, an EfficientNet-Lite0 with ImageNet weights.
    Each copy of a descriptor gets a noise of its own, with the spectrum of the descriptors: it is
    one more image of the same place.

    Args:
        folder: Where to write.
        num_database: Number of descriptors of the database.
        num_queries: The same of queries_v1.
    """
    few = PRESETS["tiny"]
    params = dataclasses.replace(
        PRESETS["demo"], train=few.train, val=few.val, num_val_queries=1, num_queries_v2=1
    )
    generate(folder / "mini_city", params)
    eval_set = load_test_set("mini_city_test_v1", folder)
    torch.manual_seed(0)
    network = build_network("EfficientNet_Lite0", DIM).eval()
    inference = Inference(torch.device("cpu"))
    images, photos = (
        extract_descriptors(network, paths, View(), inference).descriptors
        for paths in (eval_set.database, eval_set.queries)
    )
    rng = np.random.default_rng(0)
    _write_tiles(folder / "database.npy", images, images, num_database, rng)
    _write_tiles(folder / "queries.npy", photos, images, num_queries, rng)
    return TiledCity(folder, len(images), eval_set.truth.positives_per_query)


def _write_tiles(
    file: Path, descriptors: np.ndarray, pool: np.ndarray, num: int, rng: np.random.Generator
) -> None:
    """Write noisy copies in turn; noise is the difference of two rows of the pool."""
    tiles = np.lib.format.open_memmap(file, "w+", np.float32, (num, DIM))
    for first in range(0, num, _ROWS_PER_BLOCK):
        rows = np.arange(first, min(first + _ROWS_PER_BLOCK, num))
        one, other = rng.integers(len(pool), size=(2, len(rows)))
        noisy = descriptors[rows % len(descriptors)] + NOISE * (pool[one] - pool[other])
        tiles[rows] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
