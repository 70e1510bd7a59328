import html.parser
import json
import re

import numpy as np
import pytest
from report_runs import change_arrays, write_run

from evaluation.results import PREDICTIONS_COLUMNS
from reports.report import main, write_report
from reports.report_page import choose_queries
from reports.run_files import read_run_arrays

PUBLIC_MAPS = (
    *(f"https://{one}.openstreetmap.org" for one in ("tile", "www")),
    "https://www.google.com",
)
EVIL = "</script><script>alert(1)</script>&\"'<img src=x onerror=alert(1)>"


class Page(html.parser.HTMLParser):
    """The tags of a page, and the texts that stand in them."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.last = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.last = tag

    def handle_endtag(self, tag):
        self.last = ""

    def handle_data(self, data):
        if data.strip() and self.last not in ("script", "style"):
            self.texts.append(data.strip())

    @property
    def text(self):
        return " ".join(self.texts)

    def all(self, tag, **attributes):
        return [
            found
            for name, found in self.tags
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]

    def chart(self, title):
        (label,) = (
            found["aria-label"]
            for found in self.all("div", role="img")
            if found["aria-label"].startswith(title)
        )
        return label


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "run")


def test_charts_say_what_the_predictions_give(run_folder):
    page = Page(write_report(run_folder))
    with np.load(run_folder / "predictions.npz") as file:
        distances_m, correct = file["distances_m"], file["correct"]
    recall = {n: 100 * sum(any(row[:n]) for row in correct.tolist()) / 8 for n in (1, 5, 10, 12)}
    said = ", ".join(f"R@{n} {value:.1f}" for n, value in recall.items())
    assert said in page.chart("R@1 to R@12")
    assert recall[1] == 50 and recall[5] == 87.5, "as the queries are made"
    assert "Dotted: 87.5% of the queries have a positive in the database." in page.text
    near = [100 * sum(min(row[:n]) <= 10 for row in distances_m.tolist()) / 8 for n in (1, 5, 10)]
    said = "; 10 m: " + ", ".join(f"R@{n} {v:.1f}" for n, v in zip((1, 5, 10), near, strict=True))
    assert said in page.chart("Recall by distance threshold")
    assert f"up to 25 m: {(distances_m[:, 0] <= 25).sum()}," in page.chart("Localisation error")
    assert "2010: 50.0 of 2 queries, 2011: 50.0 of 2 queries" in page.chart("R@1 by year")
    assert "0–15°: 100.0 of 1 queries, 15–30°: 0.0 of 1" in page.chart("R@1 by heading difference")


def test_protocol_and_notes_are_told(run_folder):
    results = json.loads((run_folder / "results.json").read_text())
    results |= {"notes": ["17 database images, expected 64"], "search_agreement": 99.25}
    results |= {"search": "inverted file", "pitch of the roof": 45.5, "image_sizes": {}}
    (run_folder / "results.json").write_text(json.dumps(results))
    text = Page(write_report(run_folder)).text
    assert "17 database images, expected 64" in text
    assert "Recall of the search against exact neighbours, % 99.25" in text
    assert "pitch of the roof 45.5" in text, "also what this code does not know"
    assert f"Model logs/run/best_model.pth SHA-256 of the model {'0123456789abcdef' * 4}" in text
    assert "Queries without a positive 1" in text and "Seed 0" in text
    assert "Column of the paper" not in text, "it is not known"
    assert "R@1 50.0 %" in text


def test_many_image_sizes_are_counted(tmp_path):
    sizes = {f"{side}x640": 10 - number for number, side in enumerate((480, 481, 482, 483, 484))}
    text = Page(
        write_report(write_run(tmp_path, image_sizes={"queries": sizes}, resize="480"))
    ).text
    assert "queries 480x640 (10), 481x640 (9), 482x640 (8), 2 other sizes" in text
    assert "Resize shorter side 480 px" in text


def test_recalls_that_the_predictions_deny_are_pointed_out(tmp_path):
    run_folder = write_run(tmp_path, recalls={"R@1": 62.5, "R@5": 87.5, "R@100": 90.0})
    text = Page(write_report(run_folder)).text
    assert "results.json says R@1 62.50, its predictions give 50.00" in text
    assert "says R@5" not in text and "says R@100" not in text


def test_page_is_self_contained(run_folder):
    path = write_report(run_folder, num_gallery=8)
    page, source = Page(path), path.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", source)
    hosts = set(re.findall(r"https?:[^/]*//[^/\"`]*", source))
    assert hosts == {*PUBLIC_MAPS, "http://localhost:8000"}, "for links, once asked for, in a text"
    links = [
        (tag, found[key])
        for tag, found in page.tags
        for key in ("src", "href", "xlink:href", "srcset", "action", "data")
        if key in found
    ]
    assert sum(link.startswith("data:image/jpeg") for _, link in links) == 8 * 4
    outside = [link for _, link in links if not link.startswith(("data:", "#"))]
    assert outside == ["https://www.openstreetmap.org/copyright"]
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids)), "charts share no names"
    used = {link[1:] for tag, link in links if tag == "use"}
    used |= set(re.findall(r"url\(#([^)]*)\)", source))
    assert used and used <= set(ids), "what charts refer to is there"


def test_same_run_gives_same_bytes(run_folder):
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_gallery_shows_the_surest_wrong_and_correct_ones(run_folder):
    page = Page(write_report(run_folder, num_gallery=4))
    with np.load(run_folder / "predictions.npz") as file:
        sure, correct = file["descriptor_distances"][:, 0], file["correct"]
    wrong = sorted((query for query in range(8) if not correct[query, 0]), key=lambda q: sure[q])
    right = sorted((query for query in range(8) if correct[query, 0]), key=lambda q: sure[q])
    shown = [int(card["data-query"]) for card in page.all("article")]
    assert shown == wrong[:2] + right[:2]
    for card in page.all("article"):
        status = {0: "correct", 1: "later"}[int(card["data-query"]) % 2]
        assert card["data-status"] == ("missed" if card["data-query"] == "7" else status)
    frames = [found["class"] for found in page.all("figure") if "title" in found]
    expected = []
    for query in shown:
        expected += ["query", *("correct" if ok else "wrong" for ok in correct[query, :3])]
    assert frames == expected
    pictures = [found["title"] for found in page.all("figure") if "title" in found]
    assert f"@q{shown[0]}@" in pictures[0] and "@place" in pictures[1]


def test_gallery_is_filled_with_correct_ones_where_wrong_ones_are_few(tmp_path):
    run_folder = write_run(tmp_path)
    correct = read_run_arrays(run_folder).correct.copy()
    correct[:, 0] = np.arange(8) != 5
    change_arrays(run_folder, correct=correct)
    chosen = choose_queries(read_run_arrays(run_folder), 6)
    assert chosen[0] == 5 and len(set(chosen)) == 6
    assert [len(choose_queries(read_run_arrays(run_folder), num)) for num in (0, 100)] == [0, 8]


def test_metres_stand_below_predictions(tmp_path):
    run_folder = write_run(tmp_path, num_queries=2)
    distances_m = read_run_arrays(run_folder).distances_m.copy()
    distances_m[0, :3] = 3.14159, 4321, np.inf
    places_m = read_run_arrays(run_folder).positions.places_m
    change_arrays(run_folder, distances_m=distances_m, places_m=places_m + (1e8, 0))
    text = Page(write_report(run_folder)).text
    assert "3.14 m" in text and "4.3 km" in text and "another UTM zone" in text
    assert "UTM zones that do not touch" in text


def test_images_that_are_gone_or_broken_are_said_to_be_so(run_folder):
    (query,) = (run_folder / "queries").glob("*@q0@*")
    query.unlink()
    for file in (run_folder / "database").iterdir():
        file.write_bytes(b"no image")
    text = Page(write_report(run_folder)).text
    assert text.count("this image is gone") == 1
    assert text.count("this image cannot be read") == 8 * 3


def test_texts_from_outside_are_escaped(tmp_path):
    names = {"dataset": EVIL, "model": EVIL, "notes": [EVIL], "protocol": EVIL, EVIL: EVIL}
    run_folder = write_run(tmp_path / "<b>run", num_queries=2, **names)
    path = run_folder / "predictions.csv"
    evil_name = "<script>alert(1)<!--'\"&" + "-->.jpg"
    text = path.read_text().replace("@.jpg", f"@{evil_name}").replace('"', '""')
    rows = [line.split(",") for line in text.splitlines()]
    lines = [",".join(f'"{cell}"' for cell in row) for row in rows[1:]]
    path.write_text("\n".join([",".join(PREDICTIONS_COLUMNS), *lines]) + "\n")
    assert evil_name in read_run_arrays(run_folder).queries[0]
    page = Page(write_report(run_folder))
    assert len(page.all("script")) == 2, "the map's data and the code"
    assert not page.all("b", onerror="alert(1)") and not page.all("img", src="x")
    assert page.text.count(EVIL) >= 5
    assert any(evil_name in found.get("title", "") for found in page.all("figure"))


def test_names_of_any_bytes(tmp_path):
    run_folder = write_run(tmp_path, num_queries=2, model="caf\udce9.pth")
    path = run_folder / "predictions.csv"
    path.write_bytes(path.read_bytes().replace(b"@q0@", b"@caf\xe9\t\x01@"))
    page = Page(write_report(run_folder))
    assert "caf?.pth" in page.text
    assert any("@caf?\t" in found.get("title", "") for found in page.all("figure"))


def test_run_without_labels(tmp_path):
    page = Page(write_report(write_run(tmp_path, labels=False), num_gallery=4))
    assert "This run has no labels: there are no recalls." in page.text
    assert not page.all("div", role="img"), "no charts"
    assert "R@" not in page.text and "Recalls in percent of" not in page.text
    assert not page.all("button", **{"data-filter": "correct"})
    frames = {found["class"] for found in page.all("figure") if "title" in found}
    assert frames == {"query", "neutral"} and len(page.all("article")) == 4
    assert page.all("canvas")


def test_run_without_positions(run_folder):
    unknown = np.full((8, 12), np.nan, np.float32)
    positions = ("queries_m", "first_predictions_m", "places_m")
    change_arrays(run_folder, remove=positions, distances_m=unknown)
    page = Page(write_report(run_folder))
    assert not page.all("canvas")
    assert "The positions of the images are not known. The map and all distances" in page.text
    titles = [found["aria-label"] for found in page.all("div", role="img")]
    assert any("R@1 to R@" in title for title in titles)
    assert not any("metres" in title for title in titles)
    gallery = page.text.rpartition(" Gallery ")[2].rpartition(" Protocol ")[0]
    assert "prediction 3" in gallery and not re.search(r"\d m\b", gallery)


def test_mock_positions_are_not_drawn(run_folder):
    with np.load(run_folder / "predictions.npz") as file:
        mock = {
            array: file[array] * (0, 1)
            for array in ("queries_m", "first_predictions_m", "places_m")
        }
    change_arrays(run_folder, **mock)
    page = Page(write_report(run_folder))
    assert not page.all("canvas") and "all have the same east coordinate" in page.text


def test_queries_that_could_not_be_read(run_folder):
    path = run_folder / "predictions.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("0,")))
    run = read_run_arrays(run_folder)
    arrays = ("correct", "descriptor_distances", "distances_m")
    blank = {array: getattr(run, array).copy() for array in arrays}
    blank["correct"][0] = False
    blank["distances_m"][0] = blank["descriptor_distances"][0] = np.nan
    firsts_m = run.positions.first_predictions_m.copy()
    firsts_m[0] = np.nan
    change_arrays(run_folder, **blank, first_predictions_m=firsts_m)
    page = Page(write_report(run_folder))
    assert "0" not in [card["data-query"] for card in page.all("article")]
    assert "1 queries with unknown error are left out" in page.text


def test_command_line(run_folder, caplog, refused):
    with caplog.at_level("INFO"):
        main([str(run_folder), "--num_gallery", "2"])
    assert f"The report is {run_folder / 'report.html'}" in caplog.text
    assert len(Page(run_folder / "report.html").all("article")) == 2
    assert "must be at least 0" in refused(main, [str(run_folder), "--num_gallery", "-1"], 2)
