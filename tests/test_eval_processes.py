"""Several processes of torchrun give what one process gives."""

import itertools
import json

import numpy as np
import pytest
from conftest import WITH_TINY, name, run, write_image
from forked_commands import run_job, wait_for_all
from process_evaluations import evaluate_each

import commons
from eval import check_processes
from eval import main as eval_main
from evaluation.evaluate import own_shard

TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2")
NUM_DATABASE, NUM_QUERIES = 43, 11


@pytest.fixture
def folder(tmp_path):
    """Return a set of images of three sizes, in two cities, some unreadable."""
    rng = np.random.default_rng(0)
    sizes = itertools.cycle([(32, 24), (24, 32), (32, 24), (20, 20), (32, 24)])
    for part, count in (("database", NUM_DATABASE), ("queries", NUM_QUERIES)):
        for number, size in zip(range(count), sizes, strict=False):
            position = rng.uniform(0, 120, 2).round(2)
            file = name(*position, pano_id=f"{number:03d}", note=f"x_{['cph', 'sf'][number % 2]}")
            write_image(tmp_path / "set" / part / file, size)
    for part, number in (("database", 5), ("database", 40), ("queries", 2)):
        sorted((tmp_path / "set" / part).iterdir())[number].write_bytes(b"broken")
    return tmp_path / "set"


def test_every_process_gets_the_evaluation_of_one_process(folder, tmp_path):
    (tmp_path / "out").mkdir()
    folders = (folder, tmp_path / "saved", tmp_path / "out")
    wait_for_all(run_job(3, "process_evaluations", folders, tmp_path / "said"))
    for setting, expected in evaluate_each(folder, tmp_path / "saved_alone"):
        for rank in range(3):
            found = np.load(tmp_path / "out" / f"{setting}_{rank}.npz")
            np.testing.assert_array_equal(found["predictions"], expected.predictions, setting)
            np.testing.assert_array_equal(found["distances"], expected.distances, setting)
            assert str(found["result"]) == repr(expected.result), setting
    files = {file.name for file in (tmp_path / "saved").iterdir()}
    assert files == {file.name for file in (tmp_path / "saved_alone").iterdir()} and len(files) == 4
    for file in files:
        content = [(tmp_path / saved / file).read_bytes() for saved in ("saved", "saved_alone")]
        assert content[0] == content[1], file


def files_below(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_eval_py_leaves_the_files_of_one_process(eval_flags, tmp_path):
    flags = [*eval_flags, "--datasets", "mini_city_test_v1", "mini_city_val", "--no_report"]
    flags += ["--infer_batch_size=2"]
    job = run_job(2, "eval", [*flags, f"--save_dir={tmp_path / 'two'}"], tmp_path / "said")
    wait_for_all(job)
    said = "".join(command.stdout for command in job)
    assert said.count("Evaluating ") == 1 and said.count("Results are in") == 1
    eval_main([*flags, f"--save_dir={tmp_path / 'one'}"])
    one, two = (files_below(tmp_path / folder) for folder in ("one", "two"))
    assert one.keys() == two.keys() and "mini_city_val/results.json" in one
    same = [file for file in one if file.endswith((".csv", ".npz", "table.md"))]
    assert len(same) == 6
    assert all(one[file] == two[file] for file in same)
    for file in (file for file in one if file.endswith("results.json")):
        results = json.loads(two[file])
        assert results == json.loads(one[file]) | {"num_processes": 2, "cost": results["cost"]}


def test_an_error_of_one_process_ends_all(eval_flags, folder):
    """An unreadable image in the last shard: its process says so, and no result is written.

    Slow: torchrun itself ends the other processes.
    """
    for part, number in (("database", 5), ("queries", 2)):
        write_image(sorted((folder / part).iterdir())[number])
    broken = sorted((folder / "database").iterdir())[40]
    flags = [*eval_flags, f"--test_set_folder={folder}", "--infer_batch_size=1"]
    result = run(*TORCHRUN, *WITH_TINY, "eval.py", *flags)
    assert result.returncode != 0
    assert f"Error in process 1: The image {broken} cannot be read" in result.stderr
    assert not list(folder.parent.rglob("results.json"))
    assert "evaluation/" not in result.stderr, "no traceback but torchrun's own"


@pytest.mark.parametrize("flag", ["--search=HNSW32", "--save_place_index=saved"])
def test_an_index_is_of_one_process(eval_flags, monkeypatch, capsys, flag):
    monkeypatch.setattr(commons, "num_ranks", lambda: 2)
    with pytest.raises(SystemExit) as exit_code:
        eval_main([*eval_flags, "--dataset=mini_city_val", flag])
    assert exit_code.value.code == 2
    assert f"{flag.split('=')[0]}" in capsys.readouterr().err


def test_what_needs_no_index_is_searched_by_all_processes(monkeypatch):
    monkeypatch.setattr(commons, "num_ranks", lambda: 2)
    for search in ("exact", "fp16"):
        check_processes(search, save_place_index=None)


@pytest.mark.parametrize(
    ("num_images", "num_ranks", "sizes"),
    [
        (100, 1, [100]),
        (100, 3, [40, 30, 30]),
        (95, 3, [40, 30, 25]),
        (9, 3, [9, 0, 0]),
        (11, 3, [10, 1, 0]),
        (200, 8, [30, 20, 30, 20, 30, 20, 30, 20]),
    ],
)
def test_shards_cover_all_images_in_order(monkeypatch, num_images, num_ranks, sizes):
    monkeypatch.setattr(commons, "num_ranks", lambda: num_ranks)
    shards = []
    for rank in range(num_ranks):
        monkeypatch.setattr(commons, "rank", lambda rank=rank: rank)
        shards.append(own_shard(num_images, 10))
    assert [number for shard in shards for number in shard] == list(range(num_images))
    assert all(shard.start % 10 == 0 for shard in shards if len(shard))
    assert sorted(map(len, shards)) == sorted(sizes)
