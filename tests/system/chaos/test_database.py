"""The metadata database crashes in the middle of a wait."""

from __future__ import annotations

from collections.abc import Callable

from scripts.airflow_deployment import AirflowDeployment
from scripts.processes import wait_until
from scripts.servers import Postgres
from tests.system.chaos.conftest import DeferredWaits


def test_a_wait_outlives_a_crash_of_the_database(
    airflow: AirflowDeployment, postgres: Postgres, start_waits: Callable[..., DeferredWaits]
) -> None:
    waits = start_waits()
    triggerer = airflow.processes["triggerer"]
    with postgres.down():
        wait_until(lambda: not triggerer.is_running(), what="the triggerer to exit without a database")
    airflow.recover()
    waits.await_polls()
    waits.deliver()
    waits.check_success()
