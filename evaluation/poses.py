"""6-DoF poses: how far the poses of predictions are from the poses of queries.

World: x is east and y is north in UTM metres, z is up. Camera: x is right, y is down, z is the
optical axis. A rotation turns vectors of the camera into vectors of the world; its quaternion is
(x, y, z, w), as scipy's. A heading is the azimuth of the optical axis, clockwise from north.

Database images without such a pose have the position and the heading of their '@' names, level.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from datasets.eval_set import EvalSet
from datasets.image_lists import ImagePaths
from datasets.image_names import read_fields
from datasets.images import FORMATS
from datasets.poses import PoseFile, find_poses, read_poses
from evaluation.evaluate import Evaluation

THRESHOLDS = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))  # metres and degrees, both inclusive
QUANTILES = {"q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9}
CROP_DEG = 360 * 512 / 3328  # width of a crop of SF-XL; its '@' heading is of the leftmost column
SIMILARITY_POWER = 8  # of the weights, as by default in kapture-localization (CSI)
_LEVEL_NORTH = Rotation.from_matrix([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # a camera that looks north
_FAR_M = 1.0  # between the positions of a pose and of a name
_TILTED_DEG = 45.0  # half of the cameras roll or pitch more: another convention, most likely


@dataclass(frozen=True)
class Poses:
    """The poses of a set: of queries, and of database images if there are any.

    Attributes:
        queries: File of the queries.
        rows: Its row for each query, -1 for none. int64 [num_queries].
        database: File of the database.
        are_crops: Whether '@' headings of the database are those of leftmost columns.
        notes: Sentences that a reader of the errors must know.
    """

    queries: PoseFile
    rows: np.ndarray
    database: PoseFile | None
    are_crops: bool
    notes: tuple[str, ...] = ()


def load_poses(eval_set: EvalSet) -> Poses | None:
    """Read the poses beside the folder of the queries; None if there are none.

    Raises:
        ValueError: If a file is malformed, or names none of the queries.
    """
    path = find_poses(eval_set.queries.folder)
    if path is not None and eval_set.positions is None:
        logging.warning(f"{path} is not used: {eval_set.name} has no positions to compare with")
    if path is None or eval_set.positions is None:
        return None
    file, database_path = read_poses(path), find_poses(eval_set.database.folder)
    rows = file.find(eval_set.queries, by_pano_id=True)
    is_known = rows >= 0
    if not is_known.any():
        raise ValueError(
            f"{path} names none of the {len(rows):,} queries: it has {next(iter(file.rows))!r}, "
            f"the queries are such as {eval_set.queries.name(0)!r}"
        )
    notes = []
    if num_unknown := int((~is_known).sum()):
        notes.append(f"{num_unknown:,} of {len(rows):,} queries have no pose in {path.name}")
    if num_spare := len(file.rows) - len(np.unique(rows[is_known])):
        notes.append(f"{num_spare:,} poses in {path.name} are of no query")
    offsets_m = np.hypot(*file.offsets_m(rows, eval_set.queries)[is_known].T)
    if num_far := int((offsets_m > _FAR_M).sum()):
        notes.append(
            f"{num_far:,} queries are more than {_FAR_M:g} m from the position in their name, up "
            f"to {offsets_m.max():,.1f} m, in {path.name}"
        )
    downs = Rotation.from_quat(file.quaternions).apply([0.0, 1.0, 0.0])
    tilt_deg = np.degrees(np.median(np.arccos(np.clip(-downs[:, 2], -1, 1))))
    if tilt_deg > _TILTED_DEG:
        notes.append(
            f"The cameras in {path.name} are tilted by {tilt_deg:.0f} degrees (median): its "
            "quaternions may be of another convention"
        )
    database = None if database_path is None else read_poses(database_path)
    return Poses(file, rows, database, _are_crops(eval_set.database), tuple(notes))


def measure_poses(
    poses_of: Mapping[str, Poses | None], top_k: int, evaluation: Evaluation
) -> dict[str, Any]:
    """Measure the errors of the top-1's pose and of the fused poses of the top-k.

    Args:
        poses_of: The poses of each set, by its name.
        top_k: Predictions to fuse.
        evaluation: The predictions.

    Returns:
        {"poses": plain values for results.json}; empty if the set has no poses.
    """
    eval_set, poses = evaluation.eval_set, poses_of[evaluation.eval_set.name]
    if poses is None:
        return {}
    asked = np.flatnonzero(poses.rows >= 0)
    rows = poses.rows[asked]
    offsets_m = poses.queries.offsets_m(rows, eval_set.queries.subset(asked))
    truth = eval_set.positions.queries_m[asked] + offsets_m, poses.queries.quaternions[rows]
    predictions = evaluation.predictions[asked, :top_k]
    positions_m, quaternions = _look_up(eval_set, poses, predictions)
    weights = weigh(predictions, evaluation.distances[asked, :top_k])
    top1 = compare(positions_m[:, 0], quaternions[:, 0], *truth)
    fused = compare(*fuse(positions_m, quaternions, weights), *truth)
    notes = list(poses.notes)
    for count, fault in (
        (~np.isfinite(top1[0]), "queries have no prediction: they count as not within"),
        (
            np.isfinite(top1[0]) & ~np.isfinite(top1[2]),
            "queries have a top-1 without a heading: they count as not within",
        ),
    ):
        if count.any():
            notes.append(f"{int(count.sum()):,} {fault}")
    return {
        "poses": {
            "protocol": _describe(poses),
            "num_queries": len(asked),
            "top_k": predictions.shape[1],
            "top1": summarise(*top1),
            "fused": summarise(*fused),
            "notes": notes,
        }
    }


def level_rotations(headings_deg: np.ndarray) -> Rotation:
    """Return level cameras that look to headings, degrees clockwise from north. [n]."""
    turns = np.multiply.outer(-np.asarray(headings_deg), [0.0, 0.0, 1.0])
    return Rotation.from_rotvec(turns, degrees=True) * _LEVEL_NORTH


def headings_of(rotations: Rotation) -> np.ndarray:
    """Return the azimuths of optical axes, degrees clockwise from north. float64 [n]."""
    axes = rotations.apply([0.0, 0.0, 1.0])
    return np.degrees(np.arctan2(axes[:, 0], axes[:, 1]))


def weigh(predictions: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return the weights of predictions: their cosine similarities to the power of 8.

    The similarity of unit descriptors at the distance d is 1 - d^2 / 2, at least 0. Where none of a
    query is above 0, as may be for descriptors of other lengths, its predictions weigh the same.

    Args:
        predictions: Database indices, -1 for none. int64 [n, K].
        distances: Of the descriptors, L2. float [n, K].

    Returns:
        float64 [n, K]; 0 where there is no prediction.
    """
    is_there = predictions >= 0
    distances = np.where(is_there, distances, 2.0).astype(np.float64)
    weights = np.maximum(1 - distances**2 / 2, 0) ** SIMILARITY_POWER
    return np.where(weights.sum(axis=1, keepdims=True) > 0, weights, is_there)


