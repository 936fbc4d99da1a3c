"""
The metrics of a worker and of a triggerer on Airflow 2, at a StatsD server.

``test_sending_for_real.py`` looks at those of Airflow 3.3, whose deployment it has at hand.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from scripts.processes import Session, wait_until
from tests.statsd import StatsdListener

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.slow,
    pytest.mark.skipif(AIRFLOW_V_3_0_PLUS, reason="test_sending_for_real.py looks at the metrics of Airflow 3.3"),
]

ROOT = Path(__file__).parents[2]
NUMBERS = [f"+569123451{position:02}" for position in range(20)]
TEXT = "Confidential: the load is late"
DAG = f"""
from datetime import datetime

from airflow import DAG
from airflow_provider_rtisms.operators.rtisms import RtiSmsSendOperator

with DAG("metrics", schedule="@once", start_date=datetime(2026, 1, 1), is_paused_upon_creation=False):
    RtiSmsSendOperator(
        task_id="send", recipients={NUMBERS}, text="{TEXT}", sender="96000", chunk_size=5,
        wait_for_delivery=True, deferrable=True, poke_interval=0.5, timeout=3600,
    )
"""
#: How Airflow 2 names the end of the run; its tags are parts of the name.
END = "airflow.dagrun.duration.success.metrics:"


@pytest.fixture
def airflow(new_database: Path, tmp_path: Path) -> Iterator[Callable[..., list[Session]]]:
    """Start the scheduler and the triggerer."""
    with ExitStack() as stack:

        def start(env: dict[str, str]) -> list[Session]:
            (tmp_path / "dags").mkdir()
            (tmp_path / "dags" / "metrics.py").write_text(DAG)
            environment = {
                **os.environ,
                # The executor starts the program `airflow`.
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "AIRFLOW_HOME": str(tmp_path),
                "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
                "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
                **env,
            }
            command = [sys.executable, "-m", "airflow"]
            shutil.copy(new_database, tmp_path / "airflow.db")
            (tmp_path / "airflow.cfg").touch()  # or else both components write one
            sessions = []
            for name in ("scheduler", "triggerer"):
                arguments = [*command, name, "--skip-serve-logs"]
                session = Session(name, arguments, log=tmp_path / f"{name}.log", env=environment)
                stack.callback(session.kill)
                sessions.append(session)
            return sessions

        yield start


def test_they_equal_what_the_api_has_counted(airflow: Callable[..., list[Session]]) -> None:
    with StatsdListener() as statsd, SandboxProcess(pending_for=0, sent_for=1) as sandbox:
        sandbox.set_faults(Fault("error", statuses=(503,), times=2, path="sms", method="GET"))
        sessions = airflow({"AIRFLOW_CONN_RTISMS_DEFAULT": sandbox.connection_json(), **statsd.settings})
        wait_until(
            lambda: any(line.startswith(END) for line in statsd.all_lines()),
            what="the end of the run",
            watching=sessions,
        )
        state, counts = sandbox.state(), statsd.counts()
        # The worker sends. Only the triggerer polls, since the event of a small wait brings the records.
        assert counts["rtisms.messages.rtisms_default.submitted"] == len(state.messages) == len(NUMBERS)
        assert counts["rtisms.requests.rtisms_default.send_sms.2xx"] == state.requests["POST sms"] == 4
        assert counts["rtisms.requests.rtisms_default.get_sms.2xx"] == state.count_responses(200, "GET sms")
        assert counts["rtisms.requests.rtisms_default.get_sms.5xx"] == state.count_responses(503) == 2
        assert counts["rtisms.retries.rtisms_default.get_sms"] == 2
        assert counts["rtisms.tokens.rtisms_default"] == state.tokens_issued == 2
        assert counts["rtisms.delivery_duration.rtisms_default"] == len(NUMBERS)
        ((name, waits),) = statsd.gauges().items()
        assert name.startswith("rtisms.waits_open.rtisms_default.")
        assert set(waits) == {0, 1}
        assert waits[-1] == 0
        text = "\n".join(statsd.lines())
        private = [*NUMBERS, TEXT, sandbox.client_secret, *state.tokens, *state.requests_by_id]
        assert [one for one in private if one.removeprefix("+") in text] == []
