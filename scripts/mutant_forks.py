"""Run functions in forks, such as the tests of one mutant of ``scripts.mutants``."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

#: The status of a process that was killed because it took too long.
TIMED_OUT = -2


class Forks:
    """
    Run functions in forks of this process, some at a time.

    :param most: how many at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: dict[int, tuple[Any, float]] = {}

    def run(self, jobs: Iterator[tuple[Any, Callable[[], int], float]]) -> Iterator[tuple[Any, int]]:
        """
        Run jobs.

        :param jobs: a key, a function, and the seconds after which its process is killed.
        :return: keys with exit statuses, as they end; -1 for a crash, :data:`TIMED_OUT` for one that took too long.
        """
        for key, function, seconds in jobs:
            while len(self._running) >= self._most:
                yield from self._reap()
            pid = os.fork()
            if pid == 0:
                self._work(function)
            self._running[pid] = (key, time.monotonic() + seconds)
        while self._running:
            yield from self._reap()

    def _reap(self) -> Iterator[tuple[Any, int]]:
        time.sleep(0.01)
        for pid, (key, deadline) in list(self._running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            is_late = False
            if not done and time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                done, is_late = pid, True
            if done:
                del self._running[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # servers that the tests have started
                yield key, TIMED_OUT if is_late else os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1

    @staticmethod
    def _work(function: Callable[[], int]) -> None:
        status = 99
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            status = function()
        finally:
            os._exit(status)
