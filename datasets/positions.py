"""Positions of images in metres on one plane, also across UTM zones."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import utm

from datasets.image_lists import ImagePaths
from datasets.image_names import check_present, read_fields, read_prefixes

REGION_GAP_M = 1e8  # between regions that do not touch, so that no distance joins them
EQUATOR_NORTH_M = 1e7  # UTM north of the equator, as counted in the southern hemisphere
NUM_ZONES = 60
_FIELDS = ("UTM east", "UTM north", "UTM zone")


@dataclass(frozen=True)
class Positions:
    """Positions (east, north) in metres; images of regions that do not touch are far apart."""

    database_m: np.ndarray  # float64 [num_database, 2]
    queries_m: np.ndarray  # float64 [num_queries, 2]
    notes: tuple[str, ...] = ()  # sentences on projected zones

    def distances_m(self, predictions: np.ndarray) -> np.ndarray:
        """Measure from each query to its predictions; `inf` between regions that do not touch.

        Args:
            predictions: Database indices, int [num_queries, K]; -1 is no prediction.

        Returns:
            Metres, float64 [num_queries, K]; NaN where there is no prediction.
        """
        offsets = self.database_m[predictions] - self.queries_m[:, None]
        distances = np.hypot(offsets[..., 0], offsets[..., 1])
        distances[distances > REGION_GAP_M / 2] = np.inf
        return np.where(predictions < 0, np.nan, distances)


@dataclass(frozen=True)
class Utm:
    """UTM positions as names give them, not yet on one plane.

    Attributes:
        east_m: float64 [num_images].
        north_m: float64 [num_images].
        zones: UTM zone numbers, NaN where unknown. float64 [num_images].
        letters: Latitude bands in upper case, other bytes where unknown. uint8 [num_images].
    """

    east_m: np.ndarray
    north_m: np.ndarray
    zones: np.ndarray
    letters: np.ndarray

    def subset(self, indices: np.ndarray) -> "Utm":
        """Return the positions at these indices, or where a mask is True."""
        return Utm(*(column[indices] for column in vars(self).values()))

    @property
    def is_known(self) -> np.ndarray:
        """Whether an image has a position. bool [num_images]."""
        return np.isfinite(self.east_m) & np.isfinite(self.north_m)

    @property
    def is_southern(self) -> np.ndarray:
        """Whether the latitude band is south of the equator. bool [num_images]."""
        return (self.letters >= ord("C")) & (self.letters < ord("N"))

    @property
    def has_band(self) -> np.ndarray:
        """Whether the latitude band is known. bool [num_images]."""
        return (self.letters >= ord("C")) & (self.letters <= ord("X"))


def read_positions(database: ImagePaths, queries: ImagePaths) -> Positions:
    """Read the positions of all images, see `join_positions`.

    Raises:
        ValueError: If names lack a position, or a zone does not exist; counts them.
    """
    return join_positions(read_utm(database), read_utm(queries))


def read_utm(paths: ImagePaths, required: bool = True) -> Utm:
    """Read the positions in the names.

    Args:
        paths: The images.
        required: Whether each must have a position; else NaN replaces a missing one.

    Raises:
        ValueError: If a required position is missing; counts the names.
    """
    columns = read_fields(paths, _FIELDS)
    if required:
        check_present(paths, dict(zip(_FIELDS[:2], columns, strict=False)))
    letters = read_prefixes(paths, "latitude band", 1).view(np.uint8) & 0xDF  # upper case
    return Utm(*columns, letters)


def join_positions(database: Utm, queries: Utm) -> Positions:
    """Bring all images to one UTM zone.

    The images of the two neighbours of the most frequent zone are projected to that zone. Others
    form another region, with a most frequent zone of its own: UTM gives no distance between the
    two. Names without a zone belong to the most frequent one, names without a latitude band to the
    hemisphere of most others.

    Raises:
        ValueError: If a zone does not exist.
    """
    columns = zip(vars(database).values(), vars(queries).values(), strict=True)
    positions = Utm(*(np.concatenate(both) for both in columns))
    east_m, north_m = positions.east_m, positions.north_m
    is_southern, notes = _find_southern(positions)
    if is_southern.any() and not is_southern.all():
        north_m = north_m - EQUATOR_NORTH_M * is_southern
        is_southern = np.zeros_like(is_southern)
    stated = positions.zones[np.isfinite(positions.zones)]
    if len(stated) and stated.min() != stated.max():
        zones = _fill(positions.zones)
        east_m, north_m, zone_notes = _project(east_m, north_m, zones, ~is_southern)
        notes += zone_notes
    positions_m = np.stack((east_m, north_m), axis=1)
    num_database = len(database.letters)
    return Positions(positions_m[:num_database], positions_m[num_database:], notes)


def choose_zones(zones: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Choose the zone to project each image to: the most frequent zone takes its neighbours.

    Of the remaining zones, the most frequent one takes its neighbours, and so on.

    Args:
        zones: UTM zone of each image. int64 [num_images].

    Returns:
        The zones to project to, int64 [num_images], and sentences on those that change.
    """
    numbers, inverse, counts = np.unique(zones, return_inverse=True, return_counts=True)
    targets = np.zeros_like(numbers)
    for zone in numbers[np.argsort(-counts, kind="stable")]:
        if not targets[numbers == zone]:
            targets[(zones_apart(numbers, zone) <= 1) & (targets == 0)] = zone
    notes = tuple(
        f"{count:,} images of UTM zone {zone} are projected to zone {target}"
        for zone, target, count in zip(numbers, targets, counts, strict=True)
        if zone != target
    )
    return targets[inverse], notes


