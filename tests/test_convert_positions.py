import logging

import numpy as np
import pytest
import utm

from tools.convert.positions import keep_utm, project

EARTH_RADIUS_M = 6_371_000


def make(*places):
    """Return latitudes and longitudes of places."""
    return np.array(places, dtype=float).T


def distance_m(positions, first, second):
    return np.hypot(
        positions.east_m[first] - positions.east_m[second],
        positions.north_m[first] - positions.north_m[second],
    )


def sphere_distance_m(first, second):
    (lat, lon), (other_lat, other_lon) = np.radians([first, second])
    cosine = np.sin(lat) * np.sin(other_lat) + np.cos(lat) * np.cos(other_lat) * np.cos(
        lon - other_lon
    )
    return EARTH_RADIUS_M * np.arccos(cosine)


def test_each_image_is_where_utm_says_also_with_the_zones_of_norway_and_svalbard():
    rng = np.random.default_rng(0)
    places = [(60.39, 5.32), (59.9, 11.99), (78.2, 15.6), (78.2, 8.9), (84.0, 0.0), (-80.0, 179.9)]
    places += [(rng.uniform(-80, 84), rng.uniform(-180, 180)) for _ in range(200)]
    places += [(0.0, -180.0), (0.0, 180.0), (56.0, 3.0), (8.0, 6.0), (-8.0, -6.0)]
    for latitude, longitude in places:
        positions = project(*make((latitude, longitude)))
        expected = utm.from_latlon(latitude, longitude)
        assert (positions.zones[0], positions.letters[0]) == expected[2:], (latitude, longitude)
        np.testing.assert_allclose(
            (positions.east_m[0], positions.north_m[0]), expected[:2], rtol=0, atol=1e-6
        )


def test_images_of_two_zones_are_projected_to_that_of_most(caplog):
    caplog.set_level(logging.INFO)
    places = [(55.7, 12.01), (55.7, 11.99), (55.71, 12.02), (47.0, 18.01)]
    positions = project(*make(*places))
    assert positions.zones.tolist() == [33, 33, 33, 33]
    for place, east_m, north_m in zip(places, positions.east_m, positions.north_m, strict=True):
        assert (east_m, north_m) == pytest.approx(utm.from_latlon(*place, 33)[:2], abs=1e-6)
    assert distance_m(positions, 0, 1) == pytest.approx(
        sphere_distance_m(places[0], places[1]), rel=5e-3
    )
    assert "1 images of UTM zone 32 are projected to zone 33" in caplog.text
    assert "1 images of UTM zone 34 are projected to zone 33" in caplog.text


def test_zones_60_and_1_touch():
    positions = project(*make((-18.0, 179.99), (-18.0, -179.99), (-18.0, 179.98)))
    assert positions.zones.tolist() == [60, 60, 60]
    assert distance_m(positions, 0, 1) == pytest.approx(
        sphere_distance_m((-18.0, 179.99), (-18.0, -179.99)), rel=5e-3
    )


def test_zones_far_apart_are_kept_with_a_warning(caplog):
    places = [(37.7, -122.4), (37.7, -122.5), (35.6, 139.7), (55.7, 13.1), (55.7, 11.9), (55.7, 11)]
    positions = project(*make(*places))
    assert positions.zones.tolist() == [10, 10, 54, 32, 32, 32]
    assert "far apart and keep them (10, 32, 54)" in caplog.text


def test_metres_continue_across_the_equator():
    places = [(0.001, 32.6), (-0.001, 32.6), (-0.002, 32.6)]
    for chosen, sign in ((places, -1), ([*places, (0.002, 32.6), (0.003, 32.6)], 1)):
        positions = project(*make(*chosen))
        assert distance_m(positions, 0, 1) == pytest.approx(221.1, abs=0.5)
        assert distance_m(positions, 0, 2) == pytest.approx(331.7, abs=0.8)
        assert positions.letters[:2].tolist() == ["N", "M"]
        is_southern_numbering = positions.north_m[0] > 5_000_000
        assert is_southern_numbering == (sign < 0), "that of most images"


def test_a_zone_may_be_chosen_if_it_touches():
    positions = project(*make((55.7, 13.1)), zone=32)
    assert (positions.zones[0], positions.letters[0]) == (32, "U")
    assert positions.east_m[0] == pytest.approx(utm.from_latlon(55.7, 13.1, 32)[0], abs=1e-6)
    with pytest.raises(ValueError, match="--zone 31: 1 images lie in UTM zones 33, more than one"):
        project(*make((55.7, 13.1), (50, 0.1)), zone=31)


def utm_columns(*rows):
    east_m, north_m, zones, letters = zip(*rows, strict=True)
    return (
        np.array(east_m, float),
        np.array(north_m, float),
        np.array(zones),
        np.array(letters),
    )


def test_utm_of_one_zone_is_kept_to_the_bit():
    columns = utm_columns((386581.594, 6173962.871, 33, "U"), (386581.6, 6173962.9, 33, "U"))
    positions = keep_utm(*columns)
    np.testing.assert_array_equal(positions.east_m, columns[0])
    np.testing.assert_array_equal(positions.north_m, columns[1])
    assert positions.latitude_deg[0] == pytest.approx(55.69817, abs=1e-5)


def test_utm_of_several_zones_is_brought_into_one():
    places = [(55.7, 12.01), (55.7, 11.99), (55.71, 12.02)]
    positions = keep_utm(*utm_columns(*(utm.from_latlon(*place) for place in places)))
    assert positions.zones.tolist() == [33, 33, 33]
    expected = [utm.from_latlon(*place, 33)[:2] for place in places]
    np.testing.assert_allclose(
        np.stack((positions.east_m, positions.north_m), 1), expected, atol=0.01
    )
    with pytest.raises(ValueError, match="of zones 32, 33 .* give their zones with the letter"):
        keep_utm(*utm_columns((386581, 6173962, 33, ""), (386581, 6173962, 32, "U")))


def test_utm_on_both_sides_of_the_equator_is_brought_to_one():
    rows = [utm.from_latlon(latitude, 32.6) for latitude in (0.001, -0.001, -0.002)]
    positions = keep_utm(*utm_columns(*rows))
    assert distance_m(positions, 0, 1) == pytest.approx(221.1, abs=0.5)


def test_local_metres_need_no_zone():
    positions = keep_utm(*utm_columns((-3.5, 14.25, 0, ""), (2, 1, 0, "")))
    assert positions.east_m.tolist() == [-3.5, 2] and positions.zones.tolist() == [0, 0]
    assert np.isnan(positions.latitude_deg).all()


def test_letters_that_mean_a_side_of_the_equator_are_refused():
    with pytest.raises(ValueError, match="with 'S', the first one lies at latitude 56.4"):
        keep_utm(*utm_columns((334786, 6252080, 56, "S")))
    kept = keep_utm(*utm_columns((334786, 6252080, 56, "H")))
    assert kept.latitude_deg[0] == pytest.approx(-33.86, abs=0.01)
