"""What EigenPlaces sees of a class: its focal points, from each of its panoramas.

A class has two: one beside the street and one along it, `focal_dist` metres from the mean of its
panoramas' positions. An image looks from where a panorama was taken towards a focal point. It is
cut out of the panorama, or is the one of its ready crops that looks there.

Headings and bearings are in degrees, clockwise from north. The heading in the name of a panorama
is that of its centre, in the name of a crop that of its leftmost column, as in SF-XL.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from datasets.augmentation import Augmentation
from datasets.class_index import ClassIndex
from datasets.groups import Draw, TrainDataset
from datasets.image_names import ImageName, parse_image_name
from datasets.images import FORMATS, errors_naming

VIEWS = {"lateral": 0, "frontal": 90}  # name -> degrees from the axis of a class, to the left
_TURN_DEG = 360.0
_CROP_SHARE = 512 / 3328  # of the width of a panorama, in SF-XL
_HALF_CROP_DEG = _CROP_SHARE * _TURN_DEG / 2
_MIN_ASPECT = 4.0  # of a panorama; SF-XL's are 6.5 times as wide as high, no photo is 4 times
_NUM_OPENED = 20  # images, to find out what they are


class PanoramaDataset(TrainDataset):
    """Images towards the focal points of classes; the view of a draw is an index of VIEWS."""

    def __init__(
        self,
        index: ClassIndex,
        augmentation: Augmentation | None,
        io_retries: int,
        focal_dist: float,
        are_whole: bool,
    ) -> None:
        """Draw from an index.

        Args:
            index: Of panoramas, see `PanoramaParams`.
            augmentation: See `TrainDataset`.
            io_retries: See there.
            focal_dist: From the mean position of a class to its focal points, in metres.
            are_whole: Whether images are whole panoramas, to be cut; else they are crops.
        """
        super().__init__(index, augmentation, io_retries)
        self.focal_dist = focal_dist
        self.are_whole = are_whole

    def bearing_deg(self, draw: Draw, label: int, name: ImageName) -> float:
        """Return where the focal point of a class is from the position in a name."""
        axis = self.index.class_axes[self.index.classes(draw.group)[label]]
        angle_deg = [*VIEWS.values()][draw.view]
        east_m, north_m = focal_point(axis, angle_deg, self.focal_dist)
        return find_bearing(east_m - name.utm_east_m, north_m - name.utm_north_m)

    def _path(self, draw: Draw, label: int, image_index: int) -> str:
        if self.are_whole:
            return super()._path(draw, label, image_index)
        crops = self.index.crops(image_index)
        return nearest_crop(crops, self.bearing_deg(draw, label, parse_image_name(crops[0])))

    def _load(self, draw: Draw, label: int, image_index: int) -> torch.Tensor:
        image = super()._load(draw, label, image_index)
        if not self.are_whole:
            return image
        path = self._path(draw, label, image_index)
        height, width = image.shape[1:]
        if width < _MIN_ASPECT * height:
            raise ValueError(
                f"The image {path} is {width}x{height}, no strip of 360 degrees as others are"
            )
        name = parse_image_name(path)
        return cut_crop(image, self.bearing_deg(draw, label, name), name.heading_deg)


def focal_point(axis: Sequence[float], angle_deg: float, focal_dist: float) -> tuple[float, float]:
    """Return the east and north of a focal point, in metres.

    Args:
        axis: Mean position and direction of the class, see `find_axes`.
        angle_deg: By which the direction is turned to the left.
        focal_dist: From the mean position, in metres.
    """
    mean_east_m, mean_north_m, east, north = map(float, axis)
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return (
        mean_east_m + focal_dist * (cos * east - sin * north),
        mean_north_m + focal_dist * (sin * east + cos * north),
    )


def find_bearing(east_m: float, north_m: float) -> float:
    """Return the bearing of a point from the origin, in degrees, 0 to 360."""
    return math.degrees(math.atan2(east_m, north_m)) % _TURN_DEG


def first_column(bearing_deg: float, heading_deg: float, width: int) -> int:
    """Return the leftmost column of the crop of a panorama around a bearing.

    Both parts are cut to whole columns before they are added, as the original does it.

    Args:
        bearing_deg: 0 to 360.
        heading_deg: Of the centre of the panorama.
        width: Of the panorama, in columns.
    """
    north = int((180 - heading_deg) % _TURN_DEG / _TURN_DEG * width)
    middle = north + int(bearing_deg / _TURN_DEG * width % width)
    return (middle - crop_width(width) // 2) % width


def crop_width(width: int) -> int:
    """Return the number of columns of a crop: 512 of 3328."""
    return round(_CROP_SHARE * width)


def cut_crop(panorama: torch.Tensor, bearing_deg: float, heading_deg: float) -> torch.Tensor:
    """Cut a panorama around a bearing; its right border continues at its left one.

    Args:
        panorama: [3, H, W].
        bearing_deg: See `first_column`.
        heading_deg: See there.

    Returns:
        [3, H, crop_width(W)]; in memory, the colours of a pixel are side by side.
    """
    width, rows = panorama.shape[2], panorama.permute(1, 2, 0)
    first = first_column(bearing_deg, heading_deg, width)
    beyond = first + crop_width(width) - width
    parts = (rows[:, first : first + crop_width(width)], rows[:, : max(0, beyond)])
    return torch.cat(parts, dim=1).permute(2, 0, 1)


def nearest_crop(paths: Sequence[str], bearing_deg: float) -> str:
    """Return the crop of a panorama whose middle is nearest to a bearing, the first if several are.

    Args:
        paths: Crops with headings in their names; those without one are not taken.
        bearing_deg: 0 to 360.
    """
    headings_deg = [parse_image_name(path).heading_deg for path in paths]
    middles_deg = np.array([np.nan if h is None else h for h in headings_deg]) + _HALF_CROP_DEG
    distances_deg = np.abs((middles_deg - bearing_deg + 180) % _TURN_DEG - 180)
    return paths[int(np.nanargmin(distances_deg))]


def are_panoramas(index: ClassIndex) -> bool:
    """Return whether the images of an index are whole panoramas: by the first one that opens.

    Raises:
        ValueError: If none of 20 images, spread over all, can be opened, or only some are strips.
    """
    error: Exception | None = None
    strips: dict[bool, str] = {}  # whether an image is one -> the first path
    last = len(index.image_offsets) - 1
    for image in np.unique(np.linspace(0, last, _NUM_OPENED).astype(np.int64)).tolist():
        path = index.path(image)
        try:
            with errors_naming(path), Image.open(path, formats=FORMATS) as file:
                strips.setdefault(file.width >= _MIN_ASPECT * file.height, path)
        except (FileNotFoundError, ValueError) as failed:
            error = error or failed
    if len(strips) == 1:
        return next(iter(strips))
    if strips:
        raise ValueError(
            f"{index.folder} holds both panoramas and crops: {strips[True]} is a strip of 360 "
            f"degrees, {strips[False]} is not. Put them into two folders, or, if few are wrong, "
            "say what the others are by --train_images panoramas or crops"
        )
    raise ValueError(
        f"Whether {index.folder} holds panoramas or crops is not known: {error}"
    ) from error
