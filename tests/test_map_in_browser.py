"""Streets under a map, links, fingers, and the markers of map.html, in a browser."""

import functools
import http.server
import threading

import numpy as np
import pytest
import utm
from conftest import write_image
from report_runs import write_run
from test_report_in_browser import actions, browser, open_page, point_at, until

from reports.maps import MapPhoto, MapPoint, draw_place_map, make_thumbnail
from reports.planes import Plane, to_mercator
from reports.report import write_report
from reports.run_files import read_run_arrays

_ = browser  # the fixture
ORIGIN_M = np.array([550_000.0, 4_180_000.0])
DRAW_TILES = """
// Tiles that are white, with a black square where one place is; `asked` counts them.
const [worldX, worldY] = arguments;
window.asked = [];
window.Image = function () {
  const picture = document.createElement("canvas");
  picture.width = picture.height = 256;
  const brush = picture.getContext("2d");
  Object.assign(picture, { complete: true, naturalWidth: 256 });
  Object.defineProperty(picture, "src", { set(address) {
    asked.push(address);
    const [zoom, x, y] = address.match(/[0-9]+/g).map(Number);
    brush.fillStyle = "#fff";
    brush.fillRect(0, 0, 256, 256);
    brush.fillStyle = "#000";
    brush.fillRect((worldX * 2 ** zoom - x) * 256 - 4, (worldY * 2 ** zoom - y) * 256 - 4, 8, 8);
  } });
  return picture;
};
"""
LOOK = """
const canvas = document.querySelector(".streets");
const at = [canvas.width / 2 + arguments[0], canvas.height / 2 + arguments[1]];
return [...canvas.getContext("2d").getImageData(...at, 1, 1).data];
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Return a run in a known zone with its report."""
    run_folder = write_run(tmp_path_factory.mktemp("report") / "run", zone=(10, "S"))
    write_report(run_folder)
    return run_folder


