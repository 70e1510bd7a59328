import base64
import io

import numpy as np
import pytest
from conftest import write_image
from PIL import Image
from report_runs import change_arrays, write_run

from reports.pictures import format_metres
from reports.report_page import (
    _make_thumbnail,
    choose_queries,
    describe_poses,
    make_cards,
    render_page,
)
from reports.run_files import read_run_arrays


def open_thumbnail(uri):
    head, content = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize(
    "size, expected", [((480, 480), (180, 180)), ((3328, 512), (240, 37)), ((20, 10), (20, 10))]
)
def test_thumbnails_are_small_and_keep_the_shape(tmp_path, size, expected):
    uri, problem = _make_thumbnail(write_image(tmp_path / "a.png", size, (200, 30, 90)))
    picture = open_thumbnail(uri)
    assert picture.size == expected and problem == ""
    np.testing.assert_allclose(np.array(picture).mean(axis=(0, 1)), (200, 30, 90), atol=6)


def test_images_that_cannot_be_shown(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    assert _make_thumbnail(tmp_path / "broken.jpg") == ("", "this image cannot be read")
    assert _make_thumbnail(tmp_path / "gone.jpg") == ("", "this image is gone")


def test_headlines_give_the_rank_of_the_first_correct_one(tmp_path):
    folder = write_run(tmp_path, num_queries=4)
    num_positives = read_run_arrays(folder).num_positives.copy()
    assert num_positives.tolist() == [1, 1, 1, 0]
    cards = make_cards(read_run_arrays(folder), np.arange(4))
    assert [card.headline for card in cards] == [
        "correct",
        "wrong, first correct prediction at rank 3",
        "correct",
        "wrong, the database has no positive",
    ]
    num_positives[3] = 2
    change_arrays(folder, num_positives=num_positives)
    (card,) = make_cards(read_run_arrays(folder), np.array([3]))
    assert (
        card.headline == "wrong, no correct prediction among the top-12" and card.status == "missed"
    )


def test_without_labels_the_surest_and_the_least_sure_are_chosen(tmp_path):
    run = read_run_arrays(write_run(tmp_path, labels=False))
    surest = np.argsort(run.descriptor_distances[:, 0]).tolist()
    assert choose_queries(run, 4).tolist() == [surest[0], surest[1], surest[7], surest[6]]
    assert sorted(choose_queries(run, 100)) == list(range(8))
    assert sorted(choose_queries(run, 7)) == sorted(surest[:3] + surest[4:])


def test_poses_are_a_table_and_damaged_ones_a_sentence(tmp_path):
    assert describe_poses({}) is None
    errors = {"heading_error_deg": {"median": 1.5, "q90": None}}
    errors["rotation_error_deg"] = errors["position_error_m"] = errors["heading_error_deg"]
    errors["within_percent"] = {"5 m, 10 deg": 12.34}
    poses = {"top1": errors, "fused": errors, "top_k": 7, "protocol": "a<b", "notes": ["n"]}
    rows = describe_poses({"poses": poses})["rows"]
    assert rows[0] == ["poses", "top-1", "top-7 fused"]
    assert rows[1] == ["position error, m: median (q90)", "1.50 (-)", "1.50 (-)"]
    assert rows[-1] == ["within 5 m, 10 deg, % of queries", "12.3", "12.3"]
    page = render_page(read_run_arrays(write_run(tmp_path, poses=poses)), 0)
    assert "<th>poses</th><td>top-1</td><td>top-7 fused</td>" in page and "a&lt;b. n." in page
    for damaged in (None, [], {}, poses | {"top1": 3}, poses | {"fused": {"a": "b"}}):
        with pytest.raises(ValueError, match="poses in results.json are damaged"):
            describe_poses({"poses": damaged})


def test_metres_are_as_precise_as_file_names():
    texts = [format_metres(metres) for metres in (0, 25.004, 99.99, 123.4, 4321, np.inf, np.nan)]
    assert texts == ["0.00 m", "25.00 m", "99.99 m", "123 m", "4.3 km", "another UTM zone", ""]
