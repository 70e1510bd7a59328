"""Entry points in processes of their own that start at once, for tests that hurt them.

    command = run_forked("eval", ["--dataset=mini_city_val", ...], tmp_path / "first")
    wait_until(lambda: (run_folder / "args.json").exists(), command)
    command.kill()                         # kill -9 of it and of its loader workers
    assert command.wait() == -signal.SIGKILL and "Traceback" not in command.stderr

Importing torch, faiss and numba takes seconds. A server process imports the entry points once; each
command is a fork of it, with a session of its own, that goes through `commons.run_command` as the
real command does. What it prints goes into two files.
"""

import atexit
import contextlib
import functools
import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import commons
import stops

REPOSITORY = Path(__file__).parents[1]
PRELOADED = ("eval", "train", "localize", "tiny_backbone")  # imported once


class ForkedCommand:
    """A command that runs, or has run.

    Attributes:
        pid: Its process, which leads a session that its loader workers belong to.
    """

    def __init__(self, process: multiprocessing.Process, said: Path) -> None:
        """Take over a process that has been started and writes into `said`.out and `said`.err."""
        self.pid = process.pid
        self._process, self._said = process, said

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._said.with_suffix(".out").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has printed to stderr so far: errors and progress bars."""
        return self._said.with_suffix(".err").read_text(errors="replace")

    def wait(self, timeout_s: float = 120) -> int:
        """Wait for its end.

        Returns:
            The exit code, or minus the number of the signal that killed it.

        Raises:
            TimeoutError: If it does not end; it is killed then.
        """
        self._process.join(timeout_s)
        if self.is_running:
            self.kill()
            raise TimeoutError(f"It did not end within {timeout_s} s:\n{self.stdout}{self.stderr}")
        return self._process.exitcode

    def send(self, signal_number: int, to_workers: bool = False) -> None:
        """Send a signal to it, also to its loader workers if asked for; to none if it has ended."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if to_workers else os.kill)(self.pid, signal_number)

    def kill(self) -> None:
        """Kill it and its loader workers, as the end of a cluster's job does, and wait."""
        self.send(signal.SIGKILL, to_workers=True)
        self._process.join()


def run_forked(
    module: str,
    argv: Sequence[object],
    said: Path,
    before: Callable[[], object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> ForkedCommand:
    """Start an entry point, in the current folder; returns when it has its own session.

    Args:
        module: Name of the module with `main(argv)`.
        argv: Its command line.
        said: What it prints goes to this path with the suffixes .out and .err.
        before: Called in the new process first: sets limits, or breaks something. It is pickled: a
            function of a module, or a partial of one.
        environment: Variables beside those that the first forked command of this process had.
    """
    context = _fork_server()
    has_begun, tell = context.Pipe(duplex=False)
    variables = dict(environment or {})
    method = multiprocessing.get_start_method()  # of its loader workers
    start = (module, [str(word) for word in argv], said, before, variables, method, tell)
    process = context.Process(target=_run, args=start)
    process.start()
    tell.close()
    try:
        has_begun.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{module} did not start: exit code {process.exitcode}") from None
    command = ForkedCommand(process, said)
    atexit.register(command.kill)  # a test that fails may leave it standing still
    return command


def run_job(
    num_processes: int,
    module: str,
    argv: Sequence[object],
    said: Path,
    before: Callable[[], object] | None = None,
) -> list[ForkedCommand]:
    """Start the processes of a job as torchrun does; what each prints goes to `said`0 and so on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    job |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(num_processes))
    return [
        run_forked(
            module,
            argv,
            said.with_name(f"{said.name}{rank}"),
            before,
            job | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
        )
        for rank in range(num_processes)
    ]


def wait_for_all(commands: Sequence[ForkedCommand]) -> None:
    """Wait for the end of a job, which must not fail."""
    for command in commands:
        assert command.wait() == 0, command.stderr


def wait_until(
    condition: Callable[[], object], command: ForkedCommand, timeout_s: float = 60
) -> None:
    """Wait until something is so.

    Raises:
        RuntimeError: If the command ends before.
        TimeoutError: If it takes too long; the command is killed then.
    """
    end_s = time.monotonic() + timeout_s
    while not condition():
        if not command.is_running and not condition():
            raise RuntimeError(f"It ended too early:\n{command.stdout}{command.stderr}")
        if time.monotonic() > end_s:
            command.kill()
            raise TimeoutError(f"It took too long:\n{command.stdout}{command.stderr}")
        time.sleep(0.002)


@functools.cache
def _fork_server() -> multiprocessing.context.ForkServerContext:
    """Start the server, which imports the entry points."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with pytest.MonkeyPatch.context() as patch:  # the server has no other way to find modules
        patch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}")
        multiprocessing.forkserver.ensure_running()
    return context


def _run(
    module: str,
    argv: list[str],
    said: Path,
    before: Callable[[], object] | None,
    variables: dict[str, str],
    start_method: str,
    tell: Connection,
) -> None:
    os.setsid()
    said.parent.mkdir(parents=True, exist_ok=True)
    for suffix, stream in ((".out", sys.stdout), (".err", sys.stderr)):
        with open(said.with_suffix(suffix), "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    stops.begin()
    os.environ.update(variables)
    multiprocessing.set_start_method(start_method, force=True)
    sys.argv = [f"{module}.py", *argv]
    for name in PRELOADED:  # a server that was started anew has preloaded nothing
        importlib.import_module(name)
    main = importlib.import_module(module).main
    tell.send("begun")
    tell.close()
    if before is not None:
        before()
    commons.run_command(lambda: main(argv))
