"""What importing the package costs a DAG file, and a program without Airflow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.outer_minors]

PARSED_BY_DAGS = [
    f"airflow_provider_rtisms.{name}"
    for name in ("operators.rtisms", "sensors.rtisms", "transfers.sql_to_rtisms", "transfers.rtisms_to_sql")
]
HEAVY = {
    "requests",
    "aiohttp",
    "urllib3",
    "tenacity",
    "aiolimiter",
    "pyarrow",
    "sqlparse",
    "psycopg2",
    "phonenumbers",
    "opentelemetry",
}


def modules_after(code: str) -> set[str]:
    """Return what a new interpreter has loaded once the code has run."""
    show = "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + show], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_operators_and_sensors_loads_no_http_library() -> None:
    airflow_itself = "from airflow.providers.common.compat.sdk import BaseOperator, BaseSensorOperator, conf"
    before = modules_after(airflow_itself)
    ours = modules_after("\n".join([airflow_itself, *(f"import {module}" for module in PARSED_BY_DAGS)]))
    assert set(PARSED_BY_DAGS) <= ours
    assert not (ours - before) & HEAVY


def test_provider_discovery_loads_nothing_else() -> None:
    loaded = modules_after("import airflow_provider_rtisms.get_provider_info")
    assert not {name for name in loaded if name.split(".")[0] == "airflow"}
    assert not loaded & HEAVY


def test_the_options_of_the_doctor_load_no_http_library() -> None:
    """Airflow reads them for each of its own commands."""
    assert not modules_after("import airflow_provider_rtisms.doctor.command") & HEAVY


def test_api_and_sandbox_import_where_airflow_is_absent() -> None:
    absent = "import sys; sys.modules['airflow'] = None  # importing it raises ImportError"
    package = "airflow_provider_rtisms"
    walk = (
        f"import importlib, pkgutil, {package}.waiting\nfor part in ('api', 'sending', 'bulk', 'sandbox', 'doctor'):\n"
        f"    folder = importlib.import_module(f'{package}.{{part}}')\n"
        f"    for found in pkgutil.walk_packages(folder.__path__, folder.__name__ + '.'):\n"
        f"        if not found.name.endswith('__main__'):\n"
        f"            importlib.import_module(found.name)"
    )
    loaded = modules_after(f"{absent}\n{walk}")
    assert {
        f"{package}.api.aio",
        f"{package}.sending.outbox",
        f"{package}.sandbox.server",
        f"{package}.doctor.checks",
    } <= loaded
