"""Evaluations that are killed, stopped, several at once, or whose disk is full, locked or gone."""

import json
import random
import shutil
import signal
import time
from functools import partial

import pytest
from breakages import (
    do_all,
    do_at,
    fill_disk,
    kill,
    obey_permissions,
    put,
    send,
    wait_for,
)
from conftest import name, write_image
from forked_commands import run_forked, wait_until

long = pytest.mark.long
OFTEN = partial(put, "evaluation.descriptor_files:_CHUNK_S", -1.0)  # a chunk for each window
OF_A_START = {"args.json", "info.log", "debug.log", "environment.json", ".lock"}
NUM_DATABASE, WINDOW = 40, 8
LOADED, RESUMED = "are loaded from", "is from an interrupted run: it is resumed"
WRITE, JOIN = (f"evaluation.descriptor_files:_{name}" for name in ("write_chunk", "join_chunks"))
EXTRACT = "evaluation.descriptors:_Pipeline._launch"


@pytest.fixture(scope="module")
def argv(model_file, tmp_path_factory):
    """Return the flags of an evaluation of two sets of queries in five and two windows."""
    folder, rng = tmp_path_factory.mktemp("set"), random.Random(0)
    for part, count in (("database", NUM_DATABASE), ("day", 6), ("night", 7)):
        for number in range(count):
            position = rng.uniform(0, 100), rng.uniform(0, 100)
            write_image(folder / part / name(*position, pano_id=f"{number:03d}"))
    sets = [f"--test_set_folder={folder}", "--queries_folder", "day", "night"]
    small = ["--device=cpu", "--num_workers=1", "--infer_batch_size=1", "--no_report"]
    return [f"--resume={model_file}", *small, *sets]


@pytest.fixture(scope="module")
def whole(argv, tmp_path_factory):
    """Return what an evaluation leaves that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    command = run_forked("eval", [*argv, f"--save_dir={folder / 'run'}"], folder / "said")
    assert command.wait() == 0, command.stderr
    return found_in(folder / "run")


def found_in(folder):
    """Return what an evaluation has found, without times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in OF_A_START]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    for file in (file for file in found if file.endswith("results.json")):
        found[file] = {**json.loads(found[file]), "cost": None}
    return found


def evaluate(argv, tmp_path, *more, before=None):
    flags = [*argv, f"--save_dir={tmp_path / 'run'}", *more]
    return run_forked("eval", flags, tmp_path / "said", before)


@pytest.mark.parametrize(
    ("place", "call"),
    [
        pytest.param(EXTRACT, 1, marks=long),
        (WRITE, 7),  # five of the database, two of the queries by day
        pytest.param("commons:sync_file", 8, marks=long),  # between the files of a chunk
        pytest.param(JOIN, 1, marks=long),
        pytest.param("evaluation.descriptor_files:summarise_sizes", 1, marks=long),
        pytest.param("evaluation.descriptor_files:shutil.rmtree", 2, marks=long),
        pytest.param("eval:write_results", 2, marks=long),
        pytest.param("eval:write_tables", 1, marks=long),
    ],
)
def test_the_same_command_continues_with_saved_descriptors(argv, tmp_path, whole, place, call):
    save = f"--save_descriptors={tmp_path / 'saved'}"
    command = evaluate(
        argv, tmp_path, save, before=partial(do_all, OFTEN, partial(do_at, place, call, kill))
    )
    assert command.wait() == -signal.SIGKILL
    done = list((tmp_path / "saved").rglob("*.npy"))
    command = evaluate(argv, tmp_path, save)
    assert command.wait() == 0, command.stderr
    assert found_in(tmp_path / "run") == whole
    assert not done or LOADED in command.stdout or RESUMED in command.stdout
    assert not list((tmp_path / "saved").glob("*.chunks"))


@pytest.mark.parametrize(
    ("place", "call"),
    [
        pytest.param("eval:record_start", 1, marks=long),
        pytest.param(EXTRACT, 3, marks=long),
        pytest.param("evaluation.results:_collect_arrays", 1, marks=long),
        ("eval:write_results", 2),
        pytest.param("eval:write_tables", 1, marks=long),
    ],
)
def test_without_them_the_same_command_starts_over(argv, tmp_path, whole, place, call):
    command = evaluate(argv, tmp_path, before=partial(do_at, place, call, kill))
    assert command.wait() == -signal.SIGKILL
    command = evaluate(argv, tmp_path)
    assert command.wait() == 0, command.stderr
    assert found_in(tmp_path / "run") == whole
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert len(starts) == (1 if "record_start" in place else 2)


