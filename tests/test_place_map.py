import base64
import json

import numpy as np
from conftest import write_image

from datasets.images import open_image
from reports import place_map
from reports.place_map import MapPhoto, MapPoint, draw_place_map, make_thumbnail


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
    monkeypatch.setattr(place_map, "MAX_PLACES", 500)
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
    monkeypatch.setattr(place_map, "MAX_PLACES", 600)
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
    assert "http" not in page, "nothing is fetched"
    assert "<title>&lt;/script&gt;&lt;b&gt;&amp;</title>" in page


def test_thumbnails_are_small(tmp_path):
    uri = make_thumbnail(write_image(tmp_path / "a.png", (1000, 500)), side_px=100)
    (tmp_path / "b.jpg").write_bytes(base64.b64decode(uri.split(",")[1]))
    assert open_image(tmp_path / "b.jpg").size == (100, 50)
