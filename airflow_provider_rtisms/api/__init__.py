"""The RTI SMS HTTP API: calls, models, errors, retries and two transports. Knows nothing of Airflow."""

from __future__ import annotations
