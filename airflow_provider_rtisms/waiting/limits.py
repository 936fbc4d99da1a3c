"""Limits that workers and triggerers share. Importing this module loads nothing else."""

from __future__ import annotations

#: Waits over more submissions keep their records out of Airflow's database, and fetch them once more at the end.
MAX_RECORDS_IN_DATABASE = 1000
