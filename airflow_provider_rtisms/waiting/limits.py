"""Limits that workers and triggerers share. Importing this module loads nothing else."""

from __future__ import annotations

#: Waits over more submissions keep their records out of Airflow's database, and fetch them once more at the end.
MAX_RECORDS_IN_DATABASE = 1000
#: Records of final submissions in the arguments of a trigger. MySQL has room for 64 KiB of encrypted arguments: 1,000
#: ids take 27 KiB of them, and 50 records 22 KiB.
MAX_RECORDS_IN_TRIGGER = 50
