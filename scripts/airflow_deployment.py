"""Run a whole Airflow 3 on this machine inside a `with` block: real components, with ports and files of their own."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from scripts.dag_run import DagRun
from scripts.processes import PATIENCE, ProcessDiedError, Session, T, tail, wait_until
from scripts.servers import free_port

COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
"""Arguments of the command `airflow`. The log servers are off: their ports are fixed, and all logs are local."""

CELERY_WORKER = ["celery", "worker", "--skip-serve-logs", "--without-mingle", "--without-gossip", "--concurrency=2"]
"""Arguments of the command `airflow` for a worker of CeleryExecutor."""


class AirflowDeployment:
    """
    Airflow's components on loopback, with database and home in a temporary directory.

    The `with` block begins when the database is migrated and every component is healthy. At its end, after an error
    too, all processes are killed and the directory is removed. Run one at a time: it needs both cores of a machine.

    :param dag_files: the DAG files to serve.
    :param env: more environment variables for the components, such as `AIRFLOW_CONN_*`.
    :param settings: Airflow settings as `{"SECTION__KEY": value}`; they override those below.
    :param database: a migrated SQLite database to copy; None to migrate a new one, which takes some seconds.
    :param connections: Connections to store in the database before a component starts, by id.
    """

    def __init__(
        self,
        dag_files: Iterable[Path],
        *,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        database: Path | None = None,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="airflow-"))
        self.processes: dict[str, Session] = {}
        self._dag_files = list(dag_files)
        self._database = database
        self._connections = connections
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy on the way to loopback
        all_settings = {
            "API__BASE_URL": self.url,
            "API__HOST": "127.0.0.1",
            "API__PORT": str(port),
            "API__SECRET_KEY": secrets.token_hex(32),
            "API__WORKERS": "1",
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__DAGS_FOLDER": str(self.home / "dags"),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__PARALLELISM": "4",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            # The components share a SQLite file. On a busy machine, one may hold its lock for long.
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db?timeout=60",
            # Airflow notices a dead triggerer within seconds, but takes no busy one for dead.
            "TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
            # On a busy machine, programs of Airflow answer each other late and parse slowly.
            "CORE__DAGBAG_IMPORT_TIMEOUT": "300",
            "DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "600",
            "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "300",
            "WORKERS__EXECUTION_API_TIMEOUT": "120",
            **(settings or {}),
        }
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(self.home),
            "NO_PROXY": "127.0.0.1,localhost",
            "TMPDIR": str(self.home / "tmp"),
            **{f"AIRFLOW__{name}": value for name, value in all_settings.items()},
            **(env or {}),
        }

    def __enter__(self) -> Self:
        try:
            for name in ("dags", "logs", "tmp"):
                (self.home / name).mkdir()
            for dag_file in self._dag_files:
                shutil.copy(dag_file, self.home / "dags")
            (self.home / "airflow.cfg").touch()  # or else the components, which start together, each write one
            if self._database:
                shutil.copy(self._database, self.home / "airflow.db")
            else:
                self.migrate()
            if self._connections:
                self._store_connections(self._connections)
            for component in COMPONENTS:
                self.start(component)
            self.wait_until(self.is_healthy, what="all components to be healthy")
            self._session.headers["Authorization"] = f"Bearer {self._token()}"
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill all processes, and remove the directory."""
        for process in self.processes.values():
            process.kill()
        self._session.close()
        shutil.rmtree(self.home, ignore_errors=True)

    # --- Components -------------------------------------------------------------------------------

    def migrate(self) -> None:
        """
        Create the metadata database.

        :raises ProcessDiedError: if the command fails; the message has the end of its output.
        """
        self._run("db", "migrate")

    def _store_connections(self, connections: Mapping[str, Mapping[str, Any]]) -> None:
        file = self.home / "tmp" / "connections.json"
        file.write_text(json.dumps(connections))
        self._run("connections", "import", str(file))
        file.unlink()

    def _run(self, *arguments: str) -> None:
        """Run a command of Airflow to its end."""
        log = self.home / "logs" / f"{'-'.join(arguments[:2])}.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "airflow", *arguments]
            done = subprocess.run(command, env=self.env, stdout=output, stderr=subprocess.STDOUT)
        if done.returncode:
            raise ProcessDiedError(
                f"airflow {' '.join(arguments[:2])} failed with exit code {done.returncode}.\n{tail(log)}"
            )

    def start(self, component: str, *, name: str | None = None) -> Session:
        """
        Start one component, again after a kill, or a second one of its kind.

        :param component: a key of COMPONENTS, or `celery-worker`.
        :param name: its key in `processes` and the name of its log; the name of the component by default.
        :return: the process.
        """
        name = name or component
        command = CELERY_WORKER if component == "celery-worker" else COMPONENTS[component]
        process = Session(
            name,
            [sys.executable, "-m", "airflow", *command],
            log=self.home / "logs" / f"{name}.log",
            env=self.env,
        )
        self.processes[name] = process
        return process

    def kill(self, name: str) -> None:
        """Kill one component and all processes that it started (SIGKILL)."""
        self.processes.pop(name).kill()

    def recover(self, *, timeout: float = PATIENCE) -> set[str]:
        """
        Wait until all components are healthy. Restart components that exit meanwhile, as a service manager does.

        :param timeout: seconds.
        :return: the names of the components that were restarted.
        :raises TimeoutError: if they are not healthy in time.
        """
        restarted: set[str] = set()

        def is_recovered() -> bool:
            for name in [name for name, process in self.processes.items() if not process.is_running()]:
                restarted.add(name)
                self.kill(name)  # processes that it started may still run
                self.start(name)
            return self.is_healthy()

        wait_until(is_recovered, what="all components to recover", timeout=timeout)
        return restarted

    def check(self) -> None:
        """
        Check that every component is running.

        :raises ProcessDiedError: if a component has exited.
        """
        for process in self.processes.values():
            process.check()

    def is_healthy(self) -> bool:
        """Return whether the API responds, and reports every component as healthy."""
        try:
            response = self._session.get(f"{self.url}/api/v2/monitor/health", timeout=60)
        except requests.RequestException:
            return False
        return response.ok and all(part["status"] == "healthy" for part in response.json().values())

    # --- REST API ---------------------------------------------------------------------------------

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """
        Call Airflow's REST API (v2). If no response comes, or the server fails, ask again: a busy machine is slow.

        :param path: the path below `/api/v2/`.
        :param options: keyword arguments of `requests.request`. A call other than a GET has to be repeatable.
        :return: the JSON object of the response; empty if the response has no body.
        :raises requests.HTTPError: if the response is an error of the call (4xx).
        :raises TimeoutError: if no other response comes in time.
        """
        response = self._ask(method, f"{self.url}/api/v2/{path}", **options)
        if not response.ok:
            raise requests.HTTPError(
                f"{method} {path}: {response.status_code} {response.text[:500]}", response=response
            )
        return dict(response.json()) if response.content else {}

    def _ask(self, method: str, url: str, **options: Any) -> requests.Response:
        """Return the first response that is no error of the server (5xx), such as "database is locked"."""
        last = "no response"

        def final_response() -> tuple[requests.Response] | None:  # in a tuple, since a response of an error is false
            nonlocal last
            try:
                response = self._session.request(method, url, timeout=60, **options)
            except (requests.Timeout, requests.ConnectionError) as error:
                last = type(error).__name__
                return None
            last = f"{response.status_code} {response.text[:500]}"
            return (response,) if response.status_code < 500 else None

        try:
            (response,) = self.wait_until(final_response, what=f"a response to {method} {url}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\nThe last response: {last}") from None
        return response

    def trigger(
        self,
        dag_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        logical_date: str | None = None,
    ) -> DagRun:
        """
        Start a run, once Airflow has parsed the DAG.

        :param params: the params of the run.
        :param logical_date: ISO 8601; None for a run without a logical date, and so without ``ds``.
        :return: the run.
        """
        self.wait_until(lambda: self._has_parsed(dag_id), what=f"DAG {dag_id} to be parsed")
        run_id = f"manual__{datetime.now(UTC).isoformat()}"
        run = {"dag_run_id": run_id, "logical_date": logical_date, "conf": params or {}}
        try:
            self.call("POST", f"dags/{dag_id}/dagRuns", json=run)
        except requests.HTTPError as error:
            if error.response.status_code != 409:  # the same request, whose response was lost, has created it
                raise
        return DagRun(self, dag_id, run_id)

    def wait_until(self, condition: Callable[[], T | None], *, what: str, timeout: float = PATIENCE) -> T:
        """Wait as :func:`scripts.processes.wait_until` does, while every component is running."""
        return wait_until(condition, what=what, timeout=timeout, watching=self.processes.values())

    def _has_parsed(self, dag_id: str) -> bool:
        return self._ask("GET", f"{self.url}/api/v2/dags/{dag_id}").ok

    def _token(self) -> str:
        response = self._ask("GET", f"{self.url}/auth/token")
        response.raise_for_status()
        return str(response.json()["access_token"])
