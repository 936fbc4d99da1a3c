"""
The alerts of docs/operations.md in a real Prometheus, which gets the metrics of DAG runs from a real statsd_exporter.

Both programs have to be on PATH: Debian has ``prometheus``; statsd_exporter is on GitHub.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_provider_rtisms.sandbox import Fault, SandboxProcess
from scripts.processes import Session, wait_until
from scripts.servers import free_port
from tests.documents import BLOCKS, ROOT

PROGRAMS = ("prometheus", "promtool", "statsd_exporter")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="one Airflow is enough"),
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)} on PATH"),
]

NAMES = ("uncertain", "failing", "low_balance")
ALERTS = [block.code for block in BLOCKS if block.language == "promql" and block.document == "operations.md"]
RULES = {
    "groups": [
        {"name": "sms", "rules": [{"alert": name, "expr": code} for name, code in zip(NAMES, ALERTS, strict=True)]}
    ]
}
DAG = """
from airflow.sdk import DAG
from airflow_provider_rtisms.operators.rtisms import (
    RtiSmsGetBalanceOperator, RtiSmsGetDetailsOperator, RtiSmsSendOperator,
)

with DAG("alerts", schedule=None):
    RtiSmsSendOperator(task_id="send", recipients=["+56900000000"], text="Hello", sender="96000")
    RtiSmsGetDetailsOperator.partial(task_id="fetch").expand(submission_id=["4193366853543393"] * 6)
    RtiSmsGetBalanceOperator(task_id="balance")
"""


@pytest.fixture
def statsd_and_url(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """Start both programs; yield the port for StatsD, and the URL of Prometheus."""
    statsd, exporter, prometheus = (free_port() for _ in range(3))
    (tmp_path / "rules.yml").write_text(json.dumps(RULES))  # JSON is YAML
    scrape = [{"job_name": "airflow", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]}]
    intervals = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config = {"global": intervals, "rule_files": ["rules.yml"], "scrape_configs": scrape}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    commands = {
        "statsd_exporter": [
            *(f"--statsd.listen-udp=127.0.0.1:{statsd}", "--statsd.listen-tcp="),
            f"--web.listen-address=127.0.0.1:{exporter}",
        ],
        "prometheus": [
            *(f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"),
            f"--web.listen-address=127.0.0.1:{prometheus}",
        ],
    }
    with ExitStack() as stack:
        for name, arguments in commands.items():
            session = Session(name, [name, *arguments], log=tmp_path / f"{name}.log", env=dict(os.environ))
            stack.callback(session.kill)
        yield statsd, f"http://127.0.0.1:{prometheus}"


def firing(url: str) -> set[str] | None:
    """Return the names of the alerts; None before Prometheus is ready."""
    try:
        alerts = requests.get(f"{url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
    except (requests.RequestException, ValueError):
        return None
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def value_of(url: str, expression: str) -> float:
    found = requests.get(f"{url}/api/v1/query", params={"query": expression}, timeout=10).json()["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0


def test_they_fire_when_they_should(statsd_and_url: tuple[int, str], new_database: Path, tmp_path: Path) -> None:
    port, url = statsd_and_url
    home = tmp_path / "airflow"
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "alerts.py").write_text(DAG)
    shutil.copy(new_database, home / "airflow.db")
    settings = {"STATSD_ON": "True", "STATSD_HOST": "127.0.0.1", "STATSD_PORT": str(port)}
    env = {f"AIRFLOW__METRICS__{name}": value for name, value in settings.items()}
    env |= {"AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True", "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags")}
    env["AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT"] = "300"  # on a busy machine

    with SandboxProcess() as sandbox:
        connection = json.loads(sandbox.connection_json())
        env["AIRFLOW_CONN_RTISMS_DEFAULT"] = json.dumps({**connection, "extra": json.dumps({"max_attempts": 2})})

        def run() -> None:
            done = value_of(url, "sum(airflow_rtisms_call_duration_count)")
            command = [sys.executable, "-m", "airflow", "dags", "test", "alerts"]
            environment = {**os.environ, **env, "AIRFLOW_HOME": str(home), "PYTHONPATH": str(ROOT)}
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert "DagRun Finished" in ended.stdout + ended.stderr, ended.stdout + ended.stderr
            wait_until(
                lambda: value_of(url, "sum(airflow_rtisms_call_duration_count)") >= done + 10, what="the calls of a run"
            )

        wait_until(lambda: firing(url) is not None, what="Prometheus to be ready")
        run()
        assert firing(url) == set()
        sandbox.set_balance("12.50")
        for _ in range(2):  # a rate needs two values
            lost = Fault("lost_response", path="sms", method="POST", times=1)
            sandbox.set_faults(lost, Fault("error", statuses=(503,), path="sms", method="GET"))
            run()
        wait_until(lambda: firing(url) == set(NAMES), what="all three alerts")
        labels = requests.get(f"{url}/api/v1/series", params={"match[]": "airflow_rtisms_messages"}, timeout=10).json()
        assert {(one["dag_id"], one["task_id"]) for one in labels["data"]} == {("alerts", "send")}


def test_an_alert_ends_when_nothing_new_happens(tmp_path: Path) -> None:
    """In the time of promtool, in which an hour is short."""
    series = 'airflow_rtisms_messages{conn_id="a", outcome="uncertain", task_id="%s"}'
    inputs = [
        {"series": series % "first", "values": "_x20 3x60"},  # appears after 20 minutes, and stays
        {"series": series % "second", "values": "_x40 1x40"},
        {"series": 'airflow_rtisms_balance{conn_id="a"}', "values": "500x30 99x50"},
    ]
    expected = {10: [], 21: ["uncertain"], 34: ["low_balance", "uncertain"], 39: ["low_balance"]}
    expected |= {45: ["low_balance", "uncertain"], 70: ["low_balance"]}
    tests = [
        {
            "eval_time": f"{minute}m",
            "alertname": name,
            "exp_alerts": [{"exp_labels": {"conn_id": "a"}}] * (name in names),
        }
        for minute, names in expected.items()
        for name in NAMES
    ]
    (tmp_path / "rules.yml").write_text(json.dumps(RULES))
    test = {
        "rule_files": ["rules.yml"],
        "tests": [{"interval": "1m", "input_series": inputs, "alert_rule_test": tests}],
    }
    (tmp_path / "test.yml").write_text(json.dumps(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
