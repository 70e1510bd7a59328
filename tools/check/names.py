"""What millions of '@' names say, and which of them say too little or contradict themselves."""

from dataclasses import dataclass

import numpy as np

from datasets.image_lists import ImagePaths
from datasets.image_names import read_fields, read_prefixes
from tools.check.files import find_repeated, hash_names, hash_paths, make_name_cases
from tools.check.findings import Cases
from tools.check.positions import (
    Positions,
    Zone,
    find_impossible,
    look_like_degrees,
    make_zones,
    measure_contradictions,
    measure_zones,
)

CONTRADICTION_M = 5.0  # five decimals of a degree are about a metre
_NUMBERS = ("UTM east", "UTM north", "UTM zone", "latitude", "longitude", "heading")


@dataclass(frozen=True)
class NameFacts:
    """What the names of a folder say.

    Attributes:
        positions: UTM of every image.
        heading_deg: NaN where there is none. float64 [num_images].
        no_position: Names without UTM east or north, or where these are not numbers.
        no_heading: Names with a position whose heading is empty.
        bad_heading: Names with a position whose heading is not a number.
        odd_heading: Names whose heading is below 0, or 360 and above.
        zones: Zones with their images, places and extent.
        impossible: Names whose UTM position is that of no place on Earth.
        are_degrees: Whether the UTM fields rather hold degrees.
        num_with_degrees: How many names have UTM, latitude and longitude.
        contradicting: Names whose latitude and longitude are elsewhere than their UTM position.
        contradiction_m: The largest finite distance between the two, metres.
        years: Images of each year.
        bad_timestamps: Names whose timestamp does not begin with a year.
        same_name: Images whose name, without folders, was met before in another folder.
    """

    positions: Positions
    heading_deg: np.ndarray
    no_position: Cases
    no_heading: Cases
    bad_heading: Cases
    odd_heading: Cases
    zones: tuple[Zone, ...]
    impossible: Cases
    are_degrees: bool
    num_with_degrees: int
    contradicting: Cases
    contradiction_m: float
    years: dict[int, int]
    bad_timestamps: Cases
    same_name: Cases

    @property
    def known_zones(self) -> list[Zone]:
        """Zones without that of the names which tell none."""
        return [zone for zone in self.zones if zone.number]


def measure_names(paths: ImagePaths) -> NameFacts:
    """Read all fields of all names; there must be at least one."""
    east_m, north_m, zone, latitude_deg, longitude_deg, heading_deg = read_fields(paths, _NUMBERS)
    positions = Positions(
        east_m, north_m, make_zones(zone, read_prefixes(paths, "latitude band", 1))
    )
    heading_is_empty = read_prefixes(paths, "heading", 1) == b""
    zones = measure_zones(positions)
    distances_m = measure_contradictions(positions, latitude_deg, longitude_deg)
    years, bad_timestamps = _measure_years(paths)

    def cases(flawed: np.ndarray) -> Cases:
        return make_name_cases(paths, np.flatnonzero(flawed))

    return NameFacts(
        positions,
        np.where(np.isfinite(heading_deg), heading_deg, np.nan),
        no_position=cases(~positions.is_known),
        no_heading=cases(heading_is_empty & positions.is_known),
        bad_heading=cases(~np.isfinite(heading_deg) & ~heading_is_empty & positions.is_known),
        odd_heading=cases(np.isfinite(heading_deg) & ((heading_deg < 0) | (heading_deg >= 360))),
        zones=zones,
        impossible=make_name_cases(paths, find_impossible(positions)),
        are_degrees=look_like_degrees(positions),
        num_with_degrees=int((~np.isnan(distances_m)).sum()),
        contradicting=cases(distances_m > CONTRADICTION_M),
        contradiction_m=float(distances_m[np.isfinite(distances_m)].max(initial=0)),
        years=years,
        bad_timestamps=bad_timestamps,
        same_name=make_name_cases(paths, _find_same_names(paths, positions.is_known)),
    )


def _find_same_names(paths: ImagePaths, is_known: np.ndarray) -> np.ndarray:
    listed_twice = find_repeated(hash_paths(paths))
    same = np.setdiff1d(find_repeated(hash_names(paths)), listed_twice)
    return same[is_known[same]]


def _measure_years(paths: ImagePaths) -> tuple[dict[int, int], Cases]:
    starts = read_prefixes(paths, "timestamp", 4)
    values, inverse, counts = np.unique(
        starts.view(np.uint32), return_inverse=True, return_counts=True
    )
    texts = values.view("S4").tolist()
    is_year = np.array([len(text) == 4 and text.isdigit() for text in texts], bool)
    is_bad = ~is_year & np.array([text != b"" for text in texts], bool)
    years = {
        int(text): int(count)
        for text, count, good in zip(texts, counts, is_year, strict=True)
        if good
    }
    return years, make_name_cases(paths, np.flatnonzero(is_bad[inverse.reshape(-1)]))