def test_a_finished_evaluation_is_not_started_over(argv, tmp_path, whole):
    assert evaluate(argv, tmp_path).wait() == 0
    again = evaluate(argv, tmp_path, "--recall_values=7")
    assert again.wait() == 1
    assert (
        again.stderr == f"Error: {tmp_path / 'run'} already holds a run: give another --save_dir\n"
    )
    assert found_in(tmp_path / "run") == whole


@pytest.mark.parametrize(
    ("number", "saves", "code", "text"),
    [
        (signal.SIGTERM, True, 0, "Stopped by SIGTERM. Descriptors so far are in "),
        pytest.param(signal.SIGINT, True, 130, "Stopped by SIGINT. Descriptors so", marks=long),
        pytest.param(signal.SIGTERM, False, 1, "Stopped by SIGTERM. Start again", marks=long),
        (signal.SIGINT, False, 130, "Stopped by SIGINT. Start again; with --save_descriptors"),
    ],
)
def test_a_signal_loses_no_descriptor(argv, tmp_path, whole, number, saves, code, text):
    save = [f"--save_descriptors={tmp_path / 'saved'}"] * saves
    command = evaluate(
        argv, tmp_path, *save, before=partial(do_at, EXTRACT, 5, partial(send, number))
    )
    assert command.wait() == code
    assert text in command.stdout and "Traceback" not in command.stdout + command.stderr
    assert text in (tmp_path / "run" / "info.log").read_text()
    command = evaluate(argv, tmp_path, *save)
    assert command.wait() == 0
    assert found_in(tmp_path / "run") == whole
    assert (f" {3 * WINDOW}/{NUM_DATABASE} [00:00<?" in command.stderr) == saves, "it begins there"


def test_one_folder_has_one_evaluation(argv, tmp_path, whole):
    stop = partial(do_at, "eval:write_results", 1, partial(send, signal.SIGSTOP))
    first = evaluate(argv, tmp_path, before=stop)
    wait_until(lambda: (tmp_path / "run" / ".unfinished").exists(), first)
    flags = [*argv, f"--save_dir={tmp_path / 'run'}"]
    second = run_forked("eval", flags, tmp_path / "second")
    assert second.wait() == 1
    assert f"run is in use by process {first.pid} on host " in second.stderr
    first.send(signal.SIGCONT, to_workers=True)
    while first.is_running:  # it may have been stopped only now
        first.send(signal.SIGCONT, to_workers=True)
    assert first.wait() == 0
    assert found_in(tmp_path / "run") == whole


def test_evaluations_that_share_saved_descriptors_make_them_once(argv, tmp_path, whole):
    save = f"--save_descriptors={tmp_path / 'saved'}"
    is_there = tmp_path / "go"
    wait = partial(do_at, EXTRACT, 2, partial(wait_for, is_there))
    first = evaluate(argv, tmp_path / "a", save, before=wait)
    wait_until(lambda: list((tmp_path / "saved").glob("*.lock")), first)
    second = evaluate(argv, tmp_path / "b", save)
    wait_until(lambda: "Waiting for another evaluation, which extracts" in second.stdout, second)
    is_there.touch()
    assert (first.wait(), second.wait()) == (0, 0), first.stderr + second.stderr
    assert found_in(tmp_path / "a" / "run") == found_in(tmp_path / "b" / "run") == whole
    assert {file.suffix for file in (tmp_path / "saved").iterdir()} == {".json", ".npy"}
    assert (first.stdout + second.stdout).count(LOADED) == 3, "of database, day and night"


@long
def test_a_killed_maker_lets_the_waiting_one_go_on(argv, tmp_path, whole):
    save = f"--save_descriptors={tmp_path / 'saved'}"
    hang = partial(do_at, EXTRACT, 5, partial(wait_for, tmp_path / "x"))
    first = evaluate(argv, tmp_path / "a", save, before=partial(do_all, OFTEN, hang))
    wait_until(lambda: list((tmp_path / "saved").rglob("*.sizes.npy")), first)
    second = evaluate(argv, tmp_path / "b", save)
    wait_until(lambda: "Waiting for another evaluation, which extracts" in second.stdout, second)
    first.kill()
    assert second.wait() == 0, second.stderr
    assert found_in(tmp_path / "b" / "run") == whole
    assert RESUMED in second.stdout