def fuse(
    positions_m: np.ndarray, quaternions: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse the poses of the predictions of each query.

    Positions by their weighted mean; rotations by the eigenvector of the largest eigenvalue of the
    weighted sum of q q^T (Markley et al. 2007), in which q and -q count the same.

    Args:
        positions_m: East and north. float64 [n, K, 2].
        quaternions: NaN where unknown. float64 [n, K, 4].
        weights: 0 leaves a prediction out. float64 [n, K].

    Returns:
        Positions, float64 [n, 2], and quaternions, float64 [n, 4]; NaN where nothing is known.
    """
    with np.errstate(invalid="ignore"):
        shares = weights / weights.sum(axis=1, keepdims=True)
    fused_m = np.einsum("nk,nkd->nd", shares, np.where(weights[..., None] > 0, positions_m, 0))
    fused = np.full((len(weights), 4), np.nan)
    is_used = (weights > 0) & np.isfinite(quaternions).all(axis=2)
    for query in np.flatnonzero(is_used.any(axis=1)):
        used = is_used[query]
        rotations = Rotation.from_quat(quaternions[query, used])
        fused[query] = rotations.mean(weights[query, used]).as_quat()
    return fused_m, fused


def compare(
    positions_m: np.ndarray, quaternions: np.ndarray, true_m: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the errors of poses, NaN where one is unknown.

    Args:
        positions_m: float64 [n, 2].
        quaternions: float64 [n, 4].
        true_m: float64 [n, 2].
        true: float64 [n, 4].

    Returns:
        Metres between the positions, seen from above; degrees between the headings, 0 to 180;
        degrees of the rotation from one to the other, 0 to 180. Three float64 [n].
    """
    heading_deg, rotation_deg = np.full((2, len(true)), np.nan)
    known = np.isfinite(quaternions).all(axis=1)
    if known.any():
        found, expected = Rotation.from_quat(quaternions[known]), Rotation.from_quat(true[known])
        turns_deg = headings_of(found) - headings_of(expected)
        heading_deg[known] = np.abs((turns_deg + 180) % 360 - 180)
        rotation_deg[known] = np.degrees((found.inv() * expected).magnitude())
    return np.hypot(*(positions_m - true_m).T), heading_deg, rotation_deg


def summarise(
    position_m: np.ndarray, heading_deg: np.ndarray, rotation_deg: np.ndarray
) -> dict[str, Any]:
    """Return quantiles of known errors, and the percentage of all queries within THRESHOLDS."""

    def quantiles(errors: np.ndarray) -> dict[str, float | None]:
        known = errors[np.isfinite(errors)]
        return {
            name: float(np.quantile(known, share)) if len(known) else None
            for name, share in QUANTILES.items()
        }

    return {
        "position_error_m": quantiles(position_m),
        "heading_error_deg": quantiles(heading_deg),
        "rotation_error_deg": quantiles(rotation_deg),
        "within_percent": {
            f"{metres:g} m, {degrees:g} deg": 100
            * float(((position_m <= metres) & (rotation_deg <= degrees)).mean())
            for metres, degrees in THRESHOLDS
        },
    }


def _look_up(
    eval_set: EvalSet, poses: Poses, predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions, float64 [n, K, 2], and quaternions, float64 [n, K, 4], of predictions.

    Both are NaN where there is no prediction, quaternions also where there is no heading.
    """
    used, places = np.unique(predictions, return_inverse=True)
    is_there = used >= 0
    paths = eval_set.database.subset(used[is_there])
    positions_m = eval_set.positions.database_m[used[is_there]]
    headings_deg = read_fields(paths, ["heading"])[0] + (CROP_DEG / 2 if poses.are_crops else 0)
    quaternions = np.full((len(paths), 4), np.nan)
    has_heading = np.isfinite(headings_deg)
    if has_heading.any():
        quaternions[has_heading] = level_rotations(headings_deg[has_heading]).as_quat()
    if poses.database is not None:
        rows = poses.database.find(paths)
        positions_m = positions_m + poses.database.offsets_m(rows, paths)
        quaternions[rows >= 0] = poses.database.quaternions[rows[rows >= 0]]
    table = np.full((len(used), 6), np.nan)
    table[is_there] = np.hstack([positions_m, quaternions])
    table = table[places.reshape(predictions.shape)]
    return table[..., :2], table[..., 2:]


def _are_crops(database: ImagePaths) -> bool:
    """Whether the first image is a square, as crops of panoramas are; so if it cannot be read."""
    try:
        with Image.open(database[0], formats=FORMATS) as image:
            return image.width == image.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return True


def _describe(poses: Poses) -> str:
    """Return where poses come from and how errors are measured, in words."""
    heading = (
        f"headings of '@' names, of the leftmost column of crops of {CROP_DEG:.1f} deg, so that "
        f"optical axes are {CROP_DEG / 2:.1f} deg clockwise of them"
        if poses.are_crops
        else "headings of '@' names, of the middle of the image"
    )
    others = "" if poses.database is None else f"{poses.database.path.name}; else "
    return (
        f"{poses.queries.path.name} against database poses by {others}positions and {heading}, "
        "pitch and roll 0; position errors are seen from above; fused by similarity^"
        f"{SIMILARITY_POWER}"
    )
