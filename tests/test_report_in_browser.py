import json
import shutil

import numpy as np
import pytest
from report_runs import change_arrays, write_looks, write_run

from reports.pictures import format_metres
from reports.report import write_report
from reports.run_files import read_run_arrays

webdriver = pytest.importorskip("selenium.webdriver")
actions = pytest.importorskip("selenium.webdriver.common.action_chains")
wheel = pytest.importorskip("selenium.webdriver.common.actions.wheel_input")

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1280,900"),
    "about:blank",
)
VIEW_PX = (1280, 800)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Return a headless Chromium that logs its console and its network."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no chromium with chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Return a run of eight queries with its report, all of them with heat maps in the gallery."""
    run_folder = write_run(tmp_path_factory.mktemp("report") / "run")
    write_looks(run_folder)
    write_report(run_folder)
    return run_folder


@pytest.fixture
def page(browser, run_folder):
    """Open the report anew."""
    return open_page(browser, run_folder / "report.html")


def open_page(browser, path, width=VIEW_PX[0]):
    browser.set_window_size(width, VIEW_PX[1])
    for log in ("browser", "performance"):
        browser.get_log(log)  # forget what was before
    browser.get(path.as_uri())
    until(browser, "return document.getElementById('scale')?.textContent !== ''")
    return browser


def until(browser, script):
    """Wait until a script returns something true."""
    browser.set_script_timeout(20)
    browser.execute_async_script(
        "const done = arguments[0];"
        f"const look = () => (() => {{ {script} }})() ? done() : setTimeout(look, 20); look();"
    )


def visible_cards(browser):
    cards = browser.find_elements("css selector", "article")
    return [int(card.get_attribute("data-query")) for card in cards if card.is_displayed()]


def shown_on_map(browser):
    """Count the pixels of the two colours of queries; the map is drawn within two frames."""
    return browser.execute_async_script(
        """const done = arguments[0];
        requestAnimationFrame(() => requestAnimationFrame(() => {
          const canvas = document.getElementById("map-canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const counts = { correct: 0, wrong: 0 };
          for (let i = 0; i < data.length; i += 4) {
            if (data[i] === 0x1d && data[i + 1] === 0x8a) counts.correct++;
            if (data[i] === 0xcf && data[i + 1] === 0x43) counts.wrong++;
          }
          done(counts);
        }));"""
    )


def press(browser, filter_name):
    browser.find_element("css selector", f"[data-filter={filter_name}]").click()


def pixels_per_metre(browser):
    scale = browser.find_element("id", "scale")
    value, unit = scale.text.split()
    metres = float(value) * {"m": 1, "km": 1000}[unit]
    return float(scale.value_of_css_property("width").removesuffix("px")) / metres


def place_on_map(browser, run, point_m):
    """Return where a point is, in pixels right and down of the centre of a map shown whole."""
    points = np.concatenate([run.positions.queries_m, run.positions.places_m])
    centre_m = (points.min(axis=0) + points.max(axis=0)) / 2
    east, north = (point_m - centre_m) * pixels_per_metre(browser)
    return round(east), round(-north)