@long
@pytest.mark.parametrize("saves", [True, False])
def test_kills_at_random_moments_change_nothing(argv, tmp_path, whole, saves):
    """Kill it again and again; the last one is left alone."""
    rng = random.Random(f"kill {saves}")
    save = [f"--save_descriptors={tmp_path / 'saved'}"] * saves
    num_killed = 0
    for _ in range(15):
        command = evaluate(argv, tmp_path, *save, before=OFTEN)
        time.sleep(rng.uniform(0, 0.8))
        command.kill()
        num_killed += command.wait() == -signal.SIGKILL
        if command.wait() == 0:  # it was quicker
            for folder in ("run", "saved"):
                shutil.rmtree(tmp_path / folder, ignore_errors=True)
    assert num_killed
    command = evaluate(argv, tmp_path, *save)
    assert command.wait() == 0, command.stderr
    assert found_in(tmp_path / "run") == whole


def test_a_disk_that_fills_up_while_descriptors_are_saved(argv, tmp_path, whole):
    """Once there is room, the same command resumes from the chunks that were written."""
    save = f"--save_descriptors={tmp_path / 'saved'}"
    chunks_of_16 = partial(put, "evaluation.descriptor_files:_CHUNK_IMAGES", 16)
    full = partial(do_at, WRITE, 2, partial(fill_disk, 1600))  # that is a little less
    command = evaluate(argv, tmp_path, save, before=partial(do_all, chunks_of_16, full))
    assert command.wait() == 1
    [chunks] = (tmp_path / "saved").glob("*.chunks")
    last = command.stderr.splitlines()[-1]
    assert last.startswith(f"Error: There is no space left to write {chunks}/16-32.descriptors.npy")
    assert "Traceback" not in command.stdout + command.stderr
    command = evaluate(argv, tmp_path, save)
    assert command.wait() == 0, command.stderr
    assert found_in(tmp_path / "run") == whole
    assert RESUMED in command.stdout


@long
def test_a_disk_that_is_full_when_results_are_written(argv, tmp_path, whole):
    full = partial(do_at, "eval:write_results", 2, partial(fill_disk, 3000))
    command = evaluate(argv, tmp_path, before=full)
    assert command.wait() == 1
    assert "There is no space left to write" in command.stderr
    assert "Traceback" not in command.stdout + command.stderr
    assert not (tmp_path / "run" / "table.md").exists()
    command = evaluate(argv, tmp_path)
    assert command.wait() == 0, command.stderr
    assert found_in(tmp_path / "run") == whole


def test_a_folder_that_is_removed_during_the_run(argv, tmp_path):
    hang = partial(do_at, "eval:write_results", 1, partial(wait_for, tmp_path / "go"))
    command = evaluate(argv, tmp_path, before=hang)
    wait_until(lambda: "Queries: 100%" in command.stderr, command)
    (tmp_path / "run").rename(tmp_path / "gone")
    (tmp_path / "go").touch()
    assert command.wait() == 1
    assert f"Error: The folder {tmp_path / 'run'} vanished during the run\n" in command.stderr
    assert "Traceback" not in command.stdout + command.stderr


def test_a_folder_that_cannot_be_written(argv, tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    command = evaluate(argv, tmp_path, before=obey_permissions)
    assert command.wait() == 1
    text = f"Error: The folder {tmp_path / 'run'} cannot be used for a run: Permission denied ("
    assert command.stderr.startswith(text) and command.stderr.count("\n") == 1
    assert not list((tmp_path / "run").iterdir())


@long
def test_saved_descriptors_in_a_folder_that_cannot_be_written(argv, tmp_path, whole):
    """Whole ones are loaded; those of an interrupted run are extracted again, in memory."""
    saved = tmp_path / "saved"
    stop = partial(do_at, EXTRACT, 3, stop_with_an_error)
    save = f"--save_descriptors={saved}"
    assert evaluate(argv, tmp_path, save, before=stop).wait() == 1
    files = {file: file.read_bytes() for file in saved.rglob("*") if file.is_file()}
    for path in [*files, *saved.glob("*.chunks"), saved]:
        path.chmod(path.stat().st_mode & 0o555)
    try:
        load = f"--load_descriptors={saved}"
        command = evaluate(argv, tmp_path, load, before=obey_permissions)
        assert command.wait() == 0, command.stderr
        assert "is from an interrupted run, but cannot be written: it is not" in command.stdout
        assert found_in(tmp_path / "run") == whole
        assert {file: file.read_bytes() for file in files} == files
        shutil.rmtree(tmp_path / "run")
        command = evaluate(argv, tmp_path, save, before=obey_permissions)
        assert command.wait() == 1 and ".lock: Permission denied" in command.stderr
    finally:
        for path in [saved, *saved.glob("*.chunks")]:
            path.chmod(0o700)


def stop_with_an_error():
    raise ValueError("no reason")
