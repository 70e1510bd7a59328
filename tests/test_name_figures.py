from collections import Counter

import numpy as np
import pytest
from conftest import name, write_image
from drawn_figures import assert_all_is_readable, keep_figures, read_csv, texts_of
from matplotlib.colors import to_hex

from datasets.image_lists import list_images
from datasets.image_names import parse_image_name, read_numbers
from datasets.partition import PartitionParams, make_partition
from paper import name_figures
from paper.name_figures import draw_panorama_figures, draw_query_years
from paper.panoramas import Panoramas

NOTE = "mini city: not the paper's data"
DROPPED_ALONE, DROPPED, KEPT = "#d55e00", "#e69f00", "#0072b2"


@pytest.fixture
def figures(monkeypatch):
    return keep_figures(monkeypatch)


def write_list(folder, cells, timestamp="201606"):
    """List 12 crops each of panoramas: so many in each cell of a row of cells."""
    names = [
        name(10 * cell + 5, 7, 30 * crop, pano_id=f"{cell}_{number}", timestamp=timestamp)
        for cell, count in enumerate(cells)
        for number in range(count)
        for crop in range(12)
    ]
    folder.with_name(f"{folder.name}_images_paths.txt").write_text("\n".join(names))
    return folder


def bars_of(axes):
    """Return {centre: (height, colour)}."""
    return {
        bar.get_x() + bar.get_width() / 2: (bar.get_height(), to_hex(bar.get_facecolor()))
        for bar in axes.patches
    }


