"""Looking runs up by their settings."""

import json

import pytest
from paper_runs import make_sets, write_evaluation, write_training

from commons import sha256_of
from paper.networks import Released
from paper.run_log import Missing, RunLog
from paper.scales import MINI, PAPER

SOURCE = PAPER.cosplace("ResNet18", 512)
PITTS = "pitts30k"
RECALLS = {"R@1": 50.0, "R@5": 60.0, "R@10": 70.0}


@pytest.fixture
def data(tmp_path):
    sets = ("sf_xl", "sf_xl_val", "sf_xl_test_v1", PITTS, "tokyo247")
    return make_sets(tmp_path / "data", *sets)


@pytest.fixture
def logs(tmp_path):
    return tmp_path / "logs"


def look(logs, data):
    return RunLog(logs, str(data))


def train(logs, name="a", source=SOURCE, seed=0, recalls=(1.0, 3.0, 2.0), more=(), **options):
    return write_training(logs / name, [*source.argv(seed), *more], recalls, **options)


def recalls_of(log, source, seed, dataset):
    found = log.evaluation(source, seed, dataset)
    return found if isinstance(found, Missing) else log.result(found)["recalls"]


def sha256(folder):
    return {"model_sha256": sha256_of(folder / "best_model.pth")}


def test_a_training_is_found_by_its_flags_wherever_it_is(logs, data):
    folder = train(logs, "by_hand/long_ago")
    found = look(logs, data).training(SOURCE, 0)
    assert (found.folder, found.is_done) == (folder, True)
    assert found.best_model == folder / "best_model.pth"


@pytest.mark.parametrize(
    "more",
    [
        *("--num_workers=3", "--device=cpu", "--cache_folder=x", "--datasets_folder=y"),
        *("--augmentation_device=cpu", "--num_preds_to_save=3", "--infer_batch_size=2"),
    ],
)
def test_where_and_how_fast_it_ran_does_not_matter(logs, data, more):
    train(logs, more=[more])
    assert look(logs, data).training(SOURCE, 0) is not None


@pytest.mark.parametrize(
    "more",
    [
        *("--batch_size=31", "--lr=0.1", "--use_amp16", "--train_all_layers", "--seed=1", "--M=9"),
        *("--epochs_num=49", "--train_set_folder=x", "--val_set_folder=x", "--pooling=avg"),
        *("--backbone_weights=none", "--brightness=0", "--resize_test_imgs=480"),
        *("--resume_model=x", "--groups_num=7", "--image_size=256", "--fc_output_dim=256"),
    ],
)
def test_a_training_with_other_settings_is_another_one(logs, data, more):
    train(logs, more=[more])
    assert look(logs, data).training(SOURCE, 0) is None


def test_a_run_of_an_older_version_cannot_have_flags_that_it_did_not_know(logs, data):
    folder = train(logs)
    (folder / "args.json").write_text('{"groups_num": 8, "dataset": "sf_xl"}')
    assert look(logs, data).training(PAPER.cosplace("VGG16", 512), 0) is None


def test_a_run_of_an_older_version_has_its_aggregation_under_another_name(logs, data):
    folder = train(logs)
    flags = json.loads((folder / "args.json").read_text())
    for pooling, is_same in ((flags["aggregation"], True), ("avg", False)):
        older = flags | {"pooling": pooling}
        del older["aggregation"]
        (folder / "args.json").write_text(json.dumps(older))
        assert (look(logs, data).training(SOURCE, 0) is not None) == is_same


def test_a_trial_of_two_epochs_is_not_the_papers_training(logs, data):
    train(logs, more=["--epochs_num=2"])
    assert look(logs, data).training(SOURCE, 0) is None


def test_a_training_is_only_done_with_all_its_epochs_and_its_network(logs, data):
    folder = train(logs)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:49]))  # results are of a shorter training
    found = look(logs, data).training(SOURCE, 0)
    assert (found.num_epochs, found.is_done) == (49, False)
    (folder / "best_model.pth").unlink()
    assert look(logs, data).training(SOURCE, 0) is None


def test_a_training_whose_flags_were_changed_on_the_way_is_another_one(logs, data):
    folder = train(logs)
    flags = json.loads((folder / "args.json").read_text())
    for changed, is_found in (([], True), (["lr from 1e-4 to 1e-05"], False)):
        (folder / "args.json").write_text(json.dumps(flags | {"changed_on_resume": changed}))
        assert (look(logs, data).training(SOURCE, 0) is not None) == is_found


def test_the_test_at_the_end_of_a_training_counts_as_well(logs, data):
    folder = train(logs)
    result = {"dataset": "sf_xl_test_v1", "num_queries": 1, "num_database": 1, "recalls": RECALLS}
    (folder / "results.json").write_text(json.dumps(result | sha256(folder)))
    assert recalls_of(look(logs, data), SOURCE, 0, "sf_xl_test_v1") == RECALLS