def zones_apart(zones: np.ndarray, zone: int) -> np.ndarray:
    """Return how many zones apart others are, around the globe: 60 and 1 are neighbours."""
    half = NUM_ZONES // 2
    return np.abs((zones - zone + half) % NUM_ZONES - half)


def to_degrees(
    east_m: np.ndarray, north_m: np.ndarray, zones: np.ndarray, is_northern: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return latitudes and longitudes of UTM positions.

    Args:
        east_m: float64 [num_images].
        north_m: float64 [num_images].
        zones: int64 [num_images].
        is_northern: Whether north is counted as in the northern hemisphere. bool [num_images].
    """
    latitude_deg, longitude_deg = np.empty((2, len(zones)))
    for zone, northern, inside in _split(zones, is_northern):
        latitude_deg[inside], longitude_deg[inside] = utm.to_latlon(
            east_m[inside], north_m[inside], zone, northern=northern, strict=False
        )
    return latitude_deg, longitude_deg


def to_utm(
    latitude_deg: np.ndarray, longitude_deg: np.ndarray, zones: np.ndarray, is_northern: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Project latitudes and longitudes to given UTM zones; arguments as of `to_degrees`.

    Returns:
        East and north in metres, two float64 [num_images].
    """
    east_m, north_m = np.empty((2, len(zones)))
    for zone, northern, inside in _split(zones, is_northern):
        east_m[inside], north_m[inside], *_ = utm.from_latlon(
            latitude_deg[inside],
            longitude_deg[inside],
            force_zone_number=zone,
            force_northern=northern,
        )
    return east_m, north_m


def _split(zones: np.ndarray, is_northern: np.ndarray) -> Iterator[tuple[int, bool, np.ndarray]]:
    """Yield each zone and hemisphere with its images; `utm` projects one of them at a time."""
    keys = 2 * zones + is_northern
    for key in np.unique(keys).tolist():
        yield key // 2, bool(key % 2), keys == key


def _find_southern(positions: Utm) -> tuple[np.ndarray, tuple[str, ...]]:
    """Find the names of the southern hemisphere; those without a band follow the majority."""
    is_southern, has_band = positions.is_southern, positions.has_band
    if not is_southern.any() or has_band.all():
        return is_southern, ()
    southern = bool(is_southern.sum() * 2 > has_band.sum())
    hemisphere = "southern" if southern else "northern"
    note = f"{(~has_band).sum():,} names without a latitude band are taken to be {hemisphere}"
    return np.where(has_band, is_southern, southern), (note,)


def _fill(zones: np.ndarray) -> np.ndarray:
    """Return integer zones; the most frequent one replaces unknown ones."""
    stated, counts = np.unique(zones[np.isfinite(zones)], return_counts=True)
    bad = [f"{zone:g}" for zone in stated if zone not in range(1, NUM_ZONES + 1)]
    if bad:
        raise ValueError(f"UTM zones (field 3 of the '@' name) are 1 to 60, not {', '.join(bad)}")
    return np.where(np.isfinite(zones), zones, stated[counts.argmax()]).astype(int)


def _project(
    east_m: np.ndarray, north_m: np.ndarray, zones: np.ndarray, is_northern: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Project each region to its most frequent zone, and move regions apart.

    Returns:
        East and north, two float64 [num_images], and sentences on it.
    """
    targets, notes = choose_zones(zones)
    is_moved = targets != zones
    degrees = to_degrees(*(column[is_moved] for column in (east_m, north_m, zones, is_northern)))
    east_m, north_m = east_m.copy(), north_m.copy()
    east_m[is_moved], north_m[is_moved] = to_utm(*degrees, targets[is_moved], is_northern[is_moved])
    regions, region_of = np.unique(targets, return_inverse=True)
    east_m += REGION_GAP_M * region_of
    if len(regions) > 1:
        zones_text = " and ".join(map(str, regions))
        notes += (f"The regions of UTM zones {zones_text} are apart: none is near another",)
    return east_m, north_m, notes
