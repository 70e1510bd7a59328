import numpy as np
import pytest
import utm
from conftest import name

from reports.planes import Plane, find_planes, fit_streets, to_mercator

CITY_M = np.random.default_rng(0).uniform(0, 3000, (40, 2))
GAP_M = 1e8


def names_of(positions_m, zone, letter, **fields):
    place = {"zone_number": zone, "zone_letter": letter} | fields
    return [f"/city/{name(*position_m, **place)}" for position_m in positions_m]


@pytest.mark.parametrize(
    ("corner_m", "letter", "shift_m"),
    [((550e3, 4180e3), "S", 0), ((334e3, 6_250e3), "H", 1e7)],
)
def test_planes_follow_from_names(corner_m, letter, shift_m):
    positions_m = CITY_M + corner_m
    planes = find_planes(names_of(positions_m, 10, letter), positions_m)
    assert list(planes) == [0] and planes[0].zone == 10
    assert planes[0].shift_m.tolist() == [0, shift_m]
    degrees = np.array([utm.to_latlon(*one, 10, letter) for one in positions_m])
    np.testing.assert_allclose(planes[0].project(*degrees.T), positions_m, atol=0.01)
    np.testing.assert_allclose(planes[0].to_degrees(positions_m), degrees.T, atol=1e-7)


def test_projected_images_do_not_mislead():
    """Of a town on the border of two zones, the images of zone 11 are projected to zone 10."""
    degrees = np.stack([np.full(40, 48.0), np.linspace(-120.02, -119.99, 40)])
    is_east = degrees[1] > -120
    names, positions_m = [], []
    for latitude, longitude in degrees.T:
        own = utm.from_latlon(latitude, longitude)
        names += names_of([own[:2]], *own[2:])
        positions_m.append(utm.from_latlon(latitude, longitude, force_zone_number=10)[:2])
    assert 0 < is_east.sum() < 20
    planes = find_planes(names, np.array(positions_m) + (GAP_M, 0))
    assert planes[1].zone == 10 and planes[1].shift_m.tolist() == [GAP_M, 0]


def test_latitudes_and_longitudes_are_enough():
    positions_m = CITY_M + (550e3, 4180e3)
    degrees = [utm.to_latlon(*one, 33, "S") for one in positions_m]
    fields = [{"latitude_deg": lat, "longitude_deg": lon} for lat, lon in degrees]
    names = [name(*one, **field) for one, field in zip(positions_m, fields, strict=True)]
    assert find_planes(names, positions_m)[0].zone == 33


def test_unknown_and_contradicting_names_have_no_plane():
    positions_m = CITY_M + (550e3, 4180e3)
    assert find_planes([""] * 40, positions_m) == {}
    assert find_planes(["photo.jpg", "@x@y@.jpg"] * 20, positions_m) == {}
    assert find_planes(names_of(positions_m, None, ""), positions_m) == {}
    elsewhere = names_of(positions_m + (700, 0), 10, "S")
    assert find_planes(elsewhere, positions_m) == {}
    assert find_planes(names_of(positions_m, 10, "S"), np.full((40, 2), np.nan)) == {}


def test_positions_far_from_the_zone_are_unknown():
    plane = Plane(10, np.zeros(2))
    found = plane.project(np.array([37.7, 37.7, 89.0]), np.array([-122.4, 13.0, -122.4]))
    assert np.isfinite(found).all(axis=1).tolist() == [True, False, False]


def terms(u, v):
    return np.array([1, u, v, u * u, u * v, v * v, u**3, u * u * v, u * v * v, v**3])


@pytest.mark.parametrize(("extent_m", "corner_m"), [(200, (550e3, 4180e3)), (45e3, (250e3, 7e6))])
def test_streets_fit_within_metres(extent_m, corner_m):
    """As the page's script does it: from the drawn plane to Web Mercator, and back."""
    plane, moved_m = Plane(10, np.array([0.0, 0.0])), np.array([-5e5, 300.0])
    box_m = np.array([*corner_m, corner_m[0] + extent_m, corner_m[1] + extent_m])
    streets = fit_streets(plane, moved_m, box_m + np.tile(moved_m, 2), 2000.0)
    west, south, east, north = streets["box_m"]
    assert (east - west, north - south) == pytest.approx((extent_m + 4000,) * 2)
    for share in np.random.default_rng(1).uniform(0, 1, (30, 2)):
        drawn_m = np.array([west, south]) + share * (east - west)
        degrees = utm.to_latlon(*(drawn_m - moved_m), 10, "S")
        x = 0.5 + degrees[1] / 360
        y = 0.5 * (1 - np.log(np.tan(np.radians(45 + degrees[0] / 2))) / np.pi)
        np.testing.assert_allclose(to_mercator(*np.array([degrees]).T)[0], (x, y), atol=1e-12)
        for start, end, value, expected, tolerance in (
            ("plane", "world", drawn_m, (x, y), 1e-7),  # of 40,000 km
            ("world", "plane", (x, y), drawn_m, 2.0),
        ):
            start, end = streets[start], streets[end]
            unit = (np.array(value) - start["middle"]) / start["half"]
            found = end["middle"] + end["half"] * (np.array(end["terms"]) @ terms(*unit))
            np.testing.assert_allclose(found, expected, atol=tolerance)


def test_an_area_too_large_has_no_streets():
    country_m = np.array([100e3, 3000e3, 1100e3, 4000e3])
    assert fit_streets(Plane(10, np.zeros(2)), np.zeros(2), country_m, 0.0) is None
