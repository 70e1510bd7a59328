"""Where the images of a test set were taken, on one plane, also across UTM zones."""

from dataclasses import dataclass

import numpy as np
import utm

from datasets.image_lists import ImagePaths
from datasets.image_names import check_present, read_fields, read_prefixes

REGION_GAP_M = 1e8  # between regions that do not touch, so that no distance joins them
_SOUTHERN_NORTHING_M = 1e7  # the equator's northing, in a zone of the southern hemisphere
_FIELDS = ("UTM east", "UTM north", "UTM zone")


@dataclass(frozen=True)
class Positions:
    """Positions (east, north) in metres; images of regions that do not touch are far apart."""

    database_m: np.ndarray  # float64 [num_database, 2]
    queries_m: np.ndarray  # float64 [num_queries, 2]
    notes: tuple[str, ...] = ()  # sentences on what was projected

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
    """What names say of positions, not yet on one plane."""

    numbers: np.ndarray  # east and north in metres, zone or NaN. float64 [3, num_images]
    letters: np.ndarray  # latitude bands in upper case, others where there is none. uint8 [num]


def read_positions(database: ImagePaths, queries: ImagePaths) -> Positions:
    """Read the positions of all images, see `join_positions`.

    Raises:
        ValueError: If names lack a position, or a zone is none; counts them.
    """
    return join_positions(read_utm(database), read_utm(queries))


def read_utm(paths: ImagePaths) -> Utm:
    """Read what names say of positions.

    Raises:
        ValueError: If names lack a position; counts them.
    """
    numbers = read_fields(paths, _FIELDS)
    check_present(paths, dict(zip(_FIELDS[:2], numbers, strict=False)))
    letters = read_prefixes(paths, "latitude band", 1).view(np.uint8) & 0xDF  # upper case
    return Utm(numbers, letters)


def join_positions(database: Utm, queries: Utm) -> Positions:
    """Bring all images to one UTM zone if they are of several.

    The most frequent zone takes in the images of its two neighbours. What remains is another
    region, with the most frequent zone of its own: a distance across half the globe has no use.
    Names without a zone are taken to be of the most frequent one, those without a latitude band
    of the hemisphere of most others.

    Raises:
        ValueError: If a zone is none.
    """
    numbers = np.concatenate((database.numbers, queries.numbers), axis=1)
    is_southern, hemisphere_notes = _find_southern(
        np.concatenate((database.letters, queries.letters))
    )
    positions_m, notes = to_plane(*numbers, is_southern)
    num_database = len(database.letters)
    notes = (*hemisphere_notes, *notes)
    return Positions(positions_m[:num_database], positions_m[num_database:], notes)


def _find_southern(letters: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Tell which names are of the southern hemisphere; those without a band follow the most."""
    is_southern = (letters >= ord("C")) & (letters < ord("N"))
    is_unknown = (letters < ord("C")) | (letters > ord("X"))
    if not is_southern.any() or not is_unknown.any():
        return is_southern, ()
    southern = bool(is_southern.sum() * 2 > (~is_unknown).sum())
    hemisphere = "southern" if southern else "northern"
    note = f"{is_unknown.sum():,} names without a latitude band are taken to be {hemisphere}"
    return np.where(is_unknown, southern, is_southern), (note,)


def to_plane(
    east_m: np.ndarray, north_m: np.ndarray, zones: np.ndarray, is_southern: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Project UTM positions as `join_positions` tells.

    Args:
        east_m: float64 [num_images].
        north_m: float64 [num_images].
        zones: UTM zone numbers, NaN where it is not known. float64 [num_images].
        is_southern: Whether north is counted as in the southern hemisphere. bool [num_images].

    Returns:
        East and north, float64 [num_images, 2], and sentences on what was projected.
    """
    if is_southern.any() and not is_southern.all():
        north_m = north_m - _SOUTHERN_NORTHING_M * is_southern
        is_southern = np.zeros_like(is_southern)
    notes = ()
    stated = zones[np.isfinite(zones)]
    if len(stated) and stated.min() != stated.max():
        east_m, north_m, notes = _project(east_m, north_m, _fill(zones), not is_southern.any())
    return np.stack((east_m, north_m), axis=1), notes


def _fill(zones: np.ndarray) -> np.ndarray:
    """Return whole zone numbers; the most frequent one where there is none."""
    stated, counts = np.unique(zones[np.isfinite(zones)], return_counts=True)
    bad = [f"{zone:g}" for zone in stated if zone not in range(1, 61)]
    if bad:
        raise ValueError(f"UTM zones (field 3 of the '@' name) are 1 to 60, not {', '.join(bad)}")
    return np.where(np.isfinite(zones), zones, stated[counts.argmax()]).astype(int)


def _project(
    east_m: np.ndarray, north_m: np.ndarray, zones: np.ndarray, northern: bool
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Project every region to its most frequent zone; say so."""
    east_m, north_m, notes, main_zones = east_m.copy(), north_m.copy(), [], []
    remaining = np.ones(len(zones), bool)
    while remaining.any():
        main_zone = int(np.bincount(zones[remaining]).argmax())
        apart = (zones - main_zone) % 60  # zones 60 and 1 touch
        for neighbour in (1, 59):
            moved = remaining & (apart == neighbour)
            if moved.any():
                zone = int(zones[moved][0])
                latlon = utm.to_latlon(
                    east_m[moved], north_m[moved], zone, northern=northern, strict=False
                )
                east_m[moved], north_m[moved], *_ = utm.from_latlon(
                    *latlon, force_zone_number=main_zone, force_northern=northern
                )
                notes.append(
                    f"{moved.sum():,} images of UTM zone {zone} are projected to zone {main_zone}"
                )
        region = remaining & np.isin(apart, (0, 1, 59))
        east_m[region] += REGION_GAP_M * len(main_zones)
        main_zones.append(main_zone)
        remaining &= ~region
    if len(main_zones) > 1:
        zones_text = " and ".join(map(str, main_zones))
        notes.append(f"The regions of UTM zones {zones_text} are apart: none is near another")
    return east_m, north_m, tuple(notes)
