"""Positions, headings and times in millions of '@' names: what is missing or contradictory."""

import numpy as np

from commons import plural
from datasets.image_lists import ImagePaths
from datasets.image_names import read_fields, read_prefixes
from datasets.positions import EQUATOR_NORTH_M, Utm, read_utm, to_utm
from tools.check.files import find_repeated, hash_lines
from tools.check.findings import ERROR, FACT, OK, WARNING, Finding, show_names
from tools.convert.positions import find_zones

NAME_FORMAT = (
    "@UTM_east@UTM_north@zone@letter@latitude@longitude@pano_id@tile@heading@pitch@roll@height"
    "@timestamp@note@.jpg"
)
_CONTRADICTION_M = 5.0  # five decimals of a degree are about a metre
_EAST_RANGE_M = (100_000, 1_000_000)  # of any place on Earth, generously
_NAMES_PER_BLOCK = 1 << 17


def check_names(paths: ImagePaths, needs_headings: bool) -> tuple[Utm, np.ndarray, list[Finding]]:
    """Read the names of a folder.

    Args:
        paths: At least one image.
        needs_headings: Whether the images are for training.

    Returns:
        Positions, NaN where a name has none; headings in degrees, NaN where a name has none,
        float64 [num_images]; findings.
    """
    positions = read_utm(paths, required=False)
    latitude_deg, longitude_deg, heading_deg = read_fields(
        paths, ("latitude", "longitude", "heading")
    )
    heading_deg[~np.isfinite(heading_deg)] = np.nan
    findings = [
        *_check_positions(paths, positions),
        *_check_zones(positions, needs_headings),
        *_check_degrees(paths, measure_contradictions(positions, latitude_deg, longitude_deg)),
        *_check_headings(paths, positions, heading_deg, needs_headings),
        *_check_repeats(paths, positions),
        *_check_years(paths),
    ]
    return positions, heading_deg, findings


def number_zones(positions: Utm) -> np.ndarray:
    """Return UTM zones with hemisphere: 10 is zone 10 north, -10 zone 10 south, 0 unknown.

    Returns:
        int64 [num_images].
    """
    zones = positions.zones
    numbers = np.where((zones >= 1) & (zones <= 60), zones, 0)
    return np.where(positions.is_southern, -numbers, numbers).astype(np.int64)


def measure_contradictions(
    positions: Utm, latitude_deg: np.ndarray, longitude_deg: np.ndarray
) -> np.ndarray:
    """Return how far latitude and longitude are from the UTM position of the same name.

    Args:
        positions: An unknown zone is that of latitude and longitude.
        latitude_deg: NaN where there is none. float64 [num_images].
        longitude_deg: NaN where there is none. float64 [num_images].

    Returns:
        Metres; NaN where either is missing, inf where no UTM zone has such a place.
        float64 [num_images].
    """
    distances_m = np.full(len(latitude_deg), np.nan)
    both = positions.is_known & np.isfinite(latitude_deg) & np.isfinite(longitude_deg)
    possible = (latitude_deg >= -80) & (latitude_deg <= 84) & (abs(longitude_deg) <= 180)
    distances_m[both & ~possible] = np.inf
    indices = np.flatnonzero(both & possible)
    for first in range(0, len(indices), _NAMES_PER_BLOCK):  # bounds the memory
        block = indices[first : first + _NAMES_PER_BLOCK]
        latitude, longitude, utm = (
            latitude_deg[block],
            longitude_deg[block],
            positions.subset(block),
        )
        zones = abs(number_zones(utm))
        zones = np.where(zones == 0, find_zones(latitude, longitude)[0], zones)
        east_m, north_m = to_utm(latitude, longitude, zones, latitude >= 0)
        distances_m[block] = np.hypot(utm.east_m - east_m, utm.north_m - north_m)
    return distances_m