@pytest.fixture(scope="module")
def served(run_folder):
    """Return the address of the run's folder on a server."""
    handler = functools.partial(_QuietHandler, directory=run_folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def photo_map(browser, tmp_path):
    """Open a map of three photos that share their top-1, the second with a position of its own."""
    place_m = tuple((ORIGIN_M + 50).tolist())
    points = [MapPoint(1, place_m, "first", (37.7, -122.4)), MapPoint(2, place_m, "second")]
    thumbnail = make_thumbnail(write_image(tmp_path / "a.png"))
    own = MapPoint(0, (place_m[0] + 30, place_m[1]), "EXIF position 30 m", (37.7, -122.3997))
    photos = [
        MapPhoto(f"{n}.jpg", "", thumbnail, points, own if n == 2 else None) for n in (1, 2, 3)
    ]
    database_m = ORIGIN_M + np.array([[0, 0], [100, 100.0]])
    page = draw_place_map("Map", database_m, photos, {0: Plane(10, np.zeros(2))})
    (tmp_path / "map.html").write_text(page, encoding="utf-8")
    return open_page(browser, tmp_path / "map.html")


def test_streets_lie_where_the_places_are(browser, run_folder, served):
    run = read_run_arrays(run_folder)
    browser.set_window_size(1280, 800)
    browser.get(f"{served}/report.html")
    until(browser, "return document.getElementById('scale').textContent !== ''")
    query_m = run.positions.queries_m[5]
    latitude, longitude = utm.to_latlon(*query_m, 10, "S")
    world = to_mercator(np.array([latitude]), np.array([longitude]))[0].tolist()
    browser.execute_script(DRAW_TILES, *world)
    assert browser.execute_script("return asked") == []
    browser.find_element("css selector", ".streets-switch input").click()
    until(browser, "return asked.length")
    asked = browser.execute_script("return asked")
    assert len(asked) < 60 and all(
        address.startswith("https://tile.openstreetmap.org/") for address in asked
    )
    assert browser.find_element("class name", "attribution").is_displayed()
    x, y = point_at(browser, run, 5)
    box = browser.execute_script(
        "return document.querySelector('.streets').getBoundingClientRect()"
    )
    right, down = x - box["left"] - box["width"] / 2, y - box["top"] - box["height"] / 2
    assert browser.execute_script(LOOK, right, down)[0] < 60
    for aside in (-9, 9):
        assert browser.execute_script(LOOK, right + aside, down) == [255] * 4
        assert browser.execute_script(LOOK, right, down + aside) == [255] * 4


def test_a_page_from_disk_says_how_to_have_streets(browser, run_folder):
    page = open_page(browser, run_folder / "report.html")
    switch = page.find_element("css selector", ".streets-switch input")
    switch.click()
    trouble = page.find_element("class name", "trouble")
    assert f'http.server --directory "{run_folder}"' in trouble.text
    assert not switch.is_selected()
    assert not page.find_element("class name", "attribution").is_displayed()
    assert page.get_log("browser") == []


def test_a_click_on_a_query_pins_links_to_public_maps(browser, run_folder):
    run = read_run_arrays(run_folder)
    page = open_page(browser, run_folder / "report.html")
    point_at(page, run, 5)
    assert not page.find_elements("css selector", "#tooltip a"), "they could not be reached"
    actions.ActionChains(page).click().move_by_offset(-200, -150).perform()
    tooltip = page.find_element("id", "tooltip")
    assert tooltip.is_displayed() and tooltip.text.startswith("q5, ")
    links = [link.get_attribute("href") for link in tooltip.find_elements("tag name", "a")]
    for link, position_m in zip(
        links[::2], (run.positions.queries_m[5], run.positions.first_predictions_m[5]), strict=True
    ):
        assert link.startswith("https://www.openstreetmap.org/?mlat=")
        found = [float(part.split("&")[0].split("#")[0]) for part in link.split("=")[1:3]]
        assert found == pytest.approx(utm.to_latlon(*position_m, 10, "S"), abs=2e-5)
    assert all(
        link.startswith("https://www.google.com/maps/search/?api=1&query=") for link in links[1::2]
    )


def test_markers_of_one_place_do_not_hide_each_other(photo_map):
    assert photo_map.get_log("browser") == []
    counts = photo_map.execute_async_script(
        """const done = arguments[0];
        requestAnimationFrame(() => requestAnimationFrame(() => {
          const canvas = document.getElementById("map-canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const colours = [...document.querySelectorAll(".photo")].map((card) =>
            getComputedStyle(card).borderLeftColor.match(/[0-9]+/g).slice(0, 3).join());
          const counts = colours.map(() => 0);
          for (let i = 0; i < data.length; i += 4) {
            const at = colours.indexOf(data.slice(i, i + 3).join());
            if (at >= 0 && data[i + 3] === 255) counts[at]++;
          }
          done(counts);
        }));"""
    )
    assert min(counts) > 150, "a filled disc of 20 pixels has 310, less its number"


def test_a_chosen_photo_shows_its_predictions_and_links(photo_map):
    card = photo_map.find_elements("css selector", ".photo > button")[1]
    card.click()
    shown = photo_map.find_elements("css selector", ".photo.chosen li")
    assert [item.text.splitlines()[0] for item in shown] == ["2", "2.2", "2"]
    assert "EXIF position 30 m" in shown[2].text
    links = [link.get_attribute("href") for link in shown[0].find_elements("tag name", "a")]
    assert links == [
        "https://www.openstreetmap.org/?mlat=37.700000&mlon=-122.400000#map=19/37.700000/-122.400000",
        "https://www.google.com/maps/search/?api=1&query=37.700000,-122.400000",
    ]
    photo_map.find_element("css selector", "[data-zoom=whole]").click()
    assert not photo_map.find_elements("css selector", ".photo.chosen")


def test_two_fingers_zoom(photo_map):
    scale = photo_map.find_element("id", "scale")
    before, text = scale_of(scale), scale.text
    photo_map.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})

    def touch(kind, *points):
        points = [{"x": x, "y": 300, "id": number} for number, x in enumerate(points)]
        photo_map.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 700)
    touch("touchStart", 700, 800)
    touch("touchMove", 650, 850)
    touch("touchEnd")
    photo_map.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    until(photo_map, f"return document.getElementById('scale').textContent !== '{text}'")
    assert scale_of(scale) / before == pytest.approx(2, rel=0.1)


def scale_of(element):
    """Return pixels per metre."""
    value, unit = element.text.split()
    return element.size["width"] / (float(value) * {"m": 1, "km": 1000}[unit])
