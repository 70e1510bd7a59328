import base64
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
import utm
from conftest import write_image
from report_runs import change_arrays, write_run

from datasets.images import open_image
from reports import maps
from reports.maps import (
    MapPhoto,
    MapPoint,
    draw_place_map,
    find_regions,
    make_thumbnail,
    pack_map,
    thin_places,
)
from reports.pictures import format_metres
from reports.planes import Plane, to_mercator
from reports.run_files import RunPositions, read_run_arrays

GOOGLE, LOCAL = "https://www.google.com", "http://localhost:8000"  # in links, in a text


@pytest.fixture
def run(tmp_path):
    """Return a run whose query 1 has its first prediction in another zone, query 2 has none."""
    folder = write_run(tmp_path)
    run = read_run_arrays(folder)
    distances_m, firsts_m = run.distances_m.copy(), run.positions.first_predictions_m.copy()
    distances_m[1, 0] = np.inf
    distances_m[2, 0] = np.nan
    firsts_m[2] = np.nan
    change_arrays(folder, distances_m=distances_m, first_predictions_m=firsts_m)
    return read_run_arrays(folder)


def unpack(text, dtype=np.int32):
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def test_positions_are_kept_to_5_cm(run):
    packed = json.loads(json.dumps(pack_map(run)))
    positions = run.positions
    everything_m = np.concatenate([positions.queries_m, positions.places_m])
    origin_m = np.floor(everything_m.min(axis=0))
    queries_m = origin_m + 0.1 * unpack(packed["queries"]).reshape(-1, 2)
    np.testing.assert_allclose(queries_m, positions.queries_m, atol=0.0501)
    firsts = unpack(packed["first_predictions"]).reshape(-1, 2)
    unknown = (firsts == packed["no_position"]).all(axis=1)
    assert np.flatnonzero(unknown).tolist() == [1, 2]
    firsts_m = origin_m + 0.1 * firsts[~unknown]
    np.testing.assert_allclose(firsts_m, positions.first_predictions_m[~unknown], atol=0.0501)
    places_m = origin_m + 0.1 * unpack(packed["place_steps"]).reshape(2, -1).cumsum(axis=1).T
    order = np.lexsort(positions.places_m.T)
    np.testing.assert_allclose(places_m, positions.places_m[order], atol=0.0501)
    assert packed["num_places"] == 64 and not packed["has_far_zones"]


def test_regions_far_apart_are_drawn_side_by_side(run):
    """Six cities, as of the test set of MSLS: int32 ends after the second region otherwise."""
    positions, city = run.positions, np.arange(8) % 6
    corners_m = np.array([6, 0, 4, 2, 5, 1])[:, None] * (1e8, 0) + np.arange(6)[:, None] * (0, 7e5)
    queries_m = positions.queries_m + corners_m[city]
    firsts_m = positions.first_predictions_m + corners_m[city]
    places_m = np.concatenate([positions.places_m + corner_m for corner_m in corners_m])
    six = replace(run, positions=RunPositions(queries_m, firsts_m, places_m))
    packed = json.loads(json.dumps(pack_map(six)))
    drawn_m = 0.1 * unpack(packed["queries"]).reshape(-1, 2)
    for one in range(8):
        same = city == city[one]
        apart_m = np.linalg.norm(queries_m[same] - queries_m[one], axis=1)
        drawn_apart_m = np.linalg.norm(drawn_m[same] - drawn_m[one], axis=1)
        np.testing.assert_allclose(drawn_apart_m, apart_m, atol=0.11)
        assert (abs(drawn_m[~same, 0] - drawn_m[one, 0]) > 20_000).all()
    firsts_drawn_m = 0.1 * unpack(packed["first_predictions"]).reshape(-1, 2)
    np.testing.assert_allclose(
        (firsts_drawn_m - drawn_m)[3:], (firsts_m - queries_m)[3:], atol=0.11
    )  # those of 1 and 2 are not drawn
    assert drawn_m[:, 0].max() < 6 * 40_000 and drawn_m[:, 1].max() < 1000
    assert packed["num_places"] == 6 * 64 and packed["has_far_zones"]
    assert sorted(region["num_queries"] for region in packed["regions"]) == [1, 1, 1, 1, 2, 2]
    for region in packed["regions"]:
        west, south, east, north = (0.1 * edge for edge in region["box"])
        inside = ((drawn_m >= (west, south)) & (drawn_m <= (east, north))).all(axis=1)
        assert inside.sum() == region["num_queries"] and east - west < 1000


