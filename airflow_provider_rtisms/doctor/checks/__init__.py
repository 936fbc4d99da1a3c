"""The checks of the doctor, in the order in which they run."""

from __future__ import annotations

from airflow_provider_rtisms.doctor.checks import account, api, network, sending, speed, submission
from airflow_provider_rtisms.doctor.checks.check import Check

CHECKS: tuple[Check, ...] = (
    *network.CHECKS,
    *account.CHECKS,
    *api.CHECKS,
    *speed.CHECKS,
    *submission.CHECKS,
    *account.PROBES,
    *sending.CHECKS,
)