def _check_positions(paths: ImagePaths, positions: Utm) -> list[Finding]:
    is_known, east_m, north_m = positions.is_known, positions.east_m, positions.north_m
    findings = [Finding(OK, "positions", "in every name")]
    if missing := int((~is_known).sum()):
        examples = show_names(paths, np.flatnonzero(~is_known))
        findings = [
            Finding(
                ERROR,
                "positions",
                f"{missing:,} of {plural(len(paths), 'name')} have no UTM position "
                "(fields 1 and 2):",
                (*examples, "Expected:", NAME_FORMAT),
                f"give {plural(missing, 'image')} a name with a position: python -m tools.convert "
                "makes names from GPS",
            )
        ]
    if _are_degrees(east_m[is_known], north_m[is_known]):
        text = "UTM east and north (fields 1 and 2) look like latitude and longitude in degrees"
        remedy = "put UTM metres into fields 1 and 2: python -m tools.convert computes them"
        return [*findings, Finding(ERROR, "positions", text, remedy=remedy)]
    low, high = _EAST_RANGE_M
    possible = (east_m >= low) & (east_m < high) & (north_m >= 0) & (north_m <= EQUATOR_NORTH_M)
    impossible = np.flatnonzero(is_known & ~possible)
    if len(impossible):
        text = f"{plural(len(impossible), 'name')} with UTM coordinates of no place on Earth "
        text += "(usual for sets without GPS, whose positions are invented):"
        findings.append(Finding(WARNING, "positions", text, show_names(paths, impossible)))
    return findings


def _are_degrees(east_m: np.ndarray, north_m: np.ndarray) -> bool:
    """Return whether UTM fields hold latitude and longitude, in either order."""
    columns = abs(np.stack((east_m, north_m)))
    has_fractions = (columns % 1 != 0).any(axis=1).all()
    return bool(has_fractions and columns.size and columns.max() <= 180)


def _check_zones(positions: Utm, for_training: bool) -> list[Finding]:
    findings, zones = [], number_zones(positions)
    numbers, counts = np.unique(zones[positions.is_known], return_counts=True)
    numbers = numbers[np.argsort(-counts, kind="stable")].tolist()
    for zone in numbers:
        inside = positions.is_known & (zones == zone)
        east_m, north_m = positions.east_m[inside], positions.north_m[inside]
        places = plural(len(np.unique(east_m + 1j * north_m)), "place")
        text = (
            f"{_name_zone(zone)}: {plural(int(inside.sum()), 'image')} at {places}, "
            f"{_format_metres(np.ptp(east_m))} east-west x {_format_metres(np.ptp(north_m))} "
            "north-south"
        )
        findings.append(Finding(FACT, "" if findings else "area", text))
    known = [_name_zone(zone) for zone in numbers if zone]
    if len(known) > 1 and for_training:
        text = f"several ({', '.join(known)}): their coordinates cannot be compared as they are"
        remedy = f"keep to one UTM zone ({', '.join(known)}), or project all positions into one"
        findings.append(Finding(ERROR, "UTM zones", text, remedy=remedy))
    elif len(known) > 1:
        text = (
            f"several ({', '.join(known)}): neighbouring ones are projected to one for evaluation"
        )
        findings.append(Finding(WARNING, "UTM zones", text))
    return findings


def _name_zone(zone: int) -> str:
    if zone == 0:
        return "without a zone"
    return f"zone {abs(zone)} {'north' if zone > 0 else 'south'}"


