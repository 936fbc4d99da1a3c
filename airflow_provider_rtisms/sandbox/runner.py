"""Run a sandbox from Python: in a thread of this process, or in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from airflow_provider_rtisms.sandbox.client import SandboxClient
from airflow_provider_rtisms.sandbox.server import serve
from airflow_provider_rtisms.sandbox.settings import Settings


class RunningSandbox(SandboxClient, ABC):
    """
    A sandbox that runs inside a ``with`` block.

    :param host: the address to bind.
    :param port: the port to bind; 0 for any free port.
    :param settings: see :class:`~airflow_provider_rtisms.sandbox.settings.Settings`.
    :raises ValueError: if a setting is unknown or its value is not valid.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, **settings: Any) -> None:
        super().__init__("")
        self._host = host
        self._port = port
        self._settings = Settings().changed(settings)

    def __enter__(self) -> Self:
        self.url = self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @abstractmethod
    def _start(self) -> str:
        """Start the sandbox, and return its base URL once it accepts connections."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop the sandbox, and return once it has stopped."""


class Sandbox(RunningSandbox):
    """A sandbox that runs in a background thread, with an event loop of its own."""

    def _start(self) -> str:
        started: Future[str] = Future()
        self._thread = threading.Thread(target=self._run, args=[started], name="rtisms-sandbox", daemon=True)
        self._thread.start()
        return started.result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self, started: Future[str]) -> None:
        try:
            asyncio.run(self._serve(started))
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: Future[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        async with serve(self._settings, self._host, self._port) as url:
            started.set_result(url)
            await self._stopping.wait()


class SandboxProcess(RunningSandbox):
    """A sandbox that runs in a process of its own, :attr:`process`. Use it for load tests, or to kill it."""

    process: subprocess.Popen[str]

    def _start(self) -> str:
        self.process = subprocess.Popen(  # noqa: S603  # our own command
            [
                *(sys.executable, "-m", "airflow_provider_rtisms.sandbox"),
                *(f"--host={self._host}", f"--port={self._port}"),
                *self._settings.arguments(),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        with self.process.stdout as first_line:  # type: ignore[union-attr]  # it is a pipe
            url = first_line.readline().strip()
        if not url:
            raise RuntimeError(f"the sandbox ended with exit code {self.process.wait()}")
        return url

    def _stop(self) -> None:
        self.process.terminate()
        self.process.wait()
