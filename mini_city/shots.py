"""Take one panorama or one query, and write its files under SF-XL's names.

A shot has a random generator of its own (city seed, folder, index of the shot), so it does
not matter which process takes it, and when.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.image_names import ImageName, format_image_name
from mini_city import furniture, queries
from mini_city.conditions import Conditions, draw_daylight, draw_night
from mini_city.frame import Camera
from mini_city.params import CityParams
from mini_city.render import Scene, render
from mini_city.streets import Street
from mini_city.surfaces import Extras, Walls
from mini_city.world import ROTATION_DEG, SPLITS, UTM_ZONE, District, district, lat_lon

CROPS_PER_PANORAMA = 12
PANORAMA_ASPECT = 3328 / 512  # columns of a panorama per column of a crop, as in SF-XL
TOP_DEG = 34.6  # elevation of the upper border of a panorama
_NIGHT_CHANCE = 0.12
_QUERY_DAYS = 40  # how many arrangements of parked cars the queries see
_NO_CAR_WITHIN_M, _NO_TREE_WITHIN_M = 4.5, 2.0
_STREAMS = ("database", "queries", "queries_v1", "queries_v2", "visits", "cars", "lights")

PoseRow = tuple[str | float, ...]


@dataclass(frozen=True)
class Shot:
    """One thing to be written.

    Attributes:
        split: train, val or test.
        kind: database, queries, queries_v1 or queries_v2.
        number: Number of the spot (database) or of the query.
        year: Of a panorama of the database; queries draw their own.
    """

    split: str
    kind: str
    number: int
    year: int = 0

    def rng(self, seed: int) -> np.random.Generator:
        """Return its source of random numbers."""
        return _rng(seed, self.split, self.kind, self.number, self.year)


def plan(params: CityParams, seed: int) -> list[Shot]:
    """List all shots of a city: each spot in several years, then the queries."""
    shots = []
    years = np.arange(params.years[0], params.years[1] + 1)
    for split in SPLITS:
        fewest, most = getattr(params, split).visits
        for spot in range(len(district(split, params, seed).spots)):
            rng = _rng(seed, split, "visits", spot)
            visits = rng.choice(years, rng.integers(fewest, most + 1), replace=False)
            shots += [Shot(split, "database", spot, int(year)) for year in sorted(visits)]
    shots += [Shot("val", "queries", number) for number in range(params.num_val_queries)]
    shots += [Shot("test", "queries_v1", number) for number in range(params.num_queries_v1)]
    shots += [Shot("test", "queries_v2", number) for number in range(params.num_queries_v2)]
    return shots


def take(shot: Shot, folder: Path, params: CityParams, seed: int) -> list[PoseRow]:
    """Write the images of a shot.

    Args:
        shot: What to take.
        folder: The folder of the split, e.g. <city>/processed/val.
        params: Sizes of the city.
        seed: Seed of the city.

    Returns:
        The rows that the shot adds to queries_v2_poses.csv.
    """
    city = district(shot.split, params, seed)
    if shot.kind == "database":
        _take_panorama(shot, folder, city, params, seed)
    elif shot.kind == "queries_v2":
        return [_take_clear(shot, folder, city, params, seed)]
    else:
        _take_handheld(shot, folder, city, params, seed)
    return []


def panorama_camera(
    point_m: tuple[float, float], height_m: float, left_deg: float, image_size_px: int
) -> Camera:
    """Return the camera of a panorama; `left_deg` is in the street frame."""
    num_columns = round(PANORAMA_ASPECT * image_size_px)
    step_deg = 360 / num_columns
    return Camera(
        *point_m, height_m, left_deg, TOP_DEG, step_deg, num_columns, num_rows=image_size_px
    )


def cut_crops(panorama: np.ndarray) -> list[np.ndarray]:
    """Cut a panorama into 12 overlapping squares, every 30 degrees from its left border."""
    size, width = panorama.shape[:2]
    around = np.concatenate([panorama, panorama[:, :size]], axis=1)
    lefts = [round(width * crop / CROPS_PER_PANORAMA) for crop in range(CROPS_PER_PANORAMA)]
    return [around[:, left : left + size] for left in lefts]


def _take_panorama(shot: Shot, folder: Path, city: District, params: CityParams, seed: int) -> None:
    """Write the 12 crops of a panorama."""
    rng = shot.rng(seed)
    street, along_m = city.spots[shot.number]
    scene = _drive_scene(shot, city, street, seed)
    point = _drive_past(rng, street, along_m)
    first_deg = int(rng.integers(360 // CROPS_PER_PANORAMA))
    camera = panorama_camera(
        point, rng.uniform(2.3, 2.7), first_deg + ROTATION_DEG, params.image_size_px
    )
    panorama = render(scene, camera) * rng.uniform(0.94, 1.06)
    pano_id, quality = _pano_id(rng), int(rng.integers(85, 93))
    target = folder if shot.split == "train" else folder / "database"
    for crop, pixels in enumerate(cut_crops(np.minimum(panorama, 255).astype(np.uint8))):
        name = _name(
            city.to_utm(*point),
            pano_id,
            f"{shot.year}{scene.conditions.month:02d}",
            first_deg + crop * 360 // CROPS_PER_PANORAMA,
        )
        _save(Image.fromarray(pixels), target, name, quality, in_subfolder=shot.split == "train")


def _take_handheld(shot: Shot, folder: Path, city: District, params: CityParams, seed: int) -> None:
    """Write a hand-held photo, a query of val or of queries_v1."""
    rng = shot.rng(seed)
    spot = city.spots[rng.integers(len(city.spots))]
    photo = queries.draw_handheld_photo(rng, spot, params.image_size_px)
    year = int(rng.integers(params.years[0], params.years[1] + 1))
    draw_light = draw_night if rng.random() < _NIGHT_CHANCE else draw_daylight
    conditions = draw_light(rng, year)
    cars = _cars_around(photo, _parked(city, seed, shot.split, _day(rng)))
    extras = queries.draw_occluders(rng, photo, cars, params.texture_px_per_m)
    pixels = queries.photograph(_scene_around(photo, city, conditions, extras), photo)
    image = queries.degrade(rng, pixels, conditions.is_night)
    timestamp = f"{year}{conditions.month:02d}{rng.integers(1, 29):02d}"
    flickr_id = str(rng.integers(10**9, 53 * 10**9))
    name = _name(city.to_utm(photo.x_m, photo.y_m), flickr_id, timestamp, None)
    _save(image, folder / shot.kind, name, int(rng.integers(70, 92)))


def _take_clear(shot: Shot, folder: Path, city: District, params: CityParams, seed: int) -> PoseRow:
    """Write a photo of queries_v2 and return its row of the poses."""
    rng = shot.rng(seed)
    spot = city.spots[rng.integers(len(city.spots))]
    photo = queries.draw_clear_photo(rng, spot, params.image_size_px)
    year = int(rng.integers(params.years[0], params.years[1] + 1))
    conditions = draw_daylight(rng, year)
    cars = _cars_around(photo, _parked(city, seed, shot.split, _day(rng)))
    scene = _scene_around(photo, city, conditions, Extras([cars]))
    image = Image.fromarray(queries.photograph(scene, photo))
    east_m, north_m = city.to_utm(photo.x_m, photo.y_m)
    name = _name((east_m, north_m), _pano_id(rng), f"{year}{conditions.month:02d}", None)
    _save(image, folder / shot.kind, name, 90)
    heading_deg = (photo.heading_deg - ROTATION_DEG) % 360
    rotation = queries.axes(heading_deg, photo.pitch_deg, photo.roll_deg)
    numbers = (
        *(east_m, north_m, photo.height_m),
        *queries.quaternion(rotation),
        *(heading_deg, photo.pitch_deg, photo.roll_deg, photo.fov_deg),
    )
    return (format_image_name(name), *(round(float(number), 6) for number in numbers))


def _rng(seed: int, split: str, stream: str, *numbers: int) -> np.random.Generator:
    """Return a source of random numbers; the districts themselves have stream 0."""
    return np.random.default_rng((seed, SPLITS.index(split), 1 + _STREAMS.index(stream), *numbers))


def _day(rng: np.random.Generator) -> int:
    return int(rng.integers(_QUERY_DAYS))


def _drive_scene(shot: Shot, city: District, street: Street, seed: int) -> Scene:
    """Return the scene of one street in one year: one light, the same cars."""
    number = city.grid.streets.index(street)
    conditions = _drive_light(seed, shot.split, shot.year, number)
    return city.scene(conditions, Extras([_parked(city, seed, shot.split, shot.year)]))


@lru_cache(maxsize=1024)
def _drive_light(seed: int, split: str, year: int, street: int) -> Conditions:
    return draw_daylight(_rng(seed, split, "lights", street, year), year)


@lru_cache(maxsize=64)
def _parked(city: District, seed: int, split: str, day: int) -> Walls:
    return city.park_cars(_rng(seed, split, "cars", day))


def _cars_around(photo: queries.Photo, cars: Walls) -> Walls:
    """Leave out the cars that fill a photo: people step beside them."""
    return furniture.without_cars_near(cars, photo.x_m, photo.y_m, _NO_CAR_WITHIN_M)


def _scene_around(
    photo: queries.Photo, city: District, conditions: Conditions, extras: Extras
) -> Scene:
    """Leave out the trees and poles right before the lens."""
    scene = city.scene(conditions, extras)
    billboards = [
        billboard
        for billboard in scene.billboards
        if np.hypot(billboard.x_m - photo.x_m, billboard.y_m - photo.y_m) > _NO_TREE_WITHIN_M
    ]
    return replace(scene, billboards=billboards)


def _drive_past(rng: np.random.Generator, street: Street, along_m: float) -> tuple[float, float]:
    """Return where a panorama of a spot is really taken: on the left or the right lane."""
    aside_m = rng.choice((-1, 1)) * rng.uniform(0.5, 1.5)
    return street.point(along_m + rng.uniform(-2, 2), aside_m)


def _pano_id(rng: np.random.Generator) -> str:
    """Return 22 characters like those of street view panoramas."""
    return base64.urlsafe_b64encode(rng.bytes(16)).decode().rstrip("=")


def _name(
    utm_m: Sequence[float], pano_id: str, timestamp: str, heading_deg: float | None
) -> ImageName:
    """Fill in the fields of a name."""
    east_m, north_m = (round(value, 2) for value in utm_m)
    latitude_deg, longitude_deg = lat_lon(east_m, north_m)
    return ImageName(
        utm_east_m=east_m,
        utm_north_m=north_m,
        zone_number=UTM_ZONE[0],
        zone_letter=UTM_ZONE[1],
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        pano_id=pano_id,
        heading_deg=heading_deg,
        timestamp=timestamp,
    )


def _save(
    image: Image.Image, folder: Path, name: ImageName, quality: int, in_subfolder: bool = False
) -> None:
    """Write a JPEG; training images lie in sub-folders by latitude, as in SF-XL."""
    if in_subfolder:
        folder = folder / f"{name.latitude_deg:.2f}"
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / format_image_name(name), quality=quality)
