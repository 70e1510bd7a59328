"""Where photos were taken: the places of the nearest database images, and how far they agree."""

import logging
from dataclasses import dataclass

import numpy as np
import utm

from datasets.image_names import ImageName, parse_image_name
from evaluation.calibration import Calibration
from evaluation.confidence import (
    DEFAULT_THRESHOLD_M,
    NUM_RANKS,
    measure_confidence,
    measure_features,
    measure_spread,
)
from evaluation.place_index import PlaceIndex
from evaluation.rerank import Reranker, rerank
from evaluation.search import find_neighbors


@dataclass(frozen=True)
class Place:
    """One prediction: a database image and where it was taken."""

    rank: int  # from 1
    database_image: str  # absolute path; the file may be gone
    name: ImageName  # the fields of the file's name
    position_m: tuple[float, float]  # east, north, comparable within a database
    descriptor_distance: float  # L2
    coordinates_deg: tuple[float, float] | None  # latitude, longitude; None if not known

    @property
    def utm_m(self) -> tuple[float, float]:
        """East and north in the zone of the image."""
        return self.name.utm_east_m, self.name.utm_north_m

    @property
    def zone(self) -> str:
        """The UTM zone, such as 10S; empty if not known."""
        number = self.name.zone_number
        return "" if number is None else f"{number}{self.name.zone_letter}"


@dataclass(frozen=True)
class Localization:
    """The ranked places of one photo, how far they agree, and whether to believe the first."""

    photo: str
    places: list[Place]  # nearest descriptor first; empty if an approximate index found none
    spread_m: float | None  # see `measure_spread`
    confidence: float | None  # calibrated: probability of the top-1; else `measure_confidence`
    is_calibrated: bool = False
    min_confidence: float | None = None  # below it the photo is taken to be not in the database

    @property
    def is_in_database(self) -> bool | None:
        """Whether the confidence reaches its threshold; None if one of them is not known."""
        if self.confidence is None or self.min_confidence is None:
            return None
        return self.confidence >= self.min_confidence


def localize(
    place_index: PlaceIndex,
    photos: list[str],
    descriptors: np.ndarray,
    top_k: int,
    threshold_m: float = DEFAULT_THRESHOLD_M,
    calibration: Calibration | None = None,
    min_confidence: float | None = None,
    reranker: Reranker | None = None,
) -> list[Localization]:
    """Rank the places of photos.

    Args:
        place_index: The database.
        photos: Their paths.
        descriptors: Of the photos, by the model of the index. float32 [num_photos, D].
        top_k: Number of places a photo.
        threshold_m: Largest distance within one place, metres; a calibration has its own.
        calibration: Makes the confidence a probability.
        min_confidence: See `Localization`; None: that of the calibration, if there is one.
        reranker: Compares photos with the images of the database, which must be there.

    Returns:
        One localization per photo, in order.

    Raises:
        ValueError: If the descriptors do not fit the index, or names lack positions.
    """
    num_ranks = top_k if calibration is None else max(top_k, NUM_RANKS)
    if reranker is not None:
        num_ranks = max(num_ranks, reranker.k)
    predictions, distances = find_neighbors(place_index.index, descriptors, num_ranks)
    if reranker is not None:
        predictions, distances, seconds = rerank(
            reranker, photos, place_index.paths, predictions, distances
        )
        logging.info(f"Re-ranked by {reranker.name}: {seconds:.3f} s a photo")
    if min_confidence is None and calibration is not None:
        min_confidence = calibration.min_confidence
    localizations = []
    for photo, row, row_distances in zip(photos, predictions, distances, strict=True):
        row, row_distances = row[row >= 0], row_distances[row >= 0]
        positions_m = place_index.positions_m[row]
        places = [
            _place(place_index, int(image), rank, float(distance))
            for rank, (image, distance) in enumerate(
                zip(row[:top_k], row_distances[:top_k], strict=True), start=1
            )
        ]
        confidence = (
            measure_confidence(positions_m[:top_k], row_distances[:top_k], threshold_m)
            if calibration is None
            else _calibrate(calibration, positions_m[:NUM_RANKS], row_distances[:NUM_RANKS])
        )
        localizations.append(
            Localization(
                photo,
                places,
                measure_spread(positions_m[:top_k]),
                confidence,
                calibration is not None,
                min_confidence,
            )
        )
    return localizations


def _calibrate(
    calibration: Calibration, positions_m: np.ndarray, distances: np.ndarray
) -> float | None:
    features = measure_features(positions_m, distances, calibration.threshold_m)
    confidence = float(calibration.confidence(features))
    return None if np.isnan(confidence) else confidence


def _place(place_index: PlaceIndex, image: int, rank: int, distance: float) -> Place:
    name = parse_image_name(place_index.paths.name(image))
    east_m, north_m = place_index.positions_m[image].tolist()
    return Place(
        rank, place_index.paths[image], name, (east_m, north_m), distance, find_coordinates(name)
    )


def find_coordinates(name: ImageName) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees: those of the name, else those of its UTM position.

    None if there are neither, as with the mock positions of some data sets, or a zone without a
    letter, which does not tell the hemisphere.
    """
    latitude_deg, longitude_deg = name.latitude_deg, name.longitude_deg
    if latitude_deg is not None and longitude_deg is not None:
        valid = abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180
        return (latitude_deg, longitude_deg) if valid else None
    if name.zone_number is None or not name.zone_letter:
        return None
    try:
        latitude, longitude = utm.to_latlon(
            name.utm_east_m, name.utm_north_m, name.zone_number, name.zone_letter
        )
    except (ValueError, utm.OutOfRangeError):
        return None
    return float(latitude), float(longitude)
