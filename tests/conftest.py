"""Keep the environment of the caller out of the tests. This has to happen before anything imports Airflow."""

from __future__ import annotations

import base64
import os
import tempfile
import time
from pathlib import Path

#: Other variables change what programs print, trust or read: PYTEST_ADDOPTS, proxies, AIRFLOW_*, TZ, LANG and so on.
KEPT = {"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LD_LIBRARY_PATH"}

for name in set(os.environ) - KEPT:
    del os.environ[name]
os.environ["LC_ALL"] = "C.UTF-8"
os.environ["TZ"] = "America/Santiago"  # not UTC, so that a test fails where code takes a local time for UTC
time.tzset()

_home = tempfile.TemporaryDirectory(prefix="airflow-tests-")
os.environ["AIRFLOW_HOME"] = _home.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(_home.name, "dags"))
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
# This process and the programs that it starts share a database, and so they need the same key.
os.environ["AIRFLOW__CORE__FERNET_KEY"] = base64.urlsafe_b64encode(os.urandom(32)).decode()
