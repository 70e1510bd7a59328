"""python -m reports.attention, and what it adds to a report."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from conftest import write_image
from PIL import Image
from report_runs import write_run
from test_report_page import open_thumbnail

import commons
from datasets.images import load_image
from eval import main as eval_main
from evaluation.views import View
from model.checkpoint_files import save_atomically
from model.checkpoints import load_network
from model.network import build_network
from reports.attention import list_pictures, main
from reports.heat_maps import heat_maps
from reports.overlays import draw_overlay, read_looks
from reports.report import write_report

RESIZE = "--resize_test_imgs=96"
SMALL_SALAD = {"clusters": 4, "cluster_dim": 3, "token_dim": 0, "hidden": 8}


@pytest.fixture
def run_folder(eval_flags, tmp_path):
    """Return a run of the tiny model on 10 queries."""
    eval_main([*eval_flags, "--dataset=mini_city_test_v1", RESIZE])
    return tmp_path / "run"


def rows_of(folder):
    with open(folder / "attention.csv", newline="") as file:
        return list(csv.DictReader(file))


def overlays_of(page):
    """Return [(caption, data URI)] of the second rows of the cards of a report."""
    blocks = re.findall(r'<div class="pictures overlays">(.*?)</div>', page.read_text(), re.S)
    figures = [figure for block in blocks for figure in block.split("</figure>")[:-1]]
    return [
        (re.search(r"<b>(.*?)</b>", one)[1], re.search(r'src="(.*?)"', one)[1]) for one in figures
    ]


def test_pictures_of_a_run_are_in_its_report(run_folder, model_file, caplog):
    assert overlays_of(run_folder / "report.html") == []
    caplog.set_level("INFO")
    main([str(run_folder), "--num_queries=4"])
    folder, rows = run_folder / "attention", rows_of(run_folder / "attention")
    assert len(rows) == 8 and len({row["picture"] for row in rows}) == 8
    pairs = {}
    with open(run_folder / "predictions.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["rank"] == "1":
                pairs[f"{int(row['query_num']):05d}"] = row["query"], row["prediction"]
    network = load_network(model_file).eval()
    maps = np.load(folder / "maps.npz")
    for row in rows:
        number, _, role = row["picture"].removesuffix(".jpg").partition("_")
        assert row["image"] == pairs[number][role == "top1"]
        pixels = load_image(row["image"])
        images = View("96")(pixels[None])[:, 0]
        assert [int(row["input_height"]), int(row["input_width"])] == list(images.shape[2:])
        assert [int(row["image_height"]), int(row["image_width"])] == list(pixels.shape[1:])
        heat = heat_maps(network, images).maps[""]
        np.testing.assert_array_equal(maps[row["picture"].removesuffix(".jpg")], heat)
        assert float(row["sum"]) == pytest.approx(heat.sum(), rel=1e-4)
        assert float(row["max_over_mean"]) == pytest.approx(heat.max() / heat.mean(), abs=1e-3)
        assert row["kind"] == "gradient x activation" and row["resize"] == "96"
        assert row["model_sha256"] == commons.sha256_of(model_file)
        assert Image.open(folder / row["picture"]).width > 600
    shown = overlays_of(run_folder / "report.html")
    expected = [
        f"{'prediction 1' if 'top1' in row['picture'] else 'query'}: up to "
        f"{float(row['max_over_mean']):.1f} x the mean"
        for row in rows
    ]
    assert [caption for caption, _ in shown] == expected
    for (_, uri), row in zip(shown, rows, strict=True):
        image = Image.open(row["image"]).convert("RGB")
        drawn = draw_overlay(image, maps[row["picture"].removesuffix(".jpg")])
        difference = np.array(open_thumbnail(uri), float) - np.array(drawn, float)
        assert np.abs(difference).mean() < 8
    assert "by gradient x activation" in (run_folder / "report.html").read_text()
    assert "8 pictures of gradient x activation, images resized to 96" in caplog.text
    main([str(run_folder), "--num_queries=2"])  # replaces them
    assert len(rows_of(folder)) == 4 and len(list(folder.glob("*.jpg"))) == 4


def test_an_untrained_network_is_built_again(eval_flags, tmp_path, refused):
    flags = [flag for flag in eval_flags if "resume" not in flag]
    network = ["--untrained", "--backbone=Tiny", "--backbone_weights=none", "--aggregation=netvlad"]
    line = [*flags, *network, "--dataset=mini_city_test_v1", RESIZE, "--seed=3"]
    eval_main([*line, "--aggregation_args", "clusters=4"])
    run = tmp_path / "run"
    main([str(run), "--num_queries=1"])
    assert {row["kind"] for row in rows_of(run / "attention")} == {"residuals by assignment"}
    result = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(result | {"seed": 4}))
    assert "has other weights here" in refused(main, [str(run)], 1)


def test_any_images_of_a_model(model_file, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for name in ("b", "a"):
        write_image(tmp_path / "photos" / f"{name}.png", (80, 64))
    (tmp_path / "photos" / "c.jpg").write_bytes(b"\xff\xd8 no more")
    single = write_image(tmp_path / "=single.jpg", (64, 80))
    main([str(model_file), str(tmp_path / "photos"), str(single)])
    assert "Left out: The image" in caplog.text
    rows = rows_of(tmp_path / "attention")
    assert [row["picture"] for row in rows] == ["00000.jpg", "00001.jpg", "00003.jpg"]
    assert rows[0]["image"].endswith("a.png") and rows[-1]["image"].endswith("=single.jpg")
    assert {row["resize"] for row in rows} == {"none"}
    main([str(model_file), str(single), "--out=other", "--resize_test_imgs=48x32"])
    (row,) = rows_of(tmp_path / "other")
    assert (row["input_height"], row["input_width"]) == ("48", "32")


def test_a_run_looks_at_other_images_too(run_folder, tmp_path, caplog):
    result = json.loads((run_folder / "results.json").read_text())
    (run_folder / "results.json").write_text(json.dumps(result | {"test_method": "five_crops"}))
    image = write_image(tmp_path / "photo.png", (80, 64))
    main([str(run_folder), str(image), f"--out={tmp_path / 'out'}"])
    (row,) = rows_of(tmp_path / "out")
    assert row["resize"] == "96" and not (run_folder / "attention").exists()
    assert "saw its queries by five_crops" in caplog.text


def test_wrong_calls_are_sentences(run_folder, model_file, tmp_path, refused):
    image = write_image(tmp_path / "photo.png", (80, 64))
    assert "a network needs IMAGES" in refused(main, [str(model_file)], 2)
    assert "at least 1" in refused(main, [str(run_folder), "--num_queries=0"], 2)
    assert "There is no image" in refused(main, [str(model_file), str(tmp_path / "no.png")], 1)
    assert "names no model" in refused(main, ["cosplace_", str(image)], 1)
    hub = ["hub:owner/name:entry", str(image)]
    assert "is a model of others" in refused(main, hub, 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    line = [str(model_file), str(image), f"--out={tmp_path / 'full'}"]
    assert "holds other files" in refused(main, line, 1)
    assert (tmp_path / "full" / "letter.txt").read_text() == "dear"
    (tmp_path / "broken.png").write_bytes(b"no")
    line = [str(model_file), str(tmp_path / "broken.png"), "--out=new"]
    assert "No image can be drawn, of 1; " in refused(main, line, 1)
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileNotFoundError, match="No image in"):
        list_pictures([str(tmp_path / "full")])
    (tmp_path / "net.py").write_text("def get_model(): return None")
    line = [str(tmp_path / "net.py"), str(image)]
    assert "net.py is a model of others, which does not show its maps" in refused(main, line, 1)


def test_images_too_small_for_a_network_are_left_out(tmp_path, caplog):
    network = build_network("Tiny", 0, "salad", "none", aggregation_args=SMALL_SALAD)
    save_atomically(network.state_dict(), tmp_path / "salad.pth")
    photos = [write_image(tmp_path / f"{side}.png", (side, side)) for side in (16, 64)]
    main([str(tmp_path / "salad.pth"), *map(str, photos), f"--out={tmp_path / 'out'}"])
    assert {row["image"] for row in rows_of(tmp_path / "out")} == {str(photos[1])}
    assert f"Left out: {photos[0]}: salad shares locations out among 4 clusters" in caplog.text


def test_pictures_are_not_replaced_beside_files_of_the_user(model_file, tmp_path, refused):
    image, out = write_image(tmp_path / "photo.png", (80, 64)), tmp_path / "out"
    line = [str(model_file), str(image), f"--out={out}"]
    main(line)
    main(line)  # replaces its own
    (out / "notes.txt").write_text("seen")
    assert f"{out} holds other files" in refused(main, line, 1)
    assert (out / "notes.txt").read_text() == "seen" and len(rows_of(out)) == 1


def test_the_model_of_a_run_must_be_the_same(run_folder, model_file, tmp_path, refused):
    file = run_folder / "results.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps(result | {"model_file": str(tmp_path / "gone.pth")}))
    assert "gone.pth: put it into that folder" in refused(main, [str(run_folder)], 1)
    shutil.copy(model_file, run_folder / "gone.pth")
    main([str(run_folder), "--num_queries=1"])
    assert len(rows_of(run_folder / "attention")) == 2
    with open(run_folder / "gone.pth", "ab") as broken:
        broken.write(b"more")
    assert "its SHA-256 is another" in refused(main, [str(run_folder)], 1)
    file.write_text(json.dumps(result | {"model": "onnx:a.onnx", "model_file": None}))
    assert "onnx:a.onnx" in refused(main, [str(run_folder)], 1)


def test_maps_of_another_model_and_damaged_ones_are_not_shown(run_folder):
    main([str(run_folder), "--num_queries=2"])
    folder = run_folder / "attention"
    looks, problem = read_looks(folder, "0123")
    assert looks == {} and "are of another model" in problem
    result = json.loads((run_folder / "results.json").read_text())
    (run_folder / "results.json").write_text(json.dumps(result | {"model_sha256": "0123"}))
    page = write_report(run_folder)
    assert overlays_of(page) == [] and "are of another model" in page.read_text()
    (folder / "maps.npz").write_bytes(b"PK no more")
    with pytest.raises(ValueError, match="attention are damaged .*: remove the folder"):
        read_looks(folder, result["model_sha256"])


def test_reports_without_pictures_are_as_before(tmp_path):
    page = write_report(write_run(tmp_path))
    assert overlays_of(page) == [] and "Heat maps" not in page.read_text()