def test_figures_1_and_2_of_a_city_are_those_of_a_loop(tmp_path, datasets_folder, figures):
    train = datasets_folder / "mini_city" / "processed" / "train"
    files = draw_panorama_figures(train, tmp_path / "out", NOTE)
    expected = [f"fig{number}.{kind}" for number in (1, 2) for kind in ("pdf", "png", "csv")]
    assert [file.name for file in files] == expected
    captures = {}
    for one in map(parse_image_name, train.rglob("*.jpg")):
        captures[one.pano_id] = (one.utm_east_m // 10, one.utm_north_m // 10, one.timestamp[:4])
    per_cell = Counter(Counter(place[:2] for place in captures.values()).values())
    rows = [[str(n), str(per_cell[n]), str(int(n >= 10))] for n in sorted(per_cell)]
    assert read_csv(files[2])[1:] == [[*row, NOTE] for row in rows]
    years = Counter(year for *_, year in captures.values())
    rows = [[*row, NOTE] for row in _as_text(years)]
    assert read_csv(files[5]) == [["year", "num_panoramas", "note"], *rows]
    bars = bars_of(figures["fig2"].axes[0])
    assert {year: count for year, (count, _) in bars.items()} == {int(y): years[y] for y in years}
    assert f"{len(captures)} panoramas" in texts_of(figures["fig2"])


def _as_text(counts):
    return [(key, str(counts[key])) for key in sorted(counts)]


def test_the_share_of_dropped_images_is_that_of_the_partition(tmp_path, datasets_folder, figures):
    train = datasets_folder / "mini_city" / "processed" / "train"
    draw_panorama_figures(train, tmp_path, figures=("fig1",))
    paths = list_images(train)
    numbers = read_numbers(paths, ("UTM east", "UTM north", "heading"))
    num_kept = len(make_partition(*numbers, PartitionParams()).images)
    assert 0 < num_kept < len(paths)
    assert f": {1 - num_kept / len(paths):.1%} of images are" in texts_of(figures["fig1"])


def test_cells_are_marked_by_what_training_does_with_them(tmp_path, figures):
    cells = [1, 1, 1, 2, 9, 9, 10, 30]
    files = draw_panorama_figures(write_list(tmp_path / "train", cells), tmp_path, NOTE, ["fig1"])
    assert [file.name for file in files] == ["fig1.pdf", "fig1.png", "fig1.csv"]
    (axes,) = figures["fig1"].axes
    assert bars_of(axes) == {
        1: (3, DROPPED_ALONE),
        2: (1, DROPPED),
        9: (2, DROPPED),
        10: (1, KEPT),
        30: (1, KEPT),
    }
    assert axes.get_yscale() == "log" and axes.lines[0].get_xdata()[0] == 9.5
    said = texts_of(figures["fig1"])
    assert "one panorama (3 cells): dropped in training" in said
    assert "2 to 9 (3 cells): dropped as well" in said and "10 or more (2 cells): kept" in said
    assert f"{23 / 63:.1%} of images are dropped (about 15% in the paper)" in said
    assert "panoramas per cell of 10 m × 10 m" in said and "number of cells" in said


def test_cells_of_other_settings(tmp_path, figures):
    source = write_list(tmp_path / "train", [1, 1, 2, 3])
    everything = PartitionParams(M=20, min_images_per_class=1)
    draw_panorama_figures(source, tmp_path, figures=("fig1",), params=everything)
    bars = bars_of(figures["fig1"].axes[0])
    assert bars == {2: (1, KEPT), 5: (1, KEPT)}
    assert "0.0% of images" in texts_of(figures["fig1"])
    assert "dropped in training" not in texts_of(figures["fig1"])
    assert "20 m × 20 m" in texts_of(figures["fig1"])


def test_fullest_cells_share_a_bar_but_not_a_row(tmp_path, figures):
    source = write_list(tmp_path / "train", [1, 100, 101, 250])
    files = draw_panorama_figures(source, tmp_path, figures=("fig1",))
    bars = bars_of(figures["fig1"].axes[0])
    assert sorted(bars) == [1, 100, 104] and bars[104] == (2, KEPT)
    assert ">100" in texts_of(figures["fig1"])
    assert read_csv(files[2])[1:] == [
        ["1", "1", "0"],
        *([n, "1", "1"] for n in ("100", "101", "250")),
    ]


def test_large_numbers_fit(tmp_path, figures):
    rng = np.random.default_rng(0)
    position_m = rng.uniform(0, 30_000, (2, 500_000)).round(2)
    years = rng.choice([0, *range(2007, 2022)], 500_000)
    panoramas = Panoramas(*position_m, years, np.full(500_000, 12))
    name_figures._draw_cells(panoramas, PartitionParams(), tmp_path, NOTE)
    name_figures._draw_years(years, "panoramas", tmp_path, "fig2", NOTE)
    assert f"{(years > 0).sum():,} panoramas" in texts_of(figures["fig2"])
    for figure in figures.values():
        assert_all_is_readable(figure)


def test_years_of_queries_and_those_without(tmp_path, figures):
    folder = tmp_path / "queries"
    for number, timestamp in enumerate(["20210718", "2021", "2019", "", "21", "noon"]):
        write_image(folder / name(1, 2, pano_id=str(number), timestamp=timestamp))
    write_image(folder / "photo.jpg")
    files = draw_query_years(folder, tmp_path / "out", NOTE)
    assert [file.name for file in files] == ["fig3.pdf", "fig3.png", "fig3.csv"]
    header, *rows = read_csv(files[2])
    assert header == ["year", "num_queries", "note"]
    assert rows == [["2019", "1", NOTE], ["2021", "2", NOTE], ["unknown", "4", NOTE]]
    axes = figures["fig3"].axes[0]
    assert {year: count for year, (count, _) in bars_of(axes).items()} == {2019: 1, 2021: 2}
    said = texts_of(figures["fig3"])
    assert "3 queries 4 without a year are not shown" in said and "number of queries" in said


def test_without_any_year_there_is_no_bar(tmp_path, figures):
    source = write_list(tmp_path / "train", [3, 4], timestamp="")
    files = draw_panorama_figures(source, tmp_path / "out", figures=("fig2",))
    assert read_csv(files[2]) == [["year", "num_panoramas"], ["unknown", "7"]]
    assert not figures["fig2"].axes[0].patches
    assert_all_is_readable(figures["fig2"])
    assert "None of 7 panoramas has a year in its file name" in texts_of(figures["fig2"])


def test_missing_folders_are_sentences_and_nothing_is_written(tmp_path):
    for draw in (draw_panorama_figures, draw_query_years):
        with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
            draw(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
