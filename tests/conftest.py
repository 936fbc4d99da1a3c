"""What has to be in place before Airflow is first imported: nothing of the caller's environment, and a home of its own."""

from __future__ import annotations

import base64
import os
import tempfile
import time
from pathlib import Path

#: All else that is set changes what programs print, trust or read: PYTEST_ADDOPTS, proxies, AIRFLOW_*, TZ, LANG ...
KEPT = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTEST_XDIST_WORKER",
    "PYTEST_XDIST_TESTRUNUID",
)

for name in set(os.environ).difference(KEPT):
    del os.environ[name]
os.environ["LC_ALL"] = "C.UTF-8"
os.environ["TZ"] = "America/Santiago"  # not UTC, so that a naive time shows
time.tzset()

_home = tempfile.TemporaryDirectory(prefix="airflow-tests-")
os.environ["AIRFLOW_HOME"] = _home.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(_home.name, "dags"))
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
# One key for this process and the programs that it starts: they share a database.
os.environ["AIRFLOW__CORE__FERNET_KEY"] = base64.urlsafe_b64encode(os.urandom(32)).decode()
