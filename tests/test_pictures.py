import csv

import numpy as np
import pytest
from conftest import write_image
from PIL import Image

from evaluation.results import PREDICTIONS_COLUMNS
from reports.pictures import (
    COLOURS,
    FRAME_PX,
    MARGIN_PX,
    QUERY_COLOUR,
    TILE_HEIGHT_PX,
    draw_tile,
    main,
    name_image,
    save_pictures,
)


@pytest.fixture
def run_folder(tmp_path):
    """Return a run of two queries; the first one's first prediction is right, no other is."""
    for file, colour in (
        ("q0", (9, 9, 9)),
        ("q1", (90, 0, 0)),
        ("d0", (0, 90, 0)),
        ("d1", (0, 0, 90)),
    ):
        write_image(tmp_path / f"{file}.png", (64, 32) if file == "q1" else (32, 32), colour)
    with open(tmp_path / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(PREDICTIONS_COLUMNS)
        for query in (0, 1):
            for rank, (prediction, metres) in enumerate((("d0", 3.2), ("d1", 4321.0)), start=1):
                right = int(query == 0 and rank == 1)
                row = (query, tmp_path / f"q{query}.png", rank, tmp_path / f"{prediction}.png")
                writer.writerow((*row, 0.5, metres, right))
    return tmp_path


def test_frames_and_images_stand_side_by_side(run_folder):
    assert save_pictures(run_folder, 2) == 2
    picture = np.array(Image.open(run_folder / "preds" / "00000.jpg")).astype(int)
    tile = TILE_HEIGHT_PX + 2 * FRAME_PX
    assert picture.shape[1] == 3 * tile + 4 * MARGIN_PX
    row = picture[MARGIN_PX + FRAME_PX + TILE_HEIGHT_PX // 2]
    for number, (frame, image) in enumerate(
        ((QUERY_COLOUR, (9, 9, 9)), (COLOURS["1"], (0, 90, 0)), (COLOURS["0"], (0, 0, 90)))
    ):
        left = MARGIN_PX + number * (tile + MARGIN_PX)
        np.testing.assert_allclose(row[left + 2], frame, atol=40)
        np.testing.assert_allclose(row[left + tile // 2], image, atol=15)
    below = picture[MARGIN_PX + tile + 2 : -MARGIN_PX]
    for number, colour in enumerate((QUERY_COLOUR, COLOURS["1"], COLOURS["0"])):
        left = MARGIN_PX + number * (tile + MARGIN_PX)
        text = below[:, left : left + tile]
        is_dark = text.sum(axis=2) < 500
        assert is_dark.sum() > 60, "there is something written below"
        np.testing.assert_allclose(np.median(text[is_dark], axis=0), colour, atol=60)


def test_signs_tell_correct_from_wrong_without_colours(tmp_path):
    """A cross is symmetric from top to bottom, a tick is not."""
    path = write_image(tmp_path / "a.png", (32, 32), (0, 0, 0))
    inks = []
    for correct in ("1", "0", ""):
        tile = np.array(draw_tile(path, "", correct).convert("L"), float)[TILE_HEIGHT_PX + 14 :]
        columns = np.flatnonzero((tile < 200).any(axis=0))
        inks.append(tile[:, columns])
    tick, cross, nothing = inks
    assert tick.size and cross.size and not nothing.size
    rows = np.flatnonzero((cross < 200).any(axis=1))
    cross = cross[rows[0] : rows[-1] + 1]
    rows = np.flatnonzero((tick < 200).any(axis=1))
    tick = tick[rows[0] : rows[-1] + 1]
    assert 2 * abs(cross - cross[::-1]).mean() < abs(tick - tick[::-1]).mean()


def test_long_names_fit_their_image(tmp_path):
    path = write_image(tmp_path / "a.png", (32, 32), (0, 0, 0))
    for text in ("a" * 30, "a" * 200):
        tile = np.array(draw_tile(path, text).convert("L"))[TILE_HEIGHT_PX + 14 :]
        assert (tile[:, [0, 1, -2, -1]] > 200).all() and (tile < 200).any()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("IMG_2041.JPG", "IMG_2041.JPG"),
        ("@550000.00@4180000.00@10@S@@@IMG_2041@@@@@@@@.jpg", "IMG_2041"),
        ("@550000.00@4180000.00@10@S@@@kPnA@@210@@@@201606@@.jpg", "kPnA, 210°"),
        ("@550000.00@4180000.00@@@@@@@@@@@@@.jpg", "@550000.00@4180000.00@@@@@@@@@@@@@.jpg"),
        ("@not a name.jpg", "@not a name.jpg"),
        ("", ""),
    ],
)
def test_images_are_named_as_their_photos(file, expected):
    assert name_image(f"folder/{file}") == expected


def test_only_wrong_ones_and_fewer_predictions_replace_older_pictures(run_folder):
    save_pictures(run_folder, 2)
    assert save_pictures(run_folder, 1, only_wrong=True) == 1
    (file,) = (run_folder / "preds").iterdir()
    assert file.name == "00001.jpg"
    width = Image.open(file).width
    assert width == 3 * TILE_HEIGHT_PX + 4 * FRAME_PX + 3 * MARGIN_PX, "the query is twice as wide"


def test_command_line(run_folder, capsys):
    main([str(run_folder), "--num_preds", "2"])
    assert len(list((run_folder / "preds").iterdir())) == 2
    with pytest.raises(SystemExit) as exit_code:
        main([str(run_folder), "--num_preds", "0"])
    assert exit_code.value.code == 2 and "must be at least 1" in capsys.readouterr().err


def test_run_without_predictions_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*predictions.csv"):
        save_pictures(tmp_path, 3)
    assert not (tmp_path / "preds").exists()


def test_damaged_predictions_leave_older_pictures_alone(run_folder):
    save_pictures(run_folder, 1)
    file = run_folder / "predictions.csv"
    file.write_text(file.read_text().rstrip() + "perhaps\n")
    with pytest.raises(ValueError, match=r"Line 5 of .*predictions.csv is damaged"):
        save_pictures(run_folder, 1)
    assert len(list((run_folder / "preds").iterdir())) == 2
