"""Signals at any time, also a second one; consoles that are closed or on a full disk."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from breakages import do_all, do_at, send
from conftest import REPOSITORY
from test_starving_machines import commands, start  # noqa: F401, a fixture

long = pytest.mark.long
EXTRACT = "evaluation.descriptors:_Pipeline._launch"
AT = [  # command, function, exit code after SIGTERM
    ("train", "train:load_eval_sets", 0),
    pytest.param("train", "train:make_network", 0, marks=long),
    pytest.param("train", EXTRACT, 0, marks=long),
    pytest.param("train", "train:test", 0, marks=long),
    ("netvlad", "training.tuples:cross_distances", 0),
    pytest.param("netvlad", "training.tuples:extract_shard", 0, marks=long),
    ("places", "training.places:Places._pair_loss", 0),
    ("eval", "eval:load_named_sets", 1),
    pytest.param("eval", "eval:open_model", 1, marks=long),
    pytest.param("eval", "evaluation.evaluate:_search_shards", 1, marks=long),
    ("eval", "eval:write_report", 1),
    pytest.param("localize", "localize:list_photos", 1, marks=long),
    pytest.param("localize", "localize:load_model", 1, marks=long),
    pytest.param("localize", "localize:write_places", 1, marks=long),
]


@pytest.mark.parametrize(("name", "place", "code"), AT)
def test_a_signal_ends_a_command_wherever_it_is(commands, tmp_path, name, place, code):  # noqa: F811
    for number, expected in ((signal.SIGTERM, code), (signal.SIGINT, 130)):
        before = partial(do_at, place, 1, partial(send, number))
        command = start(commands, name, tmp_path / number.name, num_workers=0, before=before)
        assert command.wait() == expected, command.stdout + command.stderr
        assert f"Stopped by {number.name}. " in command.stdout
        assert "Traceback" not in command.stdout + command.stderr


def send_twice(number, pause_s):
    """Send a signal to this process, and once more later."""
    threading.Timer(pause_s, os.kill, (os.getpid(), number)).start()
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_changes_nothing_while_a_validation_ends(commands, tmp_path, number):  # noqa: F811
    twice = partial(do_at, EXTRACT, 2, partial(send_twice, number, 1.1))
    slowly = partial(do_at, "commons:_close_progress_bars", 1, partial(time.sleep, 1.5))
    before = partial(do_all, twice, slowly)
    command = start(commands, "train", tmp_path, num_workers=1, before=before)
    assert command.wait() == (0 if number == signal.SIGTERM else 130)
    assert command.stdout.count("Stopped by") == 1 and "Traceback" not in command.stderr


def test_a_signal_that_python_swallows_comes_again(commands, tmp_path):  # noqa: F811
    command = start(commands, "eval", tmp_path, num_workers=0, before=signal_in_destructor)
    assert command.wait() == 1
    assert "Stopped by SIGTERM" in command.stdout and "Exception ignored" not in command.stderr


class Fragile:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)


def signal_in_destructor():
    do_at("eval:load_named_sets", 1, lambda: (Fragile(), time.sleep(1)))


@pytest.mark.parametrize(
    "command",
    [
        ["train.py", "--dry_run"],
        pytest.param(["eval.py", "--untrained"], marks=long),
        pytest.param(["localize.py", "p", "--resume=m", "--database=d"], marks=long),
        pytest.param(["-m", "tools.whiten", "m", "--train_set_folder=d", "--dim=2"], marks=long),
        pytest.param(["-m", "tools.check", "d"], marks=long),
        pytest.param(["-m", "mini_city", "--folder=d"], marks=long),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_is_imported(tmp_path, command, number):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    is_entry_point = command[0].endswith(".py")
    words = [str(REPOSITORY / word) if word.endswith(".py") else word for word in command]
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *words],  # tells when it has begun
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:  # of the modules that are imported
        if line.rpartition("|")[2].strip() == ("machine" if is_entry_point else "commons"):
            break
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    expected = 130 if number == signal.SIGINT else int(command[0] != "train.py")
    assert process.returncode == expected, said
    assert f"Stopped by {number.name}. Start again" in said and "Traceback" not in said


@pytest.mark.parametrize(
    "redirection",
    [
        "> /dev/full 2>&1",
        pytest.param(">&- 2>&-", marks=long),
        pytest.param("2>&1 | head -c 1 > /dev/null", marks=long),
    ],
)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full device")
def test_a_run_outlives_its_console(commands, tmp_path, redirection):  # noqa: F811
    flags = [*commands["eval"], f"--save_dir={tmp_path / 'run'}", "--num_workers=2"]
    words = [sys.executable, "tests/tiny_backbone.py", "eval.py", *flags]
    shell = f'set -o pipefail; "$@" {redirection}'
    done = subprocess.run(["bash", "-c", shell, "bash", *words], cwd=REPOSITORY, timeout=300)
    assert done.returncode == 0
    assert (tmp_path / "run" / "results.json").exists()
    assert "Results are in" in (tmp_path / "run" / "info.log").read_text()