def test_results_without_the_recalls_of_the_tables_are_not_enough(logs, data):
    write_evaluation(logs / "e", sha256(train(logs)), {PITTS: {"R@1": 50.0}}, data)
    assert recalls_of(look(logs, data), SOURCE, 0, PITTS) == Missing("not run")


def test_what_was_measured_elsewhere_is_there_also_without_the_data_set(logs, data, tmp_path):
    write_evaluation(logs / "e", sha256(train(logs)), {"st_lucia": RECALLS}, data)
    assert recalls_of(look(logs, data), SOURCE, 0, "st_lucia") == RECALLS


def test_a_run_of_an_older_version_lacks_new_flags_that_were_not_changed(logs, data):
    folder = train(logs)
    flags = json.loads((folder / "args.json").read_text())
    del flags["random_resized_crop"]
    (folder / "args.json").write_text(json.dumps(flags))
    assert look(logs, data).training(SOURCE, 0) is not None


def test_the_interrupted_run_that_got_farthest_is_continued(logs, data):
    train(logs, "a", recalls=(1.0,), is_done=False)
    farther = train(logs, "b", recalls=(1.0, 2.0), is_done=False)
    train(logs, "c", recalls=(), is_done=False)
    found = look(logs, data).training(SOURCE, 0)
    assert (found.folder, found.is_done) == (farther, False)


def test_a_run_without_a_checkpoint_cannot_be_continued(logs, data):
    folder = train(logs, is_done=False)
    (folder / "last_checkpoint.pth").unlink()
    assert look(logs, data).training(SOURCE, 0) is None


def test_the_validation_recall_is_that_of_the_best_epoch(logs, data):
    assert look(logs, data).finished_training(SOURCE, 0) == Missing("not run")
    train(logs, recalls=(1.0, 3.0, 2.0))
    assert look(logs, data).finished_training(SOURCE, 0).best_val_recall == 3.0
    found = look(logs, data).finished_training(Released("cosplace:VGG16:64"), 0)
    assert found == Missing("not trained here")


def test_results_belong_to_the_weights_not_to_the_path(logs, data):
    model = sha256(train(logs))
    write_evaluation(logs / "e", model, {PITTS: RECALLS}, data)
    log = look(logs, data)
    assert recalls_of(log, SOURCE, 0, PITTS) == RECALLS
    assert log.evaluation(SOURCE, 0, PITTS) == logs / "e" / PITTS
    assert recalls_of(log, SOURCE, 1, PITTS) == Missing("not run")
    assert recalls_of(log, SOURCE, 0, "tokyo247") == Missing("not run")
    (logs / "a" / "best_model.pth").write_bytes(b"another network")
    assert recalls_of(look(logs, data), SOURCE, 0, PITTS) == Missing("not run")


@pytest.mark.parametrize(
    "argv",
    [
        *("--test_method=five_crops", "--search=HNSW32", "--positive_dist_threshold=10"),
        *("--per_city", "--positives=x.csv", "--skip_unreadable", "--resize_test_imgs=480"),
    ],
)
def test_results_by_another_protocol_do_not_count(logs, data, argv):
    write_evaluation(logs / "e", sha256(train(logs)), {PITTS: RECALLS}, data, [argv])
    assert recalls_of(look(logs, data), SOURCE, 0, PITTS) == Missing("not run")


def test_results_have_the_image_size_of_the_network(logs, data):
    source = PAPER.compared("gem", PITTS)
    make_sets(data, "pitts30k_val")
    model = sha256(train(logs, source=source))
    write_evaluation(logs / "e", model, {PITTS: RECALLS}, data)
    assert recalls_of(look(logs, data), source, 0, PITTS) == Missing("not run")
    argv = ["--resize_test_imgs=480x640"]
    write_evaluation(logs / "f", model, {PITTS: RECALLS}, data, argv)
    assert recalls_of(look(logs, data), source, 0, PITTS) == RECALLS


def test_trainings_of_methods_are_told_apart(logs, data):
    netvlad, sare = (PAPER.compared(name, PITTS) for name in ("netvlad", "sare"))
    folder = train(logs, source=netvlad, recalls=(1.0,), is_done=False)
    log = look(logs, data)
    assert log.training(netvlad, 0).folder == folder
    assert log.training(sare, 0) is None and log.training(SOURCE, 0) is None
    train(logs, "b")
    log.refresh()
    assert log.training(SOURCE, 0).folder == logs / "b"
    assert log.training(netvlad, 0).folder == folder


def test_patience_may_end_a_training(logs, data):
    source = PAPER.compared("gem", PITTS)
    folder = train(logs, source=source)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:7]))
    found = look(logs, data).training(source, 0)
    assert (found.num_epochs, found.is_done) == (7, True)


