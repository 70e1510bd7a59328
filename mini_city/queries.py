"""Photos by people: hand-held pinhole cameras, and their defects."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from mini_city import furniture
from mini_city.frame import Camera
from mini_city.render import Scene, render
from mini_city.streets import Street
from mini_city.surfaces import Billboard, Extras, Wall, Walls

_ASPECTS = (4 / 3, 4 / 3, 3 / 2, 16 / 9)
_PORTRAIT_CHANCE = 0.3
_WINDOW_DETAIL = 1.2  # pixels of the rendered window per pixel of the photo


@dataclass(frozen=True)
class Photo:
    """A pinhole camera in the street frame.

    Attributes:
        x_m, y_m, height_m: Position.
        heading_deg: Azimuth of the optical axis, clockwise from the y axis.
        pitch_deg: Upwards.
        roll_deg: Clockwise, seen by the photographer.
        fov_deg: Field of view along the longer side.
        width_px, height_px: Size of the image.
    """

    x_m: float
    y_m: float
    height_m: float
    heading_deg: float
    pitch_deg: float
    roll_deg: float
    fov_deg: float
    width_px: int
    height_px: int

    @property
    def focal_px(self) -> float:
        """Focal length."""
        longer = max(self.width_px, self.height_px)
        return longer / 2 / float(np.tan(np.radians(self.fov_deg / 2)))


def axes(heading_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """Return the right, down and forward axis of a camera as columns, in (x, y, up). [3, 3]."""
    heading, pitch, roll = np.radians((heading_deg, pitch_deg, roll_deg))
    right = np.array((np.cos(heading), -np.sin(heading), 0.0))
    forward = np.array(
        (np.sin(heading) * np.cos(pitch), np.cos(heading) * np.cos(pitch), np.sin(pitch))
    )
    up = np.cross(right, forward)
    rolled_right = np.cos(roll) * right - np.sin(roll) * up
    return np.stack([rolled_right, np.cross(forward, rolled_right), forward], axis=1)


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return the unit quaternion (w, x, y, z) of a rotation matrix, w >= 0."""
    cross = rotation - rotation.T
    symmetric = np.array(
        [
            [np.trace(rotation), cross[2, 1], cross[0, 2], cross[1, 0]],
            [cross[2, 1], 0, 0, 0],
            [cross[0, 2], 0, 0, 0],
            [cross[1, 0], 0, 0, 0],
        ]
    )
    symmetric[1:, 1:] = rotation + rotation.T - np.trace(rotation) * np.eye(3)
    best = np.linalg.eigh(symmetric)[1][:, -1]
    return best if best[0] >= 0 else -best


def photograph(scene: Scene, photo: Photo) -> np.ndarray:
    """Take a photo: render the part of the panorama that it shows and project it.

    Returns:
        The image, uint8 [height_px, width_px, 3].
    """
    columns = np.arange(photo.width_px) + 0.5 - photo.width_px / 2
    rows = np.arange(photo.height_px) + 0.5 - photo.height_px / 2
    columns, rows = np.meshgrid(columns / photo.focal_px, rows / photo.focal_px)
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    rays = rays @ axes(0, photo.pitch_deg, photo.roll_deg).T
    azimuths = np.degrees(np.arctan2(rays[..., 0], rays[..., 1]))  # from the optical axis
    elevations = np.degrees(np.arctan2(rays[..., 2], np.hypot(rays[..., 0], rays[..., 1])))
    step_deg = float(np.degrees(1 / photo.focal_px)) / _WINDOW_DETAIL
    left_deg, top_deg = azimuths.min() - 2 * step_deg, elevations.max() + 2 * step_deg
    window = Camera(
        x_m=photo.x_m,
        y_m=photo.y_m,
        height_m=photo.height_m,
        left_deg=photo.heading_deg + left_deg,
        top_deg=top_deg,
        step_deg=step_deg,
        num_columns=int((azimuths.max() - left_deg) / step_deg) + 3,
        num_rows=int((top_deg - elevations.min()) / step_deg) + 3,
    )
    image = render(scene, window).astype(np.float32)
    return _bilinear(image, (azimuths - left_deg) / step_deg, (top_deg - elevations) / step_deg)


