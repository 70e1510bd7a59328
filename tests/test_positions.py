import numpy as np
import pytest
import utm
from conftest import name, write_image

from datasets.image_lists import list_images
from datasets.positions import read_positions


def images_at(folder, places, **fields):
    """Write images at (latitude, longitude); each is named in the UTM zone that it lies in."""
    for number, (latitude_deg, longitude_deg) in enumerate(places):
        east_m, north_m, zone, letter = utm.from_latlon(latitude_deg, longitude_deg)
        file = name(
            east_m,
            north_m,
            pano_id=f"{number:03d}",
            **({"zone_number": zone, "zone_letter": letter} | fields),
        )
        write_image(folder / f"{number:03d}" / file)
    return list_images(folder)


def haversine_m(place, other):
    (lat, lon), (other_lat, other_lon) = np.radians(place), np.radians(other)
    a = np.sin((other_lat - lat) / 2) ** 2
    a += np.cos(lat) * np.cos(other_lat) * np.sin((other_lon - lon) / 2) ** 2
    return 2 * 6371008.8 * np.arcsin(np.sqrt(a))


def measure(tmp_path, database, queries, **fields):
    positions = read_positions(
        images_at(tmp_path / "database", database),
        images_at(tmp_path / "queries", queries, **fields),
    )
    predictions = np.tile(np.arange(len(database)), (len(queries), 1))
    return positions.distances_m(predictions), positions.notes


def test_one_zone_is_taken_as_it_is(tmp_path):
    places = [(37.7, -122.5), (37.8, -122.4)]
    distances, notes = measure(tmp_path, places, places)
    east_m, north_m = zip(*(utm.from_latlon(*place)[:2] for place in places), strict=True)
    expected = np.hypot(east_m[1] - east_m[0], north_m[1] - north_m[0])
    assert notes == ()
    np.testing.assert_allclose(distances, [[0, expected], [expected, 0]], atol=0.02)


def test_neighbouring_zones_are_projected_to_the_more_frequent_one(tmp_path):
    east_of_border = [(51.05, 12.0003), (51.05, 12.0009)]  # zone 33 begins at 12 degrees
    west_of_border = [(51.05, 11.9999)]
    distances, notes = measure(tmp_path, east_of_border, west_of_border)
    expected = [haversine_m(west_of_border[0], place) for place in east_of_border]
    assert 25 < expected[0] < 30 < expected[1]
    np.testing.assert_allclose(distances[0], expected, rtol=5e-3)
    assert notes == ("1 images of UTM zone 32 are projected to zone 33",)


def test_zone_60_touches_zone_1(tmp_path):
    distances, notes = measure(tmp_path, [(-17.0, 179.9999)] * 2, [(-17.0, -179.9999)])
    np.testing.assert_allclose(
        distances[0], haversine_m((-17, 179.9999), (-17, 180.0001)), rtol=5e-3
    )
    assert notes == ("1 images of UTM zone 1 are projected to zone 60",)


@pytest.mark.parametrize("longitude_deg", [-78.0, -78.00005])
def test_the_equator_is_no_border(tmp_path, longitude_deg):
    """Quito lies in 17 M and 17 N, and at 78 degrees west begins zone 18."""
    distances, _ = measure(tmp_path, [(0.0001, -78.00005)], [(-0.0001, longitude_deg)])
    expected = haversine_m((0.0001, -78.00005), (-0.0001, longitude_deg))
    np.testing.assert_allclose(distances[0], expected, rtol=1e-2, atol=0.02)


def test_regions_far_apart_are_never_near(tmp_path):
    copenhagen, san_francisco = (55.68, 12.57), (37.76, -122.44)
    near = (37.7601, -122.44)
    distances, notes = measure(tmp_path, [copenhagen, san_francisco], [copenhagen, near])
    assert distances[0, 0] == 0 and np.isinf(distances[0, 1]) and np.isinf(distances[1, 0])
    assert distances[1, 1] == pytest.approx(haversine_m(san_francisco, near), rel=5e-3)
    assert notes == ("The regions of UTM zones 10 and 33 are apart: none is near another",)


def test_names_without_a_zone_are_of_the_most_frequent_one(tmp_path):
    places = [(55.68, 12.57), (55.68, 12.5701), (37.76, -122.44)]
    distances, _ = measure(tmp_path, places, places[:1], zone_number=None, zone_letter="")
    assert distances[0, 0] == 0 and np.isinf(distances[0, 2])


def test_names_without_a_band_are_of_the_hemisphere_of_most(tmp_path):
    brisbane = [(-27.5, 153.0), (-27.5, 153.0001)]
    distances, notes = measure(tmp_path, brisbane, brisbane[:1], zone_letter="")
    assert distances[0, 0] == 0 and distances[0, 1] == pytest.approx(9.9, abs=0.2)
    assert notes == ("1 names without a latitude band are taken to be southern",)


def test_zones_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="zones .* are 1 to 60, not 61"):
        measure(tmp_path, [(37.76, -122.44)], [(37.76, -122.44)], zone_number=61)


def test_missing_predictions_have_no_distance(tmp_path):
    images = images_at(tmp_path / "database", [(37.76, -122.44)])
    assert np.isnan(read_positions(images, images).distances_m(np.array([[-1]]))).all()
