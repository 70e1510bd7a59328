"""What eval.py does when flags ask for more than one set by its own protocol."""

import csv
import json
import os

import numpy as np
import pytest
from conftest import write_image

from datasets.image_names import parse_image_name
from eval import main as eval_main
from reports.run_files import read_run_arrays
from tools.export import export_network

TEST_SET = "--dataset=mini_city_test_v1"


@pytest.fixture
def flags(eval_flags):
    return eval_flags


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_several_sets_share_a_database_and_end_in_one_table(flags, tmp_path, capfd):
    names = ["mini_city_test_v1", "mini_city_val", "mini_city_test_v2"]
    eval_main([*flags, "--datasets", *names, "--no_report"])
    printed = capfd.readouterr()
    passes = printed.err.count("Database:   0%")
    assert passes == 2, "val, and test once for v1 and v2"
    folder = tmp_path / "run"
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [row["data set"] for row in rows] == [names[0], names[2], names[1]]
    for row in rows:
        results = results_of(folder / row["data set"])
        assert f"{results['recalls']['R@5']:.1f}" == row["R@5"]
        eval_main(
            [*flags, f"--dataset={row['data set']}", f"--save_dir={folder}/{row['data set']}1"]
        )
        assert results_of(folder / f"{row['data set']}1")["recalls"] == results["recalls"]
    assert (folder / "table.md").read_text().count("| mini_city") == 3
    assert printed.out.count("mini_city_test_v2") > 1 and "R@20\n" in printed.out


def test_all_are_those_on_disk_and_the_others_are_listed(flags, tmp_path):
    eval_main([*flags, "--datasets", "all", "--no_report"])
    folders = {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()}
    assert folders == {"mini_city_val", "mini_city_test_v1", "mini_city_test_v2"}
    log = (tmp_path / "run" / "info.log").read_text()
    assert "Not below" in log and "pitts30k, " in log and "tokyo247" in log


def test_all_goes_on_past_a_set_that_is_broken(flags, datasets_folder, tmp_path):
    root = tmp_path / "sets"
    root.mkdir()
    (root / "mini_city").symlink_to(datasets_folder / "mini_city")
    for part in ("database", "queries"):
        (root / "tokyo247/images/test" / part).mkdir(parents=True)
    eval_main([*flags, f"--datasets_folder={root}", "--datasets", "all", "--no_report"])
    log = (tmp_path / "run" / "info.log").read_text()
    assert "tokyo247 is on disk, but not evaluated: No image in" in log
    assert len(list((tmp_path / "run").glob("mini_city*"))) == 3
    with pytest.raises(FileNotFoundError, match="No image in"):
        eval_main([*flags, f"--datasets_folder={root}", "--datasets", "all", "tokyo247"])


def test_several_query_folders(flags, datasets_folder, tmp_path):
    test_folder = datasets_folder / "mini_city/processed/test"
    own = [f"--test_set_folder={test_folder}", "--queries_folder", "queries_v1", "queries_v2"]
    eval_main([*flags, *own, "--no_report"])
    eval_main([*flags, "--dataset=mini_city_test_v2", f"--save_dir={tmp_path / 'v2'}"])
    folder = tmp_path / "run" / "processed_test_queries_v2"
    assert results_of(folder)["recalls"] == results_of(tmp_path / "v2")["recalls"]


def test_one_extraction_serves_many_questions(flags, tmp_path, capfd):
    saved = [f"--save_descriptors={tmp_path / 'saved'}"]
    eval_main([*flags, TEST_SET, *saved])
    assert len(list((tmp_path / "saved").glob("*.npy"))) == 2
    again = [f"--save_dir={tmp_path / 'again'}", f"--load_descriptors={tmp_path / 'saved'}"]
    capfd.readouterr()
    eval_main([*flags, TEST_SET, *again, "--positive_dist_threshold=5"])
    assert "img/s" not in capfd.readouterr().err, "nothing is extracted"
    first, second = results_of(tmp_path / "run"), results_of(tmp_path / "again")
    assert second["threshold_m"] == 5 and second["image_sizes"] == first["image_sizes"]
    for name in ("predictions", "descriptor_distances"):
        arrays = [np.load(tmp_path / run / "predictions.npz")[name] for run in ("run", "again")]
        np.testing.assert_array_equal(*arrays)


def test_an_extraction_that_stopped_is_resumed(flags, make_eval_folder, tmp_path, capfd):
    rng = np.random.default_rng(0)
    sizes = [(32, 24), (24, 32), (32, 24)]
    folder = make_eval_folder(rng.uniform(0, 90, (30, 2)), rng.uniform(0, 90, (5, 2)), sizes)
    flags += [f"--test_set_folder={folder}", "--infer_batch_size=1", "--no_report"]
    eval_main([*flags, f"--save_dir={tmp_path / 'at_once'}"])
    broken = sorted((folder / "database").iterdir())[20]  # of the third window of 8
    content = broken.read_bytes()
    broken.write_bytes(b"broken")
    flags += [f"--save_descriptors={tmp_path / 'saved'}"]
    with pytest.raises(ValueError, match="cannot be read"):
        eval_main([*flags, f"--save_dir={tmp_path / 'stopped'}"])
    broken.write_bytes(content)
    capfd.readouterr()
    eval_main(flags)
    printed = capfd.readouterr()
    assert "is from an interrupted run: it is resumed" in printed.out
    assert "Database:  27%|" in printed.err and "Database:   0%|" not in printed.err
    for file in ("predictions.csv", "predictions.npz"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "at_once" / file).read_bytes()


