"""A run of a DAG in a deployment: its state, its tasks, its XComs and its logs, from Airflow's REST API."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from scripts.processes import PATIENCE

if TYPE_CHECKING:
    from scripts.airflow_deployment import AirflowDeployment

FINAL_RUN_STATES = ("success", "failed")
HARMLESS_STATES = (None, "success", "skipped", "upstream_failed", "removed")


@dataclass(frozen=True)
class DagRun:
    """One run of a DAG in a deployment."""

    airflow: AirflowDeployment
    dag_id: str
    run_id: str

    def state(self) -> str:
        """Return the state of the run, such as `success`."""
        return str(self._get()["state"])

    def task_instances(self) -> list[dict[str, Any]]:
        """Return the task instances of the run, as the API describes them."""
        return list(self._get("/taskInstances", limit=1000)["task_instances"])

    def count(self, state: str) -> int:
        """Return how many task instances of the run are in a state."""
        return int(self._get("/taskInstances", state=state, limit=1)["total_entries"])

    def xcom(self, task_id: str, *, key: str = "return_value", map_index: int = -1) -> Any:
        """Return one XCom value."""
        path = f"/taskInstances/{task_id}/xcomEntries/{key}"
        return self._get(path, map_index=map_index, stringify=False)["value"]

    def changes(self, *, timeout: float = PATIENCE) -> Iterator[dict[str, Any]]:
        """
        Yield task instances whose state has changed, until the run is finished.

        :param timeout: seconds.
        :return: the task instances, as the API describes them.
        :raises TimeoutError: if the run does not finish in time.
        """
        deadline = time.monotonic() + timeout
        states: dict[tuple[str, int], str | None] = {}
        while True:
            finished = self.state() in FINAL_RUN_STATES  # read before the tasks, so that no last change is missed
            for task in self.task_instances():
                instance = task["task_id"], task["map_index"]
                if task["state"] != states.get(instance):
                    states[instance] = task["state"]
                    yield task
            if finished:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"Run {self.run_id} did not finish within {timeout:.0f} s\n{self.failure_log()}")
            self.airflow.check()
            time.sleep(0.2)

    def finish(self, *, timeout: float = PATIENCE) -> str:
        """
        Wait until the run is finished.

        :param timeout: seconds.
        :return: the state of the run.
        :raises TimeoutError: if the run does not finish in time.
        """
        for _ in self.changes(timeout=timeout):
            pass
        return self.state()

    def failure_log(self, lines: int = 15) -> str:
        """Return the last lines in the logs of the tasks that have failed or are still running."""
        run_folder = self.airflow.home / "logs" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}"
        tasks = {task["task_id"] for task in self.task_instances() if task["state"] not in HARMLESS_STATES}
        logs = [log for task_id in sorted(tasks) for log in (run_folder / f"task_id={task_id}").rglob("*.log*")]
        return "\n".join(
            f"--- {log.relative_to(run_folder)} ---\n"
            + "\n".join(map(_readable, log.read_text(errors="replace").splitlines()[-lines:]))
            for log in logs
        )

    def _get(self, path: str = "", **params: Any) -> dict[str, Any]:
        run_id = quote(self.run_id, safe="")
        return self.airflow.call("GET", f"dags/{self.dag_id}/dagRuns/{run_id}{path}", params=params)


def _readable(line: str) -> str:
    """Return a line of a task's log, which is a JSON object, in a form for people."""
    try:
        entry = json.loads(line)
        errors = [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail", ())]
        return "\n    ".join([f"{entry['level']}: {entry['event']}", *errors])
    except (ValueError, TypeError, KeyError, AttributeError):
        return line
