"""Cut 360-degree panoramas into crops as SF-XL does.

Headings are degrees clockwise from north: 90 is east, and x grows clockwise. That of a panorama is
the heading of its centre, that of a crop the heading of its leftmost column. The crops of every
panorama point the same ways, 0, 30, ..., 330 degrees, whatever the heading of the panorama; those
across its edge are joined from both ends. Nothing is undistorted.

A crop is a square of 512 of 3328 pixels of the width, 55 degrees. Of a panorama twice as wide as
high, which shows the whole sphere, SF-XL leaves out 512 of 1664 rows above and 640 below: the rows
that remain have their middle at 768 of 1664. SF-XL's own strips are 6.5 times as wide as high; the
rows around their middle are used. A panorama of another shape may show less than the full circle:
it is refused, unless its field of view is given; crops that it shows only a part of are left out.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import commons
from datasets.image_lists import ImagePaths
from datasets.image_names import ImageName, format_image_name, parse_image_name, read_numbers
from datasets.images import open_image
from datasets.workers import map_in_processes
from tools.convert.photos import check_free

SF_XL_WIDTH_PX, SF_XL_CROP_PX = 3328, 512
_SPHERE_MIDDLE = 768 / 1664  # of the height: the middle of the rows that SF-XL keeps
_FULL_CIRCLES = (2, SF_XL_WIDTH_PX / SF_XL_CROP_PX)  # width / height of spheres, of SF-XL's strips
_TOLERANCE = 0.01  # of these ratios
_JPEG_QUALITY = 95
_PANORAMAS_PER_TASK = 8


@dataclass(frozen=True)
class CropParams:
    """How a panorama is cut; the defaults are those of SF-XL."""

    crops_per_panorama: int = 12
    crop_width_share: float = SF_XL_CROP_PX / SF_XL_WIDTH_PX  # of the width, that is of 360 degrees
    crop_size_px: int = (
        SF_XL_CROP_PX  # side of a written crop; cut crops of other sizes are resized
    )
    fov_deg: float | None = None  # horizontal, of all panoramas; None: 360, if the shape says so

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 1 <= self.crops_per_panorama <= 360:
            raise ValueError(f"--crops_per_panorama is 1 to 360, not {self.crops_per_panorama}")
        if not 0 < self.crop_width_share <= 1:
            raise ValueError(
                f"--crop_width_share is above 0 and at most 1, not {self.crop_width_share}"
            )
        if self.crop_size_px < 1:
            raise ValueError(f"--crop_size_px is at least 1, not {self.crop_size_px}")
        if self.fov_deg is not None and not 0 < self.fov_deg <= 360:
            raise ValueError(f"--fov is above 0 and at most 360 degrees, not {self.fov_deg:g}")

    @property
    def headings_deg(self) -> list[int]:
        """Headings of the crops: whole degrees from 0 on, equally far apart but for rounding."""
        return [round(360 / self.crops_per_panorama * k) for k in range(self.crops_per_panorama)]


def crop_panoramas(
    paths: ImagePaths,
    folder: Path,
    params: CropParams,
    jobs: int = 1,
    skip_unreadable: bool = False,
) -> list[str]:
    """Write the crops of panoramas below a folder, in the sub-folders of the panoramas.

    Args:
        paths: Panoramas with '@' names that have a heading.
        folder: Absolute; must be empty or not there; it appears only when it is complete.
        params: How they are cut.
        jobs: Number of processes.
        skip_unreadable: Leave out panoramas that cannot be read or cut, instead of stopping.

    Returns:
        Why panoramas were left out, one sentence each.

    Raises:
        FileExistsError: If the folder is not free.
        ValueError: If names lack UTM or heading, if two panoramas would have crops of the same
            names, or if a panorama cannot be read or is too low for its crops.
    """
    read_numbers(paths, ("UTM east", "UTM north", "heading"))  # names all bad ones at once
    targets = [_target(paths.name(number)) for number in range(len(paths))]
    _check_different(paths, targets, params)
    check_free(folder)
    with commons.atomic_folder(folder) as temporary:
        for subfolder in {subfolder for subfolder, _ in targets}:
            (temporary / subfolder).mkdir(parents=True, exist_ok=True)
        tasks = [
            (path, temporary / subfolder, fields)
            for path, (subfolder, fields) in zip(paths, targets, strict=True)
        ]
        problems = []
        for problem in tqdm(
            _crop_all(tasks, params, jobs), desc="Panoramas", total=len(tasks), unit="pano"
        ):
            if problem and not skip_unreadable:
                raise ValueError(f"{problem}; nothing was written")
            problems += [problem] if problem else []
        if len(problems) == len(tasks):
            raise ValueError(f"No panorama could be cut, nothing was written: {problems[0]}")
    return problems


def cut_crops(
    panorama: np.ndarray, heading_deg: float, params: CropParams
) -> list[np.ndarray | None]:
    """Cut a panorama into square crops, not resized.

    Args:
        panorama: [H, W, 3].
        heading_deg: Heading of its centre.
        params: How many crops, how wide, and the field of view.

    Returns:
        One crop [side, side, 3] per heading of `params`, None if it is not in view as a whole.

    Raises:
        ValueError: If the panorama is lower than a crop, its rows do not suffice, or its field of
            view is unknown or has no crop.
    """
    height, width = panorama.shape[:2]
    fov_deg = params.fov_deg or 360
    if params.fov_deg is None and not any(map(partial(_has_shape, width, height), _FULL_CIRCLES)):
        raise ValueError(
            f"it is {width} x {height} pixels: panoramas of the full circle are 2 times as wide as "
            "high, or 6.5 times as SF-XL's; give the horizontal field of view by --fov (360 for "
            "the full circle)"
        )
    top, side = find_rows(width, height, params.crop_width_share * 360 / fov_deg)
    strip = panorama[top : top + side]
    crops = []
    for crop_heading_deg in params.headings_deg:
        offset_deg = (crop_heading_deg - heading_deg + 180) % 360 - 180  # from the centre
        first = round((offset_deg / fov_deg + 0.5) * width)
        is_seen = fov_deg == 360 or (first >= 0 and first + side <= width)
        columns = np.arange(first, first + side)
        crops.append(strip.take(columns, axis=1, mode="wrap") if is_seen else None)
    if all(crop is None for crop in crops):
        raise ValueError(f"no crop of it is within {fov_deg:g} degrees: more --crops_per_panorama")
    return crops


def _has_shape(width: int, height: int, ratio: float) -> bool:
    return abs(width / height - ratio) < _TOLERANCE * ratio


def find_rows(width: int, height: int, crop_width_share: float) -> tuple[int, int]:
    """Return the first row and the number of rows of the crops of a panorama, pixels.

    Raises:
        ValueError: If the panorama does not have these rows.
    """
    side = max(round(width * crop_width_share), 1)
    if side == height + 1:  # rounding of a strip that was scaled
        side = height
    middle = height * (_SPHERE_MIDDLE if _has_shape(width, height, 2) else 0.5)
    top = round(middle - side / 2)
    if top < 0 or top + side > height:
        raise ValueError(
            f"it is {width} x {height} pixels, but crops of {side} x {side} need rows {top} to "
            f"{top + side}: lower --crop_width_share"
        )
    return top, side


def _target(name: str) -> tuple[str, ImageName]:
    """Return the sub-folder of a panorama and the fields of its crops."""
    fields = parse_image_name(name)
    return os.path.dirname(name), replace(fields, extension=fields.extension.lower())


def _check_different(
    paths: ImagePaths, targets: Sequence[tuple[str, ImageName]], params: CropParams
) -> None:
    """Refuse panoramas whose crops would overwrite each other."""
    names = [
        os.path.join(subfolder, format_image_name(replace(fields, heading_deg=0, tile_num="")))
        for subfolder, fields in targets
    ]
    counts = Counter(name.casefold() for name in names)
    clashes = [number for number, name in enumerate(names) if counts[name.casefold()] > 1]
    if clashes:
        raise ValueError(
            f"{len(clashes):,} panoramas of {paths.folder} differ from others only in heading or "
            "tile_num, so that their crops would have the same names: give each a pano_id of its "
            "own. For example " + " and ".join(paths[number] for number in clashes[:3])
        )


def _crop_all(
    tasks: Sequence[tuple[str, Path, ImageName]], params: CropParams, jobs: int
) -> Iterator[str | None]:
    """Yield, in order, the problem of each panorama; None once its crops are written."""
    crop_one = partial(_crop_one, params=params)
    yield from map_in_processes(crop_one, tasks, jobs, _PANORAMAS_PER_TASK)


def _crop_one(task: tuple[str, Path, ImageName], params: CropParams) -> str | None:
    path, folder, fields = task
    try:
        crops = cut_crops(np.asarray(open_image(path)), fields.heading_deg, params)
    except (FileNotFoundError, ValueError) as error:
        return f"{path} cannot be cut: {error}"
    for number, (heading_deg, crop) in enumerate(zip(params.headings_deg, crops, strict=True)):
        if crop is None:
            continue
        name = replace(fields, heading_deg=heading_deg, tile_num=f"{number:02d}")
        image = Image.fromarray(crop)
        if image.width != params.crop_size_px:
            image = image.resize((params.crop_size_px,) * 2, Image.Resampling.LANCZOS)
        image.save(folder / format_image_name(name), quality=_JPEG_QUALITY)
    return None