def test_an_exported_network_finds_the_same(flags, model_file, tmp_path):
    pytest.importorskip("onnxruntime")
    exported = tmp_path / "net.onnx"
    export_network(model_file, "onnx", exported)
    (resume,) = [flag for flag in flags if flag.startswith("--resume")]
    others = [flag for flag in flags if flag != resume] + [TEST_SET, "--no_report"]
    eval_main([*others, resume])
    eval_main([*others, f"--model=onnx:{exported}", f"--save_dir={tmp_path / 'fast'}"])
    plain, found = (np.load(tmp_path / run / "predictions.npz") for run in ("run", "fast"))
    np.testing.assert_allclose(
        found["descriptor_distances"], plain["descriptor_distances"], atol=1e-4
    )
    np.testing.assert_array_equal(found["predictions"][:, 0], plain["predictions"][:, 0])
    models = [results_of(tmp_path / run)["model_file"] for run in ("run", "fast")]
    assert models == [str(model_file), str(exported)]


def test_descriptors_in_float16_take_half_the_disk(flags, tmp_path):
    saved = [f"--save_descriptors={tmp_path / 'saved'}", "--descriptors_dtype=float16"]
    eval_main([*flags, TEST_SET, "--no_report", *saved])
    files = list((tmp_path / "saved").glob("*.npy"))
    assert [np.load(file, mmap_mode="r").dtype for file in files] == [np.float16] * 2
    results = results_of(tmp_path / "run")
    assert results["descriptors_dtype"] == "float16" and results["use_amp16"] is False
    exact = [f"--save_dir={tmp_path / 'exact'}", f"--load_descriptors={tmp_path / 'saved'}"]
    eval_main([*flags, TEST_SET, "--no_report", *exact])
    distances = [
        np.load(tmp_path / run / "predictions.npz")["descriptor_distances"]
        for run in ("run", "exact")
    ]
    assert 0 < np.abs(distances[0] - distances[1]).max() < 1e-2, "those in float32 are others"


def test_positives_from_a_file(flags, make_eval_folder, tmp_path):
    folder = make_eval_folder([(0, 0), (50, 0), (90, 0)], [(0, 0), (1, 0)])
    positives = tmp_path / "positives.csv"
    positives.write_text("query,database\n0,0\n0,1\n0,2\n")
    eval_main([*flags, f"--test_set_folder={folder}", f"--positives={positives}"])
    results = results_of(tmp_path / "run")
    assert results["recalls"]["R@1"] == 50.0 and results["num_queries_without_positives"] == 1
    assert results["positives"] == f"read from {positives}" and results["threshold_m"] is None


def test_retrieval_without_labels_needs_no_positions(flags, tmp_path):
    for part, count in (("database", 4), ("queries", 2)):
        for number in range(count):
            write_image(tmp_path / "photos" / part / f"{number}.jpg")
    own = [f"--test_set_folder={tmp_path / 'photos'}", "--no_labels", "--num_preds_to_save=2"]
    eval_main([*flags, *own])
    assert results_of(tmp_path / "run")["recalls"] == {}
    with open(tmp_path / "run" / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4
    assert {(row["distance_m"], row["correct"]) for row in rows} == {("", "")}
    assert len(os.listdir(tmp_path / "run" / "preds")) == 2


def test_unreadable_images_are_counted_if_asked_for(flags, make_eval_folder, tmp_path, capsys):
    folder = make_eval_folder([(0, 0), (50, 0)], [(0, 1), (0, 2), (1, 0)])
    sorted((folder / "queries").iterdir())[1].write_bytes(b"broken")
    eval_main([*flags, f"--test_set_folder={folder}", "--skip_unreadable"])
    results = results_of(tmp_path / "run")
    assert results["num_unreadable"] == {"database": 0, "queries": 1}
    assert results["recalls"]["R@5"] == pytest.approx(200 / 3)


def test_arrays_for_curves_and_maps(flags, make_eval_folder, tmp_path):
    database, queries = [(0, 0), (50, 0), (50, 0), (90, 0)], [(0, 1), (50, 2)]
    folder = make_eval_folder(database, queries)
    eval_main([*flags, f"--test_set_folder={folder}"])
    arrays = np.load(tmp_path / "run" / "predictions.npz", allow_pickle=False)
    assert arrays["predictions"].shape == (2, 4), "as many as there are"
    metres = np.hypot(*(np.array(database)[arrays["predictions"]] - np.array(queries)[:, None]).T).T
    np.testing.assert_allclose(arrays["distances_m"], metres, atol=1e-4)
    np.testing.assert_array_equal(arrays["correct"], metres <= 25)
    assert arrays["num_positives"].tolist() == [1, 2]
    assert arrays["queries_m"].tolist() == [[0, 1], [50, 2]]
    assert arrays["places_m"].tolist() == [[0, 0], [50, 0], [90, 0]]
    first = np.array(database)[arrays["predictions"][:, 0]]
    assert arrays["first_predictions_m"].tolist() == first.tolist()


def test_reports_read_years_and_headings_from_the_names(flags, datasets_folder, tmp_path):
    eval_main([*flags, TEST_SET, "--no_report"])
    captures = read_run_arrays(tmp_path / "run").captures
    with open(tmp_path / "run" / "predictions.csv") as file:
        first = [row for row in csv.DictReader(file) if row["rank"] == "1"]
    names = [(parse_image_name(row["query"]), parse_image_name(row["prediction"])) for row in first]
    assert captures.query_years.tolist() == [int(query.timestamp[:4]) for query, _ in names]
    assert np.isnan(captures.query_headings_deg).all(), "a photo has none"
    headings = [image.heading_deg for _, image in names]
    assert captures.first_prediction_headings_deg.tolist() == headings
