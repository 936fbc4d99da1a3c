"""
Keep the environment of the caller out of the tests, and give whole folders their marks.

The first part has to happen before anything imports Airflow.
"""

from __future__ import annotations

import base64
import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

from tests.old_common_compat import complete_common_compat

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

# A slow machine makes an example slower, and never red.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("patient")

HAS_AIRFLOW = find_spec("airflow") is not None
NEEDS_AIRFLOW = "pytest.mark.airflow"

if HAS_AIRFLOW:
    # Tests name Airflow's classes by common-compat's newest names. Airflow's constraints can pin one that is older.
    complete_common_compat()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without Airflow, leave out the folders and modules with the mark ``airflow``: they cannot be imported."""
    source = collection_path / "__init__.py" if collection_path.is_dir() else collection_path
    if HAS_AIRFLOW or source.suffix != ".py" or source == Path(__file__) or not source.exists():
        return None
    return NEEDS_AIRFLOW in source.read_text() or None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run on one more Airflow try each interface, and not all the values that another run has tried."""
    parser.addoption("--cases", type=int, metavar="N", help="run only the first N cases of a parametrized test")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Leave out cases that ``--cases`` does not want.

    Give each test the marks of its folders, which stand in their ``__init__.py`` as ``pytestmark``.
    """
    if most := config.getoption("cases"):
        cases: dict[str, list[pytest.Item]] = {}
        for item in items:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
        items[:] = [item for of_a_test in cases.values() for item in of_a_test[:most]]
    for item in items:
        names = item.nodeid.partition("::")[0].split("/")[:-1]
        for end in range(1, len(names) + 1):
            package = sys.modules.get(".".join(names[:end]))
            for mark in getattr(package, "pytestmark", []):
                item.add_marker(mark)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their length: compressed ones hold the time, and all processes must give a test the same name."""
    return f"{argname} of {len(val)} bytes" if isinstance(val, bytes) else None
