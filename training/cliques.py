"""Batches of places that look alike, by cliques of images near each other (CliqueMining).

Izquierdo and Civera, "Close, But Not There: Boosting Geographic Distance Sensitivity in Visual
Place Recognition", ECCV 2024. A place is a clique: images that are all within a radius of each
other. A batch begins with a random cluster of images, here a class of the partition, in a random
city, and takes places out of it and of clusters that the network finds similar; places of a batch
are at least the radius apart. Here images of a place must also look in similar directions.
"""

import functools
from dataclasses import dataclass

import numpy as np
from torch import nn

import commons
from datasets.image_lists import split_lines
from datasets.image_names import read_fields
from datasets.places import PlaceSet
from evaluation.descriptors import Extraction, Inference, gather
from evaluation.evaluate import extract_shard
from evaluation.views import View
from model.inference import optimize
from training.tuples import in_evaluation_mode

_MAX_ROUNDS = 200  # clusters that a batch begins with, at most


@dataclass(frozen=True)
class CliqueParams:
    """How places of a batch are found."""

    clique_radius: float = 25.0  # metres: images of a place are nearer, those of others are not
    alpha: int = 30  # degrees: so much may headings of a place differ
    similar_clusters: int = 15  # drawn for each cluster that a batch begins with
    mining_images: int = 100_000  # whose descriptors are extracted, at most, by whole clusters
    mining_epochs: int = 1  # from one mining to the next

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.clique_radius < float("inf"):
            raise ValueError(f"--clique_radius must be above 0 m, it is {self.clique_radius}")


@dataclass(frozen=True)
class ClusteredImages:
    """Images to find cliques among; those of a cluster are side by side."""

    positions_m: np.ndarray  # east and north. float64 [num_images, 2]
    headings_deg: np.ndarray  # NaN where unknown. float64 [num_images]
    starts: np.ndarray  # first image of each cluster, then their number. int64 [num_clusters + 1]
    cities: np.ndarray  # a number for the city of each cluster. int64 [num_clusters]
    descriptors: np.ndarray  # of clusters. float32 [num_clusters, D]

    @functools.cached_property
    def squares(self) -> np.ndarray:
        """Squared lengths of the descriptors. float64 [num_clusters]."""
        return np.einsum("ij,ij->i", self.descriptors, self.descriptors, dtype=np.float64)


def mine_cliques(
    network: nn.Module,
    place_set: PlaceSet,
    params: CliqueParams,
    inference: Inference,
    size: tuple[int, int],
    shape: tuple[int, int, int],
    seed: tuple[int, ...],
) -> np.ndarray:
    """Return batches of places, the same in all processes, which all must call it.

    Args:
        network: Extracts the descriptors.
        place_set: Its places are the clusters; names of images have positions.
        params: What is looked for.
        inference: How images go through the network.
        size: Height and width that images are stretched to, in pixels.
        shape: Batches, places of a batch, images of a place.
        seed: Decides all that is drawn.

    Returns:
        Images of the set. int64 of that shape.
    """
    rng = np.random.default_rng(seed)
    images = _draw_images(place_set.starts, params.mining_images, rng)
    cut = len(str(place_set.folder)) + 1
    text = "".join(f"{place_set.path(image)[cut:]}\n" for image in images.tolist())
    text = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
    paths = split_lines(place_set.folder, text)
    with in_evaluation_mode(network):
        view = View("{}x{}".format(*size))
        own = extract_shard(optimize(network), paths, view, inference, "Mining")
    clusters = np.searchsorted(place_set.starts, images, side="right")
    descriptors = average_clusters(own, clusters)
    kept = np.delete(np.arange(len(images)), own.unreadable)
    images, paths = images[kept], paths.subset(kept)
    east_m, north_m, heading_deg = read_fields(paths, ("UTM east", "UTM north", "heading"))
    first = np.unique(clusters[kept], return_index=True)[1]
    folders = [paths.name(index).rpartition("/")[0] for index in first.tolist()]
    found = ClusteredImages(
        np.column_stack((east_m, north_m)),
        heading_deg,
        np.append(first, len(images)),
        np.unique(folders, return_inverse=True)[1],
        descriptors,
    )
    # Products of other processors may differ in their last bits: one of them draws for all.
    return images[commons.of_main_process(lambda: draw_batches(found, params, shape, rng))]


