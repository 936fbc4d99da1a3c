"""Run the doctor: ``python -m airflow_provider_rtisms.doctor``."""

from __future__ import annotations

import sys

from airflow_provider_rtisms.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
