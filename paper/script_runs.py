"""Runs of train.py and eval.py in processes of their own, which stop when this one is to stop."""

import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

import commons


def run_script(command: Sequence[object], stderr: IO[str], env: Mapping[str, str]) -> int:
    """Run a command to its end and return its exit code; what it prints is in its log.

    Raises:
        Stopped: If this process is to stop: the command has been told so, and has had the
            time that it needs to write what it goes on from.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=env,
        start_new_session=True,  # Ctrl-C comes by way of this process, once
    )
    try:
        return process.wait()
    except commons.Stopped:
        process.terminate()
        process.wait()
        raise