def test_a_training_has_several_whitenings(logs, data):
    source = PAPER.compared("netvlad", PITTS)
    folder, log = train(logs, source=source), look(logs, data)
    assert log.training(source, 0).model == folder / "whitened_model.pth"
    other = log.training(source.changed(whitening="pca_whiten", whiten_dim=64), 0)
    assert (other.folder, other.model) == (folder, folder / "pca_whiten_64_64_of_10000.pth")
    assert log.evaluation(source, 0, PITTS) == Missing("not run")  # the file is missing
    (folder / "whitened_model.pth").write_bytes(b"whitened")
    whitened = {"model_sha256": sha256_of(folder / "whitened_model.pth")}
    argv = ["--resize_test_imgs=480x640"]
    write_evaluation(logs / "e", whitened, {PITTS: RECALLS}, data, argv)
    write_evaluation(logs / "f", sha256(folder), {PITTS: RECALLS | {"R@1": 1.0}}, data, argv)
    assert recalls_of(look(logs, data), source, 0, PITTS) == RECALLS


def test_a_training_belongs_to_the_network_that_it_started_from(logs, data):
    crn = PAPER.compared("crn", PITTS)
    train(logs, "alone", source=crn, more=["--resume_model=x"])
    assert look(logs, data).training(crn, 0) is None
    start = train(logs, "netvlad", source=crn.start)
    other = train(logs, "other_seed", source=crn.start, seed=1)
    for name, begin in (("a", other), ("b", start)):
        more = [f"--resume_model={begin / 'best_model.pth'}"]
        train(logs, f"crn_{name}", source=crn, more=more)
    assert look(logs, data).training(crn, 0).folder == logs / "crn_b"
    (start / "results.json").unlink()
    assert look(logs, data).training(crn, 0) is None


def test_a_released_network_is_known_by_its_name(logs, data):
    model = {"model": "landmark:GLD:ResNet50", "model_sha256": "x"}
    write_evaluation(logs / "e", model, {PITTS: RECALLS}, data)
    log = look(logs, data)
    assert recalls_of(log, Released("landmark:GLD:ResNet50"), 0, PITTS) == RECALLS
    assert recalls_of(log, Released("landmark:GLD:ResNet50:512"), 0, PITTS) == Missing("not run")


def test_why_there_is_no_number(logs, data):
    log = look(logs, data)
    assert recalls_of(log, SOURCE, 0, "st_lucia") == Missing("no data set")
    train(logs, is_done=False)
    assert recalls_of(look(logs, data), SOURCE, 0, PITTS) == Missing("interrupted")


def test_runs_on_another_mini_city_do_not_count(logs, tmp_path):
    source = MINI.cosplace("ResNet18", 512)
    name = "mini_city_test_v1"
    here, there = (make_sets(tmp_path / place, "mini_city", name) for place in ("here", "there"))
    folder = write_training(logs / "a", source.argv(0), (1.0,), datasets_folder=here)
    argv = [f"--resize_test_imgs={MINI.resize}"]
    write_evaluation(logs / "e", sha256(folder), {name: RECALLS}, here, argv)
    assert recalls_of(look(logs, here), source, 0, name) == RECALLS
    assert look(logs, there).training(source, 0) is None
    folder = write_training(logs / "b", source.argv(0), (1.0,), datasets_folder=there)
    (folder / "best_model.pth").write_bytes((logs / "a" / "best_model.pth").read_bytes())
    assert recalls_of(look(logs, there), source, 0, name) == Missing("not run")


def test_what_is_no_run_is_passed_over(logs, data):
    train(logs)
    for name, content in (("x", "["), ("y", "[]"), ("z", '{"no_labels": false}')):
        (logs / name).mkdir()
        (logs / name / "args.json").write_text(content)
    assert look(logs, data).training(SOURCE, 0).folder == logs / "a"


def test_new_runs_are_seen_after_a_refresh(logs, data):
    log = look(logs, data)
    train(logs)
    assert log.training(SOURCE, 0) is None
    log.refresh()
    assert log.training(SOURCE, 0) is not None


def test_what_a_training_needs_is_looked_for(tmp_path, logs):
    needed = {"sf_xl": "training set sf_xl", "sf_xl_val": "data set sf_xl_val"}
    for name, missing in (needed | {"sf_xl_test_v1": "data set sf_xl_test_v1"}).items():
        assert look(logs, tmp_path).missing_for_training(SOURCE) == missing
        make_sets(tmp_path, name)
    assert look(logs, tmp_path).missing_for_training(SOURCE) == ""
    other = PAPER.cosplace("VGG16", 64, M=5)
    assert look(logs, tmp_path).missing_for_training(other) == "training set sf_xl_raw"