def point_at(browser, run, query):
    """Move the pointer to a query on a map shown whole; return where that is in the window."""
    canvas = browser.find_element("id", "map-canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    right, down = place_on_map(browser, run, run.positions.queries_m[query])
    chain = actions.ActionChains(browser, duration=50)
    chain.move_to_element_with_offset(canvas, right, down).perform()
    until(browser, "return !document.getElementById('tooltip').hidden")
    box = browser.execute_script("return arguments[0].getBoundingClientRect()", canvas)
    x, y = box["left"] + box["width"] / 2 + right, box["top"] + box["height"] / 2 + down
    return round(x), round(y)


def test_page_loads_without_errors_and_network(page, run_folder):
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    own = (run_folder / "report.html").as_uri()
    assert own in urls
    inside = ("data:", "chrome://")  # the browser's own pages, such as a new tab, are its business
    assert [url for url in urls if url != own and not url.startswith(inside)] == []


@pytest.mark.parametrize("width", [1280, 800, 520, 390])
def test_nothing_is_wider_than_the_window(browser, run_folder, width):
    page = open_page(browser, run_folder / "report.html", width)
    widths = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    columns = len({card.location["x"] for card in page.find_elements("class name", "chart")})
    assert columns == (2 if width == 1280 else 1)


@pytest.mark.parametrize("width", [1280, 390])
def test_heat_maps_stand_below_their_images(browser, run_folder, width):
    page = open_page(browser, run_folder / "report.html", width)
    for card in page.find_elements("tag name", "article"):
        shown, overlays = card.find_elements("class name", "pictures")
        images = shown.find_elements("tag name", "img")[:2]
        maps = overlays.find_elements("tag name", "img")
        assert [one.text for one in overlays.find_elements("tag name", "figcaption")] == [
            *("query: up to 2.5 x the mean", "prediction 1: up to 2.5 x the mean")
        ]
        for image, over in zip(images, maps, strict=True):
            assert over.location["x"] == image.location["x"]
            assert over.location["y"] > image.location["y"] and over.size == image.size
            browser.execute_script("arguments[0].scrollIntoView()", over)
            browser.set_script_timeout(20)
            sizes = "return arguments[0].decode().then(() => arguments[0].naturalWidth)"
            assert browser.execute_script(sizes, over) == 32


def test_filters_act_on_gallery_and_map(page):
    assert sorted(visible_cards(page)) == list(range(8))
    both = shown_on_map(page)
    assert both["correct"] > 100 and both["wrong"] > 100
    press(page, "correct")
    assert sorted(visible_cards(page)) == [0, 2, 4, 6]
    assert shown_on_map(page) == {"correct": both["correct"], "wrong": 0}
    press(page, "wrong")
    assert sorted(visible_cards(page)) == [1, 3, 5, 7]
    assert shown_on_map(page) == {"correct": 0, "wrong": both["wrong"]}
    press(page, "missed")
    assert visible_cards(page) == [7]
    assert 0 < shown_on_map(page)["wrong"] < both["wrong"] / 2
    pressed = page.find_elements("css selector", "[aria-pressed=true]")
    assert [button.get_attribute("data-filter") for button in pressed] == ["missed"]
    assert page.find_element("id", "shown").text.endswith("1 of them pass the filters.")


def test_filters_work_by_keyboard(page):
    page.find_element("css selector", "[data-filter=correct]").send_keys("\ue007")
    assert sorted(visible_cards(page)) == [0, 2, 4, 6]


def test_search_looks_into_names_of_queries_and_predictions(page, run_folder):
    run = read_run_arrays(run_folder)
    search = page.find_element("id", "search")
    search.send_keys("@Q5@")
    assert visible_cards(page) == [5]
    assert shown_on_map(page)["correct"] == 0
    search.clear()
    place = run.predictions[2][0].split("@")[7]
    search.send_keys(f"@{place}@")
    with_place = [q for q in range(8) if any(f"@{place}@" in path for path in run.predictions[q])]
    assert sorted(visible_cards(page)) == with_place
    press(page, "missed")
    assert visible_cards(page) == [q for q in with_place if q == 7], "both must hold"


def test_gallery_is_sorted(page, run_folder):
    run = read_run_arrays(run_folder)
    chosen = visible_cards(page)
    orders = {
        "error": np.argsort(-run.distances_m[:, 0]).tolist(),
        "distance": np.argsort(run.descriptor_distances[:, 0]).tolist(),
        "file": sorted(range(8), key=lambda query: run.queries[query]),
        "chosen": chosen,
    }
    for order, expected in orders.items():
        page.find_element("css selector", f"#sort option[value={order}]").click()
        assert visible_cards(page) == expected, order


@pytest.mark.parametrize("query", [2, 5])
def test_pointing_at_a_query_tells_the_pair(page, run_folder, query):
    run = read_run_arrays(run_folder)
    tooltip = page.find_element("id", "tooltip")
    assert not tooltip.is_displayed()
    point_at(page, run, query)
    lines = tooltip.text.splitlines()
    metres = format_metres(run.distances_m[query, 0])
    assert lines[0] == f"q{query}, {20 * query - 10}°"
    assert lines[1] == run.queries[query].rsplit("/", 1)[1]
    assert lines[2] == f"top-1 prediction: {metres}, {'wrong ✗' if query % 2 else 'correct ✓'}"
    assert lines[3] == run.predictions[query][0].rsplit("/", 1)[1]
    images = tooltip.find_elements("tag name", "img")
    assert [image.get_attribute("alt").split(":")[0] for image in images] == [
        "query",
        "prediction 1",
    ]


def test_line_leads_to_the_first_prediction(page, run_folder):
    run = read_run_arrays(run_folder)
    ends_m = run.positions.queries_m[5], run.positions.first_predictions_m[5]
    halfway = place_on_map(page, run, np.mean(ends_m, axis=0))
    assert count_dark(page, *halfway) == 0
    point_at(page, run, 5)
    shown_on_map(page)  # drawn
    assert count_dark(page, *halfway) >= 5


def count_dark(browser, right, down):
    """Count pixels of the colour of the line within 3 pixels of a place on the map."""
    return browser.execute_script(
        """const canvas = document.getElementById("map-canvas");
        const x = canvas.width / 2 + arguments[0] * devicePixelRatio;
        const y = canvas.height / 2 + arguments[1] * devicePixelRatio;
        const { data } = canvas.getContext("2d").getImageData(x - 3, y - 3, 7, 7);
        const isDark = (red, i) => i % 4 === 0 && red === 0x1f && data[i + 3] === 255;
        return data.filter(isDark).length;""",
        right,
        down,
    )


def test_map_zooms_about_the_pointer_and_moves(page, run_folder):
    before, top = pixels_per_metre(page), page.find_element("id", "map-canvas").rect
    x, y = point_at(page, read_run_arrays(run_folder), 5)
    origin = wheel.ScrollOrigin("viewport", x, y)
    actions.ActionChains(page).scroll_from_origin(origin, 0, -500).perform()
    shown_on_map(page)
    tooltip = page.find_element("id", "tooltip")
    assert pixels_per_metre(page) == pytest.approx(before * np.e, rel=0.01)
    actions.ActionChains(page).move_by_offset(1, 0).perform()
    assert tooltip.text.startswith("q5, "), "it is still below the pointer"
    drag = actions.ActionChains(page).click_and_hold().move_by_offset(60, 0).release()
    drag.perform()
    assert tooltip.text.startswith("q5, "), "it came along"
    actions.ActionChains(page).move_by_offset(-60, 0).perform()
    assert "q5, " not in tooltip.text
    assert page.find_element("id", "map-canvas").rect == top, "the page itself stood still"


def test_map_buttons(page):
    before = pixels_per_metre(page)
    for button, factor in (("in", 1.5), ("in", 2.25), ("out", 1.5), ("whole", 1)):
        page.find_element("css selector", f"[data-zoom={button}]").click()
        shown_on_map(page)
        assert pixels_per_metre(page) == pytest.approx(before * factor, rel=0.01)


def test_cities_far_from_each_other_have_views_of_their_own(browser, tmp_path):
    run_folder = write_run(tmp_path)
    with np.load(run_folder / "predictions.npz") as file:
        arrays = {name: file[name].copy() for name in ("queries_m", "places_m")}
    arrays["queries_m"][:3, 1] += 2_000_000
    arrays["places_m"][32:, 1] += 2_000_000
    change_arrays(run_folder, **arrays)
    page = open_page(browser, write_report(run_folder))
    regions = [option.text for option in page.find_elements("css selector", "#region option")]
    assert regions == ["Region 1, 5 queries", "Region 2, 3 queries", "All regions"]
    assert pixels_per_metre(page) > 0.2, "one city fills the map"
    page.find_element("css selector", "#region option[value=all]").click()
    shown_on_map(page)
    assert pixels_per_metre(page) < 0.001


def test_page_without_labels_and_positions(browser, tmp_path):
    run_folder = write_run(tmp_path, labels=False)
    page = open_page(browser, write_report(run_folder))
    assert page.get_log("browser") == []
    assert sorted(visible_cards(page)) == list(range(8))
    page.find_element("id", "search").send_keys("@q3@")
    assert visible_cards(page) == [3]
    change_arrays(run_folder, remove=("places_m",))
    page = open_page(browser, write_report(run_folder))
    assert page.get_log("browser") == []
    page.find_element("css selector", "#sort option[value=distance]").click()
    distances = read_run_arrays(run_folder).descriptor_distances[:, 0]
    assert visible_cards(page) == np.argsort(distances).tolist()
