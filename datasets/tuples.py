"""Training sets of tuples: database, queries, and which database images are near each query.

Methods that train on tuples (NetVLAD, section 4, and those after it) take a query, a positive and
negatives. Positives are database images within 10 m of the query; what is within 25 m of it is
never its negative. Both bounds are inclusive, in float64, and ignore headings.

A folder with `database/` and `queries/` is used as it is. From a folder of images without the two,
as SF-XL's, a sample of panoramas is drawn: the paper trains these methods on a subset of SF-XL,
which is not public.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from datasets.augmentation import Augmentation
from datasets.augmentation_cpu import STEP, augment_image
from datasets.catalog import find_database
from datasets.ground_truth import Neighbours, find_neighbours
from datasets.groups import Sample
from datasets.image_lists import ImagePaths, list_images, mark_length, split_lines
from datasets.image_names import check_present, hash_fields, read_fields, read_prefixes
from datasets.images import load_image
from datasets.positions import Positions, read_positions

QUERIES_FOLDER = "queries"
PLACE_M = 10  # side of the squares that panoramas are drawn from
_DIGEST_VERSION = 1  # checkpoints hold digests: with another version they could not be resumed
AUGMENTED = {"none": slice(0), "queries": slice(1), "all": slice(None)}  # images of a tuple
_MAX_TRIES = 20  # tuples in a row with an image that cannot be read: it is not the images then


@dataclass(frozen=True)
class TupleSetParams:
    """What is near, and how many panoramas are drawn of a folder without queries."""

    positive_radius_m: float = 10.0
    negative_radius_m: float = 25.0  # nothing within it is a negative
    tuple_panoramas: int = 20_000
    # Of drawn panoramas, whose crops look all around, 55 degrees each, from every 30 degrees on:
    # with half of these 30, at least one crop of each panorama is a positive.
    max_heading_difference_deg: float = 15.0
    sample_seed: int = 0  # not that of the training: repeated trainings have the same images

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.positive_radius_m <= self.negative_radius_m:
            raise ValueError(
                f"Positives are within {self.positive_radius_m:g} m of a query, which must be more "
                f"than 0 and not beyond the {self.negative_radius_m:g} m without negatives"
            )
        if self.tuple_panoramas < 2:
            raise ValueError(
                f"--tuple_panoramas {self.tuple_panoramas}: queries and database are of different "
                "panoramas, so at least 2 are needed"
            )


@dataclass(frozen=True)
class TupleSet:
    """A database, the queries that have a positive, and what is near them.

    Attributes:
        database: Images that positives and negatives are of.
        queries: Images that have at least one positive.
        positives: Database indices within the radius of positives, for each query.
        near: Database indices that are never negatives, for each query; the positives are among
            them.
        num_dropped: Number of queries left out because they have no positive.
        database_panoramas: Panorama of each database image; equal numbers are one panorama, also
            between database and queries. int64 [num_database]; None if names have no panorama.
        query_panoramas: The same of the queries. int64 [num_queries], or None.
        digest: Of all names and radii; sets with one digest are the same.
        notes: Sentences on the set.
    """

    database: ImagePaths
    queries: ImagePaths
    positives: Neighbours
    near: Neighbours
    num_dropped: int = 0
    database_panoramas: np.ndarray | None = None
    query_panoramas: np.ndarray | None = None
    digest: str = ""
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return counts and notes, one a line."""
        num_queries = len(self.queries)
        return "\n".join(
            (
                f"{len(self.database):,} database images in {self.database.folder}",
                f"{num_queries:,} queries in {self.queries.folder} have positives, "
                f"{len(self.positives.indices) / num_queries:.1f} on average; "
                f"{self.num_dropped:,} without any are left out",
                f"{len(self.near.indices) / num_queries:.1f} database images on average are too "
                "near a query to be its negatives",
                *self.notes,
            )
        )

    def tuple_paths(self, images: Sequence[int]) -> list[str]:
        """Return the paths of a tuple: a query index, then database indices or -1 for none."""
        query, *others = images
        return [self.queries[query], *(self.database[index] for index in others if index >= 0)]

    def sample_paths(self, num: int, seed: int) -> ImagePaths:
        """Draw images of database and queries, each at most once; all if there are fewer."""
        num_database, total = len(self.database), len(self.database) + len(self.queries)
        drawn = np.random.default_rng(seed).choice(total, min(num, total), replace=False)
        paths = (
            self.database[index] if index < num_database else self.queries[index - num_database]
            for index in drawn.tolist()
        )
        return _paths_of_lines(os.sep, (os.fsencode(path) for path in paths))


