import base64
import json

import numpy as np
from conftest import write_image

from reports import place_map
from reports.place_map import MapPhoto, MapPoint, draw_place_map, make_thumbnail


def places_of(page):
    """Return what the page draws in grey, as its script reads it. float64 [num_places, 2]."""
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    cells = np.frombuffer(base64.b64decode(data["places"]), "<u2").reshape(-1, 2)
    return data["origin_m"] + cells * data["step_m"]


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
    assert place_map.open_image(tmp_path / "b.jpg").size == (100, 50)
