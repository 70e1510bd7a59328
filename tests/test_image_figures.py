import csv

import numpy as np
import pytest
from conftest import name, write_image
from drawn_figures import assert_all_is_readable, keep_figures, read_csv, texts_of
from paper_studies import KnownNumbers, make_study
from PIL import Image

from paper.image_figures import (
    choose_queries,
    draw_examples,
    draw_qualitative,
    qualitative_needs,
    shown_networks,
)
from paper.scales import MINI
from reports.runs import Predictions

NOTE = "mini city: not the paper's data"


@pytest.fixture
def figures(monkeypatch):
    return keep_figures(monkeypatch)


def test_without_any_part_there_is_no_figure(tmp_path):
    missing = [tmp_path / part for part in ("a", "b", "c")]
    with pytest.raises(FileNotFoundError, match=r"a does not exist; .*b does .*c does not exist"):
        draw_examples(*missing, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_examples_stand_in_six_rows_upright_and_in_proportion(tmp_path, figures):
    folders = [tmp_path / part for part in ("train", "v1", "v2")]
    sizes = {"train": (32, 32), "v1": (48, 32), "v2": (24, 48)}
    for folder in folders:
        for number in range(14):
            write_image(folder / name(number, 2, pano_id=folder.name), sizes[folder.name])
    (one,) = folders[2].glob("@0000003*")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90 degrees
    with Image.open(one) as image:
        image.rotate(90, expand=True).save(one, exif=turned)
    files = draw_examples(*folders, tmp_path / "out", NOTE, seed=3)
    assert [file.name for file in files] == ["fig4.pdf", "fig4.png", "fig4.csv"]
    header, *rows = read_csv(files[2])
    assert header == ["row", "part", "column", "image", "note"]
    assert {row.pop() for row in rows} == {NOTE}
    labels = ["train", "test v1 queries", "test v2 queries"]
    assert [row[:3] for row in rows] == [
        [str(row + 1), labels[row // 2], str(column + 1)] for row in range(6) for column in range(6)
    ]
    for folder, first in zip(folders, (0, 12, 24), strict=True):
        drawn = {row[3] for row in rows[first : first + 12]}
        assert len(drawn) == 12 and drawn < set(map(str, folder.iterdir()))
    assert_all_is_readable(figures["fig4"])
    _check_layout(figures["fig4"], [sizes[folder.name] for folder in folders])
    assert all(label in texts_of(figures["fig4"]) for label in labels)


def _check_layout(figure, sizes):
    boxes = np.array([axes.get_position().bounds for axes in figure.axes]).reshape(6, 6, 4)
    boxes_in = boxes * np.tile(figure.get_size_inches(), 2)
    for row, (width, height) in zip(boxes_in, np.repeat(sizes, 2, axis=0), strict=True):
        np.testing.assert_allclose(row[:, 2] / row[:, 3], width / height, rtol=0.02)
        np.testing.assert_allclose(row[:, 1], row[0, 1])
        assert (row[1:, 0] > row[:-1, 0] + row[:-1, 2]).all(), "side by side"
    bottoms, tops = boxes_in[:, 0, 1], boxes_in[:, 0, 1] + boxes_in[:, 0, 3]
    assert (tops[1:] < bottoms[:-1]).all(), "below each other"
    assert boxes.min() > -1e-9 and (boxes[..., :2] + boxes[..., 2:]).max() < 1 + 1e-9


def test_another_seed_shows_other_examples_and_the_same_one_the_same(tmp_path):
    for number in range(40):
        write_image(tmp_path / "train" / name(number, 2))
    missing = tmp_path / "missing"
    drawn = [
        draw_examples(tmp_path / "train", missing, missing, tmp_path / str(run), seed=seed)
        for run, seed in enumerate((0, 0, 1))
    ]
    first, again, other = ([file.read_bytes() for file in files] for files in drawn)
    assert first == again and first[2] != other[2]


def test_parts_with_few_images_or_none_say_so(tmp_path, figures):
    for number in range(3):
        write_image(tmp_path / "train" / name(number, 2), (320, 32))
    write_image(tmp_path / "v1" / "one.jpg", (32, 320))
    files = draw_examples(tmp_path / "train", tmp_path / "v1", tmp_path / "v2", tmp_path, NOTE)
    assert [row[0] for row in read_csv(files[2])[1:]] == ["1", "1", "2", "3"]
    figure = figures["fig4"]
    assert "v2 does not exist" in texts_of(figure)
    (labels,) = ([text for text in figure.texts if text.get_rotation() == 90],)
    boxes = sorted((text.get_window_extent() for text in labels), key=lambda box: box.y0)
    assert len(boxes) == 3 and boxes[0].y0 >= 0 and boxes[2].y1 <= figure.bbox.height
    assert all(low.y1 < high.y0 for low, high in zip(boxes, boxes[1:], strict=False))


def test_a_listed_image_that_is_gone_or_broken_is_a_sentence(tmp_path):
    source = tmp_path / "train"
    (tmp_path / "train_images_paths.txt").write_text(name(1, 2))
    with pytest.raises(FileNotFoundError, match="There is no image"):
        draw_examples(source, tmp_path / "v1", tmp_path / "v2", tmp_path / "out")
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken.jpg cannot be read"):
        draw_examples(tmp_path / "v1", tmp_path / "v1", tmp_path / "v2", tmp_path / "out")
    assert not (tmp_path / "out").exists()


HEADER = "query_num,query,rank,prediction,descriptor_distance,distance_m,correct"


def predictions(**correct_ranks):
    rows = {query: [{"prediction": query}] for query in correct_ranks}
    return Predictions(rows, correct_ranks, 20, True)


def test_queries_that_divide_the_networks_come_first():
    one = predictions(a=1, b=1, c=5, d=1, e=9)
    other = predictions(a=1, b=2, c=5, d=1, e=1)
    chosen = choose_queries([one, other])
    assert set(chosen[:2]) == {"b", "e"} and set(chosen) == {"a", "b", "c", "d", "e"}
    assert chosen == choose_queries([one, other])
    assert choose_queries([]) == []


def test_a_query_that_one_network_could_not_read_is_left_out():
    assert choose_queries([predictions(a=1, b=1), predictions(b=1)]) == ["b"]


def test_needs_are_the_networks_that_there_are():
    needs = qualitative_needs(make_study(scale=MINI))
    assert {need.datasets for need in needs} == {("mini_city_test_v1",)}
    assert [need.source for need in needs] == list(shown_networks(MINI).values())


@pytest.fixture
def evaluation(tmp_path):
    """Return a function that writes the predictions of a network on three queries."""

    def write(name, corrects):
        folder = tmp_path / name
        folder.mkdir()
        lines = [HEADER]
        for number, correct in enumerate(corrects):
            query = write_image(tmp_path / "queries" / f"q{number}.jpg")
            prediction = write_image(tmp_path / "database" / f"{name}{number}.jpg")
            lines.append(f"{number},{query},1,{prediction},0.5,{30 - 20 * correct}.00,{correct}")
        (folder / "predictions.csv").write_text("\n".join(lines))
        (folder / "results.json").write_text(
            '{"dataset": "mini_city_test_v1", "num_queries": 3, "num_database": 3, '
            f'"recalls": {{}}, "queries_folder": "{tmp_path / "queries"}"}}'
        )
        return folder

    return write


def test_each_network_shows_its_own_top1(tmp_path, evaluation):
    networks = shown_networks(MINI)
    numbers = KnownNumbers()
    for network, corrects in (("CosPlace ResNet-18", [1, 0, 1]), ("CosPlace VGG-16", [0, 0, 1])):
        folder = evaluation(network.split()[1], corrects)
        numbers.folders[networks[network], "mini_city_test_v1"] = folder
        numbers.test[networks[network], 0, "mini_city_test_v1"] = {}
    files = draw_qualitative(make_study(numbers, scale=MINI), tmp_path / "out")
    assert {file.name for file in files} == {"fig7.pdf", "fig7.png", "fig7.csv"}
    rows = list(csv.DictReader((tmp_path / "out" / "fig7.csv").read_text().splitlines()))
    assert len(rows) == 6 and rows[0]["query"] == "q0.jpg"
    assert [(row["network"], row["correct"], row["distance_m"]) for row in rows[:2]] == [
        *(("CosPlace ResNet-18", "1", "10.00"), ("CosPlace VGG-16", "0", "30.00")),
    ]
    assert rows[1]["prediction"] == str(tmp_path / "database" / "VGG-160.jpg")


def test_without_results_there_is_only_an_empty_list(tmp_path):
    [file] = draw_qualitative(make_study(scale=MINI), tmp_path)
    assert file.name == "fig7.csv" and len(file.read_text().splitlines()) == 1