def _bilinear(image: np.ndarray, x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Sample an image at points whose origin is its upper left corner. Returns uint8."""
    x_px, y_px = x_px - 0.5, y_px - 0.5
    column, row = x_px.astype(np.int32), y_px.astype(np.int32)
    right, low = (x_px - column)[..., None], (y_px - row)[..., None]
    upper = image[row, column] * (1 - right) + image[row, column + 1] * right
    lower = image[row + 1, column] * (1 - right) + image[row + 1, column + 1] * right
    return (upper * (1 - low) + lower * low + 0.5).astype(np.uint8)


def draw_handheld_photo(
    rng: np.random.Generator, spot: tuple[Street, float], image_size_px: int
) -> Photo:
    """Draw a camera of queries_v1: on a sidewalk or the road, tilted, any lens, any format."""
    street, along_m = spot
    side = rng.choice((-1, 1))
    aside_m = street.road_m + rng.uniform(0.4, street.sidewalk_m - 0.4)
    if rng.random() < 0.35:
        aside_m = rng.uniform(1.5, street.road_m - 2.4)
    x_m, y_m = street.point(along_m + rng.uniform(-6, 6), side * aside_m)
    shorter_px = round(image_size_px * rng.uniform(0.9, 1))
    longer_px = round(shorter_px * rng.choice(_ASPECTS))
    is_portrait = rng.random() < _PORTRAIT_CHANCE
    return Photo(
        x_m=x_m,
        y_m=y_m,
        height_m=rng.uniform(1.4, 1.9),
        heading_deg=_heading_deg(rng, street, -side, (20, 90)),
        pitch_deg=rng.uniform(0, 14),
        roll_deg=rng.normal(0, 3),
        fov_deg=rng.uniform(48, 80),
        width_px=shorter_px if is_portrait else longer_px,
        height_px=longer_px if is_portrait else shorter_px,
    )


def draw_clear_photo(
    rng: np.random.Generator, spot: tuple[Street, float], image_size_px: int
) -> Photo:
    """Draw a camera of queries_v2: anywhere on the road or at its edge, almost level."""
    street, along_m = spot
    side = rng.choice((-1, 1))
    aside_m = rng.uniform(1, street.road_m + 1.5)
    x_m, y_m = street.point(along_m + rng.uniform(-6, 6), side * aside_m)
    return Photo(
        x_m=x_m,
        y_m=y_m,
        height_m=rng.uniform(1.4, 2.5),
        heading_deg=_heading_deg(rng, street, -side, (15, 90)),
        pitch_deg=rng.uniform(0, 6),
        roll_deg=rng.normal(0, 1),
        fov_deg=rng.uniform(55, 72),
        width_px=round(image_size_px * 4 / 3),
        height_px=image_size_px,
    )


def _heading_deg(
    rng: np.random.Generator, street: Street, towards: int, range_deg: tuple[float, float]
) -> float:
    """Look towards one side of a street, at an angle to its axis from a range."""
    angle = np.radians(rng.uniform(*range_deg))
    along, aside = rng.choice((-1, 1)) * np.cos(angle), towards * np.sin(angle)
    x, y = (along, aside) if street.is_along_x else (aside, along)
    return float(np.degrees(np.arctan2(x, y)) % 360)


def draw_occluders(rng: np.random.Generator, photo: Photo, cars: Walls, px_per_m: float) -> Extras:
    """Put people, a van or a fence in front of some cameras."""

    def point(distance_m: float, spread_deg: float) -> tuple[float, float]:
        azimuth = np.radians(photo.heading_deg + rng.uniform(-spread_deg, spread_deg))
        x_m = photo.x_m + distance_m * np.sin(azimuth)
        return float(x_m), float(photo.y_m + distance_m * np.cos(azimuth))

    people, walls = [], [cars]
    kind = rng.choice(("none", "people", "van", "fence"), p=(0.6, 0.24, 0.08, 0.08))
    if kind == "people":
        for _ in range(rng.integers(1, 4)):
            texture = furniture.person(int(rng.integers(furniture.NUM_PEOPLE)), px_per_m)
            people.append(Billboard(*point(rng.uniform(2.2, 5), 32), texture))
    elif kind == "van":
        colour = int(rng.integers(len(furniture.CAR_COLOURS)))
        is_along_x = abs(np.cos(np.radians(photo.heading_deg))) > 0.7
        van = furniture.car(point(7, 20), bool(is_along_x), colour, True, px_per_m)
        walls.append(furniture.gather(van))
    elif kind == "fence":
        texture = furniture.fence(int(rng.integers(furniture.NUM_FENCES)), px_per_m)
        (x_m, y_m), azimuth = point(3, 0), np.radians(photo.heading_deg)
        x_step_m, y_step_m = texture.width_m / 2 * np.array((np.cos(azimuth), -np.sin(azimuth)))
        foot = (x_m - x_step_m, y_m - y_step_m), (x_m + x_step_m, y_m + y_step_m)
        walls.append(furniture.gather([(Wall(*foot, 0, texture.height_m), texture)]))
    return Extras(walls, people)


def degrade(rng: np.random.Generator, pixels: np.ndarray, is_night: bool) -> Image.Image:
    """Blur a photo, add noise and vignetting, change exposure and contrast, take its colour."""
    noise_level = rng.uniform(5, 11) if is_night else rng.exponential(3)
    rows, columns = (np.linspace(-1, 1, size) for size in pixels.shape[:2])
    radius = rows[:, None] ** 2 + columns[None] ** 2
    cast = rng.uniform(0.75, 1.25) * rng.normal(1, 0.06, 3)
    lit = pixels * cast * (1 - rng.uniform(0, 0.2) * radius)[..., None]
    noisy = lit + rng.normal(0, noise_level, pixels.shape)
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.75, 1.25))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.1) * image.height / 128))
    if rng.random() < 0.12:
        image = image.convert("L").convert("RGB")
    return image
