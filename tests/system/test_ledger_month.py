"""A month of the ledger, in short; by hand: python -m tests.system.ledger_month SEED."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from scripts.servers import DEBIAN_POSTGRESQL
from tests.system.ledger_month import live

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="Airflow 3.3 and later have a journal"),
]


@pytest.mark.parametrize("with_postgres", [False, True])
def test_a_month_of_trouble_ends_with_the_truth(with_postgres: bool) -> None:
    if with_postgres and not DEBIAN_POSTGRESQL.exists():
        pytest.skip("PostgreSQL is not installed")
    assert "nobody twice" in live(seed=1, days=4, messages=120, with_postgres=with_postgres)
