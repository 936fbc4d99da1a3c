"""Apache Airflow provider for RealTime's SMS API (rti-sms.com)."""

from __future__ import annotations

__version__ = "0.1.0"