def test_statuses_and_names_go_along(run):
    packed = pack_map(run)
    assert unpack(packed["statuses"], np.uint8).tolist() == [2, 1, 2, 1, 2, 1, 2, 0]
    queries, labels, firsts, metres = json.loads(zlib.decompress(base64.b64decode(packed["names"])))
    assert [name.split("@")[7] for name in queries] == [f"q{query}" for query in range(8)]
    assert labels == [f"q{q}, {(20 * q - 10) % 360}°" for q in range(8)], "pano_id and heading"
    assert firsts == [paths[0].rsplit("/", 1)[1] for paths in run.predictions]
    assert metres == [format_metres(metres) for metres in run.distances_m[:, 0]]
    assert metres[1:3] == ["another UTM zone", ""]


def test_too_many_places_are_thinned_to_the_finest_grid_that_does(monkeypatch):
    places_m = np.stack([np.arange(0, 100, 0.5), np.zeros(200)], axis=1)
    assert thin_places(places_m) == (places_m, 0)
    monkeypatch.setattr(maps, "MAX_PLACES", 25)
    thinned, cell_m = thin_places(places_m)
    assert cell_m == 5 and thinned[:, 0].tolist() == list(range(0, 101, 5))


def test_regions_are_told_apart_by_wide_gaps():
    queries_m = np.array([[0, 0], [15_000, 0], [500_000, 10], [30_000, 0], [np.nan, np.nan]])
    places_m = np.array([[0, 5], [500_000, 0], [0, 4_000_000.0]])
    regions = find_regions(RunPositions(queries_m, queries_m, places_m))
    assert [(box.tolist(), num) for box, num in regions] == [
        ([0, 0, 30_000, 5], 3),
        ([500_000, 0, 500_000, 10], 1),
    ]


