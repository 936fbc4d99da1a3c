"""Settings that have to be in place before Airflow is first imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# Never ~/airflow, and nothing of an Airflow that this shell is set up for.
for name in [name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_"))]:
    del os.environ[name]
_home = tempfile.TemporaryDirectory(prefix="airflow-tests-")
os.environ["AIRFLOW_HOME"] = _home.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(_home.name, "dags"))
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "False"