def _check_degrees(paths: ImagePaths, distances_m: np.ndarray) -> list[Finding]:
    num_compared = int((~np.isnan(distances_m)).sum())
    if not num_compared:
        return []
    farthest_m = distances_m[np.isfinite(distances_m)].max(initial=0)
    contradicting = np.flatnonzero(distances_m > _CONTRADICTION_M)
    if not len(contradicting):
        text = f"agree with UTM in {plural(num_compared, 'name')}, to {farthest_m:.1f} m"
        return [Finding(OK, "lat, lon", text)]
    text = f"more than {_CONTRADICTION_M:g} m from the UTM position in {len(contradicting):,} of "
    text += plural(num_compared, "name")
    if farthest_m > _CONTRADICTION_M:  # else all are places like latitude 95
        text += f", at most {_format_metres(farthest_m)}"
    remedy = f"make UTM and latitude, longitude agree in {plural(len(contradicting), 'name')}; "
    remedy += "recalls are measured by UTM"
    examples = show_names(paths, contradicting)
    return [Finding(WARNING, "lat, lon", f"{text}:", examples, remedy)]


def _check_headings(
    paths: ImagePaths, positions: Utm, heading_deg: np.ndarray, needed: bool
) -> list[Finding]:
    if not positions.is_known.any():
        return []  # reported already
    findings, is_known = [], np.isfinite(heading_deg)
    if num := int((~is_known & positions.is_known).sum()):
        text = f"field 9 holds no number in {num:,} of {plural(len(paths), 'name')}"
        examples = show_names(paths, np.flatnonzero(~is_known & positions.is_known))
        remedy = f"write degrees into field 9 of {num:,} names: training needs headings"
        findings.append(
            Finding(ERROR, "headings", f"{text}:", examples, remedy)
            if needed
            else Finding(FACT, "headings", f"{text}; only training needs it")
        )
    known_deg = heading_deg[is_known]
    if len(known_deg) > 1 and not known_deg.any():
        text = f"all {len(known_deg):,} are 0: classes will not separate directions"
        findings.append(Finding(WARNING if needed else FACT, "headings", text))
    elif not findings:
        text = f"in every name, {known_deg.min():g} to {known_deg.max():g} degrees"
        findings.append(Finding(OK, "headings", text))
    odd = np.flatnonzero(is_known & ((heading_deg < 0) | (heading_deg >= 360)))
    if len(odd):
        text = f"{plural(len(odd), 'heading')} outside 0 to 360 degrees, taken modulo 360:"
        findings.append(Finding(WARNING, "headings", text, show_names(paths, odd)))
    return findings


def _check_repeats(paths: ImagePaths, positions: Utm) -> list[Finding]:
    """Find names that are in several sub-folders; 001.jpg may be, names with positions may not."""
    repeated = find_repeated(hash_lines(paths, without_folders=True))
    repeated = np.setdiff1d(repeated, find_repeated(hash_lines(paths)))
    repeated = repeated[positions.is_known[repeated]]
    if not len(repeated):
        return []
    num = plural(len(repeated), "image")
    text = f"{num} with the name of an image in another sub-folder:"
    remedy = f"remove {num} of a repeated name, or rename them"
    return [Finding(WARNING, "duplicates", text, show_names(paths, repeated), remedy)]


def _check_years(paths: ImagePaths) -> list[Finding]:
    starts = read_prefixes(paths, "timestamp", 4)
    texts, inverse, counts = np.unique(
        starts.view(np.uint32), return_inverse=True, return_counts=True
    )
    texts = texts.view("S4").tolist()
    is_year = np.array([len(text) == 4 and text.isdigit() for text in texts], bool)
    is_bad = ~is_year & np.array([text != b"" for text in texts], bool)
    bad = np.flatnonzero(is_bad[inverse.reshape(-1)])
    if len(bad):
        text = f"field 13 does not begin with a year (YYYYMM...) in {plural(len(bad), 'name')}:"
        return [Finding(WARNING, "timestamps", text, show_names(paths, bad))]
    columns = zip(texts, counts, is_year, strict=True)
    years = sorted((int(text), count) for text, count, good in columns if good)
    by_year = ", ".join(f"{year}: {count:,}" for year, count in years)
    return [Finding(FACT, "years", by_year)] if years else []


def _format_metres(distance_m: float) -> str:
    return f"{distance_m:,.0f} m" if distance_m < 10_000 else f"{distance_m / 1000:,.1f} km"
