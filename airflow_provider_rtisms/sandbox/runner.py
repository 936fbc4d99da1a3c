"""Run a sandbox from Python: in a thread of this process, or in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from airflow_provider_rtisms.sandbox.client import SandboxClient
from airflow_provider_rtisms.sandbox.server import serve
from airflow_provider_rtisms.sandbox.settings import Settings


class Sandbox(SandboxClient):
    """A sandbox in a background thread with an event loop of its own, for as long as its context lasts.

    :param host: the address to bind.
    :param port: the port; 0 for any that is free.
    :param settings: see :class:`~airflow_provider_rtisms.sandbox.settings.Settings`.
    :raises ValueError: if a setting is unknown or makes no sense.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, **settings: Any) -> None:
        super().__init__("")
        self._settings = Settings().changed(settings)
        self._address = (host, port)
        self._started: Future[str] = Future()
        self._thread = threading.Thread(target=self._run, name="rtisms-sandbox", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = self._started.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with serve(self._settings, *self._address) as url:
            self._started.set_result(url)
            await self._stop.wait()


class SandboxProcess(SandboxClient):
    """A sandbox in a process of its own, for as long as its context lasts. For load, and to kill it.

    :param host: the address to bind.
    :param port: the port; 0 for any that is free.
    :param settings: see :class:`~airflow_provider_rtisms.sandbox.settings.Settings`.
    :raises ValueError: if a setting is unknown or makes no sense.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, **settings: Any) -> None:
        super().__init__("")
        self._command = [
            *(sys.executable, "-m", "airflow_provider_rtisms.sandbox", f"--host={host}", f"--port={port}"),
            *Settings().changed(settings).arguments(),
        ]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        with self.process.stdout as first_line:  # type: ignore[union-attr]  # it is a pipe
            self.url = first_line.readline().strip()
        if not self.url:
            raise RuntimeError(f"the sandbox ended with exit code {self.process.wait()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait()
