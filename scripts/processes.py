"""Programs started in sessions of their own, watched, and killed with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")


class ProcessDiedError(RuntimeError):
    """A program that should be running has ended."""


class Session:
    """
    One program and whatever it starts, in a process session of its own, with its output in a file.

    A Ctrl-C in the terminal does not reach it: that is for us to pass on. Its process group would not do to find
    what it started: Airflow puts every task into a group of its own.

    :param name: what people call the program.
    :param command: the program and its arguments.
    :param log: the file that stdout and stderr are appended to.
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
        """The leader's process id, which is also the session's."""
        return self._leader.pid

    def is_running(self) -> bool:
        """Return whether the program has not ended."""
        return self._leader.poll() is None

    def check(self) -> None:
        """:raises ProcessDiedError: if the program has ended, with the end of its log."""
        if (code := self._leader.poll()) is not None:
            raise ProcessDiedError(f"{self.name} ended by itself with exit code {code}.\n{tail(self.log)}")

    def kill(self) -> None:
        """Kill the whole session at once (SIGKILL); does nothing where none of it is left."""
        wait_until(lambda: not self._kill_members(), what=f"the end of {self.name}", timeout=10)
        self._leader.wait()

    def _kill_members(self) -> int:
        """Send SIGKILL to all that is alive in the session, and return how many that were."""
        killed = 0
        for process in psutil.process_iter(["status"]):
            with contextlib.suppress(ProcessLookupError):
                if process.info["status"] != psutil.STATUS_ZOMBIE and os.getsid(process.pid) == self.pid:
                    os.kill(process.pid, signal.SIGKILL)
                    killed += 1
        return killed


def wait_until(condition: Callable[[], T | None], *, what: str, timeout: float, watching: Iterable[Session] = ()) -> T:
    """
    Poll until the condition gives something true, and return that.

    :param what: names the condition in the error.
    :param timeout: in seconds.
    :param watching: programs that must stay alive meanwhile.
    :raises ProcessDiedError: if one of them ends.
    :raises TimeoutError: if the condition has not come true in time.
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
            raise TimeoutError(f"Not within {timeout:.0f} s: {what}\n{tails}")
        time.sleep(0.1)


def tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log below a heading."""
    return "\n".join([f"--- {log.name} ---", *log.read_text(errors="replace").splitlines()[-lines:]])
