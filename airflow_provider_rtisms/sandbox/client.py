"""Run a sandbox, and control one that runs, over HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from airflow_provider_rtisms.sandbox.server import serve
from airflow_provider_rtisms.sandbox.settings import Fault, Settings
from airflow_provider_rtisms.sandbox.state import FIRST_SEEDED_ID, Message, Snapshot

_TIMEOUT = 300.0


class SandboxClient:
    """
    Controls a sandbox that is already running. Several threads can share one client.

    :param url: the sandbox's base URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._opener = build_opener(ProxyHandler({}))  # the environment's proxy cannot reach loopback

    @property
    def client_id(self) -> str:
        """The client id that can authenticate now."""
        return str(self._control("GET", "settings")["client_id"])

    @property
    def client_secret(self) -> str:
        """The client secret that can authenticate now."""
        return str(self._control("GET", "settings")["client_secret"])

    def connection_json(self) -> str:
        """Return an Airflow Connection to this sandbox in JSON, for ``AIRFLOW_CONN_RTISMS_DEFAULT`` and the like."""
        settings = self._control("GET", "settings")
        login = {"login": settings["client_id"], "password": settings["client_secret"]}
        return json.dumps({"conn_type": "rtisms", **login, "host": self.url})

    def state(self) -> Snapshot:
        """Return what the sandbox has received since its start or its last reset, and what it holds now."""
        fields = self._control("GET", "state")
        return Snapshot(**{**fields, "messages": [Message(**message) for message in fields["messages"]]})

    def reset(self, **settings: Any) -> None:
        """
        Go back to the start: forget tokens, messages and added submissions, and set all counters to zero.

        :param settings: settings that differ from the initial ones, until the next reset; see
            :class:`~airflow_provider_rtisms.sandbox.settings.Settings`.
        :raises ValueError: if a name is unknown or a value is not valid.
        """
        self._control("POST", "reset", **settings)

    def set_faults(self, *faults: Fault) -> None:
        """
        Replace the faults that are active.

        :param faults: the new faults; give none to switch all faults off.
        """
        self._control("POST", "faults", faults=faults)

    def set_timing(self, **seconds: float) -> None:
        """
        Change durations. Tokens and submissions that exist keep theirs.

        :param seconds: any of ``token_lifetime``, ``pending_for`` and ``sent_for``.
        :raises ValueError: if a name is unknown or a duration is negative.
        """
        self._control("POST", "timing", **seconds)

    def set_balance(self, balance: str) -> None:
        """
        Set the account's balance.

        :param balance: a decimal string.
        :raises ValueError: if it is not a decimal string.
        """
        self._control("POST", "balance", balance=balance)

    def rotate_secret(self, client_secret: str) -> None:
        """
        Change the client secret. Issued tokens stay valid; see :meth:`revoke_tokens`.

        :param client_secret: the new client secret.
        """
        self._control("POST", "credentials", client_secret=client_secret)

    def revoke_tokens(self) -> None:
        """Make every issued token invalid."""
        self._control("POST", "tokens/revoke")

    def seed(self, count: int) -> list[str]:
        """
        Let there be some DELIVERED submissions, whose ids are the same in every run.

        :param count: how many, in place of those that were seeded before.
        :return: their ids, which count up from 5000000000000000.
        :raises ValueError: if it is not a whole number.
        """
        self._control("POST", "seed", seed=count)
        return [str(FIRST_SEEDED_ID + number) for number in range(count)]

    def add_submission(
        self,
        status: str = "DELIVERED",
        *,
        submission_id: str | None = None,
        pending_for: float | None = None,
        sent_for: float | None = None,
        cost: float = 1,
    ) -> str:
        """
        Add a submission that is registered now, without sending a message.

        :param status: its final status, under any name. With PENDING or SENT it never becomes final.
        :param submission_id: its id, decimal digits; the next free id by default. It may replace a submission.
        :param pending_for: seconds that it stays PENDING; as in the settings by default.
        :param sent_for: seconds that it then stays SENT; as in the settings by default.
        :param cost: its cost.
        :return: its id.
        :raises ValueError: if a value is not valid.
        """
        times = {"pending_for": pending_for, "sent_for": sent_for}
        fields = {"status": status, "submission_id": submission_id, **times, "cost": cost}
        return str(self._control("POST", "submissions", **fields)["submission_id"])

    def _control(self, method: str, name: str, **fields: Any) -> dict[str, Any]:
        body = json.dumps(fields, default=vars).encode() if method == "POST" else None
        request = Request(f"{self.url}/sandbox/{name}", body, method=method)  # noqa: S310  # http only
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as response:
                return dict(json.load(response))
        except HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from None


class RunningSandbox(SandboxClient):
    """
    A sandbox that runs inside a ``with`` block.

    :param host: the address to bind.
    :param port: the port to bind; 0 for any free port.
    :param settings: see :class:`~airflow_provider_rtisms.sandbox.settings.Settings`.
    :raises ValueError: if a setting is unknown or its value is not valid.
    """

    #: Start the sandbox, and return its base URL once it accepts connections; stop it, and return once it has stopped.
    _start: Callable[[], str]
    _stop: Callable[[], None]

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, **settings: Any) -> None:
        super().__init__("")
        self._host = host
        self._port = port
        self._settings = Settings().changed(settings)

    def __enter__(self) -> Self:
        self.url = self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()


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
        address = [f"--host={self._host}", f"--port={self._port}"]
        command = [sys.executable, "-m", "airflow_provider_rtisms.sandbox", *address, *self._settings.arguments()]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  # our own command
        with self.process.stdout as first_line:  # type: ignore[union-attr]  # it is a pipe
            url = first_line.readline().strip()
        if not url:
            raise RuntimeError(f"the sandbox ended with exit code {self.process.wait()}")
        return url

    def _stop(self) -> None:
        self.process.terminate()
        self.process.wait()