def open_tuple_set(folder: str | os.PathLike, params: TupleSetParams) -> TupleSet:
    """Find positives, and what is too near to be a negative, of a training set.

    Args:
        folder: Holds `database/` (or `gallery/`) and `queries/`; or images to draw panoramas from.
        params: Radii, and how panoramas are drawn.

    Raises:
        FileNotFoundError: If a folder is missing or empty, or only one of the two is there.
        ValueError: If names lack positions, or no query has a positive.
    """
    parts = _find_parts(Path(folder).resolve())
    notes, bound_deg = (), None
    if parts is None:
        database, queries, notes = _draw_panoramas(list_images(folder, is_mapped=True), params)
        bound_deg = params.max_heading_difference_deg
    else:
        database, queries = map(list_images, parts)
    positions = read_positions(database, queries)
    positives, near = find_positives(positions, params)
    if bound_deg is not None:
        positives = positives.where(_look_alike(positives, database, queries, bound_deg))
    has_positives = positives.counts > 0
    if not has_positives.any():
        raise ValueError(
            f"None of the {len(queries):,} queries of {folder} has a positive, a database image "
            f"within {params.positive_radius_m:g} m: are the positions in the names in metres, and "
            "those of queries and database of the same places?"
        )
    kept = queries.subset(has_positives)
    return TupleSet(
        database,
        kept,
        positives.subset(has_positives),
        near.subset(has_positives),
        int((~has_positives).sum()),
        *_read_panoramas(database, kept),
        _hash_set(database, queries, params, bound_deg),
        (*notes, *positions.notes),
    )


def _find_parts(root: Path) -> tuple[Path, Path] | None:
    """Return the folders of database and queries, None if there is neither."""
    database, queries = find_database(root), root / QUERIES_FOLDER
    if database is None and not queries.is_dir():
        return None
    if database is not None and queries.is_dir():
        return database, queries
    missing, there = (QUERIES_FOLDER, database) if database else ("database", queries)
    raise FileNotFoundError(
        f"{root} has no folder {missing}: training on tuples needs database/ and queries/, or "
        f"images to draw panoramas from, which may be those of {there}"
    )


def find_positives(positions: Positions, params: TupleSetParams) -> tuple[Neighbours, Neighbours]:
    """Return the positives of each query, and what is too near to be its negative."""
    return (
        find_neighbours(positions, params.positive_radius_m),
        find_neighbours(positions, params.negative_radius_m),
    )


def _look_alike(
    pairs: Neighbours, database: ImagePaths, queries: ImagePaths, bound_deg: float
) -> np.ndarray:
    """Return whether headings differ by at most a bound, or are unknown. bool [num_pairs]."""
    database_deg, queries_deg = (
        read_fields(paths, ["heading"])[0] for paths in (database, queries)
    )
    differences = database_deg[pairs.indices] - queries_deg[pairs.queries]
    return ~(np.abs((differences + 180) % 360 - 180) > bound_deg)


def _draw_panoramas(
    paths: ImagePaths, params: TupleSetParams
) -> tuple[ImagePaths, ImagePaths, tuple[str, ...]]:
    """Draw places, all panoramas of each, and share these between database and queries.

    Places are squares of 10 m: panoramas drawn one by one would hardly be near each other. What is
    drawn depends on the names and the seed, not on the order of the names.

    Returns:
        Database, queries, and sentences on them.
    """
    east_m, north_m = read_fields(paths, ("UTM east", "UTM north"))
    check_present(paths, {"UTM east": east_m, "UTM north": north_m})
    hashes, has_id = _hash_panoramas(paths)
    if not has_id.all():  # those without an id are grouped by their position
        hashes = np.where(has_id, hashes, hash_fields(paths, ("UTM east", "UTM north")))
    _, first, panorama_of = np.unique(hashes, return_index=True, return_inverse=True)
    cells = np.floor(east_m[first] / PLACE_M) + 1j * np.floor(north_m[first] / PLACE_M)
    cells, place_of = np.unique(cells, return_inverse=True)
    rng = np.random.default_rng(params.sample_seed)
    places = rng.permutation(len(cells))[place_of]  # in random order
    drawn = np.lexsort((rng.permutation(len(first)), places))[: params.tuple_panoramas]
    places = places[drawn]
    rank = np.arange(len(drawn)) - np.searchsorted(places, places)  # among those of its place
    roles = np.full(len(first), -1, np.int8)
    roles[drawn] = rank % 2
    roles = roles[panorama_of]
    if not (roles == 1).any():
        raise ValueError(
            f"{paths.folder} has neither queries/ nor places of {PLACE_M} m with two panoramas: "
            "training on tuples needs database/ and queries/, or such places"
        )
    database, queries = (
        _paths_of_lines(paths.folder, paths.subset(np.flatnonzero(roles == role)).lines())
        for role in range(2)
    )
    note = (
        f"These are a seeded sample of {len(drawn):,} of {len(first):,} panoramas (the paper's "
        f"subset of SF-XL is not public). Queries and database are of different panoramas; "
        "headings of a query and its positives, where names have them, differ by at most "
        f"{params.max_heading_difference_deg:g} degrees"
    )
    return database, queries, (note,)