def average_clusters(own: Extraction, clusters: np.ndarray) -> np.ndarray:
    """Return the mean descriptors of clusters, float32 [num_clusters, D]; all processes call it.

    Sums are gathered instead of descriptors, which are more, and long: SALAD's of 100,000 images
    have 3.4 GB.

    Args:
        own: Of this process's shard of the images.
        clusters: That of each image of all processes, ascending. int64 [num_images].
    """
    rows = own.readable
    labels, first, counts = np.unique(
        clusters[own.first + rows], return_index=True, return_counts=True
    )
    readable = own.descriptors if own.rows is None else own.descriptors[rows]
    sums = np.add.reduceat(readable, first, dtype=np.float64)
    parts = zip(*gather((labels, counts, sums)), strict=True)
    labels, counts, sums = map(np.concatenate, parts)
    first = np.unique(labels, return_index=True)[1]  # a cluster may be in two shards
    means = np.add.reduceat(sums, first) / np.add.reduceat(counts, first)[:, None]
    return means.astype(np.float32)


def _draw_images(starts: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return the images of clusters drawn at random, at most so many, ascending."""
    counts = np.diff(starts)
    order = rng.permutation(len(counts))
    is_kept = np.zeros(len(counts), bool)
    is_kept[order[np.cumsum(counts[order]) <= max(most, counts[order[0]])]] = True
    return np.flatnonzero(np.repeat(is_kept, counts))


def draw_batches(
    images: ClusteredImages,
    params: CliqueParams,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return batches of cliques, int64 of a shape: batches, places of each, images of a place.

    Raises:
        ValueError: If a batch does not get enough places.
    """
    num_batches, *of_batch = shape
    return np.array([_draw_batch(images, params, *of_batch, rng) for _ in range(num_batches)])


def _draw_batch(
    images: ClusteredImages,
    params: CliqueParams,
    num_places: int,
    per_place: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return cliques of one batch; a city comes again only after all others did."""
    cities = rng.permutation(int(images.cities.max()) + 1)
    cliques: list[np.ndarray] = []
    for number in range(_MAX_ROUNDS + len(cities)):
        clusters = draw_clusters(images, cities[number % len(cities)], params, rng)
        ranges = [np.arange(*images.starts[cluster : cluster + 2]) for cluster in clusters]
        nodes = rng.permutation(np.concatenate(ranges))
        if cliques:
            taken_m = images.positions_m[np.concatenate(cliques)]
            distances_m = _distances(images.positions_m[nodes], taken_m)
            nodes = nodes[(distances_m >= params.clique_radius).all(axis=1)]
        cliques += find_cliques(images, nodes, params, per_place)
        if len(cliques) >= num_places:
            return np.array(cliques[:num_places])
    raise ValueError(
        f"--batch_size is {num_places} places, but only {len(cliques)} were found for one: places "
        f"of {per_place} images within {params.clique_radius:g} m that are as far apart. Lower "
        "--batch_size or --clique_radius, or raise --mining_images"
    )


def draw_clusters(
    images: ClusteredImages, city: int, params: CliqueParams, rng: np.random.Generator
) -> np.ndarray:
    """Draw a cluster of a city, and others of it that are more likely the more similar they are."""
    of_city = np.flatnonzero(images.cities == city)
    first = rng.choice(of_city)
    products = images.descriptors @ images.descriptors[first]
    squares = images.squares[of_city] + images.squares[first] - 2 * products[of_city]
    distances = np.sqrt(np.where(of_city == first, 0, squares.clip(0)))
    weights = np.where(distances > 0, distances.max() - distances, 0)
    if num := min(params.similar_clusters, int((weights > 0).sum())):
        others = rng.choice(of_city, num, replace=False, p=weights / weights.sum())
        return np.append(first, others)
    return np.array([first])


def find_cliques(
    images: ClusteredImages, nodes: np.ndarray, params: CliqueParams, per_place: int
) -> list[np.ndarray]:
    """Return sets of images near each other, different sets being apart.

    Each is grown from an image of `nodes`, int64 [n], in their random order; one that another order
    would find may be missed.
    """
    distances_m = _distances(images.positions_m[nodes], images.positions_m[nodes])
    headings = images.headings_deg[nodes]
    turns = np.abs((headings[:, None] - headings + 180) % 360 - 180)
    is_near = distances_m < params.clique_radius
    has_edge = is_near & ~(turns >= params.alpha)  # those without heading may look anywhere
    np.fill_diagonal(has_edge, False)
    is_free, found = np.ones(len(nodes), bool), []
    for first in range(len(nodes)):
        if not is_free[first]:
            continue
        members, common = [first], has_edge[first] & is_free
        while common.any() and len(members) < per_place:
            members.append(int(common.argmax()))
            common = common & has_edge[members[-1]]
        if len(members) == per_place:
            found.append(nodes[members])
            is_free &= ~is_near[members].any(axis=0)
    return found


def _distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distances of positions [n, 2] and [m, 2] in metres, [n, m]."""
    return np.linalg.norm(some[:, None] - others, axis=2)
