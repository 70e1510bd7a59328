"""Sentences on sets whose positions and positives do not fit: what is wrong is often a column."""

from collections.abc import Iterator

import numpy as np
from scipy.spatial import cKDTree

from datasets.ground_truth import GroundTruth
from datasets.positions import REGION_GAP_M, Positions, Utm, to_degrees, to_utm

FAR_M = 300.0  # no image shows one place from so far
_CLOSE_M = 1000.0  # in the median, if a guess explains that nothing is near
_MAX_QUERIES = 1000  # are looked at
_MAX_LATITUDE_DEG = 80.0  # UTM ends there


def explain_no_positives(database: Utm, queries: Utm, positions: Positions) -> str:
    """Return how far the nearest database images are, and what may be the reason, as a sentence.

    Args:
        database: Positions as names give them, all known.
        queries: The same.
        positions: Both on one plane.
    """
    chosen = np.linspace(0, len(queries.zones) - 1, min(len(queries.zones), _MAX_QUERIES))
    queries = queries.subset(chosen.astype(int))
    nearest_m = _measure_nearest(positions.database_m, positions.queries_m[chosen.astype(int)])
    median_m = float(np.median(nearest_m))
    if np.isinf(nearest_m).all():
        where = "the database is in UTM zones that do not touch those of the queries"
    else:
        where = (
            f"the distance to the nearest database image is {_format(median_m)} in the median, "
            f"{_format(float(nearest_m.min()))} at least"
        )
    if median_m <= _CLOSE_M:
        guess = "is --positive_dist_threshold too small, or are positions inaccurate?"
    else:
        close = (guess for guess, median_m in _try(database, queries) if median_m <= _CLOSE_M)
        guess = next(close, "are these the folders of one place?")
    return f"No query has a positive: {where}; {guess}"


def doubt_positives(truth: GroundTruth, positions: Positions) -> str:
    """Return a sentence if most positives, read from a file, are far from their queries; or ""."""
    counts = [len(positives) for positives in truth.positives_per_query]
    images_m = positions.database_m[np.concatenate([*truth.positives_per_query, []]).astype(int)]
    queries_m = np.repeat(positions.queries_m, counts, axis=0)
    easts_m = np.concatenate([positions.database_m[:, 0], positions.queries_m[:, 0]])
    are_mock = (easts_m == easts_m[0]).all()  # frame numbers
    distances_m = np.hypot(*(images_m - queries_m).T)
    distances_m[distances_m > REGION_GAP_M / 2] = np.inf
    is_far = distances_m > FAR_M
    if are_mock or 2 * is_far.sum() <= len(is_far):
        return ""
    return (
        f"The positives {truth.rule} contradict the positions: {is_far.sum():,} of "
        f"{len(is_far):,} pairs are farther apart than {FAR_M:g} m, in the median "
        f"{_format(float(np.median(distances_m)))}; is it a file of these images, in this order?"
    )


def _try(database: Utm, queries: Utm) -> Iterator[tuple[str, float]]:
    """Yield guesses, and how far the nearest database images would be then, in the median."""
    database_m = np.stack((database.east_m, database.north_m), axis=1)
    queries_m = np.stack((queries.east_m, queries.north_m), axis=1)
    zones = [" and ".join(_list_zones(positions)) or "none" for positions in (database, queries)]
    guess = (
        "by east and north alone they are near: are UTM zone or latitude band wrong (database "
        f"{zones[0]}, queries {zones[1]})?"
    )
    yield guess, float(np.median(_measure_nearest(database_m, queries_m)))
    guess = "are east and north swapped in one of the two?"
    yield guess, float(np.median(_measure_nearest(database_m, queries_m[:, ::-1])))
    zone = _most_frequent(database.zones)
    is_usable = np.isfinite(queries.zones)
    if zone is None or not is_usable.any():
        return
    queries = queries.subset(is_usable)
    latitude_deg, longitude_deg = to_degrees(
        queries.east_m, queries.north_m, queries.zones.astype(int), ~queries.is_southern
    )
    is_usable = np.abs(longitude_deg) < _MAX_LATITUDE_DEG
    if not is_usable.any():
        return
    latitude_deg, longitude_deg = longitude_deg[is_usable], latitude_deg[is_usable]  # swapped
    in_zone = database.subset(database.zones == zone)
    are_northern = np.full(len(latitude_deg), not in_zone.is_southern.any())
    zones = np.full(len(latitude_deg), zone)
    swapped_m = np.stack(to_utm(latitude_deg, longitude_deg, zones, are_northern), axis=1)
    database_m = np.stack((in_zone.east_m, in_zone.north_m), axis=1)
    guess = "are latitude and longitude swapped in one of the two?"
    yield guess, float(np.median(_measure_nearest(database_m, swapped_m)))


def _measure_nearest(database_m: np.ndarray, queries_m: np.ndarray) -> np.ndarray:
    """Return metres from each query to the nearest database image; inf: in another region."""
    distances_m, _ = cKDTree(database_m, balanced_tree=False, compact_nodes=False).query(queries_m)
    return np.where(distances_m > REGION_GAP_M / 2, np.inf, distances_m)


def _most_frequent(zones: np.ndarray) -> int | None:
    stated, counts = np.unique(zones[np.isfinite(zones)], return_counts=True)
    return int(stated[counts.argmax()]) if len(stated) else None


def _list_zones(positions: Utm) -> list[str]:
    """Return the zones with their letters, such as 10S."""
    letters = np.where(positions.has_band, positions.letters, ord(" "))
    pairs = zip(positions.zones.tolist(), letters.tolist(), strict=True)
    return [f"{zone:g}{chr(letter)}".strip() for zone, letter in sorted(set(pairs)) if zone == zone]


def _format(distance_m: float) -> str:
    if distance_m == np.inf:
        return "that to another UTM zone"
    return f"{distance_m:,.0f} m" if distance_m < 1e4 else f"{distance_m / 1000:,.0f} km"
