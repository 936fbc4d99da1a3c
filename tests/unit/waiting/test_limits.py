"""How long a deferral may last: until the first of the two ends that a task has."""

from __future__ import annotations

import pytest

from airflow_provider_rtisms.waiting import WaitLimit, limit_wait


@pytest.mark.parametrize(
    ("started", "timeout", "execution_end", "limit"),
    [
        (1000.0, 100, None, WaitLimit(100, 1095.0, is_execution_timeout=False)),
        (980.0, 100, None, WaitLimit(100, 1075.0, is_execution_timeout=False)),
        (1000.0, 100, 1100.1, WaitLimit(100, 1095.0, is_execution_timeout=False)),
        # Both at once: in mode="poke", the alarm of the execution_timeout comes before the poll that looks at the time.
        (1000.0, 100, 1100.0, WaitLimit(100.0, 1095.0, is_execution_timeout=True)),
        (1000.0, 604_800, 1020.0, WaitLimit(20.0, 1018.0, is_execution_timeout=True)),
        # The wait began after a send that took long.
        (1000.0, 30, 1010.0, WaitLimit(10.0, 1009.0, is_execution_timeout=True)),
        (990.0, 604_800, 995.0, WaitLimit(-5.0, -5.0 + 1000.0 + 0.5, is_execution_timeout=True)),
    ],
)
def test_the_first_end_limits_a_wait(
    started: float, timeout: float, execution_end: float | None, limit: WaitLimit
) -> None:
    assert limit_wait(1000.0, started, timeout, execution_end) == limit
