"""Start programs in sessions of their own, watch them, and kill them with all processes that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 600.0
"""
Seconds after which a wait gives up, for a slow machine that does other work.

The time is no verdict: a wait ends as soon as what it waits for is there, or a program has died.
"""


class ProcessDiedError(RuntimeError):
    """A program that should be running has exited."""


class Session:
    """
    A program and the processes that it starts, in a process session of their own.

    A Ctrl-C in the terminal does not reach them, so whoever starts a session has to kill it. The session finds
    processes that a process group would miss: Airflow puts every task into a group of its own.

    :param name: the name of the program, for messages.
    :param command: the program and its arguments.
    :param log: the file to which stdout and stderr are appended.
    :param env: the whole environment of the program.
    """

    def __init__(self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._leader = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the program, which is also the id of the session."""
        return self._leader.pid

    def is_running(self) -> bool:
        """Return whether the program is running."""
        return self._leader.poll() is None

    def check(self) -> None:
        """
        Check that the program is running.

        :raises ProcessDiedError: if it has exited; the message has the end of its log.
        """
        if (code := self._leader.poll()) is not None:
            raise ProcessDiedError(f"{self.name} exited with code {code}.\n{tail(self.log)}")

    def kill(self) -> None:
        """Kill all processes of the session (SIGKILL). Do nothing if none is left."""
        wait_until(lambda: not self._kill_members(), what=f"{self.name} to exit")
        self._leader.wait()

    def _kill_members(self) -> int:
        """Send SIGKILL to all live processes of the session, and return how many there were."""
        import psutil  # Airflow's; tests without Airflow take wait_until from here

        killed = 0
        for process in psutil.process_iter(["status"]):
            with contextlib.suppress(ProcessLookupError):
                if process.info["status"] != psutil.STATUS_ZOMBIE and os.getsid(process.pid) == self.pid:
                    os.kill(process.pid, signal.SIGKILL)
                    killed += 1
        return killed


def wait_until(
    condition: Callable[[], T | None], what: str, *, timeout: float = PATIENCE, watching: Iterable[Session] = ()
) -> T:
    """
    Poll until a condition returns a true value.

    :param condition: is called until it returns a true value.
    :param what: names the condition in the error: "waiting for ...".
    :param timeout: seconds.
    :param watching: programs that must be running meanwhile.
    :return: the true value.
    :raises ProcessDiedError: if one of the programs exits.
    :raises TimeoutError: if the condition returns no true value in time.
    """
    watched = list(watching)
    deadline = time.monotonic() + timeout
    while True:
        for process in watched:
            process.check()
        if result := condition():
            return result
        if time.monotonic() > deadline:
            tails = "\n".join(tail(process.log) for process in watched)
            raise TimeoutError(f"Timed out after {timeout:.0f} s, waiting for {what}\n{tails}")
        time.sleep(0.05)


def tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log, below a heading with its name."""
    return "\n".join([f"--- {log.name} ---", *log.read_text(errors="replace").splitlines()[-lines:]])