def _paths_of_lines(folder: str | os.PathLike, lines: Iterable[bytes]) -> ImagePaths:
    """Return images with a text of their own, not that of the list which they are of."""
    return split_lines(folder, np.frombuffer(b"".join(line + b"\n" for line in lines), np.uint8))


def _read_panoramas(
    database: ImagePaths, queries: ImagePaths
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Return a number for the panorama of each image, two int64; None if names have no pano id.

    An image without a pano id among others is a panorama of its own.
    """
    numbers, has_any = [], False
    for sign, paths in ((1, database), (-1, queries)):
        hashes, has_id = _hash_panoramas(paths)
        own = sign * np.arange(1, len(paths) + 1)
        numbers.append(np.where(has_id, hashes.view(np.int64), own))
        has_any |= bool(has_id.any())
    return (numbers[0], numbers[1]) if has_any else (None, None)


def _hash_panoramas(paths: ImagePaths) -> tuple[np.ndarray, np.ndarray]:
    """Return a hash of each pano id, uint64 [num_images], and whether there is one, bool."""
    return hash_fields(paths, ["pano id"]), read_prefixes(paths, "pano id", 1) != b""


def _hash_set(
    database: ImagePaths, queries: ImagePaths, params: TupleSetParams, bound_deg: float | None
) -> str:
    """Return the digest of all names, and of what makes positives of them."""
    radii = params.positive_radius_m, params.negative_radius_m
    numbers = _DIGEST_VERSION, len(database), len(queries), *radii, bound_deg
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=12)
    for paths in (database, queries):
        digest.update(paths.blob[mark_length(paths.blob) :])
    return digest.hexdigest()


class TupleDraw(NamedTuple):
    """One tuple to be loaded."""

    tuples: np.ndarray  # it, then those that may replace it, see `TupleDraw.of`. int64 [T, M]
    seed: int  # decides the augmentation

    @classmethod
    def of(cls, tuples: np.ndarray, place: int, seed: int) -> "TupleDraw":
        """Return the draw of one tuple; the next may replace it.

        Args:
            tuples: A query index, then database indices; -1 fills up. int64 [num_tuples, M].
            place: Of the tuple.
            seed: Decides the augmentation.
        """
        order = (place + np.arange(min(len(tuples), _MAX_TRIES))) % len(tuples)
        return cls(tuples[order], seed)


class TupleDataset(Dataset):
    """The images of tuples, all resized to one size and normalised."""

    def __init__(
        self,
        tuple_set: TupleSet,
        image_size: tuple[int, int],
        augmentation: Augmentation,
        augment: str = "none",
        io_retries: int = 0,
    ) -> None:
        """Load the tuples of a set.

        Args:
            tuple_set: Database and queries.
            image_size: Height and width that images are stretched to, in pixels.
            augmentation: Its colour jitter is applied, neither its crop nor its size.
            augment: To which images of a tuple, a key of AUGMENTED.
            io_retries: How often a failed read is tried again, see `load_image`.
        """
        self.database, self.queries = tuple_set.database, tuple_set.queries
        self.image_size = image_size
        self.augmentation, self.augmented = augmentation, AUGMENTED[augment]
        self.io_retries = io_retries

    def __getitem__(self, draw: TupleDraw) -> Sample:
        """Load a tuple.

        One with an image that cannot be read is replaced by the next one.

        Returns:
            Query, positive and the rest as the image, float32 [num_images, 3, H, W], ImageNet-
            normalised; the number of images as the label.

        Raises:
            ValueError: If 20 tuples in a row have an image that cannot be read, or all of the
                draw.
        """
        unreadable: list[str] = []
        for images in draw.tuples:
            try:
                loaded = torch.stack(list(self._load(images[images >= 0].tolist(), draw.seed)))
            except (FileNotFoundError, ValueError) as error:
                unreadable.append(str(error))
                continue
            return Sample(loaded, len(loaded), draw.seed, tuple(unreadable))
        raise ValueError(
            f"{len(unreadable)} tuples in a row have an image that cannot be read. Is the disk "
            f"there that holds {self.database.folder}? The first of them: {unreadable[0]}"
        )

    def _load(self, images: list[int], seed: int) -> Iterable[torch.Tensor]:
        query, *others = images
        paths = [self.queries[query], *(self.database[index] for index in others)]
        is_augmented = range(len(paths))[self.augmented]
        for place, path in enumerate(paths):
            image = resize_image(load_image(path, self.io_retries), self.image_size)
            steps = np.empty(0, STEP)
            if place in is_augmented:
                steps = self.augmentation.draw(image, seed + place).steps
            yield augment_image(image, steps, (0, 0, *self.image_size), self.image_size)


def resize_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Stretch an image uint8 [3, H, W] to a height and width, as Pillow does: with antialias."""
    if image.shape[1:] == size:
        return image
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
        size[::-1], Image.Resampling.BILINEAR
    )
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
