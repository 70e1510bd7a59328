"""Where photos were taken: the places of the nearest database images, and how far they agree."""

from dataclasses import dataclass

import numpy as np
import utm

from datasets.image_names import ImageName, parse_image_name
from evaluation.confidence import measure_confidence, measure_spread
from evaluation.place_index import PlaceIndex
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
    """The ranked places of one photo, and two measures of their agreement."""

    photo: str
    places: list[Place]  # nearest descriptor first; empty if an approximate index found none
    spread_m: float | None  # see `measure_spread`
    confidence: float | None  # see `measure_confidence`


def localize(
    place_index: PlaceIndex,
    photos: list[str],
    descriptors: np.ndarray,
    top_k: int,
    threshold_m: float = 25.0,
) -> list[Localization]:
    """Rank the places of photos.

    Args:
        place_index: The database.
        photos: Their paths.
        descriptors: Of the photos, by the model of the index. float32 [num_photos, D].
        top_k: Number of places a photo.
        threshold_m: Largest distance within one place, metres.

    Returns:
        One localization per photo, in order.

    Raises:
        ValueError: If the descriptors do not fit the index, or names lack positions.
    """
    predictions, distances = find_neighbors(place_index.index, descriptors, top_k)
    localizations = []
    for photo, row, row_distances in zip(photos, predictions, distances, strict=True):
        row, row_distances = row[row >= 0], row_distances[row >= 0]
        positions_m = place_index.positions_m[row]
        places = [
            _place(place_index, int(image), rank, float(distance))
            for rank, (image, distance) in enumerate(zip(row, row_distances, strict=True), start=1)
        ]
        spread_m = measure_spread(positions_m)
        confidence = measure_confidence(positions_m, row_distances, threshold_m)
        localizations.append(Localization(photo, places, spread_m, confidence))
    return localizations


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