def test_regions_side_by_side_in_both_directions():
    rng = np.random.default_rng(0)
    corners = np.array([[0, 0], [0, 1e5], [1e5, 0], [1e5, 1e5]])
    queries_m = np.concatenate([corner + rng.uniform(0, 1e4, (5, 2)) for corner in corners])
    regions = find_regions(RunPositions(queries_m, queries_m, queries_m))
    assert [num for _, num in regions] == [5] * 4
    assert sorted((box[:2] // 1e5).astype(int).tolist() for box, _ in regions) == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
    ]


def places_of(page):
    """Return what the page draws in grey, as its script reads it. float64 [num_places, 2]."""
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    parts = []
    for region in data["regions"]:
        cells = np.frombuffer(base64.b64decode(region["places"]), "<u2").reshape(-1, 2)
        parts.append(region["origin_m"] + cells * region["step_m"])
    return np.concatenate(parts)


def test_distinct_places_are_drawn_where_they_are():
    positions_m = np.random.default_rng(0).uniform(0, 5000, (300, 2)) + [550_000, 4_180_000]
    drawn_m = places_of(draw_place_map("City", np.tile(positions_m, (12, 1)), []))
    assert len(drawn_m) == 300
    apart_m = np.linalg.norm(drawn_m[:, None] - positions_m[None], axis=2)
    assert apart_m.min(axis=0).max() < 0.1


def test_too_many_places_are_thinned_out(monkeypatch):
    monkeypatch.setattr(maps, "MAX_MAP_PLACES", 500)
    positions_m = np.random.default_rng(0).uniform(0, 1000, (20_000, 2))
    drawn_m = places_of(draw_place_map("City", positions_m, []))
    assert 100 < len(drawn_m) <= 500
    apart_m = np.linalg.norm(drawn_m[:, None] - positions_m[None, ::100], axis=2)
    assert apart_m.min(axis=0).max() < 100, "the whole area is still covered"


def test_regions_far_apart_are_side_by_side_and_keep_their_detail():
    city_m = np.random.default_rng(0).uniform(0, 5000, (300, 2))
    west_m, east_m = city_m + (550_000, 4_180_000), city_m + (580_000 + 1e8, 2_850_000)
    points = [
        MapPoint(1, tuple(east_m[7].tolist()), ""),
        MapPoint(2, tuple(west_m[7].tolist()), ""),
    ]
    page = draw_place_map(
        "Two", np.concatenate([east_m, west_m]), [MapPhoto("", "", "data:", points)]
    )
    drawn_m, extent_m = places_of(page), np.ptp(city_m, axis=0)
    shift_m = np.array([city_m[:, 0].min() + 550_000, city_m[:, 1].min() + 4_180_000])
    shift_m += (extent_m[0] + 0.1 * extent_m.max(), 0) - city_m.min(axis=0)
    for expected_m in (west_m, city_m + shift_m):
        apart_m = np.linalg.norm(drawn_m[:, None] - expected_m[None], axis=2)
        assert apart_m.min(axis=0).max() < 0.1, "no coarser than one region alone"
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    first, second = (point["position_m"] for point in data["photos"][0]["points"])
    np.testing.assert_allclose(first, city_m[7] + shift_m, atol=1e-6)
    assert second == west_m[7].tolist()


def test_places_of_all_regions_are_thinned_out(monkeypatch):
    monkeypatch.setattr(maps, "MAX_MAP_PLACES", 600)
    city_m = np.random.default_rng(0).uniform(0, 1000, (5000, 2))
    everything_m = np.concatenate([city_m + (number * 1e8, 0) for number in (0, 1, 4)])
    assert 150 < len(places_of(draw_place_map("Three", everything_m, []))) <= 600


def test_one_place_is_enough():
    np.testing.assert_allclose(
        places_of(draw_place_map("One", np.array([[3.0, 4.0]]), [])), [[3, 4]]
    )


def test_texts_are_escaped():
    evil = "</script><b>&"
    photo = MapPhoto(evil, evil, "data:", [MapPoint(1, (0.0, 0.0), evil)])
    page = draw_place_map(evil, np.zeros((1, 2)), [photo])
    assert "<b>" not in page and page.count("</script>") == 2
    hosts = set(re.findall(r"https?://[^/\"`]*", page))
    assert hosts == {
        *(f"https://{one}.openstreetmap.org" for one in ("tile", "www")),
        GOOGLE,
        LOCAL,
    }
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'; img-src data:; style-src" in policy, "nothing is fetched"
    assert "<title>&lt;/script&gt;&lt;b&gt;&amp;</title>" in page


def test_streets_may_be_fetched_where_the_map_lies_on_the_earth():
    database_m = np.array([[550e3, 4180e3], [550.2e3, 4180.1e3]])
    page = draw_place_map("City", database_m, [], {0: Plane(10, np.zeros(2))})
    assert "img-src data: https://tile.openstreetmap.org; style-src" in page
    (streets,) = json.loads(page.split('id="data">')[1].split("</script>")[0])["streets"]
    assert streets["box_m"] == [548e3, 4178e3, 552.2e3, 4182.1e3]
    two_m = np.concatenate([database_m, database_m + (1e8, 0)])
    page = draw_place_map(
        "Cities", two_m, [], {n: Plane(10, np.array([1e8 * n, 0])) for n in (0, 1)}
    )
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    boxes_m = [one["box_m"] for one in data["streets"]]
    assert boxes_m[0][2] == pytest.approx(boxes_m[1][0]), "they end half-way between the regions"


def test_a_report_has_streets_for_each_city(tmp_path):
    run = read_run_arrays(write_run(tmp_path, zone=(10, "S")))
    everything_m = np.concatenate([run.positions.places_m, run.positions.queries_m])
    origin_m = np.floor(everything_m.min(axis=0))
    (streets,) = pack_map(run)["streets"]
    middle_m = np.array(streets["plane"]["middle"]) + origin_m
    degrees = np.array([utm.to_latlon(*middle_m, 10, "S")])
    np.testing.assert_allclose(to_mercator(*degrees.T)[0], streets["world"]["middle"], atol=1e-8)


def test_thumbnails_are_small(tmp_path):
    uri = make_thumbnail(write_image(tmp_path / "a.png", (1000, 500)), side_px=100)
    (tmp_path / "b.jpg").write_bytes(base64.b64decode(uri.split(",")[1]))
    assert open_image(tmp_path / "b.jpg").size == (100, 50)
