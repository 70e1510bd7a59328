import re

import pytest
from comparison_runs import NUM_RANKS, Page, compare, make_run, make_two_runs, read_csv
from conftest import write_image

from reports.compare import FILES, main


@pytest.fixture
def two_runs(tmp_path):
    return make_two_runs(tmp_path)


@pytest.fixture
def page_of(two_runs, tmp_path):
    """Return a function that writes images and a page, and reads the page."""
    for number in range(40):
        write_image(tmp_path / "data" / "queries" / f"{number:03d}.jpg")
        for rank in range(1, NUM_RANKS + 1):
            write_image(tmp_path / "data" / "database" / f"{number}_{rank}.jpg")

    def make_page(*flags):
        main([*two_runs, f"--out={tmp_path / 'out'}", *flags])
        return Page((tmp_path / "out" / "comparison.html").read_text(encoding="utf-8"))

    return make_page


def test_page_shows_queries_won_and_lost_and_needs_no_network(page_of, tmp_path):
    page = page_of("--num_pictures=5")
    assert "Top-1 correct in after, not in before: 8 queries, 5 of them below" in page.text
    assert "Top-1 correct in before, not in after: 1 queries" in page.text
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == (5 + 1) * (1 + 3 + 3)
    assert all(image["src"].startswith("data:image/jpeg;base64,/9j/") for image in images)
    frames = [attributes["class"] for tag, attributes in page.tags if tag == "figure"]
    won = ["query-image", *["wrong"] * 3, "correct", "wrong", "wrong"]
    lost = ["query-image", "correct", "wrong", "wrong", "wrong", "wrong", "correct"]
    assert frames == 5 * won + lost
    assert "✓ 12.25 m" in page.text and "✗ 24.50 m" in page.text
    queries = {image["title"] for image in images[::7]}
    assert {f"{tmp_path}/data/queries/{number:03d}.jpg" for number in (3, 30, 37)} <= queries
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    text = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=\"(?!data:)|url\(|@import", text)


def test_no_pictures_if_none_are_wanted(page_of):
    page = page_of("--num_pictures=0")
    assert "img" not in {tag for tag, _ in page.tags} and "won 8, lost 1" in page.text


def test_images_that_are_gone_are_said_once(page_of, tmp_path, caplog):
    for number in range(30, 38):
        (tmp_path / "data" / "queries" / f"{number:03d}.jpg").unlink()
    (tmp_path / "data" / "database" / "3_2.jpg").write_text("not an image")
    page = page_of()
    sentence = "9 images cannot be shown, the first because: There is no image"
    assert page.text.count(sentence) == 1 and caplog.text.count(sentence) == 1
    assert page.text.count("cannot be shown") == 1 + 8 + 2, "the one that is broken is in both runs"


def test_names_may_be_anything(tmp_path, caplog):
    name = '{:03d}<b>&"|`\udcff.jpg'
    before = make_run(tmp_path / "a|<i>", {0: 1, 1: None}, tmp_path / "data", name)
    after = make_run(tmp_path / "b&", {0: None, 1: 1}, tmp_path / "data", name)
    out = tmp_path / "out"
    text, _ = compare([before, after, f"--out={out}"], caplog)
    assert "The top-1 of 1 query is correct only in b&" in text
    page = Page((out / "comparison.html").read_text(encoding="utf-8"))
    assert {"b", "i"} & {tag for tag, _ in page.tags} == {"b"}, "the page's own"
    assert '001<b>&"|`\\udcff.jpg' in page.text
    markdown = (out / "comparison.md").read_text(encoding="utf-8")
    assert "|  | a\\|\\<i\\> | b& | b& - a\\|\\<i\\> |" in markdown.splitlines()
    rows = read_csv(out / "comparison_queries.csv")
    assert [row["query"] for row in rows] == [name.format(number) for number in (0, 1)]


def test_files_hold_what_the_terminal_says(two_runs, tmp_path, caplog):
    out = tmp_path / "new" / "out"
    text, cells = compare([*two_runs, f"--out={out}"], caplog)
    assert sorted(file.name for file in out.iterdir()) == sorted(FILES)
    markdown = (out / "comparison.md").read_text(encoding="utf-8")
    assert f"| R@1 | {' | '.join(cells['R@1'])} |" in markdown
    assert "McNemar's exact test of R@1: won 8, lost 1, p = 0.039." in markdown
    page = Page((out / "comparison.html").read_text(encoding="utf-8"))
    assert all(cell in page.text for row in cells.values() for cell in row)

    rows = {(row["run"], row["recall"]): row for row in read_csv(out / "comparison.csv")}
    after = rows["after", "R@1"]
    assert f"{float(after['percent']):.1f} [{float(after['low']):.1f}, " in cells["R@1"][1]
    assert rows["after", "R@20"]["low"] == rows["after", "R@20"]["difference"] == ""
    outcomes = {row["query"]: row for row in read_csv(out / "comparison_queries.csv")}
    assert len(outcomes) == 40
    ranks = {
        query: (row["outcome"], row["baseline_correct_rank"], row["correct_rank"])
        for query, row in outcomes.items()
    }
    assert ranks["030.jpg"] == ("won", "", "1")
    assert ranks["003.jpg"] == ("lost", "1", "3")
    assert ranks["000.jpg"] == ("both", "1", "1")
    assert ranks["015.jpg"] == ("neither", "2", "2")
