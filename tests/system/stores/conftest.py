"""An S3 server, and a Connection ``store`` that leads to it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.system.stores.s3 import S3Server

# Only the environment of the newest Airflow has the group "system", with moto and s3fs.
collect_ignore = [] if find_spec("moto") and find_spec("s3fs") else ["test_s3.py"]
# Only the environment of make e2e-stores has these.
collect_ignore += [] if find_spec("adlfs") and find_spec("gcsfs") else ["test_emulators.py"]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for the whole session: Airflow keeps the file system of a Connection. Tests use ``s3``."""
    from tests.system.stores.s3 import S3Server

    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """An S3 server with an empty bucket, short pauses between attempts, and a folder for temporary files."""
    monkeypatch.setenv("AIRFLOW_CONN_STORE", s3_server.connection_json())
    monkeypatch.setattr("airflow_provider_rtisms.bulk.store.BACKOFF_BASE", 0.01)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)  # only our own attempts are tested
    s3_server.reset()
    return s3_server
