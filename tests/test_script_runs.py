import os
import signal
import subprocess
import sys
import time

from conftest import REPOSITORY


def test_a_signal_stops_the_command_that_runs(tmp_path):
    """It has the time to write, and is not stopped twice."""
    slow = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path('told').open('a').write('x'))\n"
        "pathlib.Path('begun').touch()\n"
        "while not pathlib.Path('told').exists(): time.sleep(0.01)\n"
        "time.sleep(0.5); pathlib.Path('written').touch()\n"
    )
    script = (
        "import commons, os, sys\n"
        "from paper.script_runs import run_script\n"
        "from runs.signals import StopSignals\n"
        "def main():\n"
        "    with StopSignals('Repeat the command', True):\n"
        f"        run_script([sys.executable, '-c', {slow!r}], sys.stderr, os.environ)\n"
        "commons.run_command(main)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "begun").exists():
        assert parent.poll() is None
        time.sleep(0.01)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
    said, _ = parent.communicate(timeout=60)
    assert parent.returncode == 130 and said == "Stopped by SIGINT. Repeat the command\n"
    assert (tmp_path / "written").exists() and (tmp_path / "told").read_text() == "x"
